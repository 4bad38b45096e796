"""The file behind a person's progress: one SQLite table, opened, read, merged, salvaged."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qkv.errors import ResourceError

__all__ = [
    "KINDS",
    "UNDO",
    "VERSION",
    "WAIT_SECONDS",
    "LogEntry",
    "ProgressError",
    "as_entry",
    "insert",
    "is_damage",
    "merge",
    "open_log",
    "put_aside",
    "read_log",
    "salvage",
    "written",
]

VERSION = 1
KINDS = ("card", "suspend", "unsuspend", "question", "hand", "read")
UNDO = "undo"
LARGEST_RATING = 4
WAIT_SECONDS, ATTEMPTS = 30.0, 1_000
LARGEST_BYTES, HEADER_BYTES = 2**28, 100
COLUMNS = "id, at, kind, item, rating, detail"
SCHEMA = """
CREATE TABLE log(
    id INTEGER PRIMARY KEY, at TEXT NOT NULL, kind TEXT NOT NULL, item TEXT NOT NULL,
    rating INTEGER NOT NULL, detail TEXT NOT NULL
)"""


class ProgressError(ResourceError):
    """A progress file that can't be used: newer than this qkv, another program's, not writable."""


@dataclass(frozen=True)
class LogEntry:
    """One thing that a person did.

    Args:
        id: its place in the log, from 1.
        at: when, in UTC, by the clock of that moment (which may have been set back since).
        kind: one of :data:`KINDS`, or "undo".
        item: the id of the card, question, exercise or section.
        rating: 1 to 4 as the kind has it, or 0.
        detail: what else the kind knows.
    """

    id: int
    at: datetime
    kind: str
    item: str
    rating: int
    detail: Mapping[str, Any] = field(default_factory=dict)


def open_log(path: Path) -> sqlite3.Connection:
    """Open a progress file, made where there is none, and read it once."""
    connection = sqlite3.connect(
        path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("BEGIN")  # both at one moment: another process may just make them
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        connection.execute("COMMIT")
        if version > VERSION:
            raise ProgressError(
                f"the progress file {path} of version {version}",
                f"version {VERSION}: it was written by a newer qkv, and is left as it is",
                "update qkv, or set QKV_PROGRESS to another file",
            )
        if ("log" in tables) != bool(version) or (tables and not version):
            raise ProgressError(
                f"{path}, which another program wrote",
                "a progress file of qkv, or none",
                "set QKV_PROGRESS to another file",
            )
        _write_ahead(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("PRAGMA user_version").fetchone()[0]:
            connection.execute(SCHEMA)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
        said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if said != "ok":
            raise sqlite3.DatabaseError(said)
        read_log(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Turn to WAL; SQLite itself doesn't wait for others who do the same at this moment."""
    for _ in range(ATTEMPTS):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(WAIT_SECONDS / ATTEMPTS)
        else:
            return
    connection.execute("PRAGMA journal_mode = WAL")


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether an error tells of a damaged file, and not of the system around it."""
    return not isinstance(error, sqlite3.OperationalError)


def put_aside(path: Path) -> Path:
    """Give a file, and what SQLite keeps beside it, a name of its own; return it."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    name, number = f"{path.name}.broken-{stamp}", 1
    while (aside := path.with_name(name)).exists():
        number += 1
        name = f"{path.name}.broken-{stamp}-{number}"
    for tail in ("-wal", "-shm", ""):
        part = path.with_name(path.name + tail)
        if part.exists():
            part.rename(aside.with_name(aside.name + tail))
    return aside


def salvage(path: Path) -> list[LogEntry]:
    """Return the entries of a damaged file that can be read from its beginning and its end."""
    found: dict[int, LogEntry] = {}
    for opened in (_read_only, _padded):
        for order in ("ASC", "DESC"):
            # What can't be read stays in the file that is kept.
            with suppress(sqlite3.Error, OSError), closing(opened(path)) as connection:
                for row in connection.execute(f"SELECT {COLUMNS} FROM log ORDER BY id {order}"):
                    entry = _entry(row)
                    found[entry.id] = entry
    return [found[place] for place in sorted(found)]


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def _padded(path: Path) -> sqlite3.Connection:
    """A copy in memory, as long as its header says: SQLite reads nothing of one that was cut."""
    data = bytearray(path.read_bytes())
    page, pages = int.from_bytes(data[16:18], "big"), int.from_bytes(data[28:32], "big")
    if len(data) > LARGEST_BYTES or page * pages > LARGEST_BYTES or len(data) < HEADER_BYTES:
        raise sqlite3.DatabaseError("no such file of ours")
    data[18:20] = b"\x01\x01"  # no WAL: there is none in memory
    connection = sqlite3.connect(":memory:")
    connection.deserialize(bytes(data).ljust(page * pages, b"\0"))
    return connection


