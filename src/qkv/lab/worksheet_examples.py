"""Worked examples: numbers small enough for paper, each with the mistakes that it tells apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

__all__ = ["Example", "examples"]


@dataclass(frozen=True)
class Example:
    """A worksheet to start from.

    Args:
        id: as links call it.
        name: as buttons call it.
        says: what is to be seen.
        sheet: what `worksheets.read_sheet` reads.
        row, col: of the pattern, which is looked at first.
        of: the example of which it is a wrong way, if it is one.
    """

    id: str
    name: str
    says: str
    sheet: dict[str, Any]
    row: int = 0
    col: int = 0
    of: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return what a page is told of it."""
        return {
            "id": self.id,
            "name": self.name,
            "says": self.says,
            "sheet": self.sheet,
            "row": self.row,
            "col": self.col,
            "of": self.of,
        }


WHOLE = {
    "x": [[1, 0, 1], [0, 2, 0], [1, 1, 0], [0, 1, 1]],
    "w_q": [[1, 0], [0, 1], [1, -1]],
    "w_k": [[1, 1], [1, 0], [0, 1]],
    "w_v": [[1, 0], [0, 2], [1, 1]],
    "w_o": [[1, 0, 1], [0, 1, -1]],
}
TWO_HEADS = {
    "x": [[1, 0, 1, 0], [0, 2, 0, 1], [1, 1, 0, 0]],
    "w_q": [[1, 0, 0, 2], [0, 1, 1, 0], [1, 0, 0, 1], [0, 1, -1, 0]],
    "w_k": [[1, 0, 2, 0], [0, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, -1]],
    "w_v": [[1, 0, 0, 1], [0, 1, 2, 0], [0, 1, 1, 0], [1, 0, 0, 1]],
    "w_o": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
    "heads": 2,
}
# The fourth value is not given: wrong ways, which look at it, take 0.
THIRD = {"scores": [[1, 1, 1, 8]], "v": [[3], [6], [0], [0]], "places": [2]}
SECOND = {"q": [[1, 2]], "k": [[1, 0], [0.5, 0.25], [1, 2]], "v": [[2], [4], [0]], "places": [1]}
SCALED = {"q": [[1, 1]], "k": [[1, 0], [2, 1], [1, 1]], "v": [[1, 0], [0, 2], [1, 1]]}


@dataclass(frozen=True)
class _Wrong:
    id: str
    name: str
    says: str
    changes: dict[str, Any] = field(default_factory=dict)
    col: int = 0


@cache
def examples() -> tuple[Example, ...]:
    """Return all of them, wrong ways after the right one.

    >>> [example.id for example in examples() if not example.of]
    ['whole', 'third', 'second', 'scaled', 'wide', 'heads']
    """
    wide = _draw_wide()
    return (
        Example(
            "whole", "From X to output",
            "Four tokens of width 3, one head of width 2. Change any number: what follows from it "
            "follows at once.",
            WHOLE, 3, 1,
        ),
        *_with_wrong_ways(
            Example(
                "third", "Token 3 of 4",
                "The third token would like the fourth best, 8 against 1, and may not see it: its "
                "weight is 0, and the three visible values share the row.",
                THIRD,
            ),
            _Wrong("third-unmasked", "no mask", "The future token takes .997 of the weight.",
                   {"mask": "none"}, 3),
            _Wrong("third-zero", "0 for −∞", "A score of 0 is no ban: e⁰ = 1, and the future "
                   "token keeps .109. 2.67 comes out in place of 3.", {"mask": "zero"}, 3),
            _Wrong("third-after", "masked after the softmax", "The future token took .997 before "
                   "it was struck out: what is left sums to .0027, and next to nothing comes out.",
                   {"mask": "after"}),
        ),
        Example(
            "second", "Token 2 of 3",
            "From q and k: scores 1, 1 and 5. The third token is still to come, the other two tie.",
            SECOND,
        ),
        *_with_wrong_ways(
            Example(
                "scaled", "The scaled step",
                "Scores 1, 3, 2 are divided by √2 before the softmax, so that the row stays soft.",
                SCALED, 0, 2,
            ),
            _Wrong("scaled-not", "scale forgotten", "The row is sharper: .665 in place of .576 "
                   "for the second token.", {"scale": 1}, 1),
        ),
        *_with_wrong_ways(
            Example(
                "wide", "Width 64",
                "q and k drawn from N(0, 1), 64 channels. Divided by √64 = 8, scores have a spread "
                "of about 1, and the softmax stays soft.",
                wide, 5, 0,
            ),
            _Wrong("wide-not", "no scale", "Scores have a spread of about 8: rows of several keys "
                   "are nearly one-hot, and the softmax's gradient is small. Little of what is "
                   "learnt goes back through the weights to q and k.", {"scale": 1}),
        ),
        Example(
            "heads", "Two heads",
            "The same X, two heads of width 2 side by side; W_O mixes what they bring.",
            TWO_HEADS, 2, 1,
        ),
    )  # fmt: skip


def _with_wrong_ways(right: Example, *ways: _Wrong) -> list[Example]:
    wrong = (
        Example(
            way.id, way.name, way.says, {**right.sheet, **way.changes}, right.row, way.col, right.id
        )
        for way in ways
    )
    return [right, *wrong]


def _draw_wide() -> dict[str, Any]:
    """Draw six tokens of width 64, rounded to what one could write down."""
    rng = np.random.default_rng(65)
    q, k = rng.normal(size=(2, 6, 64)).round(1)
    return {"q": q.tolist(), "k": k.tolist(), "v": [[1], [2], [3], [4], [5], [6]]}
