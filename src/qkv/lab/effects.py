"""What changes do to a model's loss and to what it says comes next.

The pass of the model as it is stays in memory, so that each further change costs one pass.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
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
    """Passes over texts, those of unedited models kept.

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
        rows, known = as_rows(ids), (key, np.asarray(ids).tobytes())
        with self._running, few_threads(model, len(ids)), measuring(model.model):
            if edits:
                with editing(edits, model.model):
                    losses, last = next_token_losses(model.model, rows)
                return Pass(losses[0], last)
            if known not in self._kept:
                losses, last = next_token_losses(model.model, rows)
                self._kept[known] = Pass(losses[0], last)
            self._kept.move_to_end(known)
            while len(self._kept) > MOST_PASSES:
                self._kept.popitem(last=False)
            return self._kept[known]


def compare(model: AnyModel, before: Pass, after: Pass) -> dict[str, Any]:
    """Return what a page is told of two passes: losses, and what comes next by either."""
    probable = np.exp(np.stack([before.last, after.last]))
    order = np.argsort(-probable.max(0), kind="stable")[:MOST_NEXT]
    texts = token_texts(model, [int(token) for token in order])
    seen = before.last > -np.inf
    gap = np.where(seen, before.last - after.last, 0.0)
    return {
        "loss_before": before.loss,
        "loss_after": after.loss,
        "change": after.loss - before.loss,
        "divergence": float((probable[0] * gap).sum()),
        "next": [
            {"token": text, "before": float(probable[0, at]), "after": float(probable[1, at])}
            for text, at in zip(texts, order, strict=True)
        ],
        "tokens": len(after.losses) + 1,
    }
