"""How scores of a head are made: means over eligible queries, chance levels, and lifts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from qkv.lens.heads.layouts import Layout, Targets
from qkv.lens.heads.reading import Reading

__all__ = ["Formula", "Score", "copying", "mass", "mean_of", "uniformity"]

Array: TypeAlias = "np.ndarray[Any, Any]"

# A lift is told over so many queries, ...
FEWEST_ROWS = 3
# ... which give all keys but the first so much on average: of a head that gives more than .9 to
# the first key, what it does with the rest says little, however neat it is.
LEAST_LEFT = 0.1
# A head isn't named after a score that is next to nothing, whatever is set aside.
LEAST_SCORE = 0.05

LIFT = (
    "how far from chance (0) to perfect (1) the score is among all keys but the first: "
    "(m - c) / (l - c) for the mass m on targets, the mass l on keys but the first, and the mass c "
    "that targets would have of l if it were even; below 0 where it is less than chance; of "
    "queries that could score and fail among these keys, 3 or more, with .1 of mass left or more "
    "on average"
)


@dataclass(frozen=True)
class Score:
    """One number of one head.

    Args:
        score: the mean over the eligible queries.
        chance: what uniform attention scores on the same queries; None where that means nothing.
        ceiling: what a perfect head scores; None where there is no such thing.
        count: how many queries were eligible, and averaged.
        lift: how far from chance (0) to the ceiling (1) with the first key's mass set aside; None
            for what is no name, over fewer than 3 queries, and where less than .1 of mass is left.
        low, high: a 95 % interval of the mean, over the texts of a corpus.
    """

    score: float
    chance: float | None
    ceiling: float | None
    count: int
    lift: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Formula:
    """How one score is made.

    Args:
        name: of its column.
        definition: in a sentence.
        source: where it comes from.
        eligible: which queries it averages over.
        ceiling: what a perfect head scores, where there is such a thing.
        read: makes it; None where it makes no sense for a head, or no query is eligible.
        chance: how the chance level comes about.
        named: the least lift for which a head bears the score's name; None if it never does.
        least: the least score for that.
        lift: how the lift comes about, where there is one.
    """

    name: str
    definition: str
    source: str
    eligible: str
    ceiling: float | None
    read: Callable[[Reading, str], Score | None]
    chance: str = "the share of its allowed keys that are targets"
    named: float | None = None
    least: float = LEAST_SCORE
    lift: str | None = None

    def __post_init__(self) -> None:
        if self.named is not None and self.lift is None:
            object.__setattr__(self, "lift", LIFT)


def mass(reading: Reading, name: str) -> Score | None:
    """The mean weight on a score's targets."""
    targets = reading.layout.targets.get(name)
    if targets is None or not len(targets.rows):
        return None
    sums = reading.sums[name]
    return Score(
        score=float(sums.mean()),
        chance=float(targets.share.mean()),
        ceiling=1.0,
        count=len(targets.rows),
        lift=None if name == "first" else _mass_lift(reading, targets, sums),
    )


def _mass_lift(reading: Reading, targets: Targets, sums: Array) -> float | None:
    rows, left = targets.rows, reading.left[targets.rows]
    sums = np.maximum(sums - np.where(targets.first, reading.first[rows], 0.0), 0.0)
    share, eligible = _share_left(reading.layout, targets)
    return _lift(sums[eligible].sum(), (left * share)[eligible].sum(), left[eligible])


def _share_left(layout: Layout, targets: Targets) -> tuple[Array, Array]:
    """What uniform attention over all keys but the first gives to targets; where it could fail."""
    others = layout.others[targets.rows]
    wanted = np.rint(targets.share * layout.counts[targets.rows]) - targets.first
    share = np.divide(wanted, others, out=np.zeros(len(others)), where=others > 0)
    return share, (wanted > 0) & (wanted < others)


def _lift(score: float, chance: float, left: Float[Array, " rows"]) -> float | None:
    """How far a sum is from a chance level (0) to the most there is left (1).

    Rows without their first key are not scaled up one by one, but counted by what is left of them:
    a row that rests on the first key entirely says nothing of the others.
    """
    most = float(left.sum())
    if len(left) < FEWEST_ROWS or most < LEAST_LEFT * len(left) or most - chance <= 0:
        return None
    return float((score - chance) / (most - chance))


def uniformity(reading: Reading, _: str) -> Score | None:
    """The mean overlap with uniform attention."""
    layout, scan = reading.layout, reading.scan
    choosing = layout.counts[scan.rows] > 1
    if not choosing.any():
        return None
    rows = layout.others[scan.rows] > 1
    left = reading.left[scan.rows][rows]
    # A head that picks a single key, whichever, is as far from uniform as can be.
    single = left / layout.others[scan.rows][rows]
    return Score(
        score=float(scan.overlap[choosing].mean()),
        chance=1.0,
        ceiling=1.0,
        count=int(choosing.sum()),
        lift=_lift(scan.overlap_left[rows].sum(), single.sum(), left),
    )


def copying(reading: Reading, name: str) -> Score | None:
    """How often the strongest key holds the next token."""
    layout, scan = reading.layout, reading.scan
    targets = layout.targets.get(name)
    if targets is None:
        return None
    seen = np.isin(targets.rows, scan.rows)
    if not seen.any():
        return None
    at = np.searchsorted(scan.rows, targets.rows[seen])
    share, eligible = _share_left(layout, targets)
    # What induction would copy too says nothing of retrieval.
    kept = (eligible & ~layout.told_by_induction[targets.rows])[seen]
    left = reading.left[targets.rows][seen][kept]
    hits = left * scan.copied_left[at][kept]
    return Score(
        score=float(scan.copied[at].mean()),
        chance=float(targets.share[seen].mean()),
        ceiling=1.0,
        count=int(seen.sum()),
        lift=_lift(hits.sum(), (left * share[seen][kept]).sum(), left),
    )


def mean_of(
    values: Callable[[Reading], Array | None],
    chance: Callable[[Reading, Array], Array] | None = None,
    ceiling: float | None = None,
    least: int = 2,
) -> Callable[[Reading, str], Score | None]:
    """A plain mean over the queries that may look at `least` keys or more."""

    def read(reading: Reading, _: str) -> Score | None:
        found = values(reading)
        rows = reading.layout.counts[reading.scan.rows] >= least
        if found is None or not rows.any():
            return None
        expected = None
        if chance is not None:
            expected = float(chance(reading, reading.scan.rows[rows]).mean())
        return Score(float(found[rows].mean()), expected, ceiling, int(rows.sum()))

    return read