def read_log(connection: sqlite3.Connection) -> list[LogEntry]:
    """Return all entries, in order."""
    rows = connection.execute(f"SELECT {COLUMNS} FROM log ORDER BY id")
    return [_entry(row) for row in rows]


def _entry(row: tuple[Any, ...]) -> LogEntry:
    place, at, kind, item, rating, detail = row
    try:
        details = {} if detail == "{}" else dict(json.loads(detail))
        return LogEntry(place, _moment(at), kind, item, int(rating), details)
    except (TypeError, ValueError, OverflowError) as error:
        raise sqlite3.DatabaseError(f"entry {place} is damaged") from error


def insert(  # noqa: PLR0917
    connection: sqlite3.Connection,
    at: datetime,
    kind: str,
    item: str,
    rating: int,
    detail: Mapping[str, Any],
) -> int:
    """Append an entry and return its id."""
    said = json.dumps(dict(detail), ensure_ascii=False, sort_keys=True)
    said = said.encode(errors="replace").decode()  # half a character is no text for SQLite
    cursor = connection.execute(
        "INSERT INTO log(at, kind, item, rating, detail) VALUES (?, ?, ?, ?, ?)",
        (written(at), kind, item, rating, said),
    )
    return cursor.lastrowid or 0


def merge(connection: sqlite3.Connection, given: list[LogEntry]) -> int:
    """Rewrite the log with what is new in its place by time; ids are numbered again."""

    def same(entry: LogEntry, undone: Mapping[int, LogEntry]) -> tuple[Any, ...]:
        """What tells an entry from others; an undo, by what it undid."""
        what = undone.get(entry.detail.get("undoes", 0))
        beside = same(what, {}) if what else json.dumps(dict(entry.detail), sort_keys=True)
        return entry.at, entry.kind, entry.item, entry.rating, beside

    mine, theirs = ({entry.id: entry for entry in log} for log in (read_log(connection), given))
    known = {same(entry, mine): entry.id for entry in mine.values()}
    new = [(entry, theirs) for entry in given if same(entry, theirs) not in known]
    if not new:
        return 0
    everything = [*((entry, mine) for entry in mine.values()), *new]
    places: dict[tuple[Any, ...], int] = {}
    connection.execute("DELETE FROM log")
    for entry, log in sorted(everything, key=lambda pair: pair[0].at):
        if same(entry, log) in places:
            continue
        detail = dict(entry.detail)
        if (what := log.get(detail.get("undoes", 0))) is not None:
            detail["undoes"] = places.get(same(what, log), 0)
        added = (entry.at, entry.kind, entry.item, entry.rating, detail)
        places[same(entry, log)] = insert(connection, *added)
    return len(new)


def as_entry(line: Mapping[str, Any], number: int) -> LogEntry:
    """Return the entry that a line of an export says."""
    try:
        row = [line[name] for name in ("id", "at", "kind", "item", "rating")]
        entry = _entry((*row, json.dumps(line.get("detail", {}))))
        undoes = entry.detail.get("undoes", 0)
        numbers = (line["id"], line["rating"], undoes)
        if (
            entry.kind not in {*KINDS, UNDO}
            or not isinstance(line["item"], str)
            or any(type(number) is not int for number in numbers)
            or not 0 <= entry.rating <= LARGEST_RATING
            or not 0 <= undoes < entry.id
        ):
            raise ValueError(entry.kind)
        json.dumps([entry.item, entry.detail], ensure_ascii=False).encode()
        return entry
    except (KeyError, TypeError, ValueError, RecursionError, sqlite3.Error) as error:
        raise ProgressError(
            f"line {number}, which is no entry",
            "lines as `qkv cards export` writes them",
            "leave it out",
        ) from error


def _moment(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo is UTC else at.astimezone(UTC)


def written(at: datetime) -> str:
    """Return a moment as the log has it."""
    return at.astimezone(UTC).isoformat(timespec="microseconds")
