"""What may be trained: recipes and texts, and about how long a recipe takes here."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from qkv.errors import ConfigError, TextError
from qkv.lab.jobs import LADDER, Wanted
from qkv.lab.shelf import Shelf

__all__ = ["Offers"]

TIMED_SECONDS = 0.4
LADDER_TOKENS = 1_000_000


class Offers:
    """What a page may choose from.

    Args:
        shelf: texts under its folders may be trained on.
    """

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._costs: dict[str, float] = {}
        self._timing = threading.Lock()

    def presets(self) -> dict[str, Any]:
        """Return recipes and corpora, as a form shows them."""
        from qkv.text import available_corpora

        found = [
            {
                "name": LADDER,
                "title": "the whole ladder",
                "note": "every model from bigram to Transformer, on equal terms",
                "tokens": LADDER_TOKENS,
                "attention": False,
            }
        ]
        for preset in _recipes():
            kind = preset.kind
            found.append(
                {
                    "name": preset.name,
                    "title": preset.title,
                    "note": preset.about,
                    "tokens": preset.training.get("tokens", LADDER_TOKENS),
                    "attention": kind not in NO_HEADS,
                }
            )
        corpora = [{"name": name, "note": note} for name, note in available_corpora().items()]
        return {"presets": found, "corpora": corpora}

    def seconds_a_token(self, name: str) -> float:
        """Return what a token of training takes, by running some steps; timed once.

        Raises:
            ConfigError: no such recipe.
        """
        names = [preset.name for preset in _recipes()]
        if name != LADDER and name not in names:
            raise _unknown(name)
        with self._timing:
            rungs = names[: names.index("tiny")]
            for one in rungs if name == LADDER else [name]:
                if one not in self._costs:
                    self._costs[one] = _time(one)
            return sum(self._costs[one] for one in rungs) if name == LADDER else self._costs[name]

    def check(self, wanted: Wanted) -> Wanted:
        """Return what is asked with its file's full path.

        Raises:
            ConfigError: an unknown recipe or corpus, a file that may not be read.
        """
        from qkv.text import available_corpora

        if wanted.preset != LADDER and wanted.preset not in [one.name for one in _recipes()]:
            raise _unknown(wanted.preset)
        if wanted.corpus is not None and wanted.corpus not in available_corpora():
            raise ConfigError(
                f"the corpus {wanted.corpus[:40]!r}", "one of the list", "choose another"
            )
        if wanted.file is None:
            return wanted
        return replace(wanted, file=str(self._file(wanted.file)))

    def _file(self, name: str) -> Path:
        for place in self.shelf.places:
            try:
                path = (place / name).resolve()
                if path.is_relative_to(place) and path.exists():
                    return path
            except (OSError, ValueError, RuntimeError):  # a loop of links, a name too long
                continue
        raise TextError(
            f"{name[:80]!r}, no file under the folders that the lab was opened on",
            " or ".join(str(place) for place in self.shelf.places) or "a folder",
            "open the lab on its folder: qkv lab FOLDER, or paste the text",
        )


NO_HEADS = ("uniform", "bigram-counts", "bigram", "average", "rnn", "wavenet")


def _recipes() -> list[Any]:
    from qkv.training.recipes import PRESETS

    # GPT-2's shape is for a GPU and days, not for a page.
    return [preset for preset in PRESETS if preset.name != "gpt2"]


def _time(name: str) -> float:
    import torch

    from qkv.models import build_model
    from qkv.text import corpus_from_text
    from qkv.training.estimate import seconds_a_step
    from qkv.training.recipes import configure, find_preset
    from qkv.training.run import Data

    letters = "".join(chr(32 + (7 * i) % 65) for i in range(65))  # as many as Shakespeare's
    data = Data.prepare(corpus_from_text(letters * 200), "char", None)
    model, training = configure(find_preset(name), data.tokenizer.size)
    with torch.random.fork_rng(devices=[]):
        built = build_model(model)
    seconds = seconds_a_step(built, training, data, at_most=TIMED_SECONDS)[0]
    return seconds / (training.batch * model.context)


def _unknown(name: str) -> ConfigError:
    return ConfigError(f"the preset {name[:40]!r}", "one of the list", "choose one")
