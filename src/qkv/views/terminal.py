"""Pictures for a terminal: the map of one head, and of many heads at a glance.

Small maps, and those whose tokens are wide characters, get cells of two columns and a line each;
others have two rows on a line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from qkv.views.atlas import grid_of
from qkv.views.blocks import (
    CHARACTERS,
    Layout,
    axis_words,
    draw_line,
    fitted,
    has_colors,
    legend,
    levels_of,
    said,
)
from qkv.views.captions import even_share, sentence_of
from qkv.views.palette import DARK, LIGHT, Palette

if TYPE_CHECKING:
    import numpy as np

    from qkv.lens import AttentionMap

__all__ = ["CHARACTERS", "Heatmap", "Thumbnails", "heatmap", "sparkline", "thumbnails"]

BARS = "▁▂▃▄▅▆▇█"
# Up to this many keys a cell may be two columns wide, so that every row has its own line.
FEW_KEYS = 24
# A map is no taller than this many cells.
MOST_ROWS = 160
LABEL_WIDTH = 8
TOP_LINES = 8
THUMBNAIL_WIDTHS = range(4, 25)


def heatmap(
    attention_map: AttentionMap,
    *,
    log: bool = True,
    width: int | None = None,
    light: bool = False,
    color: bool | None = None,
) -> Heatmap:
    """The picture of one head for a rich console: its weights, axes, legend, and a sentence.

    Args:
        attention_map: what is drawn; pooled by its largest weights where it is too wide.
        log: whether colours follow the logarithm of the weight, from .001, or the weight itself.
        width: columns to use; all of the terminal's unless given.
        light: whether the ramp runs from paper to ink, for a light terminal.
        color: whether to use colour; by what the terminal can do (and NO_COLOR) unless given.

    >>> import numpy as np
    >>> from qkv.lens import AttentionMap
    >>> x = np.zeros((3, 1))
    >>> head = AttentionMap.of(x, x, mask=np.tri(3, dtype=bool), labels="abc", name="L0H0")
    >>> Console(width=60).print(heatmap(head, color=False))
    L0H0  this token ↓ looks at →
      a b c
    a @@
    b %%%%
    c %%%%%%
    <BLANKLINE>
      ..::::----====+++****####%%│%@@
      .001     .01       .1         1
      weight, logarithmic  │ even, mean row .50  blank: masked
    “c” at 2 gives .33 to “b” at 1
    """
    return Heatmap(attention_map, log=log, width=width, light=light, color=color)


@dataclass(frozen=True, eq=False)
class Heatmap:
    """A rich renderable; see `heatmap`."""

    attention_map: AttentionMap
    log: bool = True
    width: int | None = None
    light: bool = False
    color: bool | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        colors = LIGHT if self.light else DARK
        layout = self._layout(console, options)
        weights = self.attention_map.pool(layout.size, "max")
        allowed = self.attention_map.pool_allowed(layout.size)
        rows, cols = self._labels(layout)
        yield self._title(colors, layout)
        yield from _top(cols, layout, colors)
        levels = levels_of(weights, log=self.log)
        for start in range(0, len(rows), layout.rows):
            stop = start + layout.rows
            yield from _side(rows[start:stop], layout, colors)
            yield from draw_line(levels[start:stop], allowed[start:stop], layout, colors)
            yield Segment.line()
        yield Segment.line()
        even = even_share(self.attention_map)
        yield from legend(colors, layout, log=self.log, even=even, left=min(layout.left, 4))
        yield self._sentence(colors, layout)
        if layout.size > 1:
            note = f"each cell is the largest of {layout.size}×{layout.size} weights, "
            yield Text(said(note + "by first token", layout), style=colors.soft)

    def _layout(self, console: Console, options: ConsoleOptions) -> Layout:
        head, width = self.attention_map, self.width or options.max_width
        colored = self.color
        if colored is None:
            colored = has_colors(console, options)
        names = _names(head.query_labels, head.Q)
        label = min(LABEL_WIDTH, max(map(cell_len, names)))
        wide = any(cell_len(c) > 1 for x in head.key_labels for c in x)
        fits = label + 1 + 2 * head.K <= width
        columns = 2 if fits and (wide or not colored or head.K <= FEW_KEYS) else 1
        rows = 2 if colored and columns == 1 else 1
        room = max(1, (width - rows * (label + 1)) // columns)
        size = max(math.ceil(head.K / room), math.ceil(head.Q / MOST_ROWS))
        return Layout(columns, rows, size, label, colored, options.ascii_only)

    def _labels(self, layout: Layout) -> tuple[list[str], list[str]]:
        head, step = self.attention_map, layout.size
        rows = _names(head.query_labels, head.Q)[::step]
        cols = _names(head.key_labels, head.K)[::step]
        return [said(x, layout) for x in rows], [said(x, layout) for x in cols]

    def _title(self, colors: Palette, layout: Layout) -> Text:
        title = Text(style=colors.soft)
        if self.attention_map.name:
            title.append(self.attention_map.name, Style(bold=True))
            title.append("  ")
        return title.append(axis_words(colors, layout))

    def _sentence(self, colors: Palette, layout: Layout) -> Text:
        cell = self.attention_map.strongest()
        sentence = sentence_of(self.attention_map, cell)
        text = Text(said(sentence, layout), style="italic")
        if cell is not None:
            asker = said(self.attention_map.spoken("query", cell.query), layout)
            asked = said(self.attention_map.spoken("key", cell.key), layout)
            text.stylize(colors.q, 0, len(asker))
            text.stylize(colors.k, len(text) - len(asked), len(text))
        return text


def _names(labels: Sequence[str], size: int) -> list[str]:
    """The tokens' text as it can be seen; their places where it isn't known."""
    from qkv.lens import visible

    return [visible(label) for label in labels] or [str(place) for place in range(size)]


def _side(rows: Sequence[str], layout: Layout, colors: Palette) -> Iterator[Segment]:
    """The labels of one line's rows; two rows have theirs side by side, the upper one first."""
    style = Style(color=colors.soft)
    for place in range(layout.rows):
        label = rows[place] if place < len(rows) else ""
        yield Segment(fitted(label, layout.label, layout) + " ", style)


