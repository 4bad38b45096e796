"""The numbers that lessons quote, computed when they are shown, in NumPy alone.

A lesson writes `{{third-weight}}`, and here stands what computes it: from `qkv.attention` wherever
it is attention's. So a number that is read was true a moment before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from qkv.attention import Causal, softmax, steps, steps_from_affinities

__all__ = ["own_facts", "written"]

Array: TypeAlias = "np.ndarray[Any, Any]"
WIDTHS = (4, 16, 64, 256)
KEYS = 16
DRAWS = 512


def written(value: float, places: int = 3) -> str:
    """Return a number as the house writes it: no zero before the point, a true minus.

    >>> written(1 / 3), written(-2.5), written(-math.inf), written(3.0), written(0.0004)
    ('.333', '−2.5', '−∞', '3', '0')
    """
    if not math.isfinite(value):
        return "−∞" if value < 0 else "∞"
    said = f"{abs(value):.{places}f}"
    if "." in said:
        said = said.rstrip("0").rstrip(".")
    if said.startswith("0."):
        said = said[1:]
    return f"−{said}" if value < 0 and said != "0" else said


@cache
def own_facts() -> Mapping[str, str]:
    """Return the numbers of our own lessons by name, as they are written.

    >>> facts = own_facts()
    >>> facts["third-weight"], facts["start-loss"], facts["scaled-weights"]
    ('.333', '4.174', '.140, .576, .284')
    """
    return MappingProxyType(
        {**_third(), **_scaled(), **_spread(), **_saturation(), **_counts(), **_average()}
    )


def _listed(values: Array | float, places: int = 3) -> str:
    """Numbers side by side or below one another keep their zeros, so that they line up."""
    return ", ".join(
        f"{value:.{places}f}".replace("0.", ".", 1) if value < 1 else f"{value:.{places}f}"
        for value in np.ravel(values)
    )


def _third() -> dict[str, str]:
    """Token 3 of 4: affinities 1, 1, 1, 8 and values 3, 6, 0; done right, and in the wrong ways."""
    affinities, values = np.array([1.0, 1.0, 1.0, 8.0]), np.array([3.0, 6.0, 0.0, 0.0])
    right = steps_from_affinities(affinities, values, mask=Causal(), row=2)
    # Without its row the last query is meant, which sees all: no mask.
    naked, _ = softmax(affinities)
    visible = np.array([True, True, True, False])
    zeroed, _ = softmax(np.where(visible, affinities, 0.0))
    struck = np.where(visible, naked, 0.0)
    return {
        "e": written(math.e),
        "third-weight": written(right.pattern[0]),
        "third-total": written(float(right.total)),
        "third-output": written(float(right.mixed)),
        "naked-future": written(naked[3]),
        "zeroed-weight": written(zeroed[0]),
        "zeroed-future": written(zeroed[3]),
        "zeroed-output": written(float(zeroed @ values), 2),
        "struck-sum": written(float(struck.sum()), 4),
        "struck-output": written(float(struck @ values)),
    }


def _scaled() -> dict[str, str]:
    """q = (1, 1) against three keys of two channels, with the scale and without."""
    q, keys = np.array([[1.0, 1.0]]), np.array([[1.0, 0.0], [2.0, 1.0], [1.0, 1.0]])
    values = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    done, raw = steps(q, keys, values), steps(q, keys, values, scale=1.0)
    return {
        "scaled-scores": ", ".join(written(score) for score in done.scores[0]),
        "scaled-scaled": _listed(done.scaled),
        "scaled-weights": _listed(done.pattern),
        "scaled-output": _listed(done.mixed),
        "raw-weights": _listed(raw.pattern),
        "raw-output": _listed(raw.mixed),
    }


def _spread() -> dict[str, str]:
    """How scores of N(0, 1) channels spread, and what the softmax makes of them, by width."""
    found: dict[str, str] = {}
    for width in WIDTHS:
        rng = np.random.default_rng(width)
        q, k = rng.normal(size=(DRAWS, 1, width)), rng.normal(size=(DRAWS, KEYS, width))
        raw = steps(q[:, None], k[:, None], k[:, None], scale=1.0)
        scaled = steps(q[:, None], k[:, None], k[:, None])
        found[f"variance-{width}"] = written(float(raw.scaled.var()), 0)
        for name, done in (("raw", raw), ("scaled", scaled)):
            found[f"largest-{name}-{width}"] = _listed(done.pattern.max(-1).mean(), 2)
            found[f"slope-{name}-{width}"] = _listed(_slope(done.pattern), 2)
    weights = np.array([0.5, 0.5])
    found["pair-slope"] = written(float(weights[0] * (1 - weights[0])), 2)
    found["hot-slope"] = written(0.99 * 0.01, 4)
    return found


def _slope(pattern: Array) -> float:
    """How far the softmax gives way: its Jacobian's trace, the sum of a(1 − a), a row's mean."""
    return float((pattern * (1 - pattern)).sum(-1).mean())


def _saturation() -> dict[str, str]:
    """Saturation's kin: tanh far out, and the loss of who knows nothing."""
    slopes = 1 - np.tanh(np.arange(4.0)) ** 2
    return {
        **{f"tanh-slope-{at}": written(slope, 2) for at, slope in enumerate(slopes)},
        "start-loss": written(math.log(65)),
    }


def _average() -> dict[str, str]:
    """Equal scores give the average of the past."""
    same = np.zeros((4, 2))
    done = steps(same, same, np.array([[3.0], [6.0], [0.0], [9.0]]), mask=Causal())
    return {
        "even-rows": "; ".join(", ".join(written(w) for w in row if w) for row in done.pattern),
        "even-outputs": ", ".join(written(value) for value in done.mixed[:, 0]),
    }


def _counts() -> dict[str, str]:
    """Numbers of cells and of parameters."""
    tokens, width, heads = 256, 192, 3
    allowed = Causal().dense(tokens, tokens)
    return {
        "cells-allowed": f"{int(np.count_nonzero(allowed)):,}",
        "width": str(width),
        "heads": str(heads),
        "head-width": str(width // heads),
        "matrix": f"{width * width:,}",
        "four-matrices": f"{4 * width * width:,}",
    }
