"""Files that grow while others read them: followed by offset, so that a look costs little."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["Growing", "last_line", "last_words"]

BLOCK = 2**22
TAIL = 2**14


class Growing:
    """A file of lines that another process appends to, or replaces by a shorter one.

    Args:
        path: the file; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = self._offset = 0

    def reset(self) -> None:
        """Have the next reading begin at the file's start."""
        self._file = self._offset = 0

    def read(self) -> tuple[list[bytes], bool]:
        """Return the whole lines that are new, and whether the file was begun anew.

        At most some megabytes at a time: the next call goes on. A line without its end is left.
        """
        try:
            found = self.path.stat()
            if not stat.S_ISREG(found.st_mode):
                raise OSError("a pipe or a folder, which would be waited for")
        except OSError:
            anew, self._file, self._offset = self._offset > 0, 0, 0
            return [], anew
        anew = self._file != 0 and (found.st_ino != self._file or found.st_size < self._offset)
        if anew or self._file == 0:
            self._file, self._offset = found.st_ino, 0
        if found.st_size == self._offset:
            return [], anew
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                block = file.read(BLOCK)
        except OSError:
            return [], anew
        end = block.rfind(b"\n") + 1
        if end == 0 and len(block) == BLOCK:  # no line of a run is as long
            end = BLOCK
        self._offset += end
        return block[:end].splitlines(), anew


def last_line(path: Path, starting: str = "") -> str:
    """Return the last line of a file that is not empty and starts so, or "" where none does."""
    if not path.is_file():  # a pipe would be waited for
        return ""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL))
            tail = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = (line.strip() for line in reversed(tail.splitlines()))
    return next((line for line in lines if line and line.startswith(starting)), "")


def last_words(log: Path) -> str:
    """Return an error's one line, as the command line prints it, or what a crash ended with."""
    told = last_line(log, "qkv: ")
    if told:
        return told.removeprefix("qkv: ")
    line = last_line(log)
    return line if "Error" in line.partition(":")[0] else ""
