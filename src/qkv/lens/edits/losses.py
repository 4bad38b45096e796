"""The loss of the next token, for any model that gives logits for all positions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.errors import QkvError, ShapeError

__all__ = ["as_rows", "measuring", "next_token_losses"]

Array = np.ndarray[Any, Any]
# Logits that are turned into probabilities at once: 64 MB in fp32.
LOGITS = 2**24


def as_rows(ids: Any) -> Int[Tensor, "B T"]:
    """The ids of one text, (T,), or of several, (B, T), as rows.

    Raises:
        ShapeError: other shapes, or less than two tokens.
    """
    rows = torch.as_tensor(ids)
    rows = rows[None] if rows.dim() == 1 else rows
    if rows.dim() != 2 or rows.is_floating_point() or not len(rows):
        raise ShapeError(f"ids of shape {tuple(rows.shape)}", "integers (T,) or (B, T)", "correct")
    if rows.shape[1] < 2:
        raise ShapeError(
            f"{rows.shape[1]} token", "at least 2, so that one can be predicted", "give more text"
        )
    return rows.long()


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module gets back the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def next_token_losses(model: nn.Module, ids: Int[Tensor, "B T"]) -> tuple[Array, Array]:
    """Each prediction's loss (B, T - 1), and log-probabilities of what follows the last, (V,).

    Raises:
        ShapeError: where the model gives no logits for all positions.
        QkvError: where a loss is no number.
    """
    parameter = next(model.parameters(), None)
    given = ids if parameter is None else ids.to(parameter.device)
    losses = torch.empty(ids.shape[0], ids.shape[1] - 1, dtype=torch.float64)
    last = np.zeros(0)
    # One by one: the logits of all at once may be beyond memory.
    for place, row in enumerate(given):
        logits = _logits(model(row[None]), row)
        step = max(1, LOGITS // logits.shape[-1])
        for first in range(0, losses.shape[1], step):
            part = slice(first, min(first + step, losses.shape[1]))
            found = F.cross_entropy(logits[part].float(), row[1:][part], reduction="none")
            losses[place, part] = found.double().cpu()
        last = logits[-1].double().log_softmax(-1).cpu().numpy()
    if not bool(losses.isfinite().all()):
        raise QkvError(
            "a loss that is no number", "logits that are finite", "check the model's weights"
        )
    return losses.numpy(), last


def _logits(output: Any, row: Int[Tensor, " T"]) -> Float[Tensor, "T V"]:
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if isinstance(logits, Tensor) and logits.dim() == 3 and logits.shape[:2] == (1, len(row)):
        return logits[0]
    shape = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(output).__name__
    raise ShapeError(
        f"{shape} from the model for ids (1, {len(row)})",
        "logits of every position, (1, T, V), or an object with .logits",
        "wrap the model so that it returns them",
    )
