"""`qkv cards`: a round from a pipe, files to take along, and what was done."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from qkv.learn.progress import Progress

Command = Callable[..., Any]


@pytest.fixture(autouse=True)
def progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "progress.db"
    monkeypatch.setenv("QKV_PROGRESS", str(file))
    return file


def test_a_round_is_turned_over_graded_and_kept(command: Command, progress: Path) -> None:
    ended = command("cards", stdin="\n3\n\n1\n\neasy\nq\n")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("7 cards, about a minute.")
    assert "What does attention let a token do?" in ended.out
    assert "Look straight at every token it may see" in ended.out
    assert "1 again (1 min)  2 hard (6 min)  3 good (10 min)  4 easy (8 days)" in ended.out
    assert "good: again in 10 min" in ended.out
    assert "easy: again in 8 days" in ended.out
    assert "3 cards done, 6 left" in ended.out
    with Progress(progress) as kept:
        assert [(entry.item, entry.rating) for entry in kept.entries()] == [
            ("attention", 3), ("causal", 1), ("query-key-value", 4),
        ]  # fmt: skip


def test_the_answer_is_not_shown_before_the_card_is_turned(command: Command) -> None:
    ended = command("cards", stdin="")
    assert ended.code == 0
    assert "What does attention let a token do?" in ended.out
    assert "Look straight" not in ended.out


def test_undo_suspend_and_a_grade_that_is_none(command: Command, progress: Path) -> None:
    ended = command("cards", stdin="\n4\n\nfive\ns\n\nu\n\nu\n\nq\n")
    assert "1, 2, 3 or 4 grades it" in ended.out
    assert "`qkv cards unsuspend causal` brings it back" in ended.out
    assert "undone: causal" in ended.out
    assert "undone: attention" in ended.out
    with Progress(progress) as kept:
        assert kept.entries() == []
    assert "nothing to undo" in command("cards", "undo").out


def test_suspended_cards_are_listed_and_come_back(command: Command) -> None:
    assert command("cards", "suspend", "scale").code == 0
    rows = {row["id"]: row for row in json.loads(command("cards", "list", "--json").out)}
    assert len(rows) == 40
    assert rows["scale"]["state"] == "suspended"
    assert rows["mask-after"]["state"] == "new"
    assert "scale: back" in command("cards", "unsuspend", "scale").out
    assert "undone: scale, unsuspended" in command("cards", "undo").out
    refused = command("cards", "suspend", "nothing")
    assert refused.code == 2
    assert "qkv cards list" in refused.err


def test_when_nothing_is_due_it_says_how_to_go_on(command: Command) -> None:
    command("cards", stdin="\n4\n" * 7)
    ended = command("cards", stdin="")
    assert "No cards are due; the next is in 8 days" in ended.out
    assert "--new 33" in ended.out
    assert "33 cards" in command("cards", "--new", "40", stdin="").out


def test_what_was_done_is_exported_and_merged(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("cards", stdin="\n3\n\n2\nq\n")
    lines = [json.loads(line) for line in command("cards", "export").out.splitlines()]
    assert [line["item"] for line in lines] == ["attention", "causal"]
    file = tmp_path / "done.jsonl"
    assert command("cards", "export", file).code == 0
    monkeypatch.setenv("QKV_PROGRESS", str(tmp_path / "elsewhere.db"))
    assert "2 new" in command("cards", "import", file).out
    assert "0 new" in command("cards", "import", file).out
    file.write_text("{}\nnonsense\n")
    refused = command("cards", "import", file)
    assert refused.code == 2
    assert "line 1" in refused.err or ":2:" in refused.err


def test_answers_with_other_line_ends_are_exported_and_imported(
    command: Command, progress: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = "one\u2028two\x85three\x0cfour"
    with Progress(progress) as kept:
        kept.append("question", "why", 3, datetime.now(UTC), {"answer": answer})
    file = tmp_path / "done.jsonl"
    assert command("cards", "export", file).code == 0
    monkeypatch.setenv("QKV_PROGRESS", str(tmp_path / "elsewhere.db"))
    assert "1 new" in command("cards", "import", file).out
    with Progress(tmp_path / "elsewhere.db") as kept:
        assert kept.entries()[0].detail == {"answer": answer}
    file.write_text("[" * 100_000)
    refused = command("cards", "import", file)
    assert (refused.code, "no JSON" in refused.err) == (2, True)


def test_cards_are_printed_and_packed(command: Command, tmp_path: Path) -> None:
    pdf, package = tmp_path / "cards.pdf", tmp_path / "qkv.apkg"
    ended = command("cards", "--print", pdf, "--paper", "A4", "--anki", package)
    assert ended.code == 0, ended.err
    assert "40 cards on 80 pages" in ended.err
    assert pdf.read_bytes().startswith(b"%PDF-")
    assert package.read_bytes().startswith(b"PK")
    refused = command("cards", "--print", tmp_path / "no" / "cards.pdf")
    assert refused.code == 2
    assert "a folder that is there" in refused.err
    assert command("cards", "--print", pdf, "--paper", "a5").code == 2


def test_a_file_of_a_newer_version_is_refused_and_a_damaged_one_kept(
    command: Command, progress: Path
) -> None:
    progress.write_bytes(b"no database at all, " * 1_000)
    ended = command("cards", stdin="\n3\nq\n")
    assert ended.code == 0
    assert "was damaged: it is kept as" in ended.err
    (aside,) = progress.parent.glob("progress.db.broken-*")
    assert aside.read_bytes().startswith(b"no database")
    import sqlite3

    with sqlite3.connect(progress) as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    refused = command("cards", stdin="\n3\n")
    assert refused.code == 2
    assert "newer qkv" in refused.err
    assert progress.exists()


def test_lessons_of_ones_own(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "one.md").write_text(
        '+++\nkind = "card"\nid = "mine"\nsection = "mask"\n+++\nWhy?\n\n===\n\nBecause $x^2$.\n',
        encoding="utf-8",
    )
    ended = command("cards", "--lessons", folder, stdin="\n4\n")
    assert "Because x²." in ended.out
    assert "1 card done, the next is due in 8 days" in ended.out
