"""The list of heads that `qkv inspect` prints, as wide as the terminal lets it be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from qkv.lens.heads.head_table import HeadTable

__all__ = ["head_table"]

BAR = 12
LEAST_BAR = 6
GAP = 3
"""Between columns of a table."""
SPARED = ("rows", "entropy", "chance", "first")
"""What a narrow terminal goes without, the first first."""


def head_table(
    table: HeadTable,
    marked: str,
    sort: str | None,
    top: int,
    console: Console,
    *,
    light: bool = False,
) -> Table:
    """Return the first heads as a table, with bars as long as the lift where there is room."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from qkv.views import DARK, LIGHT
    from qkv.views.heads import head_lines, lift_of, ranked

    colors = LIGHT if light else DARK
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    names, lines = head_lines(table, top, sort)
    widths = [max(map(cell_len, column)) for column in zip(names, *lines, strict=True)]
    kept = list(range(len(names)))

    def room() -> int:
        return console.width - sum(widths[at] for at in kept) - GAP * (len(kept) - 1)

    for name in SPARED:
        if room() < 0:
            kept.remove(names.index(name))
    bar = min(BAR, room() - 1) if names[-1] == "lift" else 0
    for at in kept:
        left = at < 2 or (bar >= LEAST_BAR and names[at] == "lift")
        shown.add_column(names[at], justify="left" if left else "right", no_wrap=True)
    sign = "#" if console.options.ascii_only else "━"
    for row, line in zip(ranked(table, sort), lines, strict=False):
        cells = [Text(line[at]) for at in kept]
        if bar >= LEAST_BAR:
            long = max(0, round(min(lift_of(row, sort) or 0.0, 1.0) * bar))
            cells[-1] = Text(f"{line[-1]:>4} ").append(sign * long, style=colors.shade(0.72))
        shown.add_row(*cells, style="bold" if row.name == marked else None)
    return shown
