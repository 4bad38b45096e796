"""What stands around a picture: the sentence that reads it aloud, and the ramp that explains it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from qkv.views.lettering import Face, drawable, fitting, width_of
from qkv.views.palette import LOWEST, Palette, level
from qkv.views.sheet import Sheet

if TYPE_CHECKING:
    from qkv.lens import AttentionMap, Cell

__all__ = ["LEGEND_WIDTH", "even_share", "sentence_of", "write_legend", "write_sentence"]

RAMP_WIDTH, RAMP_HEIGHT = 190.0, 9.0
LEGEND_WIDTH = 350.0
"""Points that a legend takes."""


def even_share(head: AttentionMap) -> float:
    """What a key is given where a row spreads itself evenly: 1 over the mean number allowed.

    >>> from qkv.attention import Causal
    >>> from qkv.lens import AttentionMap
    >>> x = np.zeros((3, 1))
    >>> even_share(AttentionMap.of(x, x, mask=Causal()))
    0.5
    """
    # Some hundred rows tell the mean of a long map well enough for a mark on a ramp.
    rows = np.unique(np.linspace(0, head.Q - 1, 257).round().astype(int))
    counts = [int(head.allowed([row], range(head.K)).sum()) for row in rows]
    known = [count for count in counts if count]
    return 1.0 / float(np.mean(known)) if known else 1.0


def write_legend(sheet: Sheet, left: float, top: float, *, log: bool, even: float) -> None:
    """The ramp with its ticks, a mark at 1/n for the mean row's n keys, and what hatching means."""
    from qkv.lens import brief

    colors = sheet.colors
    axes = sheet.axes(left, top, RAMP_WIDTH, RAMP_HEIGHT, "ramp")
    ramp = np.linspace(0, 1, 256)[None]
    sheet.cells(axes, ramp, np.ones(ramp.shape, dtype=bool))
    ticks = {LOWEST: ".001", 0.01: ".01", 0.1: ".1", 1.0: "1"}
    if not log:
        ticks = {0.0: "0", 0.25: ".25", 0.5: ".5", 0.75: ".75", 1.0: "1"}
    for weight, text in ticks.items():
        at = left + RAMP_WIDTH * level(weight, log=log)
        sheet.write(at, top + RAMP_HEIGHT + 11, text, size=8, color=colors.soft, align="center")
    if log and even < LOWEST:
        sheet.write(left, top - 4, f"◂ even, mean row {brief(even)}", size=8, color=colors.soft)
    else:
        mark = left + RAMP_WIDTH * level(even, log=log)
        sheet.write(mark, top - 3, "▾", size=8, align="center")
        told = f"even, mean row {brief(even)}"
        sheet.write(mark, top - 10, told, size=8, color=colors.soft, align="center")
    after, baseline = left + RAMP_WIDTH + 12, top + RAMP_HEIGHT - 1
    scale = f"weight, {'logarithmic' if log else 'linear'}"
    sheet.write(after, baseline, scale, size=8, color=colors.soft)
    after += width_of(scale, "sans", 8) + 14
    sheet.hatch(sheet.axes(after, top, 18, RAMP_HEIGHT, "masked"))
    sheet.write(after + 23, baseline, "masked", size=8, color=colors.soft)


def write_sentence(
    sheet: Sheet, at: tuple[float, float], room: float, head: AttentionMap, cell: Cell | None
) -> None:
    """A map's sentence as a title within `room` points, its two tokens in the colours of q, k."""
    sentence = sentence_of(head, cell)
    sheet.figure.set_label(sentence)
    pieces = _pieces(head, cell, sentence, sheet.colors)
    size, (left, top) = 17.0, at
    while size > 10 and _total(pieces, size) > room:
        size -= 0.5
    for text, face, color in pieces:
        sheet.write(left, top, text, size=_sized(face, size), face=face, color=color)
        left += width_of(drawable(text, face), face, _sized(face, size))


def sentence_of(head: AttentionMap, cell: Cell | None) -> str:
    """What `head.sentence()` says, without looking for the strongest cell once more.

    >>> from qkv.lens import AttentionMap
    >>> head = AttentionMap.of(np.zeros((1, 2)), np.zeros((4, 2)), labels="abcd")
    >>> sentence_of(head, head.strongest()) == head.sentence()
    True
    """
    from qkv.lens import brief

    if cell is None:
        return head.sentence()
    asker, asked = head.spoken("query", cell.query), head.spoken("key", cell.key)
    if not head.allowed([cell.query], [cell.key])[0, 0]:
        return f"{asker} may not look at {asked}"
    return f"{asker} gives {brief(cell.weight)} to {asked}"


def _pieces(
    head: AttentionMap, cell: Cell | None, sentence: str, colors: Palette
) -> list[tuple[str, Face, str]]:
    """A sentence cut at its tokens. A piece is drawn by itself: right-to-left text stays within."""
    if cell is None:
        return [(sentence, "serif", colors.ink)]
    asker, asked = head.spoken("query", cell.query), head.spoken("key", cell.key)
    found: list[tuple[str, Face, str]] = []
    middle = sentence.removeprefix(asker).removesuffix(asked)
    for spoken, color in ((asker, colors.q), (asked, colors.k)):
        before, opening, rest = spoken.partition("“")
        token, closing, after = rest.rpartition("”")
        found.append((before + opening, "serif", color if not opening else colors.ink))
        found.append((fitting(token, "mono", 15, 120), "mono", color))
        found.append((closing + after, "serif", colors.ink))
        if spoken is asker:
            found.append((middle, "serif", colors.ink))
    return [piece for piece in found if piece[0]]


def _sized(face: Face, size: float) -> float:
    # A monospaced letter looks larger than a serif one of the same size.
    return size * 0.85 if face == "mono" else size


def _total(pieces: Sequence[tuple[str, Face, str]], size: float) -> float:
    return sum(width_of(drawable(t, face), face, _sized(face, size)) for t, face, _ in pieces)
