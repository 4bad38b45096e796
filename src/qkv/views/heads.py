"""The heads of a trace in the order of a score, as the few columns that a screen has room for."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from qkv.views.gather import DULL, telling

if TYPE_CHECKING:
    from qkv.lens.heads.head_scores import Score
    from qkv.lens.heads.head_table import HeadRow, HeadTable

__all__ = ["head_legend", "head_lines", "lift_of", "ranked", "spoken_score"]

# What a head without a role is called.
NONE = "–"


def ranked(table: HeadTable, by: str | None = None) -> HeadTable:
    """The table by one score, or with the most telling head first (see `gather.telling`).

    Raises:
        ConfigError: where there is no such score.
    """
    if by is not None:
        return table.sort(by)
    return replace(table, rows=tuple(sorted(table, key=telling)))


def head_lines(
    table: HeadTable, most: int, by: str | None = None
) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and a line for each of the first heads.

    Of each head: what it is called, in brackets where that score is too weak for a name; the score,
    or the one that is sorted by; what even attention scores on the same queries; over how many;
    how spread out it is, in nats; what it gives to the first token; and the lift of the score,
    unless it has none of any head. `head_legend` says what these are.

    >>> import numpy as np
    >>> from qkv.attention import Causal
    >>> from qkv.lens import AttentionMap
    >>> from qkv.lens.heads.head_table import score_heads
    >>> x = np.eye(5) * 9
    >>> head = AttentionMap.of(x, np.roll(x, -1, axis=0), mask=Causal(), name="L0H1")
    >>> head_lines(score_heads([head]), 3)
    (['head', 'role', 'score', 'chance', 'rows', 'entropy', 'first', 'lift'], \
[['L0H1', 'previous', '1.00', '.32', '4', '.00', '.25', '1.00']])
    """
    columns = ["head", "role" if by is None else "score", "score" if by is None else ""]
    columns += ["chance", "rows", "entropy", "first"]
    lifted = by is None or table.columns[by].lift is not None
    lines = []
    for row in ranked(table, by).rows[: max(0, most)]:
        name = by or (found[0] if (found := row.strongest) else "")
        score = row.scores.get(name)
        line = [
            row.name,
            name if by else _called(row),
            _two(score.score if score else None),
            # Of what asks for chance itself, chance says nothing.
            _two(score.chance if score and name != "uniform" else None),
            f"{score.count:,}" if score else "·",
            _two(_value(row.scores["entropy"])),
            _two(_value(row.scores["first"])),
        ]
        lines.append([*line, _two(lift_of(row, by))] if lifted else line)
    return columns + ["lift"] * lifted, lines


def head_legend(table: HeadTable, most: int, by: str | None = None) -> list[str]:
    """What the columns of `head_lines` are, a phrase each.

    >>> from qkv.lens.heads.head_table import HeadTable
    >>> head_legend(HeadTable(()), 3, "entropy")
    ['chance: what even attention scores on the same rows']
    """
    rows = ranked(table, by).rows[: max(0, most)]
    told = ["chance: what even attention scores on the same rows"]
    if by is not None:
        if table.columns[by].lift is not None:
            told.append("lift: from chance (0) to perfect (1), first token set aside")
        return told
    told.append("lift: from chance (0) to perfect (1), first token set aside")
    order = "heads are in its order"
    if any(row.role in DULL for row in table):
        order += ", with self and uniform after the rest"
    told.append(order)
    names = [_called(row) for row in rows]
    if any(name.startswith("(") for name in names):
        told.append("(role): too weak for a name")
    if NONE in names:
        told.append(f"{NONE}: nothing stands out, or hardly any mass but on the first token")
    return told


def _called(row: HeadRow) -> str:
    """A head's role; in brackets what comes closest to one."""
    found = row.strongest
    if found is None:
        return NONE
    return found[0] if found[0] == row.role else f"({found[0]})"


def lift_of(row: HeadRow, by: str | None = None) -> float | None:
    """The lift of one score of a head, or of its strongest."""
    if by is None:
        return found[1] if (found := row.strongest) else None
    score = row.scores.get(by)
    return score.lift if score else None


def spoken_score(row: HeadRow) -> str:
    """A head's strongest score in words: "previous .62 over 47 rows (chance .07, lift .60)"."""
    found = row.strongest
    score = row.scores[found[0]] if found else None
    if found is None or score is None:
        return ""
    said = f"{found[0]} {_two(score.score)} over {score.count:,} row{'s' * (score.count != 1)}"
    against = [f"lift {_two(found[1])}"]
    if score.chance is not None and score.chance != score.ceiling:
        against.insert(0, f"chance {_two(score.chance)}")
    return f"{said} ({', '.join(against)})"


def _value(score: Score | None) -> float | None:
    return None if score is None else score.score


def _two(number: float | None) -> str:
    """A number to two places, without the zero before the point."""
    if number is None or not math.isfinite(number):
        return "·"
    text = f"{number:z.2f}" if abs(number) < 100 else f"{number:,.0f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text
