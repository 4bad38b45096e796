"""What a page asks to train."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from qkv.errors import ConfigError, TextError

__all__ = ["LONGEST_TEXT", "Wanted"]

LONGEST_TEXT, LONGEST_PROBE = 2_000_000, 20_000
SETTING = re.compile("[a-z_0-9]{1,40}=[a-z_0-9.-]{1,40}", re.ASCII)


@dataclass(frozen=True)
class Wanted:
    """What a page asks to train.

    Args:
        preset: a recipe by name, or ``ladder`` for all rungs.
        corpus: a corpus by name; or
        text: a text that was pasted; or
        file: a path to a text.
        budget: tokens, as 2000000 or 2M; the recipe's own unless given.
        seed: of weights, batches and samples.
        probe: what heads are watched on; chosen from the text unless given.
        beside: whether it may run beside another.
        settings: fields of the recipe's configs that differ from it, as ``--set`` takes them.
    """

    preset: str
    corpus: str | None = None
    text: str | None = None
    file: str | None = None
    budget: str | None = None
    seed: int = 0
    probe: str | None = None
    beside: bool = False
    settings: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, asked: dict[str, Any]) -> Wanted:
        """Return what a page's JSON says.

        Raises:
            ConfigError: fields that are none, of another type, or out of range.
            TextError: a text that is empty or too long.
        """
        kinds: dict[str, type] = dict.fromkeys(("corpus", "text", "file", "budget"), str)
        kinds |= {"preset": str, "probe": str, "seed": int, "beside": bool, "settings": dict}
        given = {name: value for name, value in asked.items() if value not in (None, "")}
        for name, value in given.items():
            if name not in kinds or type(value) is not kinds[name]:
                raise ConfigError(f"{name} {str(value)[:40]!r}", "a field of the form", "reload it")
        if asked.get("text") == "":
            raise TextError("an empty text", "text to learn from", "paste some")
        sources = [name for name in ("corpus", "text", "file") if name in given]
        if "preset" not in given or len(sources) != 1:
            raise ConfigError("no text to train on", "a corpus, a text or a file", "choose one")
        wanted = cls(**given)
        for name, longest in (("text", LONGEST_TEXT), ("probe", LONGEST_PROBE)):
            if len(getattr(wanted, name) or "") > longest:
                error = TextError(
                    f"a {name} of {len(given[name]):,} characters", f"at most {longest:,}",
                    "shorten it" if name == "probe" else "save it as a file, and name that",
                )  # fmt: skip
                error.limit = longest  # type: ignore[attr-defined]
                raise error
        if not all(SETTING.fullmatch(f"{name}={value}") for name, value in wanted.settings.items()):
            raise ConfigError("settings that are none", "names and short values", "reload it")
        if any("\0" in value for value in given.values() if isinstance(value, str)):
            raise TextError("a NUL among the text", "text without", "remove it")
        if any(_is_torn(value) for value in given.values() if isinstance(value, str)):
            raise TextError("half a surrogate pair", "whole characters", "remove it")
        if wanted.seed < 0 or len(wanted.budget or "") > 20:
            raise ConfigError("a seed or a budget out of range", "numbers from 0 up", "correct it")
        return wanted


def _is_torn(text: str) -> bool:
    """Whether a text has half a character of those that are two for a page."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
