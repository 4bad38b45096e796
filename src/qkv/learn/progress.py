"""What a person did, as a log in one SQLite file that is only ever appended to.

Nothing derived is stored: what is due is computed from the log (:mod:`qkv.learn.schedule`). An
entry is on the disk when `append` returns: the file is in WAL mode and every commit is flushed.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from qkv.learn.log_file import (
    KINDS,
    UNDO,
    VERSION,
    WAIT_SECONDS,
    LogEntry,
    ProgressError,
    as_entry,
    insert,
    is_damage,
    merge,
    open_log,
    put_aside,
    read_log,
    salvage,
    written,
)

__all__ = ["KINDS", "VERSION", "LogEntry", "Progress", "ProgressError", "progress_path"]


def progress_path() -> Path:
    """Return where progress is kept: `$QKV_PROGRESS`, or in the user's data folder."""
    if given := os.environ.get("QKV_PROGRESS"):
        return Path(given).expanduser()
    from platformdirs import user_data_path

    return user_data_path("qkv") / "progress.db"


class Progress:
    """The log of what a person did; safe from several threads and processes.

    Args:
        path: the file, made where there is none; :func:`progress_path` by default.

    A file that is damaged is moved aside, with what of it could be read copied into a new one;
    `notice` then says so, and is None otherwise.

    Raises:
        ProgressError: a file of a newer version or of another program, which is left as it is, or
            one that can't be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = progress_path() if path is None else Path(path)
        self.notice: str | None = None
        self._lock = threading.Lock()
        with self._telling():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._connection = open_log(self.path)
            except sqlite3.DatabaseError:
                if self.path.is_dir():
                    raise
                self._connection = self._opened_alone()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; nothing is lost without it."""
        with self._lock:
            self._connection.close()

    def append(
        self,
        kind: str,
        item: str,
        rating: int,
        now: datetime,
        detail: Mapping[str, Any] | None = None,
    ) -> int:
        """Write an entry and return its id; it is on the disk when this returns.

        Raises:
            ProgressError: the disk is full or the file can't be written any more.
        """
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r}: one of {KINDS}")
        with self._writing() as connection:
            return insert(connection, now, kind, item, rating, detail or {})

    def entries(self, kind: str | None = None, since: int = 0) -> list[LogEntry]:
        """Return what stands, in order: the entries with an id above `since` that aren't undone."""
        log = self._log()
        undone = {entry.detail.get("undoes") for entry in log if entry.kind == UNDO}
        return [
            entry
            for entry in log
            if entry.id > since
            and entry.kind != UNDO
            and entry.id not in undone
            and kind in {None, entry.kind}
        ]

    def undo(
        self,
        now: datetime,
        kinds: Collection[str] = KINDS,
        among: Collection[int] | None = None,
    ) -> LogEntry | None:
        """Undo the last entry that stands, by an entry that says so; return what was undone.

        Args:
            among: the ids of those that may be undone; all, unless given.
        """
        with self._writing() as connection:
            log = read_log(connection)
            undone = {entry.detail.get("undoes") for entry in log if entry.kind == UNDO}
            for entry in reversed(log):
                if (
                    entry.kind in kinds
                    and entry.id not in undone
                    and (among is None or entry.id in among)
                ):
                    insert(connection, now, UNDO, entry.item, 0, {"undoes": entry.id})
                    return entry
        return None

    def export(self) -> Iterator[dict[str, Any]]:
        """Yield every entry, also those undone, as what JSON can hold."""
        for entry in self._log():
            yield {**asdict(entry), "at": written(entry.at)}

    def import_(self, lines: Iterable[Mapping[str, Any]]) -> int:
        """Merge what `export` gave, in order of time, and return how many entries were new.

        Raises:
            ProgressError: a line that isn't an entry, with its number; nothing is merged then.
        """
        given = [as_entry(line, number) for number, line in enumerate(lines, 1)]
        with self._writing() as connection:
            return merge(connection, given)

    def _log(self) -> list[LogEntry]:
        with self._lock, self._telling():
            return read_log(self._connection)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One short transaction, alone."""
        with self._lock, self._telling():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say what the system or SQLite says as an error of ours."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise ProgressError(
                f"{said} for the progress file {self.path}",
                "a file that can be written",
                "check the disk, or set QKV_PROGRESS to another file",
            ) from error

    def _opened_alone(self) -> sqlite3.Connection:
        """Open the file while no other process may move it; if it is damaged, begin anew."""
        lock = self.path.with_name(f"{self.path.name}.lock")
        with closing(sqlite3.connect(lock, timeout=WAIT_SECONDS, isolation_level=None)) as alone:
            alone.execute("BEGIN EXCLUSIVE")  # until it is closed, or the process ends
            try:
                return open_log(self.path)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
            aside = put_aside(self.path)
            found = salvage(aside)
            connection = open_log(self.path)
            connection.execute("BEGIN IMMEDIATE")
            merge(connection, found)
            connection.execute("COMMIT")
        kept = f"{len(found)} entries of it could be read and were kept" if found else "begun anew"
        self.notice = f"the progress file was damaged: it is kept as {aside}; {kept}"
        return connection