def _top(cols: Sequence[str], layout: Layout, colors: Palette) -> Iterator[Segment]:
    """The labels of the columns, each read downwards where it is longer than its column."""
    stacks = [_stack(label, layout) for label in cols]
    lines = max(map(len, stacks))
    for line in range(lines):
        text = " " * layout.left
        for stack in stacks:
            place = line - (lines - len(stack))
            text += fitted(stack[place] if place >= 0 else "", layout.columns, layout)
        yield Segment(text.rstrip(), Style(color=colors.soft))
        yield Segment.line()


def _stack(label: str, layout: Layout) -> list[str]:
    """A label as it stands above its column: whole where it fits, else a character to a line."""
    if cell_len(label) <= layout.columns:
        return [label]
    narrow = said("·", layout)  # stands for a character too wide for its column
    pieces = [c if cell_len(c) <= layout.columns else narrow for c in label if cell_len(c)]
    return pieces if len(pieces) <= TOP_LINES else [*pieces[: TOP_LINES - 1], said("…", layout)]


def thumbnails(
    maps: Iterable[AttentionMap],
    *,
    log: bool = True,
    width: int | None = None,
    light: bool = False,
    color: bool | None = None,
    marked: str = "",
) -> Thumbnails:
    """Many heads at a glance for a rich console, layers down and heads across.

    Args:
        maps: what is drawn, such as a trace; each pooled by its largest weights.
        log, width, light, color: as of `heatmap`.
        marked: the name of a head that is pointed out, such as "L3H7".

    Raises:
        ConfigError: where there is no map.

    >>> import numpy as np
    >>> from qkv.lens import AttentionMap
    >>> x = np.zeros((4, 1))
    >>> heads = [AttentionMap.of(x, x, mask=np.tri(4, dtype=bool), name=f"L0H{i}") for i in (0, 1)]
    >>> Console(width=60).print(thumbnails(heads, color=False, marked="L0H1"))
    every head  this token ↓ looks at →
       H0   ▸H1
    L0 @    @
       %%   %%
       %%%  %%%
       #### ####
    """
    return Thumbnails(grid_of(maps), log=log, width=width, light=light, color=color, marked=marked)


