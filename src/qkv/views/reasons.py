"""How one weight comes about, for the view `why`: terms, steps, what it adds, and to what digit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from qkv.lens import AttentionMap, CellArithmetic

__all__ = ["arithmetic_of"]

Array: TypeAlias = "np.ndarray[Any, Any]"


def arithmetic_of(head: AttentionMap, cell: CellArithmetic) -> dict[str, Any]:
    """Return how the weight of a cell comes about, as JSON holds it.

    `terms` are all products, the largest first; `steps` lead from their sum to the exponent, which
    is none where the mask forbids the cell; `adds`, where values are known, is what the head's
    output gets of it; `precise`, for an allowed cell, has the same numbers in the precision that
    the run had, and in float64 throughout.

    >>> from qkv.lens import AttentionMap
    >>> head = AttentionMap.of(np.ones((1, 4)), np.ones((2, 4)))
    >>> [step["name"] for step in arithmetic_of(head, head.cell(0, 1))["steps"]]
    ['q·k', '× scale 0.5', 'allowed by the mask', "− the row's log-sum-exp"]
    """
    order = np.argsort(-np.abs(cell.terms), kind="stable")
    steps = [_step("q·k", cell.score), _step(f"× scale {cell.scale:.3g}", cell.scaled)]
    if cell.softcap is not None:
        steps.append(_step(f"capped at {cell.softcap:g}", cell.capped))
    if cell.bias is not None:
        steps.append(_step(f"+ bias {cell.bias:.2f}", cell.biased))
    elif head.score_mod is not None:
        steps.append(_step("bent by the model's own rule", cell.biased))
    if cell.allowed:
        steps.append({"name": "allowed by the mask", "value": None, "text": "✓"})
        steps.append(_step("− the row's log-sum-exp", cell.lse))
    else:
        steps.append(_step("masked", -np.inf))
    return {
        "terms": [
            {
                "channel": int(c),
                "q": float(cell.q[c]),
                "k": float(cell.k[c]),
                "product": float(cell.terms[c]),
            }
            for c in order
        ],
        "steps": steps,
        "exponent": float(cell.biased) if cell.allowed and np.isfinite(cell.biased) else None,
        "adds": _adds(cell) if cell.allowed else None,
        "precise": _precise(head, cell) if cell.allowed else None,
    }


def _step(name: str, value: float) -> dict[str, Any]:
    if not np.isfinite(value):  # which JSON has no number for
        return {"name": name, "value": None, "text": "∞" if value > 0 else "−∞"}
    return {"name": name, "value": float(value)}


def _adds(cell: CellArithmetic) -> dict[str, float] | None:
    """Lengths: of the value, of the weight times it, and of what that is behind W_O."""
    if cell.value_norm is None:
        return None
    found = {"value": cell.value_norm, "mixed": cell.weight * cell.value_norm}
    return found if cell.output_norm is None else {**found, "output": cell.output_norm}


def _precise(head: AttentionMap, cell: CellArithmetic) -> dict[str, Any]:
    """Each number as the stored q, k and lse give it in their own type, and in float64."""
    kind = np.promote_types(head.q.dtype, np.float32)
    q, k = head.q[cell.query].astype(kind), head.k[cell.key].astype(kind)
    score = q @ k
    entering = score * kind.type(cell.scale)
    if cell.softcap is not None:
        cap = kind.type(cell.softcap)
        entering = np.tanh(entering / cap) * cap
    if cell.bias is not None:
        entering = entering + kind.type(cell.bias)
    elif head.score_mod is not None:
        entering = kind.type(cell.biased)
    lse = head.lse[cell.query].astype(kind)
    weight = np.exp(entering - lse)
    exact = _log_sum_exp(head, cell.query)
    rows = [
        ("q·k", score, cell.score),
        ("into the softmax", entering, cell.biased),
        ("log-sum-exp", lse, exact),
        ("weight", weight, float(np.exp(cell.biased - exact))),
    ]
    return {
        "kind": kind.name,
        "rows": [{"name": name, "run": float(run), "exact": float(x)} for name, run, x in rows],
    }


def _log_sum_exp(head: AttentionMap, query: int) -> float:
    """A row's log-sum-exp, of all its scores in float64."""
    scores: Array = head.scores([query], range(head.K))[0]
    if head.sink is not None:
        scores = np.append(scores, head.sink)
    top = scores.max()
    return float(top + np.log(np.exp(scores - top).sum()))
