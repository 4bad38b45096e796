"""The log of what a person did: appended, undone, exported, merged, and never lost."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from qkv.learn.progress import Progress, ProgressError

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "progress.db"


def test_what_is_appended_is_there_when_it_is_opened_again(file: Path) -> None:
    with Progress(file) as progress:
        assert progress.append("card", "scale", 3, NOW, {"seconds": 4.5}) == 1
        assert progress.append("hand", "third-of-four", 1, NOW, {"answer": "⅓"}) == 2
    with Progress(file) as progress:
        card, hand = progress.entries()
        assert (card.kind, card.item, card.rating, card.at) == ("card", "scale", 3, NOW)
        assert card.detail == {"seconds": 4.5}
        assert hand.detail == {"answer": "⅓"}
        assert progress.entries("card") == [card]
        assert progress.entries(since=1) == [hand]
        assert progress.notice is None
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()


def test_undo_goes_back_one_by_one_and_deletes_nothing(file: Path) -> None:
    with Progress(file) as progress:
        for item, kind in (("a", "card"), ("b", "question"), ("c", "card")):
            progress.append(kind, item, 3, NOW)
        undone = [progress.undo(NOW, kinds=("card",)) for _ in range(3)]
        assert [entry and entry.item for entry in undone] == ["c", "a", None]
        assert [entry.item for entry in progress.entries()] == ["b"]
        assert len(list(progress.export())) == 5


def test_an_export_is_merged_in_order_of_time_and_not_twice(tmp_path: Path) -> None:
    with Progress(tmp_path / "one.db") as one, Progress(tmp_path / "two.db") as two:
        one.append("card", "a", 3, NOW)
        one.append("card", "b", 1, NOW + timedelta(hours=2))
        one.undo(NOW + timedelta(hours=2, minutes=1))
        two.append("card", "c", 4, NOW + timedelta(hours=1))
        lines = list(one.export())
        assert two.import_(lines) == 3
        assert two.import_(lines) == 0
        assert one.import_(two.export()) == 1
        for progress in (one, two):
            assert [entry.item for entry in progress.entries()] == ["a", "c"]
            assert [line["item"] for line in progress.export()] == ["a", "c", "b", "b"]


def test_a_line_that_is_no_entry_is_named_and_nothing_is_merged(file: Path) -> None:
    with Progress(file) as progress:
        progress.append("card", "a", 3, NOW)
        good = next(iter(progress.export()))
        with pytest.raises(ProgressError, match="line 2"):
            progress.import_([{**good, "item": "b"}, {**good, "at": "yesterday"}])
        assert len(progress.entries()) == 1


def test_many_threads_write_one_file(file: Path) -> None:
    with Progress(file) as progress:

        def write(name: str) -> None:
            with Progress(file) as own:
                for _ in range(10):
                    own.append("card", name, 3, NOW)
                    progress.append("card", name, 2, NOW)

        threads = [threading.Thread(target=write, args=(str(at),)) for at in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [entry.id for entry in progress.entries()] == list(range(1, 81))


def test_a_newer_file_is_left_as_it_is(file: Path) -> None:
    with Progress(file) as progress:
        progress.append("card", "a", 3, NOW)
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    before = file.read_bytes()
    with pytest.raises(ProgressError, match=r"version 2.*newer qkv.*update qkv"):
        Progress(file)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_database_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE theirs(x)")
    connection.close()
    before = file.read_bytes()
    with pytest.raises(ProgressError, match="another program"):
        Progress(file)
    assert file.read_bytes() == before


@pytest.mark.parametrize("damage", ["text", "middle", "cut"])
def test_a_damaged_file_is_kept_aside_and_what_can_be_read_is_kept(file: Path, damage: str) -> None:
    with Progress(file) as progress:
        for at in range(300):
            progress.append("card", f"card-{at}", 3, NOW, {"answer": "x" * 100})
    whole = file.read_bytes()
    broken = {
        "text": b"not a database " * 4_000,
        "middle": whole[: len(whole) // 2] + b"\xff" * 4_096 + whole[len(whole) // 2 + 4_096 :],
        "cut": whole[: len(whole) // 2],
    }[damage]
    file.write_bytes(broken)
    with Progress(file) as progress:
        assert progress.notice is not None
        assert "was damaged" in progress.notice
        (aside,) = file.parent.glob("progress.db.broken-*Z")
        assert aside.name in progress.notice
        assert aside.read_bytes() == broken
        kept = progress.entries()
        assert len(kept) == 0 if damage == "text" else len(kept) > 50
        assert progress.append("card", "next", 3, NOW) == len(kept) + 1
    with Progress(file) as progress:
        assert progress.notice is None
        assert len(progress.entries()) == len(kept) + 1


def test_a_damaged_file_that_many_open_at_once_is_moved_once(file: Path) -> None:
    file.parent.mkdir()
    file.write_bytes(b"not a database " * 4_000)
    start, notices = threading.Barrier(6), []

    def write() -> None:
        start.wait()
        with Progress(file) as progress:
            notices.append(progress.notice)
            progress.append("card", "a", 3, NOW)

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(notice is not None for notice in notices) == 1
    assert len(list(file.parent.glob("*.broken-*Z"))) == 1
    with Progress(file) as progress:
        assert len(progress.entries()) == 6


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path, tmp_path / "file" / "progress.db"):
        with pytest.raises(ProgressError, match="QKV_PROGRESS"):
            Progress(path)


ACKNOWLEDGED = re.compile(r"^again: again in ", re.MULTILINE)


@pytest.mark.slow
def test_killed_at_any_moment_no_acknowledged_grade_is_lost(file: Path, full: bool) -> None:
    rng = random.Random(20240229)
    acknowledged = 0
    inside = 0
    kills = 100 if full else 4
    for _ in range(kills):
        before = acknowledged
        process = subprocess.Popen(
            [sys.executable, "-m", "qkv", "cards", "--new", "40"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "QKV_PROGRESS": str(file), "NO_COLOR": "1"},
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        # Turned over and missed, again and again: such a round has no end of its own.
        process.stdin.write("\n1\n" * 5_000)
        process.stdin.flush()
        early = rng.random() < 0.2  # while it still begins
        said = process.stdout.readline()
        while not (early or ACKNOWLEDGED.search(said)):
            line = process.stdout.readline()
            assert line, "the round ended by itself"
            said += line
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        said += process.communicate()[0]
        acknowledged += len(ACKNOWLEDGED.findall(said))
        inside += acknowledged > before
        with Progress(file) as progress:
            assert progress.notice is None
            ratings = [entry.rating for entry in progress.entries("card")]
        assert acknowledged <= len(ratings) <= acknowledged + kills
        acknowledged = max(acknowledged, len(ratings))  # what wasn't said yet may be there too
    assert inside > kills // 2


@pytest.mark.parametrize(
    "told",
    [
        {"detail": {"undoes": [1]}}, {"detail": {"undoes": 1}}, {"detail": {"undoes": True}},
        {"rating": 10**30}, {"rating": -1}, {"rating": "3"}, {"rating": True}, {"id": [1]},
        {"at": "0001-01-01T00:00:00+10:00"}, {"item": "\ud800"}, {"detail": {"answer": "\ud800"}},
    ],
)  # fmt: skip
def test_a_line_that_no_export_holds_is_refused_in_one_line(
    file: Path, told: dict[str, object]
) -> None:
    line = {"id": 1, "at": NOW.isoformat(), "kind": "card", "item": "a", "rating": 3, "detail": {}}
    with Progress(file) as progress:
        with pytest.raises(ProgressError, match=r"^got line 2, which is no entry") as refused:
            progress.import_([line, {**line, **told}])
        assert "\n" not in str(refused.value)
        assert progress.entries() == []
        assert progress.import_([line]) == 1


def test_half_a_character_loses_no_grade(file: Path) -> None:
    with Progress(file) as progress:
        progress.append("question", "why", 3, NOW, {"answer": "so \ud83d"})
        (entry,) = progress.entries()
    assert (entry.rating, entry.detail) == (3, {"answer": "so ?"})


def test_only_some_may_be_undone(file: Path) -> None:
    with Progress(file) as progress:
        first, second = (progress.append("card", item, 3, NOW) for item in "ab")
        undone = [progress.undo(NOW, among=[first]) for _ in range(2)]
        assert [entry and entry.item for entry in undone] == ["a", None]
        assert [entry.id for entry in progress.entries()] == [second]
