"""What is on screen, to be kept: a head as PNG, SVG or CSV, a text's heads as one page."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qkv.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from qkv.lab.opened import Opened
    from qkv.lens import AttentionMap

__all__ = ["KINDS", "Export", "export"]

KINDS = {
    "png": "image/png",
    "svg": "image/svg+xml",
    "csv": "text/csv; charset=utf-8",
    "html": "text/html; charset=utf-8",
}
LARGEST_TABLE = 2**22
"""Cells of a table: some 100 MB of text."""
STRIP_ROWS = 256


@dataclass(frozen=True)
class Export:
    """A file to be downloaded."""

    name: str
    media_type: str
    data: bytes

    @property
    def disposition(self) -> str:
        """The header by which a browser keeps it, under its name."""
        return f'attachment; filename="{self.name}"'


def export(
    opened: Opened,
    head: str,
    kind: str,
    *,
    log: bool = True,
    dark: bool = False,
    how: Literal["max", "sum"] = "max",
    against: Opened | None = None,
    cell: str | None = None,
    rows: str | None = None,
    cols: str | None = None,
) -> Export:
    """Return a head as a picture or a table, or the whole text as a page.

    Args:
        head: its name.
        kind: png, svg, csv or html.
        log, dark, how: as `draw_head` takes them.
        against: for a table, a text whose head of this name is set beside it.
        cell: the query and key that a picture is read aloud by, and a page begins with: ``16,3``.
        rows, cols: the queries and keys on screen, such as ``16:48``; all unless given.

    Raises:
        ConfigError: no such head, cell, kind or part, or two texts of different sizes.
        ResourceError: too much for a table or a page.
    """
    if kind not in KINDS:
        raise ConfigError(f"a file as {kind[:20]!r}", f"one of {', '.join(KINDS)}", "choose one")
    shown = opened.head(head)
    part = _span(rows, shown.Q), _span(cols, shown.K)
    chosen = _cell(cell, shown)
    title = opened.gathered.title
    parts = [opened.file_name, head]
    if kind != "html" and part != (range(shown.Q), range(shown.K)):
        parts.append("part")
    if kind == "csv" and against is not None:
        parts.append("change")
    name = f"{'-'.join(parts)}.{kind}"
    if kind == "html":
        data = _page(opened, shown.name, chosen, log=log)
    elif kind == "csv":
        other = None if against is None else against.head(head)
        data = _table(shown, other, *part)
    else:
        from qkv.views.figure import draw_head
        from qkv.views.sheet import encode_figure

        drawn = dict(zip(("rows", "cols"), part, strict=True))
        step = "" if opened.step is None else f"step {opened.step:,}"
        said = " · ".join(part for part in (title, step, str(opened.asked.edits())) if part)
        figure = draw_head(shown, log=log, dark=dark, how=how, subtitle=said, cell=chosen, **drawn)
        data = encode_figure(figure, "png" if kind == "png" else "svg")
    return Export(name, KINDS[kind], data)


def _page(opened: Opened, head: str, cell: tuple[int, int] | None, *, log: bool) -> bytes:
    from qkv.views.html import page
    from qkv.views.payload import Payload

    header, body = opened.wire
    if not body:
        raise ResourceError(
            f"{opened.gathered.cells:,} weights", "as many as a page holds", "take a shorter text"
        )
    seen = {"begin": head, "cell": None if cell is None else list(cell), "log": log}
    return page(Payload({**header, **seen}, body)).encode("utf-8")


def _cell(text: str | None, head: AttentionMap) -> tuple[int, int] | None:
    """The places of a query and a key."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]{1,9}),([0-9]{1,9})", text, re.ASCII)
    row, col = (head.Q, head.K) if match is None else map(int, match.groups())
    if row >= head.Q or col >= head.K:
        raise ConfigError(f"cell {text[:40]!r}", f"one of {head.Q},{head.K}", "reload the page")
    return row, col


def _span(text: str | None, size: int) -> range:
    """The places from the first up to the last, which is left out."""
    if text is None:
        return range(size)
    match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text, re.ASCII)
    start, stop = (0, 0) if match is None else map(int, match.groups())
    if not 0 <= start < stop <= size:
        raise ConfigError(f"tokens {text[:40]!r}", f"a part of 0:{size}", "reload the page")
    return range(start, stop)


def _table(head: AttentionMap, other: AttentionMap | None, rows: range, cols: range) -> bytes:
    """A line for each allowed cell: where it stands, its tokens, its weight."""
    if other is not None and (other.Q, other.K) != (head.Q, head.K):
        raise ConfigError(
            f"heads of {head.Q} and {other.Q} tokens", "two of one size", "compare texts of one"
        )
    if len(rows) * len(cols) > LARGEST_TABLE:
        raise ResourceError(
            f"{len(rows) * len(cols):,} weights",
            f"at most {LARGEST_TABLE:,} for a table",
            "take a shorter text, or zoom in",
        )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = ["query", "key", "query_token", "key_token", "weight"]
    writer.writerow(names if other is None else [*names, "before", "change"])
    for start in range(0, len(rows), STRIP_ROWS):
        writer.writerows(_lines(head, other, rows[start : start + STRIP_ROWS], cols))
    return buffer.getvalue().encode("utf-8", "backslashreplace")


def _lines(
    head: AttentionMap, other: AttentionMap | None, rows: range, cols: range
) -> list[list[Any]]:
    weights, seen = head.tile(rows, cols), head.allowed(rows, cols)
    before = None if other is None else other.tile(rows, cols)
    if other is not None:
        seen = seen | other.allowed(rows, cols)
    lines = []
    for row, col in np.argwhere(seen).tolist():
        tokens = [
            labels[at] if labels else ""
            for labels, at in ((head.query_labels, rows[row]), (head.key_labels, cols[col]))
        ]
        line = [rows[row], cols[col], *tokens, f"{weights[row, col]:.9g}"]
        if before is not None:
            change = weights[row, col] - before[row, col]
            line += [f"{before[row, col]:.9g}", f"{change:.9g}"]
        lines.append(line)
    return lines
