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
    from qkv.lab.inspecting import Opened
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
) -> Export:
    """Return a head as a picture or a table, or the whole text as a page.

    Args:
        head: its name.
        kind: png, svg, csv or html.
        log, dark, how: as `draw_head` takes them.
        against: for a table, a text whose head of this name is set beside it.

    Raises:
        ConfigError: no such head or kind, or two texts of different sizes.
        ResourceError: too much for a table or a page.
    """
    if kind not in KINDS:
        raise ConfigError(f"a file as {kind[:20]!r}", f"one of {', '.join(KINDS)}", "choose one")
    shown = opened.head(head)
    title = opened.gathered.title
    named = title if kind == "html" else f"{title}-{head}"
    name = f"{re.sub(r'[^A-Za-z0-9._-]+', '-', named).strip('-.') or 'attention'}.{kind}"
    if kind == "html":
        data = _page(opened)
    elif kind == "csv":
        other = None if against is None else against.head(head)
        data = _table(shown, other)
    else:
        from qkv.views.figure import draw_head
        from qkv.views.sheet import encode_figure

        figure = draw_head(shown, log=log, dark=dark, how=how, subtitle=title)
        data = encode_figure(figure, "png" if kind == "png" else "svg")
    return Export(name, KINDS[kind], data)


def _page(opened: Opened) -> bytes:
    from qkv.views.html import page
    from qkv.views.payload import Payload

    header, body = opened.wire
    if not body:
        raise ResourceError(
            f"{opened.gathered.cells:,} weights", "as many as a page holds", "take a shorter text"
        )
    return page(Payload(header, body)).encode("utf-8")


def _table(head: AttentionMap, other: AttentionMap | None) -> bytes:
    """A line for each allowed cell: where it stands, its tokens, its weight."""
    if other is not None and (other.Q, other.K) != (head.Q, head.K):
        raise ConfigError(
            f"heads of {head.Q} and {other.Q} tokens", "two of one size", "compare texts of one"
        )
    if head.Q * head.K > LARGEST_TABLE:
        raise ResourceError(
            f"{head.Q * head.K:,} weights",
            f"at most {LARGEST_TABLE:,} for a table",
            "take a shorter text",
        )
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = ["query", "key", "query_token", "key_token", "weight"]
    writer.writerow(names if other is None else [*names, "before", "change"])
    for start in range(0, head.Q, STRIP_ROWS):
        rows = range(start, min(start + STRIP_ROWS, head.Q))
        writer.writerows(_lines(head, other, rows))
    return buffer.getvalue().encode("utf-8", "backslashreplace")


def _lines(head: AttentionMap, other: AttentionMap | None, rows: range) -> list[list[Any]]:
    cols = range(head.K)
    weights, seen = head.tile(rows, cols), head.allowed(rows, cols)
    before = None if other is None else other.tile(rows, cols)
    if other is not None:
        seen = seen | other.allowed(rows, cols)
    lines = []
    for row, col in np.argwhere(seen).tolist():
        tokens = [
            labels[at] if labels else ""
            for labels, at in ((head.query_labels, rows[row]), (head.key_labels, col))
        ]
        line = [rows[row], col, *tokens, f"{weights[row, col]:.9g}"]
        if before is not None:
            change = weights[row, col] - before[row, col]
            line += [f"{before[row, col]:.9g}", f"{change:.9g}"]
        lines.append(line)
    return lines
