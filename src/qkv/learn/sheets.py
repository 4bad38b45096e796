"""The one format of lessons: Markdown, each entry below a header of TOML.

    +++
    kind = "card"
    id = "causal"
    +++
    What does *causal* mean?

    ===

    No token is influenced by a later one.

A header stands between two lines of `+++`; what follows it is Markdown up to the next header. A
line of `===` parts the front of a card or a question from its back. Every entry knows its line, so
that what is wrong with it can be said with the place.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qkv.errors import TextError

__all__ = ["Entry", "LessonError", "read_sheet"]

FENCE, PART = "+++", "==="
LARGEST_BYTES = 2**21
_LINE = re.compile(r"\(at line (\d+), column \d+\)|\(at end of document\)")


class LessonError(TextError):
    """A lesson that isn't well formed; what was got begins with the file and the line."""

    def __init__(self, path: Path, line: int, got: str, expected: str, remedy: str) -> None:
        super().__init__(f"{path}:{line}: {got}", expected, remedy)
        self.path, self.line = path, line


@dataclass(frozen=True)
class Entry:
    """One entry of a sheet.

    Args:
        kind, id: of its header.
        fields: the rest of its header.
        parts: its Markdown, parted at lines of `===`; one part at least, which may be empty.
        path, line: where its header begins, from 1.
        starts: the line on which each part begins.
    """

    kind: str
    id: str
    fields: Mapping[str, Any]
    parts: tuple[str, ...]
    path: Path
    line: int
    starts: tuple[int, ...] = field(default=(1,))

    def wrong(self, got: str, expected: str, remedy: str, line: int | None = None) -> LessonError:
        """Return an error at this entry, or at a line of its own."""
        return LessonError(self.path, self.line if line is None else line, got, expected, remedy)


def read_sheet(path: Path) -> list[Entry]:
    """Return the entries of a file, in order.

    Raises:
        LessonError: no text, text before the first header, a header that isn't TOML or names no
            kind and id.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise LessonError(path, 1, error.strerror or str(error), "a file", "check it") from error
    if len(data) > LARGEST_BYTES:
        raise LessonError(path, 1, f"{len(data):,} bytes", "at most 2 MB", "part it in several")
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise LessonError(path, line, "no UTF-8", "text", "save it as UTF-8") from error
    return list(_entries(path, lines))


def _entries(path: Path, lines: list[str]) -> Iterator[Entry]:
    fences = [at for at, line in enumerate(lines) if line.rstrip() == FENCE]
    first = fences[0] if fences else len(lines)
    for at, line in enumerate(lines[:first]):
        if line.strip():
            raise LessonError(path, at + 1, f"{line[:40]!r}", f"a header, {FENCE}", "add one")
    if len(fences) % 2:
        raise LessonError(
            path, fences[-1] + 1, "a header that has no end", f"{FENCE} after it", "close it"
        )
    ends = [*fences[2::2], len(lines)] if fences else []
    for begin, close, end in zip(fences[::2], fences[1::2], ends, strict=True):
        header = _header(path, begin + 1, lines[begin + 1 : close])
        kind, name = (_word(path, begin + 1, header, key) for key in ("kind", "id"))
        parts, starts = _parts(lines[close + 1 : end], close + 2)
        yield Entry(kind, name, header, parts, path, begin + 1, starts)


def _header(path: Path, line: int, lines: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError as error:
        found = _LINE.search(str(error))
        at = int(found[1]) if found and found[1] else len(lines)
        words = _LINE.sub("", str(error)).strip()
        raise LessonError(path, line + at, words, "TOML: name = value", "mend it") from None


def _word(path: Path, line: int, header: dict[str, Any], key: str) -> str:
    value = header.pop(key, None)
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", value):
        got = f"no {key}" if value is None else f"{key} = {value!r}"
        raise LessonError(path, line, got, f'{key} = "words-and-dashes"', "give it one")
    return value


def _parts(lines: list[str], line: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The Markdown between lines of `===`, outside of fenced code, and where each part begins."""
    parts: list[list[str]] = [[]]
    starts, code = [line], ""
    for at, text in enumerate(lines):
        mark = re.match(r"(```+|~~~+)", text)
        if mark:
            code = "" if code and text.startswith(code) else code or mark[1]
        if text.rstrip() == PART and not code:
            parts.append([])
            starts.append(line + at + 1)
        else:
            parts[-1].append(text)
    texts = ["\n".join(part) for part in parts]
    blank = [len(text) - len(text.lstrip("\n")) for text in texts]
    return (
        tuple(text.strip("\n") for text in texts),
        tuple(start + lines for start, lines in zip(starts, blank, strict=True)),
    )
