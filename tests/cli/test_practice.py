"""`qkv practice`: an answer from memory, then the right one, and what was missed again."""

from __future__ import annotations

from collections.abc import Callable
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


def test_an_answer_is_asked_for_before_the_answer_opens(command: Command, progress: Path) -> None:
    silent = command("practice", stdin="")
    assert "What is the one hard constraint on a GPT" in silent.out
    assert "No position may use a later one" not in silent.out
    ended = command("practice", stdin="it sees no future\nmissed\nq\n")
    assert ended.code == 0, ended.err
    assert ended.out.startswith("5 questions, about 4 minutes.")
    assert "No position may use a later one" in ended.out
    assert "missed: again in 1 min" in ended.out
    with Progress(progress) as kept:
        (entry,) = kept.entries("question")
    assert (entry.item, entry.rating, entry.detail["answer"]) == (
        "constraint", 1, "it sees no future",
    )  # fmt: skip


def test_what_was_missed_comes_back_in_the_same_round(command: Command) -> None:
    ended = command("practice", "--new", "2", stdin="\n1\n\n4\n\n4\n")
    assert ended.out.count("What is the one hard constraint on a GPT") == 2
    assert "3 questions done" in ended.out


def test_one_section_alone(command: Command) -> None:
    ended = command("practice", "--section", "heads", "--new", "30", stdin="")
    assert ended.out.startswith("2 questions")
    refused = command("practice", "--section", "tails")
    assert refused.code == 2
    assert "weighted-sum" in refused.err


def test_undo_takes_back_what_this_round_did_and_nothing_before(
    command: Command, progress: Path
) -> None:
    command("cards", "suspend", "scale")
    ended = command("practice", stdin="\n3\n\nu\n\nu\nq\n")
    assert "undone: constraint" in ended.out
    assert "nothing to undo" in ended.out
    with Progress(progress) as kept:
        assert [(entry.kind, entry.item) for entry in kept.entries()] == [("suspend", "scale")]
