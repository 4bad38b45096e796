"""Pictures for a terminal: the map of a head as coloured half-blocks, or as characters.

A character is about twice as tall as wide, so "▀" shows two queries above each other as two nearly
square cells: its own colour is the upper one, its background the lower one. Small maps, and those
whose tokens are wide characters, get cells of two columns and a line each. Without colour a weight
is a character, dark to bright as " .:-=+*#%@" is; what the mask forbids is left blank there, and
hatched where there is colour: impossible is not small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from qkv.views.palette import DARK, LIGHT, Palette, level

if TYPE_CHECKING:
    import numpy as np

    from qkv.lens import AttentionMap

__all__ = ["CHARACTERS", "Heatmap", "heatmap", "sparkline"]

# From weight 0 to 1 without colour; a blank is kept for what the mask forbids.
CHARACTERS = ".:-=+*#%@"
HATCH = "╱"
BARS = "▁▂▃▄▅▆▇█"
# Up to this many keys a cell may be two columns wide, so that every row has its own line.
FEW_KEYS = 24
LABEL_WIDTH = 8
TOP_LINES = 8
LEGEND_WIDTH = 31
ASCII = str.maketrans({"⏎": "$", "␣": "_", "“": '"', "”": '"', "…": "~", "×": "x"})


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
      ..::::----====+++****####│%%%@@
      .001     .01       .1         1
      weight, logarithmic  │ uniform over 3  blank: masked
    “c” at 2 gives .33 to “b” at 1
    """
    return Heatmap(attention_map, log=log, width=width, light=light, color=color)


