"""One row of attention as six steps that can each be done otherwise, for those who do them wrong.

Done right they give what `qkv.attention` does; that they do is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from qkv.learn.exercises import STAGES, Array, Exercise

__all__ = ["Found", "Step", "difference", "known_values", "mix", "root", "share", "work"]

Found: TypeAlias = dict[str, Array]
Step: TypeAlias = Callable[[Exercise, Found], Array]


def work(
    exercise: Exercise,
    given: Mapping[str, Array] | None = None,
    otherwise: Mapping[str, Step] | None = None,
) -> Found:
    """Return the numbers of every stage, some steps done otherwise.

    Args:
        given: numbers that stand already; what follows is worked from them.
        otherwise: steps in place of the right ones, by stage.
    """
    found: Found = {}
    steps = {**_RIGHT, **(otherwise or {})}
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for stage in STAGES:
            if given is not None and stage in given:
                found[stage] = np.asarray(given[stage], dtype=float)
            else:
                found[stage] = steps[stage](exercise, found)
    return found


def difference(left: Array, right: Array) -> float:
    """Return by how much two rows differ where they differ most; −∞ and −∞ not at all."""
    with np.errstate(invalid="ignore"):
        apart = np.where(left == right, 0.0, np.abs(left - right))
    return float(np.where(np.isnan(apart), np.inf, apart).max())


def _scores(exercise: Exercise, _: Found) -> Array:
    if exercise.affinities is not None:
        return np.array(exercise.affinities)
    return np.asarray(np.array(exercise.keys) @ np.array(exercise.q))


def _scaled(exercise: Exercise, found: Found) -> Array:
    return np.asarray(found["scores"] / (root(exercise.width) if exercise.scale else 1.0))


def _masked(exercise: Exercise, found: Found) -> Array:
    return np.where(exercise.allowed, found["scaled"], -np.inf)


def _exponentials(_: Exercise, found: Found) -> Array:
    return np.asarray(np.exp(found["masked"]))


def share(_: Exercise, found: Found) -> Array:
    """The exponentials as shares of their sum."""
    return np.asarray(found["exponentials"] / found["exponentials"].sum())


def mix(exercise: Exercise, found: Found) -> Array:
    """The values by their weights."""
    return np.asarray(found["weights"] @ known_values(exercise))


_RIGHT: dict[str, Step] = {
    "scores": _scores,
    "scaled": _scaled,
    "masked": _masked,
    "exponentials": _exponentials,
    "weights": share,
    "output": mix,
}


def known_values(exercise: Exercise) -> Array:
    """The values, 0 where one isn't given: wrong ways look at it."""
    return np.asarray(np.nan_to_num(np.array(exercise.values)))


def root(width: int | None) -> float:
    """The root of a width that there is."""
    assert width is not None
    return float(np.sqrt(width))
