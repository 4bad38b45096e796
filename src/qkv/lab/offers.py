"""What may be trained: recipes and texts, and about how long a recipe takes here."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from qkv.errors import ConfigError, TextError
from qkv.lab.jobs import LADDER
from qkv.lab.shelf import Shelf
from qkv.lab.wanted import LONGEST_TEXT, Wanted

__all__ = ["Offers"]

TIMED_SECONDS = 0.4
LADDER_TOKENS = 1_000_000
LARGEST_READ_BYTES = 4_000_000
"""A file of more is not read before its process does."""


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
        from qkv.models.config import ATTENTION_KINDS
        from qkv.text import available_corpora, kept_corpora

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
            found.append(
                {
                    "name": preset.name,
                    "title": preset.title,
                    "note": preset.about,
                    "tokens": preset.training.get("tokens", LADDER_TOKENS),
                    "attention": preset.kind in ATTENTION_KINDS,
                }
            )
        here = kept_corpora()
        corpora = [
            {"name": name, "note": note, "here": name in here}
            for name, note in available_corpora().items()
        ]
        return {
            "presets": found,
            "corpora": corpora,
            "longest": LONGEST_TEXT,
        }

    def seconds_a_token(self, name: str) -> float:
        """Return what a token of training takes, by running some steps; timed once.

        Raises:
            ConfigError: no such recipe.
        """
        names = [preset.name for preset in _recipes()]
        if name != LADDER and name not in names:
            raise _unknown(name)
        with self._timing:
            rungs = _rungs()
            for one in rungs if name == LADDER else [name]:
                if one not in self._costs:
                    self._costs[one] = _time(one)
            return sum(self._costs[one] for one in rungs) if name == LADDER else self._costs[name]

    def check(self, wanted: Wanted) -> Wanted:
        """Return what is asked with its file's full path.

        Raises:
            ConfigError: an unknown recipe, setting or corpus, a budget or a probe that is none, a
                file that may not be read.
            TextError: a text shorter than what a model sees at once.
        """
        from qkv.text import available_corpora

        if wanted.preset != LADDER and wanted.preset not in [one.name for one in _recipes()]:
            raise _unknown(wanted.preset)
        if wanted.settings:
            _require_settings(wanted)
        if wanted.corpus is not None and wanted.corpus not in available_corpora():
            raise ConfigError(
                f"the corpus {wanted.corpus[:40]!r}", "one of the list", "choose another"
            )
        if wanted.budget:
            _require_budget(wanted)
        if wanted.file is not None:
            wanted = replace(wanted, file=str(self._file(wanted.file)))
        _require_text(wanted)
        return wanted

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


def _recipes() -> list[Any]:
    from qkv.training.recipes import PRESETS

    # GPT-2's shape is for a GPU and days, not for a page.
    return [preset for preset in PRESETS if preset.name != "gpt2"]


def _require_settings(wanted: Wanted) -> None:
    """Raise a ConfigError for settings that the recipe hasn't: before a process fails of them."""
    from qkv.training.recipes import configure, find_preset

    if wanted.preset != LADDER:
        configure(find_preset(wanted.preset), 256, wanted.settings)


def _require_budget(wanted: Wanted) -> None:
    from qkv.training.budgets import parse_budget, parse_tokens

    (parse_budget if wanted.preset == LADDER else parse_tokens)(wanted.budget or "")


def _require_text(wanted: Wanted) -> None:
    """Raise for a text with which the process would only fail, and for a probe that isn't one."""
    from qkv.text import corpus_from_text, load_corpus
    from qkv.training.probes import require_passage
    from qkv.training.recipes import configure, find_preset, require_enough
    from qkv.training.run import Data

    path = None if wanted.file is None else Path(wanted.file)
    if wanted.text is not None:
        corpus = corpus_from_text(wanted.text)
    elif path is not None and path.is_file() and path.stat().st_size <= LARGEST_READ_BYTES:
        corpus = load_corpus(str(path))
    else:
        return  # named corpora are long enough; what is large takes too long to read twice
    data = Data.prepare(corpus, "char")
    ladder = wanted.preset == LADDER
    for name in _rungs() if ladder else [wanted.preset]:
        recipe = find_preset(name)
        model, training = configure(recipe, data.tokenizer.size, wanted.settings)
        data.require(model.context)
        if not wanted.budget and "tokens" not in wanted.settings:
            require_enough(recipe, training.tokens, data)
        if wanted.probe and not ladder:
            require_passage(wanted.probe.replace("\\n", "\n"), data.tokenizer, model, training)


def _rungs() -> list[str]:
    from qkv.training.recipes import LADDER as RUNGS

    return [preset.name for preset in RUNGS]


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