class _Layout(NamedTuple):
    """How a map fits: cells of `columns` by 1/`rows` characters, `size` by `size` weights each."""

    columns: int
    rows: int
    size: int
    label: int
    colored: bool
    plain: bool

    @property
    def left(self) -> int:
        """Columns left of the map: as many labels as rows on a line, and a space after each."""
        return self.rows * (self.label + 1)


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
        weights, allowed = self.attention_map.pool(layout.size)
        rows, cols = self._labels(layout)
        yield self._title(colors, layout)
        yield from _top(cols, layout, colors)
        draw = _colored_line if layout.colored else _plain_line
        levels = _levels(weights, log=self.log)
        for start in range(0, len(rows), layout.rows):
            stop = start + layout.rows
            yield from _side(rows[start:stop], layout, colors)
            yield from draw(levels[start:stop], allowed[start:stop], layout, colors)
            yield Segment.line()
        yield Segment.line()
        yield from self._legend(colors, layout)
        yield self._sentence(colors, layout)
        if layout.size > 1:
            note = f"each cell is the largest of {layout.size}×{layout.size} weights, "
            yield Text(_say(note + "named by its first tokens", layout), style=colors.soft)

    def _layout(self, console: Console, options: ConsoleOptions) -> _Layout:
        head, width = self.attention_map, self.width or options.max_width
        colored = self.color
        if colored is None:
            # Sixteen colours hold no ramp of even lightness.
            rich_enough = console.color_system in ("256", "truecolor")
            colored = rich_enough and not console.no_color and not options.ascii_only
        names = _names(head.query_labels, head.Q)
        label = min(LABEL_WIDTH, max(map(cell_len, names)))
        wide = any(cell_len(c) > 1 for x in head.key_labels for c in x)
        fits = label + 1 + 2 * head.K <= width
        columns = 2 if fits and (wide or not colored or head.K <= FEW_KEYS) else 1
        rows = 2 if colored and columns == 1 else 1
        room = max(1, (width - rows * (label + 1)) // columns)
        size = math.ceil(head.K / room)
        return _Layout(columns, rows, size, label, colored, options.ascii_only)

    def _labels(self, layout: _Layout) -> tuple[list[str], list[str]]:
        head, step = self.attention_map, layout.size
        rows = _names(head.query_labels, head.Q)[::step]
        cols = _names(head.key_labels, head.K)[::step]
        return [_say(x, layout) for x in rows], [_say(x, layout) for x in cols]

    def _title(self, colors: Palette, layout: _Layout) -> Text:
        down, right = ("(down)", "(right)") if layout.plain else ("↓", "→")
        title = Text(style=colors.soft)
        if self.attention_map.name:
            title.append(self.attention_map.name, Style(bold=True))
            title.append("  ")
        return title.append(f"this token {down}", colors.q).append(f" looks at {right}", colors.k)

    def _sentence(self, colors: Palette, layout: _Layout) -> Text:
        cell = self.attention_map.strongest()
        text = Text(_say(self.attention_map.sentence(), layout), style="italic")
        if cell is not None:
            asker = _say(self.attention_map.spoken("query", cell.query), layout)
            asked = _say(self.attention_map.spoken("key", cell.key), layout)
            text.stylize(colors.q, 0, len(asker))
            text.stylize(colors.k, len(text) - len(asked), len(text))
        return text

    def _legend(self, colors: Palette, layout: _Layout) -> Iterator[Segment | Text]:
        """The ramp with its ticks, a mark at uniform, and what is masked."""
        left = " " * min(layout.left, 4)
        keys = self.attention_map.K
        uniform = round(level(1 / keys, log=self.log) * (LEGEND_WIDTH - 1))
        yield Segment(left)
        for place in range(LEGEND_WIDTH):
            at = place / (LEGEND_WIDTH - 1)
            mark = "|" if layout.plain else "│"
            sign = mark if place == uniform else " "
            if layout.colored:
                # The mark has the paper's or the ink's colour, whichever is far from the ramp's.
                pen = colors.ink if at < 0.5 else colors.paper
                yield Segment(sign, Style(color=pen, bgcolor=colors.shade(at)))
            else:
                yield Segment(sign if place == uniform else _character(at))
        yield Segment.line()
        ticks = {0: ".001", 10: ".01", 20: ".1", 30: "1"}
        if not self.log:
            ticks = {0: "0", 15: ".5", 30: "1"}
        line = " " * LEGEND_WIDTH
        for place, tick in ticks.items():
            start = min(max(0, place - len(tick) // 2), LEGEND_WIDTH - len(tick))
            line = line[:start] + tick + line[start + len(tick) :]
        yield Text(left + line, style=colors.soft)
        scale = "logarithmic" if self.log else "linear"
        masked = f"{HATCH * 2} masked" if layout.colored else "blank: masked"
        mark = "|" if layout.plain else "│"
        note = f"{left}weight, {scale}  {mark} uniform over {keys}  {masked}"
        yield Text(_say(note, layout), style=colors.soft)


def _levels(weights: np.ndarray[Any, Any], *, log: bool) -> list[list[float]]:
    return [[level(float(weight), log=log) for weight in row] for row in weights]


def _names(labels: Sequence[str], size: int) -> list[str]:
    """The tokens' text as it can be seen; their places where it isn't known."""
    from qkv.lens import visible

    return [visible(label) for label in labels] or [str(place) for place in range(size)]


def _say(text: str, layout: _Layout) -> str:
    """The text, in ASCII where the terminal has no more."""
    if not layout.plain:
        return text
    return text.translate(ASCII).encode("ascii", "replace").decode("ascii")


def _fit(label: str, width: int, layout: _Layout) -> str:
    """The label in just so many columns, cut with an ellipsis where it is longer."""
    if cell_len(label) > width:
        kept = ""
        for character in label:
            if cell_len(kept + character) >= width:
                break
            kept += character
        label = kept + _say("…", layout)
    return label + " " * (width - cell_len(label))


def _side(rows: Sequence[str], layout: _Layout, colors: Palette) -> Iterator[Segment]:
    """The labels of one line's rows; two rows have theirs side by side, the upper one first."""
    style = Style(color=colors.soft)
    for place in range(layout.rows):
        label = rows[place] if place < len(rows) else ""
        yield Segment(_fit(label, layout.label, layout) + " ", style)


def _top(cols: Sequence[str], layout: _Layout, colors: Palette) -> Iterator[Segment]:
    """The labels of the columns, each read downwards where it is longer than its column."""
    stacks = [_stack(label, layout) for label in cols]
    lines = max(map(len, stacks))
    for line in range(lines):
        text = " " * layout.left
        for stack in stacks:
            place = line - (lines - len(stack))
            text += _fit(stack[place] if place >= 0 else "", layout.columns, layout)
        yield Segment(text.rstrip(), Style(color=colors.soft))
        yield Segment.line()


def _stack(label: str, layout: _Layout) -> list[str]:
    """A label as it stands above its column: whole where it fits, else a character to a line."""
    if cell_len(label) <= layout.columns:
        return [label]
    narrow = _say("·", layout)  # stands for a character too wide for its column
    pieces = [c if cell_len(c) <= layout.columns else narrow for c in label if cell_len(c)]
    return pieces if len(pieces) <= TOP_LINES else [*pieces[: TOP_LINES - 1], _say("…", layout)]


def _character(at: float) -> str:
    return CHARACTERS[round(at * (len(CHARACTERS) - 1))]


def _plain_line(
    levels: Sequence[Sequence[float]],
    allowed: np.ndarray[Any, Any],
    layout: _Layout,
    colors: Palette,  # noqa: ARG001 (both ways of drawing are called alike)
) -> Iterator[Segment]:
    cells = zip(levels[0], allowed[0], strict=True)
    text = "".join((_character(at) if seen else " ") * layout.columns for at, seen in cells)
    yield Segment(text.rstrip())


def _colored_line(
    levels: Sequence[Sequence[float]],
    allowed: np.ndarray[Any, Any],
    layout: _Layout,
    colors: Palette,
) -> Iterator[Segment]:
    """One line of cells, of one row or of two; what is masked keeps the terminal's background."""
    hatch = Style(color=colors.hatch)
    for col in range(len(levels[0])):
        shades = [
            colors.shade(row[col]) if seen[col] else None
            for row, seen in zip(levels, allowed, strict=True)
        ]
        upper = shades[0]
        lower = shades[-1] if len(shades) == 2 else (upper if layout.rows == 1 else None)
        if upper is None and lower is None:
            yield Segment(HATCH * layout.columns, hatch)
        elif upper is None:
            yield Segment("▄" * layout.columns, Style(color=lower))
        elif layout.rows == 1:
            yield Segment(" " * layout.columns, Style(bgcolor=upper))
        else:
            yield Segment("▀" * layout.columns, Style(color=upper, bgcolor=lower))


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
