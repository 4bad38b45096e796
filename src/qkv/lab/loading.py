"""The models that are looked into, loaded when they are first asked for; a few stay."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qkv.attention.threads import all_threads, one_thread
from qkv.errors import ConfigError, TextError
from qkv.lab.shelf import OWN, Item

if TYPE_CHECKING:
    from qkv.models.foreign import AnyModel
    from qkv.training.probe_files import Probes

__all__ = ["Models", "few_threads", "passage_of", "probes_of", "token_texts"]

MOST_MODELS = 3
LARGEST_ALONE = 2**31
"""Parameters times tokens of a pass that one thread does faster than several that wait."""


class Models:
    """Models by item; one that changed on disk is loaded again."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, float], AnyModel] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, item: Item) -> AnyModel:
        """Return a model, loaded now unless it was before.

        Raises:
            QkvError: it can't be loaded.
        """
        key = self.key(item)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        model = _load(item)
        with self._lock:
            self._kept[key] = model
            while len(self._kept) > MOST_MODELS:
                self._kept.popitem(last=False)
        return model

    @staticmethod
    def key(item: Item) -> tuple[str, float]:
        """Return what tells a model from others, and from itself a step later."""
        return item.id, _changed(item)

    def ids(self, item: Item, text: str | None, *, cut: bool) -> tuple[Any, int]:
        """Return a text's tokens, the model's own passage unless given; and how many it has uncut.

        Raises:
            TextError: nothing, or more than the context where it may not be cut: `limit` says how
                many tokens that is.
            ConfigError: a model without its tokenizer.
        """
        model = self.get(item)
        text = passage_of(item) if text is None else text
        if not text:
            raise TextError("an empty text", "a few words", "type or paste some")
        if model.tokenizer is None:
            raise ConfigError("a model without its tokenizer", "one with it", "choose another")
        ids = model.tokenizer.encode(text)
        if len(ids) > model.context and not cut:
            error = TextError(
                f"{len(ids):,} tokens of text",
                f"at most the model's context, {model.context:,}",
                "shorten it, or let it be cut",
            )
            error.limit = model.context  # type: ignore[attr-defined]
            raise error
        return ids[: model.context], len(ids)


@contextmanager
def few_threads(model: AnyModel, tokens: int) -> Iterator[None]:
    """Let one thread do a small pass.

    The embedded model on 256 tokens takes 27 ms alone; with two threads on two processors that
    others use too, 100.
    """
    size = sum(parameter.numel() for parameter in model.model.parameters())
    with all_threads() if size * tokens > LARGEST_ALONE else one_thread():
        yield


def passage_of(item: Item) -> str:
    """Return the text that a model's probes read, empty where it has none."""
    if item.kind == "own":
        from qkv.models.embedded import embedded_notes

        return str(embedded_notes().get("probe", ""))
    if item.kind != "run" or item.path is None:
        return ""
    from qkv.training.rundir import RunDirectory

    return str(RunDirectory(item.path).read_config()[2].get("probe", ""))


def probes_of(item: Item) -> Probes | None:
    """Return what was seen of a model while it learnt, where that was kept."""
    if item.kind == "own":
        from qkv.training.probe_archive import embedded_timeline

        return embedded_timeline()
    if item.kind != "run" or item.path is None:
        return None
    from qkv.training.rundir import RunDirectory

    return RunDirectory(item.path).probes


def token_texts(model: AnyModel, tokens: list[int]) -> list[str]:
    """Return the texts of some tokens; their numbers where the model has no tokenizer."""
    import numpy as np

    if model.tokenizer is None:
        return [f"#{token}" for token in tokens]
    from qkv.lens.seeing.tokens import texts_of

    return list(texts_of(model.tokenizer, np.array(tokens, dtype=np.int64)))


def _load(item: Item) -> AnyModel:
    from qkv.models.foreign import AnyModel, load_any

    if item.id != OWN:
        assert item.path is not None
        return load_any(item.path)
    from qkv.models.embedded import load_embedded

    return AnyModel.of(load_embedded())


def _changed(item: Item) -> float:
    """When a model's files last changed: a run that trains on is another model."""
    if item.path is None:
        return 0.0
    checkpoints = item.path / "checkpoints"
    looked_at = checkpoints if checkpoints.is_dir() else item.path
    try:
        return looked_at.stat().st_mtime
    except OSError:
        return 0.0
