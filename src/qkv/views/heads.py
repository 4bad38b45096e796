"""The heads of a trace in the order of a score, as the few columns that a screen has room for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from qkv.views.gather import best_score

if TYPE_CHECKING:
    from qkv.lens.heads.head_scores import Score
    from qkv.lens.heads.head_table import HeadRow, HeadTable

__all__ = ["head_lines", "lift_of", "ranked", "spoken_score"]


def ranked(table: HeadTable, by: str | None = None) -> HeadTable:
    """The table by one score, or by each head's own strongest score above chance.

    Raises:
        ConfigError: where there is no such score.
    """
    from dataclasses import replace

    if by is not None:
        return table.sort(by)

    def key(row: HeadRow) -> float:
        best = best_score(row)
        return -best[1] if best else math.inf

    return replace(table, rows=tuple(sorted(table, key=key)))


def head_lines(
    table: HeadTable, most: int, by: str | None = None
) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and a line for each of the first heads.

    Of each head: what it is called; its strongest score above chance, or the score that is sorted
    by; what uniform attention scores on the same queries; over how many; how spread out it is, in
    nats; and what it gives to the first token.

    >>> import numpy as np
    >>> from qkv.attention import Causal
    >>> from qkv.lens import AttentionMap
    >>> from qkv.lens.heads.head_table import score_heads
    >>> x = np.eye(5) * 9
    >>> head = AttentionMap.of(x, np.roll(x, -1, axis=0), mask=Causal(), name="L0H1")
    >>> head_lines(score_heads([head]), 3)
    (['head', 'score', '', 'chance', 'rows', 'entropy', 'first'], \
[['L0H1', 'previous', '1.00', '.32', '4', '.00', '.25']])
    """
    columns = ["head", "score", "", "chance", "rows", "entropy", "first"]
    lines = []
    for row in ranked(table, by).rows[: max(0, most)]:
        name = by or (best[0] if (best := best_score(row)) else "")
        score = row.scores.get(name)
        lines.append(
            [
                row.name,
                name or "none",
                _two(score.score if score else None),
                # Of what asks for chance itself, chance says nothing.
                _two(score.chance if score and name != "uniform" else None),
                f"{score.count:,}" if score else "·",
                _two(_value(row.scores["entropy"])),
                _two(_value(row.scores["first"])),
            ]
        )
    return columns, lines


def lift_of(row: HeadRow, by: str | None = None) -> float | None:
    """How far a head's score is from chance (0) to perfect (1): of its strongest, or of one."""
    if by is None:
        return best[1] if (best := best_score(row)) else None
    score = row.scores.get(by)
    if score is None or score.chance is None or score.ceiling is None:
        return None
    room = score.ceiling - score.chance
    return (score.score - score.chance) / room if room > 0 else None


def spoken_score(row: HeadRow) -> str:
    """A head's strongest score in words: "previous .62 over 47 rows (chance .07)"."""
    best = best_score(row)
    score = row.scores[best[0]] if best else None
    if best is None or score is None:
        return ""
    said = f"{best[0]} {_two(score.score)} over {score.count:,} row{'s' * (score.count != 1)}"
    return said if score.chance in (None, 1.0) else f"{said} (chance {_two(score.chance)})"


def _value(score: Score | None) -> float | None:
    return None if score is None else score.score


def _two(number: float | None) -> str:
    """A number to two places, without the zero before the point."""
    if number is None or not math.isfinite(number):
        return "·"
    text = f"{number:.2f}" if abs(number) < 100 else f"{number:,.0f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
