"""What a head does, in numbers: each score with its definition, source, chance level and ceiling.

A score averages over *eligible* queries only: those that could score and could fail, since some but
not all of the keys they may look at are what the score asks about. Otherwise a perfect induction
head scores one half on a text repeated once, and a head that looks nowhere in particular scores
something for the first tokens, which have nowhere else to look. Chance is what a head that gives
all its allowed keys the same scores on the very same queries, from the mask, exactly.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from qkv.lens.heads.formulas import Formula, Score, copying, mass, mean_of, uniformity
from qkv.lens.heads.layouts import Layout
from qkv.lens.heads.reading import Reading, read_head

if TYPE_CHECKING:
    from qkv.lens.maps.attention_map import AttentionMap

__all__ = ["FORMULAS", "Formula", "Score", "name_of", "score_head", "strongest"]

Array: TypeAlias = "np.ndarray[Any, Any]"

# A head is named after a score that is this far from chance (0) to perfect (1), ...
NAMED_FROM = 0.2
# ... but called uniform only if it is more uniform than not, with the first key and without.
UNIFORM_FROM = 0.5


def _away(reading: Reading) -> Array | None:
    return None if reading.layout.head.cross else reading.scan.away


CHOICE = "queries that may look at 2 keys or more"

FORMULAS: dict[str, Formula] = {
    formula.name: formula
    for formula in (
        Formula(
            "self",
            "weight on the query's own token",
            "Vig and Belinkov 2019",
            "queries that may look at themselves and at another key",
            1.0,
            mass,
            named=NAMED_FROM,
        ),
        Formula(
            "previous",
            "weight on the token before",
            "Voita et al. 2019; Elhage et al. 2021",
            "queries that may look at the token before and at another key",
            1.0,
            mass,
            named=NAMED_FROM,
        ),
        Formula(
            "first",
            "weight on the first key, the attention sink",
            "Xiao et al. 2023",
            "queries that may look at the first key and at another",
            1.0,
            mass,
        ),
        Formula(
            "duplicate",
            "weight on earlier places of the same token",
            "Wang et al. 2022",
            "queries whose token stood at an earlier key they may look at",
            1.0,
            mass,
            named=NAMED_FROM,
        ),
        Formula(
            "induction",
            "weight on the tokens that came after earlier places of the same token",
            "Olsson et al. 2022",
            "queries whose token stood before, followed by a key they may look at",
            1.0,
            mass,
            named=NAMED_FROM,
        ),
        Formula(
            "uniform",
            "overlap with uniform attention, the sum of min(p, 1/n) over the n allowed keys; since "
            "it asks how near to chance a head is, its chance is its ceiling, 1",
            "1 less the total variation distance",
            CHOICE,
            1.0,
            uniformity,
            chance="1, for uniform attention is what it asks about",
            named=UNIFORM_FROM,
            least=UNIFORM_FROM,
            lift="how far from one key alone (0) to all alike (1), among all keys but the first",
        ),
        Formula(
            "retrieval",
            "how often the strongest key holds the very token that comes next; ties share",
            "Wu et al. 2024, with the text's own next token for the generated one",
            "queries whose next token stood at a key they may look at, not after them",
            1.0,
            copying,
            chance="the share of its allowed keys that hold the next token",
            named=NAMED_FROM,
            lift="how far from chance (0) to always (1) among all keys but the first, each query "
            "counted by the mass it gives to these, without those that induction would answer too",
        ),
        Formula(
            "entropy",
            "-Σ p ln p of a query's weights, in nats",
            "Shannon 1948",
            CHOICE,
            None,
            mean_of(
                lambda reading: reading.scan.entropy,
                lambda reading, rows: np.log(reading.layout.counts[rows]),
            ),
            chance="ln n for n allowed keys",
        ),
        Formula(
            "confidence",
            "a query's largest weight",
            "Voita et al. 2019",
            CHOICE,
            1.0,
            mean_of(
                lambda reading: reading.scan.largest,
                lambda reading, rows: 1.0 / reading.layout.counts[rows],
                ceiling=1.0,
            ),
            chance="1/n for n allowed keys",
        ),
        Formula(
            "distance",
            "Σ p |place - key|, how many tokens away a query looks",
            "Vig and Belinkov 2019",
            CHOICE,
            None,
            mean_of(_away, lambda reading, rows: reading.layout.distances[rows]),
            chance="the mean distance of the allowed keys",
        ),
        Formula(
            "norm",
            "‖Σ p v W_O‖, the length of what the head adds to the query's token",
            "Kobayashi et al. 2020",
            "queries that may look at a key",
            None,
            mean_of(lambda reading: reading.scan.norm, least=1),
            chance="none",
        ),
    )
}


def score_head(
    head: AttentionMap, *, layout: Layout | None = None, cells: int | None = None
) -> dict[str, Score | None]:
    """All scores of one head by name; None where one makes no sense, or no query is eligible.

    Args:
        head: of one text with itself or, with fewer scores, across texts.
        layout: what its queries could look at, where another head has it already.
        cells: of a head with more cells, 4,096² unless given, the scores that need all of a row
            read a seeded sample of the rows, as large as that; their counts say so.

    >>> from qkv.attention import Causal
    >>> from qkv.lens import AttentionMap
    >>> x = np.zeros((3, 2))
    >>> scores = score_head(AttentionMap.of(x, x, mask=Causal()))
    >>> found = scores["previous"]
    >>> round(found.score, 3), round(found.chance, 3), found.ceiling, found.count
    (0.417, 0.417, 1.0, 2)
    """
    reading = read_head(head, Layout(head) if layout is None else layout, cells)
    return {name: formula.read(reading, name) for name, formula in FORMULAS.items()}


def name_of(scores: dict[str, Score | None]) -> str:
    """What a head is called: its strongest score above chance, the first key's mass set aside.

    The largest lift decides. It must reach .2, and the score itself .05; to be called uniform both
    must reach .5. "mixed" where none does, "" where no lift could be told: too few eligible
    queries, or on average less than .1 of mass on other keys than the first.

    >>> name_of({"self": Score(0.9, 0.1, 1.0, 8, lift=0.89), "uniform": None})
    'self'
    """
    lifts = _lifts(scores)
    for name, lift in sorted(lifts.items(), key=lambda item: -item[1]):
        score, formula = scores[name], FORMULAS[name]
        assert score is not None
        if formula.named is not None and lift >= formula.named and score.score >= formula.least:
            return name
    return "mixed" if lifts else ""


def strongest(scores: dict[str, Score | None], role: str) -> tuple[str, float] | None:
    """The score that a head is called by, or else the one above chance that comes closest.

    Returns:
        its name and lift; None where no score is above chance, or all of those are next to nothing.

    >>> strongest({"self": Score(0.2, 0.1, 1.0, 8, lift=0.12)}, "mixed")
    ('self', 0.12)
    """
    lifts = _lifts(scores)
    if role in lifts:
        return role, lifts[role]
    # To be somewhat like the uniform average is no trait.
    lifts = {
        name: lift
        for name, lift in lifts.items()
        if lift > 0 and name != "uniform" and scores[name].score >= FORMULAS[name].least  # type: ignore[union-attr]
    }
    return max(lifts.items(), key=lambda item: item[1]) if lifts else None


def _lifts(scores: dict[str, Score | None]) -> dict[str, float]:
    return {
        name: score.lift
        for name, score in scores.items()
        if score is not None and score.lift is not None and math.isfinite(score.lift)
    }
