"""Files that grow a line of JSON at a time; a line torn by a crash is skipped by readers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qkv.models.checkpoint import disk_error, write_atomically

__all__ = ["LineFile", "parse_lines"]


def parse_lines(texts: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of lines; what is no line of a step is left out.

    >>> list(parse_lines(['{"step": 1}', '{"ste']))
    [{'step': 1}]
    """
    for text in texts:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            yield line


class LineFile:
    """Lines of JSON objects, each of a ``step``.

    Args:
        path: the file; nothing is read or written yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one line; ``step`` must be among its fields.

        Raises:
            ResourceError: the disk refused.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise disk_error(self.path, error) from error

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the lines, oldest first; what is no line of a step is left out."""
        if not self.path.is_file():
            return
        with self.path.open(encoding="utf-8", errors="replace") as file:
            yield from parse_lines(file)

    def cut(self, step: int) -> None:
        """Drop lines past a step, and torn ones."""
        if self.path.is_file():
            kept = [line for line in self.read() if line["step"] <= step]
            write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def flush(self) -> None:
        """Wait until the disk has every line.

        Raises:
            ResourceError: it refused.
        """
        try:
            if self.path.is_file():
                with self.path.open("rb") as file:
                    os.fsync(file.fileno())
        except OSError as error:
            raise disk_error(self.path, error) from error
