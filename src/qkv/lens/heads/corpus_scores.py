"""Head scores over many texts: means that are kept up as texts come, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING

from qkv.lens.heads.head_scores import Score, name_of
from qkv.lens.heads.head_table import HeadRow, HeadTable, score_heads

if TYPE_CHECKING:
    from qkv.lens.maps.attention_map import AttentionMap

__all__ = ["HeadScores", "student"]

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom.
STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def student(freedom: int) -> float:
    """How many standard errors a two-sided 95 % interval reaches, by Student's t distribution.

    Above 30 degrees of freedom by the first terms of its expansion around the normal one
    (Abramowitz and Stegun 1964, 26.7.5), to four digits.

    >>> student(1), round(student(60), 3)
    (12.706, 2.0)
    """
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


@dataclass
class Weighted:
    """A weighted mean and the spread around it, kept up one number at a time, or one lot at a time.

    Source: West 1979; Chan, Golub and LeVeque 1983 for two lots.
    """

    weight: float = 0.0
    mean: float = 0.0
    spread: float = 0.0

    def add(self, weight: float, mean: float, spread: float = 0.0) -> None:
        """Takes in a number, or a lot of them with its weight, mean and spread."""
        total = self.weight + weight
        if total > 0:
            away = mean - self.mean
            share = weight / total
            self.spread += spread + away * away * self.weight * share
            self.mean += away * share
            self.weight = total


@dataclass
class _Means:
    """One score of one head over texts, each weighted by its eligible queries."""

    ceiling: float | None = None
    count: int = 0
    texts: int = 0
    score: Weighted = field(default_factory=Weighted)
    # By squared weights: what the error of a weighted mean is made of.
    squared: Weighted = field(default_factory=Weighted)
    chance: Weighted = field(default_factory=Weighted)
    lift: Weighted = field(default_factory=Weighted)

    def add(self, score: Score) -> None:
        self.ceiling, weight = score.ceiling, score.count
        self.count += weight
        self.texts += 1
        self.score.add(weight, score.score)
        self.squared.add(weight**2, score.score)
        if score.chance is not None:
            self.chance.add(weight, score.chance)
        if score.lift is not None:
            self.lift.add(weight, score.lift)

    def merge(self, other: _Means) -> None:
        self.ceiling = other.ceiling if self.ceiling is None else self.ceiling
        self.count += other.count
        self.texts += other.texts
        for name in ("score", "squared", "chance", "lift"):
            lot: Weighted = getattr(other, name)
            getattr(self, name).add(lot.weight, lot.mean, lot.spread)

    def total(self) -> Score:
        mean, half = self.score.mean, None
        if self.texts > 1:
            # Squared deviations from the mean itself, which isn't the mean by squared weights.
            off = self.squared.mean - mean
            spread = self.squared.spread + self.squared.weight * off * off
            error = math.sqrt(spread * self.texts / (self.texts - 1)) / self.score.weight
            half = student(self.texts - 1) * error
        return Score(
            score=mean,
            chance=self.chance.mean if self.chance.weight else None,
            ceiling=self.ceiling,
            count=self.count,
            lift=self.lift.mean if self.lift.weight else None,
            low=None if half is None else mean - half,
            high=None if half is None else mean + half,
        )


class HeadScores:
    """The scores of all heads over a corpus, a text at a time; what is held doesn't grow with it.

    Each score is the mean over all eligible queries of all texts. Queries of one text are no
    independent draws, so the 95 % interval is over texts: Student's t, with the standard error of
    a mean weighted by eligible queries (Cochran 1977, the ratio estimate), sqrt(N / (N - 1) *
    Σ n² (x - mean)²) / Σ n for N texts with n queries and mean x each. One text has no interval.

    >>> import numpy as np
    >>> from qkv.attention import Causal
    >>> from qkv.lens import AttentionMap
    >>> x, scores = np.zeros((8, 2)), HeadScores()
    >>> for _ in range(2):
    ...     table = scores.update([AttentionMap.of(x, x, mask=Causal(), name="L0H0")])
    >>> scores.table()["L0H0"]["first"].count, scores.texts
    (14, 2)
    """

    def __init__(self) -> None:
        self.texts = 0
        self._heads: dict[str, tuple[HeadRow, dict[str, _Means]]] = {}
        self._notes: dict[str, None] = {}

    def update(self, text: Iterable[AttentionMap] | HeadTable) -> HeadTable:
        """Takes in one text: its trace (one sequence of a batch at a time), maps or table.

        Returns:
            the table of this text alone.
        """
        table = text if isinstance(text, HeadTable) else score_heads(text)
        self.texts += 1
        self._notes |= dict.fromkeys(table.notes)
        for row in table:
            _, means = self._heads.setdefault(row.name, (row, {}))
            for name, score in row.scores.items():
                if score is not None:
                    means.setdefault(name, _Means()).add(score)
        return table

    def merge(self, other: HeadScores) -> None:
        """Takes in what was made of other texts elsewhere."""
        self.texts += other.texts
        self._notes |= other._notes
        for head, (row, theirs) in other._heads.items():
            _, means = self._heads.setdefault(head, (row, {}))
            for name, more in theirs.items():
                means.setdefault(name, _Means()).merge(more)

    def table(self) -> HeadTable:
        """The table of all texts so far, with intervals from the second text on."""
        rows = []
        for row, means in self._heads.values():
            scores = {name: means[name].total() if name in means else None for name in row.scores}
            rows.append(HeadRow(row.name, row.layer, row.head, name_of(scores), scores))
        told = f"means over {self.texts:,} texts; 95 % intervals by Student's t over texts"
        return HeadTable(tuple(rows), (*self._notes, *([told] if self.texts > 1 else [])))
