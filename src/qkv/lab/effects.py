"""What changes do to a model's loss and to what it says comes next.

Passes stay in memory, so that each further change costs one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float

from qkv.errors import ConfigError, ShapeError
from qkv.lab.loading import few_threads, token_texts

if TYPE_CHECKING:
    from qkv.lens.edits.edits import Edits
    from qkv.models.foreign import AnyModel

__all__ = ["Effects", "Pass", "compare"]

Array: TypeAlias = "np.ndarray[Any, Any]"

MOST_PASSES = 16
MOST_NEXT = 8


@dataclass(frozen=True, eq=False)
class Pass:
    """One pass over a text.

    Args:
        losses: nats for each token but the first.
        last: log-probabilities of what comes after the text.
    """

    losses: Float[Array, " T-1"]
    last: Float[Array, " V"]

    @property
    def loss(self) -> float:
        """Mean loss, nats a token."""
        return float(self.losses.mean())


class Effects:
    """Passes over texts, kept while there is room.

    Args:
        running: held while a model runs: a pass is watched, one at a time.
    """

    def __init__(self, running: threading.Lock) -> None:
        self._running = running
        self._kept: OrderedDict[Any, Pass] = OrderedDict()

    def passed(self, key: Any, model: AnyModel, ids: Array, edits: Edits | None = None) -> Pass:
        """Return a model's pass over a text, edited or not.

        Args:
            key: what tells the model from others.

        Raises:
            QkvError: no next token to be predicted, or as edits do.
        """
        from qkv.lens.edits.editor import editing
        from qkv.lens.edits.losses import as_rows, measuring, next_token_losses

        if len(ids) < 2:
            raise ShapeError("one token", "two or more, to have a loss", "give more text")
        if not model.causal:
            raise ConfigError("a model that predicts no next token", "one that does", "choose one")
        rows, known = as_rows(ids), (key, np.asarray(ids).tobytes(), edits or None)
        changed = editing(edits, model.model) if edits else nullcontext()
        with self._running, few_threads(model, len(ids)), measuring(model.model):
            if known not in self._kept:
                with changed:
                    losses, last = next_token_losses(model.model, rows)
                self._kept[known] = Pass(losses[0], last)
            self._kept.move_to_end(known)
            while len(self._kept) > MOST_PASSES:
                self._kept.popitem(last=False)
            return self._kept[known]


def compare(
    model: AnyModel, before: Pass | None, after: Pass, *, same: bool = True
) -> dict[str, Any]:
    """Return what a page is told of two passes: losses, and what comes next by either.

    Args:
        model: the one of the pass after.
        before: none where only one is known.
        same: whether both count in the same tokens; nats a token of others can't be subtracted.
    """
    first = before if same else None
    probable = np.exp(np.stack([one.last for one in (first, after) if one is not None]))
    order = np.argsort(-probable.max(0), kind="stable")[:MOST_NEXT]
    texts = token_texts(model, [int(token) for token in order])
    return {
        "loss_before": None if before is None else before.loss,
        "loss_after": after.loss,
        "change": None if first is None else after.loss - first.loss,
        "next": [
            {
                "token": text,
                "before": None if first is None else float(probable[0, at]),
                "after": float(probable[-1, at]),
            }
            for text, at in zip(texts, order, strict=True)
        ],
        "tokens": len(after.losses) + 1,
    }
