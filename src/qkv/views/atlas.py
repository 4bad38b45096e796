"""Every head at a glance: layers down, heads across, each a small map in the one ramp."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from qkv.errors import ConfigError
from qkv.views.captions import LEGEND_WIDTH, even_share, write_legend
from qkv.views.lettering import fitting, width_of
from qkv.views.palette import DARK, LIGHT
from qkv.views.sheet import POINT, Box, Sheet, levels_of, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qkv.lens import AttentionMap

__all__ = ["draw_atlas", "grid_of"]

Array: TypeAlias = "np.ndarray[Any, Any]"

# All in points.
MARGIN = 24.0
WIDTH = 480.0
LARGEST, SMALLEST = 92.0, 20.0
GAP = 5.0
CAPTION = 11.0
_NAME = re.compile(r"L(\d+)H(\d+)")


def grid_of(maps: Iterable[AttentionMap]) -> dict[tuple[int, int], AttentionMap]:
    """The maps by layer and head, as their names say; maps without a name make one more row.

    Raises:
        ConfigError: where there is no map.

    >>> from qkv.lens import AttentionMap
    >>> x = np.zeros((3, 1))
    >>> list(grid_of([AttentionMap.of(x, x, name="L2H5"), AttentionMap.of(x, x)]))
    [(2, 5), (3, 0)]
    """
    grid: dict[tuple[int, int], AttentionMap] = {}
    nameless = []
    for each in maps:
        match = _NAME.fullmatch(each.name)
        if match is None:
            nameless.append(each)
        else:
            grid[int(match[1]), int(match[2])] = each
    after = max((layer for layer, _ in grid), default=-1) + 1
    grid |= {(after, place): each for place, each in enumerate(nameless)}
    if not grid:
        raise ConfigError("no head to draw", "one or more", "give a trace or some of its maps")
    return grid


def draw_atlas(
    maps: Iterable[AttentionMap],
    *,
    log: bool = True,
    dark: bool = False,
    marked: str = "",
    captions: Mapping[str, str] | None = None,
    title: str = "",
) -> Figure:
    """A matplotlib figure of many heads: layers down, heads across.

    Args:
        maps: what is drawn, such as a trace; each pooled by its largest weights.
        log: whether colours follow the logarithm of the weight, from .001, or the weight itself.
        dark: whether the ramp runs from near-black to light, for a dark page.
        marked: the name of a head that gets a frame, such as "L3H7".
        captions: a few words below a head, by its name.
        title: what stands above; how many heads there are unless given.

    Raises:
        ConfigError: where there is no map.

    >>> from qkv.attention import Causal
    >>> from qkv.lens import AttentionMap
    >>> x = np.zeros((3, 1))
    >>> heads = [AttentionMap.of(x, x, mask=Causal(), name=f"L0H{i}") for i in range(2)]
    >>> draw_atlas(heads).get_label()
    '2 heads in 1 layer'
    """
    grid = grid_of(maps)
    layers = sorted({layer for layer, _ in grid})
    heads = sorted({head for _, head in grid})
    if not title:
        title = f"{len(grid):,} head{'s' * (len(grid) > 1)}"
        title += f" in {len(layers):,} layer{'s' * (len(layers) > 1)}"
    captions = captions or {}
    side = min(LARGEST, max(SMALLEST, (WIDTH - GAP * len(heads)) / len(heads)))
    side = _snapped(next(iter(grid.values())), side)
    pitch = side + GAP + (CAPTION if captions else 0.0)
    left, top = MARGIN + 24, 92.0
    width = left + max((side + GAP) * len(heads), LEGEND_WIDTH) + MARGIN
    with settings():
        colors = DARK if dark else LIGHT
        sheet = Sheet(width, top + pitch * len(layers) + 74, colors)
        axes = sheet.whole("atlas")
        sheet.figure.set_label(title)
        sheet.write(MARGIN, 42, title, size=17, face="serif")
        down, right = "this token ↓", " looks at →"
        sheet.write(MARGIN, 60, down, size=9, color=colors.q)
        sheet.write(MARGIN + width_of(down, "sans", 9), 60, right, size=9, color=colors.k)
        every = max(1, math.ceil(width_of("H00", "sans", 8) / (side + GAP - 1)))
        for place, head in enumerate(heads[::every]):
            at = left + place * every * (side + GAP) + side / 2
            sheet.write(at, top - 6, f"H{head}", size=8, color=colors.soft, align="center")
        for place, layer in enumerate(layers):
            at = top + place * pitch + side / 2
            sheet.write(
                left - 7, at, f"L{layer}", size=8, color=colors.soft,
                align="right", vertical="center",
            )  # fmt: skip
        for (layer, head), each in grid.items():
            name = f"L{layer}H{head}"
            x, y = left + heads.index(head) * (side + GAP), top + layers.index(layer) * pitch
            box = (_pixel(x), _pixel(y), side, side)
            _thumbnail(sheet, axes, each, box, log=log)
            _frame(sheet, axes, box, marked=name == marked)
            if captions.get(name):
                text = fitting(captions[name], "sans", 7, side)
                sheet.write(x, y + side + 8.5, text, size=7, color=colors.soft)
        bottom = top + pitch * len(layers) + 30
        first = next(iter(grid.values()))
        write_legend(sheet, left, bottom, log=log, even=even_share(first))
        return sheet.figure


def _block(head: AttentionMap, side: float) -> int:
    """Weights to a cell, a power of two as in a pyramid, so that a cell is a pixel or more."""
    return 1 << (math.ceil(max(head.Q, head.K) / (side * POINT)) - 1).bit_length()


def _pixel(place: float) -> float:
    """A place in points, moved to where a pixel begins."""
    return round(place * POINT) / POINT


def _snapped(head: AttentionMap, side: float) -> float:
    """The side of a thumbnail, a little shorter, so that a cell of it is a number of pixels."""
    cells = math.ceil(max(head.Q, head.K) / _block(head, side))
    return max(1, math.floor(side * POINT / cells)) * cells / POINT


def _thumbnail(sheet: Sheet, axes: Axes, head: AttentionMap, box: Box, *, log: bool) -> None:
    """One head as a square, whatever its numbers of queries and keys."""
    block = _block(head, box[2])
    levels = levels_of(head.pool(block, "max"), log=log)
    # Blocks at the edges may reach beyond the map; all are drawn alike.
    sheet.hatch(axes, box)
    sheet.cells(axes, levels, head.pool_allowed(block), box=box, name=head.name or None)


def _frame(sheet: Sheet, axes: Axes, box: Box, *, marked: bool) -> None:
    from matplotlib.patches import Rectangle

    left, top, width, height = box
    axes.add_patch(
        Rectangle(
            (left, top),
            width,
            height,
            fill=False,
            edgecolor=sheet.colors.ink if marked else sheet.colors.hatch,
            linewidth=1.4 if marked else 0.4,
            zorder=3 if marked else 2,
        )
    )