@dataclass(frozen=True, eq=False)
class Thumbnails:
    """A rich renderable; see `thumbnails`."""

    grid: dict[tuple[int, int], AttentionMap]
    log: bool = True
    width: int | None = None
    light: bool = False
    color: bool | None = None
    marked: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        colors = LIGHT if self.light else DARK
        colored = has_colors(console, options) if self.color is None else self.color
        heads = sorted({head for _, head in self.grid})
        label = max(len(f"L{layer}") for layer, _ in self.grid) + 1
        room = (self.width or options.max_width) - label
        most = max(max(head.Q, head.K) for head in self.grid.values())
        wide = min(max(room // len(heads) - 1, THUMBNAIL_WIDTHS[0]), THUMBNAIL_WIDTHS[-1], most)
        # A name must fit above, and be told from the next.
        wide = max(wide, len(f"H{heads[-1]}") + (1 if self.marked else 0))
        each = max(1, room // (wide + 1))
        layout = Layout(1, 2 if colored else 1, 1, label - 1, colored, options.ascii_only)
        title = Text("every head", Style(bold=True)).append("  ", Style(bold=False))
        yield title.append(axis_words(colors, layout))
        for start in range(0, len(heads), each):
            some = heads[start : start + each]
            yield self._names(some, wide, label, layout, colors)
            for layer in sorted({layer for layer, _ in self.grid}):
                maps = [self.grid.get((layer, head)) for head in some]
                if any(maps):
                    yield from self._layer(f"L{layer}", maps, wide, layout, colors)

    def _names(
        self, heads: Sequence[int], wide: int, label: int, layout: Layout, colors: Palette
    ) -> Text:
        marked = self.marked.partition("H")[2]
        line = Text(" " * label, style=colors.soft)
        for head in heads:
            mine = str(head) == marked
            name = f"{said('▸', layout).replace('?', '>') if mine else ''}H{head}"
            line.append(name.ljust(wide + 1), Style(bold=mine, color=colors.ink if mine else None))
        line.rstrip()
        return line

    def _layer(
        self,
        name: str,
        maps: Sequence[AttentionMap | None],
        wide: int,
        layout: Layout,
        colors: Palette,
    ) -> Iterator[Segment]:
        """The lines of one layer's heads, side by side; a layer's heads may differ in size."""
        pictures: list[tuple[list[list[float]], np.ndarray[Any, Any]] | None] = []
        for head in maps:
            size = 1 if head is None else math.ceil(max(head.Q, head.K) / wide)
            pictures.append(
                None
                if head is None
                else (levels_of(head.pool(size, "max"), log=self.log), head.pool_allowed(size))
            )
        tall = max(len(picture[0]) for picture in pictures if picture)
        marked = self.marked.startswith(f"{name}H")
        for line in range(0, tall, layout.rows):
            text = fitted(name if line == 0 else "", layout.label, layout) + " "
            yield Segment(text, Style(bold=marked, color=colors.ink if marked else colors.soft))
            for picture in pictures:
                drawn, last = 0, picture is pictures[-1]
                if picture and line < len(picture[0]):
                    rows = slice(line, line + layout.rows)
                    yield from draw_line(
                        picture[0][rows], picture[1][rows], layout, colors, last=last
                    )
                    drawn = len(picture[0][0])
                if not last:
                    yield Segment(" " * (wide + 1 - drawn))
            yield Segment.line()


def sparkline(
    values: Sequence[float], *, low: float | None = None, high: float | None = None
) -> str:
    """Numbers as a line of eight heights; a blank for what is no number.

    Args:
        low, high: what the lowest and the highest bar stand for; the least and the greatest of the
            values unless given.

    >>> sparkline([1, 2, float("nan"), 8])
    '▁▂ █'
    """
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return " " * len(values)
    bottom, top = (min(known) if low is None else low), (max(known) if high is None else high)
    span = (top - bottom) or 1.0
    return "".join(
        BARS[min(7, max(0, round((value - bottom) / span * 7)))] if math.isfinite(value) else " "
        for value in values
    )
