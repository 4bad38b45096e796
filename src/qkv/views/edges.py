"""The tracks along a figure's map: what each key receives, how spread out each row is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Float

from qkv.views.lettering import width_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from qkv.views.sheet import Sheet

__all__ = ["TRACK", "block_means", "draw_entropy", "draw_received"]

Array: TypeAlias = "np.ndarray[Any, Any]"

TRACK = 38.0
"""Points that a track takes."""
# A bar this many times as tall as the next is cut, or nothing would be seen of the others.
FAR_ABOVE = 3.0


def block_means(values: Float[Array, " T"], block: int) -> Float[Array, " blocks"]:
    """The mean of each block of values.

    >>> block_means(np.array([1.0, 3.0, 5.0]), 2).tolist()
    [2.0, 5.0]
    """
    starts = np.arange(0, len(values), block)
    sizes = np.minimum(block, len(values) - starts)
    return np.asarray(np.add.reduceat(values, starts) / sizes)


def draw_received(
    sheet: Sheet,
    over: Axes,
    values: Float[Array, " blocks"],
    *,
    block: int,
    left: float,
    width: float,
    baseline: float,
    room: float,
) -> None:
    """What each key is given by all queries together, above the map.

    Args:
        over: the map.
        values, block: one for each block of keys.
        left, width: where the map begins, and its width.
        baseline: of the words above the bars.
        room: for those words.
    """
    axes = sheet.axes(left, baseline + 6, width, TRACK, "received")
    axes.set_xlim(over.get_xlim())
    tallest, place = float(values.max()), int(values.argmax())
    others = float(np.delete(values, place).max()) if len(values) > 1 else tallest
    most, told = tallest, f"received, up to {_short(tallest)}"
    if tallest > FAR_ABOVE * others > 0:
        most, told = others * 1.5, f"received, up to {_short(others)}; cut: {_short(tallest)}"
    sheet.bars(axes, np.minimum(values, most), sheet.colors.k, size=block)
    if most < tallest:
        ends = (place * block - 0.5, (place + 1) * block - 0.5)
        axes.plot(ends, (most * 0.80, most * 0.88), color=sheet.colors.paper, linewidth=1.6)
    for words in (told, "received"):
        if width_of(words, "sans", 8) <= room:
            color = sheet.colors.k
            sheet.write(left + width, baseline, words, size=8, color=color, align="right")
            return


def draw_entropy(
    sheet: Sheet,
    beside: Axes,
    values: Float[Array, " blocks"],
    *,
    block: int,
    left: float,
    top: float,
    height: float,
) -> None:
    """How spread out each row is, in nats, at the left of the map.

    Args:
        beside: the map.
        values, block: one for each block of queries.
        left: where the bars may begin.
        top, height: where the map begins, and its height.
    """
    axes = sheet.axes(left, top, TRACK, height, "entropy")
    axes.set_ylim(beside.get_ylim())
    sheet.bars(axes, values, sheet.colors.q, size=block, sideways=True)
    for words in (f"entropy, up to {_short(float(values.max()))} nats", "entropy"):
        if width_of(words, "sans", 8) <= height:
            sheet.write(left - 4, top + height, words, size=8, color=sheet.colors.q, turned=True)
            return


def _short(number: float) -> str:
    if number >= 10:
        return f"{number:,.0f}"
    return f"{abs(number):.2g}".removeprefix("0") or "0"
