"""Tables as plain text, HTML and CSV: what the answers about heads have in common."""

from __future__ import annotations

import csv
import html
import importlib
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qkv.errors import ResourceError
from qkv.lens.maps.cells import brief

__all__ = ["csv_text", "data_frame", "html_table", "number", "plain_table", "write_text"]


def number(value: float | None, digits: int = 2) -> str:
    """A number of a table in few digits; a dot where there is none.

    Args:
        value: the number.
        digits: after the point, of numbers below 100.

    >>> number(0.5), number(1234.6), number(None), number(-3.25), number(0.0304, 3)
    ('.50', '1,235', '·', '-3.25', '.030')
    """
    if value is None or not math.isfinite(value):
        return "·"
    if digits != 2 and 10.0**-digits <= abs(value) < 100:
        # What is not quite 1 must not read as if it were.
        cut = f"{value:.{digits}f}"
        whole = float(cut) == 1 and value < 1 - 1e-6
        return f">.{'9' * digits}" if whole else cut.removeprefix("0")
    return f"{value:,.0f}" if abs(value) >= 100 else brief(value).replace("over ", ">")


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Text in columns, the first `left` of them aligned to the left, the others to the right.

    >>> print(plain_table(["head", "self"], [["L0H1", ".5"]]))
    head  self
    L0H1    .5
    """
    lines = [head, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if place < left else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def html_table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    titles: Sequence[str] = (),
) -> str:
    """A table for notebooks, everything escaped; the first column heads its row.

    >>> html_table("<b>", ["head"], [["L0H0"]])
    '<table><caption>&lt;b&gt;</caption><thead><tr><th scope="col">head</th></tr></thead><tbody>\
<tr><th scope="row">L0H0</th></tr></tbody></table>'
    """
    told = [*titles, *[""] * (len(head) - len(titles))]
    top = "".join(
        f'<th scope="col"{_title(title)}>{html.escape(text)}</th>'
        for text, title in zip(head, told, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(text)}</td>" for text in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f"<table><caption>{html.escape(caption)}</caption>"
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    )


def _title(text: str) -> str:
    return f' title="{html.escape(text)}"' if text else ""


def csv_text(records: Sequence[dict[str, Any]]) -> str:
    """Records with the same keys as comma-separated values, a line for each; None is empty.

    >>> csv_text([{"head": "L0H0", "self": None}])
    'head,self\\nL0H0,\\n'
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]) if records else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def write_text(text: str, path: str | Path | None) -> str:
    """The text, written to a file too where a path is given.

    Raises:
        ResourceError: where the file can't be written.
    """
    if path is not None:
        try:
            Path(path).write_text(text, encoding="utf-8", newline="\n")
        except OSError as error:
            raise ResourceError(
                f"{path}, which can't be written ({error.strerror})",
                "a file in a folder that is there",
                "give another path",
            ) from error
    return text


def data_frame(records: Sequence[dict[str, Any]], index: str) -> Any:
    """Records as a pandas DataFrame.

    Raises:
        ResourceError: where pandas isn't installed.
    """
    try:
        pandas = importlib.import_module("pandas")
    except ImportError as error:
        raise ResourceError(
            "no pandas", "pandas for .to_pandas()", "install it, or use .to_csv() or .to_dict()"
        ) from error
    return pandas.DataFrame(list(records)).set_index(index)
