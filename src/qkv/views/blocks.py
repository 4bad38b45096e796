"""What pictures in a terminal are made of: cells as half-blocks or characters, and their legend.

A character is about twice as tall as wide, so "▀" shows two queries above each other as two nearly
square cells: its own colour is the upper one, its background the lower one. Without colour a weight
is a character, dark to bright as " .:-=+*#%@" is; what the mask forbids is left blank there, and
hatched where there is colour: impossible is not small.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from qkv.views.palette import Palette, level

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "CHARACTERS",
    "Layout",
    "axis_words",
    "draw_line",
    "fitted",
    "has_colors",
    "legend",
    "levels_of",
    "said",
]

# From weight 0 to 1 without colour; a blank is kept for what the mask forbids.
CHARACTERS = ".:-=+*#%@"
HATCH = "╱"
LEGEND_WIDTH = 31
ASCII = str.maketrans(
    {"⏎": "$", "␣": "_", "“": '"', "”": '"', "…": "~", "×": "x", "↓": "(down)", "→": "(right)"}
)


class Layout(NamedTuple):
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


def has_colors(console: Console, options: ConsoleOptions) -> bool:
    """Whether a console can show the ramp: sixteen colours hold none of even lightness."""
    rich_enough = console.color_system in ("256", "truecolor")
    return rich_enough and not console.no_color and not options.ascii_only


def said(text: str, layout: Layout) -> str:
    """The text, in ASCII where the terminal has no more."""
    if not layout.plain:
        return text
    return text.translate(ASCII).encode("ascii", "replace").decode("ascii")


def axis_words(colors: Palette, layout: Layout) -> Text:
    """What the axes are: "this token ↓ looks at →"."""
    words = Text(said("this token ↓", layout), Style(color=colors.q))
    return words.append(said(" looks at →", layout), Style(color=colors.k))


def fitted(label: str, width: int, layout: Layout) -> str:
    """The label in just so many columns, cut with an ellipsis where it is longer."""
    if cell_len(label) > width:
        kept = ""
        for character in label:
            if cell_len(kept + character) >= width:
                break
            kept += character
        label = kept + said("…", layout)
    return label + " " * (width - cell_len(label))


def levels_of(weights: np.ndarray[Any, Any], *, log: bool) -> list[list[float]]:
    """How far up the ramp each weight stands."""
    return [[level(float(weight), log=log) for weight in row] for row in weights]


def draw_line(
    levels: Sequence[Sequence[float]],
    allowed: np.ndarray[Any, Any],
    layout: Layout,
    colors: Palette,
    *,
    last: bool = True,
) -> Iterator[Segment]:
    """One line of cells, of one row or of two; what is masked keeps the terminal's background.

    `last` says that nothing follows on the line, so that blanks at its end can be left out.
    """
    if not layout.colored:
        cells = zip(levels[0], allowed[0], strict=True)
        text = "".join((_character(at) if seen else " ") * layout.columns for at, seen in cells)
        yield Segment(text.rstrip() if last else text)
        return
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


def _character(at: float) -> str:
    return CHARACTERS[round(at * (len(CHARACTERS) - 1))]


def legend(
    colors: Palette, layout: Layout, *, log: bool, even: float, left: int
) -> Iterator[Segment | Text]:
    """The ramp with its ticks, a mark at 1/n for the mean row's n keys, and how masks look."""
    from qkv.lens import brief

    indent = " " * left
    uniform = round(level(even, log=log) * (LEGEND_WIDTH - 1))
    mark = "|" if layout.plain else "│"
    yield Segment(indent)
    for place in range(LEGEND_WIDTH):
        at = place / (LEGEND_WIDTH - 1)
        sign = mark if place == uniform else " "
        if layout.colored:
            # The mark has the paper's or the ink's colour, whichever is far from the ramp's.
            pen = colors.ink if at < 0.5 else colors.paper
            yield Segment(sign, Style(color=pen, bgcolor=colors.shade(at)))
        else:
            yield Segment(sign if place == uniform else _character(at))
    yield Segment.line()
    ticks = {0: ".001", 10: ".01", 20: ".1", 30: "1"}
    if not log:
        ticks = {0: "0", 15: ".5", 30: "1"}
    line = " " * LEGEND_WIDTH
    for place, tick in ticks.items():
        start = min(max(0, place - len(tick) // 2), LEGEND_WIDTH - len(tick))
        line = line[:start] + tick + line[start + len(tick) :]
    yield Text(indent + line, style=colors.soft)
    scale = "logarithmic" if log else "linear"
    masked = f"{HATCH * 2} masked" if layout.colored else "blank: masked"
    note = f"{indent}weight, {scale}  {mark} even, mean row {brief(even)}  {masked}"
    yield Text(said(note, layout), style=colors.soft)
