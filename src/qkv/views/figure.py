"""One head as a figure, for print or a page: map, edge tracks, labels, ramp and a sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from qkv.views.captions import LEGEND_WIDTH, even_share, write_legend, write_sentence
from qkv.views.edges import TRACK, draw_entropy, draw_received
from qkv.views.lettering import fitting, width_of
from qkv.views.palette import DARK, LIGHT, Palette
from qkv.views.pictures import Picture
from qkv.views.sheet import DPI, POINT, Sheet, levels_of, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from qkv.lens import AttentionMap

__all__ = ["draw_head"]

Array: TypeAlias = "np.ndarray[Any, Any]"

# All in points.
MARGIN = 24.0
SIDE = 400.0  # the map's longer side, unless labels need more
WIDEST = 640.0
LARGEST_CELL = 26.0
SMALLEST_LABEL = 5.5
LABEL_ROOM = 96.0
SMALLEST_BOX = 3.0
TICK_GAP = 28.0


def draw_head(
    attention_map: AttentionMap,
    *,
    log: bool = True,
    dark: bool = False,
    how: Literal["max", "sum"] = "max",
    subtitle: str = "",
    rows: range | None = None,
    cols: range | None = None,
    cell: tuple[int, int] | None = None,
) -> Figure:
    """A matplotlib figure of one head.

    `figure.axes[0]` is the map, with places of keys along x and of queries down y, each from the
    first that is drawn, so that more can be drawn on it.

    Args:
        attention_map: what is drawn; of more than 1,500 tokens each cell is a block of weights.
        log: whether colours follow the logarithm of the weight, from .001, or the weight itself.
        dark: whether the ramp runs from near-black to light, for a dark page.
        how: of a block, the largest weight, or the mean over its queries of what they give to all
            of its keys.
        subtitle: what stands after the head's name.
        rows, cols: the queries and keys that are drawn, to whole blocks; all unless given.
        cell: the query and key that the sentence speaks of; the strongest unless it is drawn.

    >>> from qkv.attention import Causal
    >>> from qkv.lens import AttentionMap
    >>> x = np.zeros((3, 1))
    >>> figure = draw_head(AttentionMap.of(x, x, mask=Causal(), labels="abc", name="L0H0"))
    >>> figure.get_label(), figure.axes[0].get_label()
    ('“c” at 2 gives .33 to “b” at 1', 'map')
    """
    with settings():
        picture = Picture.of(attention_map, how, rows, cols, cell)
        return _Drawing(picture, DARK if dark else LIGHT, log=log, subtitle=subtitle).draw()


@dataclass(frozen=True)
class _Labels:
    """The tokens along one side, and the room they take; none where they do not fit."""

    texts: tuple[str, ...]
    size: float
    room: float
    turned: bool = False

    @classmethod
    def of(cls, labels: Sequence[str], cell: float, *, above: bool) -> _Labels:
        """Labels of cells `cell` points high, or wide and above the map."""
        from qkv.lens import visible

        size = min(8.5, cell * 0.86)
        if not labels or size < SMALLEST_LABEL:
            return cls((), 7.0, 14.0 if above else 26.0)
        shown = [fitting(visible(label), "mono", size, LABEL_ROOM) for label in labels]
        widest = max(width_of(label, "mono", size) for label in shown)
        if above and widest <= cell:
            return cls(tuple(shown), size, size + 3)
        return cls(tuple(shown), size, widest + 5, turned=above)


class _Drawing:
    """Places everything, from the top: sentence, name, received, labels, map, legend."""

    def __init__(self, picture: Picture, colors: Palette, *, log: bool, subtitle: str) -> None:
        self.picture, self.colors, self.log, self.subtitle = picture, colors, log, subtitle
        head = picture.map
        rows, cols = picture.weights.shape
        labelled = picture.block == 1 and bool(head.key_labels or head.query_labels)
        self.cell_w, self.cell_h = _cell_sizes(rows, cols, labelled=labelled)
        query_labels = head.query_labels[_slice(picture.rows)] if labelled else ()
        key_labels = head.key_labels[_slice(picture.cols)] if labelled else ()
        self.left_labels = _Labels.of(query_labels, self.cell_h, above=False)
        self.top_labels = _Labels.of(key_labels, self.cell_w, above=True)
        self.left = MARGIN + 12 + TRACK + 4 + self.left_labels.room
        self.top = 98 + TRACK + self.top_labels.room
        self.map_w, self.map_h = self.cell_w * cols, self.cell_h * rows
        width = self.left + max(self.map_w, LEGEND_WIDTH) + MARGIN
        self.sheet = Sheet(width, self.top + self.map_h + 78, colors)
        self.width = width

    def draw(self) -> Figure:
        sheet, picture, head = self.sheet, self.picture, self.picture.map
        axes = sheet.axes(self.left, self.top, self.map_w, self.map_h, "map")
        sheet.hatch(axes)
        levels = levels_of(picture.weights, log=self.log)
        sheet.cells(axes, levels, picture.allowed, size=picture.block)
        self._tracks(axes)
        self._label_rows()
        self._label_cols()
        self._mark_strongest(axes)
        self._title()
        write_legend(
            sheet, self.left, self.top + self.map_h + 34, log=self.log, even=even_share(head)
        )
        if picture.block > 1:
            self._say_pooled()
        return sheet.figure

    def _title(self) -> None:
        head, sheet = self.picture.map, self.sheet
        room = self.width - 2 * MARGIN
        write_sentence(sheet, (MARGIN, 42), room, head, self.picture.strongest)
        tokens = _counted(head.K, "token")
        if head.Q != head.K or head.cross:
            tokens = f"{_counted(head.Q, 'query')}, {_counted(head.K, 'key')}"
        if not self.picture.whole:
            tokens = f"{_span('queries', self.picture.rows)}, {_span('keys', self.picture.cols)}"
        left = MARGIN
        if head.name:
            sheet.write(left, 60, head.name, size=9, face="bold")
            left += width_of(head.name, "bold", 9) + 7
        told = " · ".join(part for part in (self.subtitle, tokens, head.note) if part)
        told = fitting(told, "sans", 9, self.width - MARGIN - left)
        sheet.write(left, 60, told, size=9, color=self.colors.soft)

    def _tracks(self, axes: Axes) -> None:
        """What each key receives, above; how spread out each row is, at the left."""
        sheet, picture, colors = self.sheet, self.picture, self.colors
        down, right = "this token ↓", " looks at →"
        baseline, block = 88.0, picture.block
        sheet.write(self.left, baseline, down, size=9, color=colors.q)
        after = width_of(down, "sans", 9)
        sheet.write(self.left + after, baseline, right, size=9, color=colors.k)
        room = self.map_w - after - width_of(right, "sans", 9) - 12
        draw_received(
            sheet,
            axes,
            picture.received,
            block=block,
            left=self.left,
            width=self.map_w,
            baseline=baseline,
            room=room,
        )
        left, top, height = MARGIN + 12, self.top, self.map_h
        draw_entropy(sheet, axes, picture.entropy, block=block, left=left, top=top, height=height)

    def _label_rows(self) -> None:
        labels, cell, sheet = self.left_labels, self.picture.strongest, self.sheet
        right = self.left - 3
        for place, text in enumerate(labels.texts):
            marked = cell is not None and place == cell.query - self.picture.rows.start
            sheet.write(
                right,
                self.top + (place + 0.5) * self.cell_h,
                text,
                size=labels.size,
                face="mono",
                color=self.colors.q if marked else self.colors.soft,
                align="right",
                vertical="center",
            )
        if labels.texts:
            return
        per_token = self.cell_h / self.picture.block
        for place in _places(self.picture.rows, per_token):
            sheet.write(
                right - 2,
                self.top + (place - self.picture.rows.start + 0.5) * per_token,
                f"{place:,}",
                size=7,
                color=self.colors.soft,
                align="right",
                vertical="center",
            )

    def _label_cols(self) -> None:
        labels, cell, sheet = self.top_labels, self.picture.strongest, self.sheet
        for place, text in enumerate(labels.texts):
            marked = cell is not None and place == cell.key - self.picture.cols.start
            sheet.write(
                self.left + (place + 0.5) * self.cell_w,
                self.top - 3,
                text,
                size=labels.size,
                face="mono",
                color=self.colors.k if marked else self.colors.soft,
                align="left" if labels.turned else "center",
                turned=labels.turned,
                vertical="center" if labels.turned else "baseline",
            )
        if labels.texts:
            return
        per_token = self.cell_w / self.picture.block
        for place in _places(self.picture.cols, per_token):
            sheet.write(
                self.left + (place - self.picture.cols.start + 0.5) * per_token,
                self.top - 5,
                f"{place:,}",
                size=7,
                color=self.colors.soft,
                align="center",
            )

    def _mark_strongest(self, axes: Axes) -> None:
        """The row and the column that the sentence speaks of, up to their cell."""
        from matplotlib.patches import Rectangle

        cell = self.picture.strongest
        if cell is None:
            return
        row, col = cell.query - self.picture.rows.start, cell.key - self.picture.cols.start
        if min(self.cell_w, self.cell_h) < SMALLEST_BOX:
            # A box would hide what it holds.
            axes.plot([-0.5, col - 0.5], [row, row], color=self.colors.q, linewidth=0.5)
            axes.plot([col, col], [-0.5, row - 0.5], color=self.colors.k, linewidth=0.5)
            return
        for color, corner, wide, high in (
            (self.colors.q, (-0.5, row - 0.5), col + 1, 1),
            (self.colors.k, (col - 0.5, -0.5), 1, row + 1),
        ):
            axes.add_patch(
                Rectangle(corner, wide, high, fill=False, edgecolor=color, linewidth=0.6, zorder=2)
            )

    def _say_pooled(self) -> None:
        block = self.picture.block
        what = (
            f"the largest of {block}×{block} weights"
            if self.picture.how == "max"
            else f"what {block} queries, on average, give to {block} keys"
        )
        self.sheet.write(
            self.left,
            self.top + self.map_h + 68,
            f"each cell is {what}",
            size=8,
            color=self.colors.soft,
        )


def _cell_sizes(rows: int, cols: int, *, labelled: bool) -> tuple[float, float]:
    """A cell's width and height in points: whole pixels, square unless the map is a mere strip."""
    longest = max(rows, cols)
    side = min(SIDE / longest, LARGEST_CELL)
    needed = SMALLEST_LABEL / 0.86 + 0.2
    if labelled and side < needed and needed * longest <= WIDEST:
        side = needed
    tall = max(side, min(LARGEST_CELL, 60 / rows))
    wide = max(side, min(LARGEST_CELL, 60 / cols))
    return tuple(max(1, math.floor(size * DPI / 72)) / POINT for size in (wide, tall))  # type: ignore[return-value]


def _places(shown: range, per_token: float) -> range:
    """Places to be numbered: round ones, far enough from each other."""
    step = next(
        base * 10**power
        for power in range(12)
        for base in (1, 2, 5)
        if base * 10**power * per_token >= TICK_GAP
    )
    return range(-(-shown.start // step) * step, shown.stop, step)


def _slice(shown: range) -> slice:
    return slice(shown.start, shown.stop)


def _span(many: str, shown: range) -> str:
    """Such as "queries 16 to 47"."""
    return f"{many} {shown.start:,} to {shown.stop - 1:,}"


def _counted(number: int, word: str) -> str:
    many = f"{word[:-1]}ies" if word.endswith("ry") else f"{word}s"
    return f"{number:,} {word if number == 1 else many}"
