"""What is kept of answers by hand, and which worked exercise comes next."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from qkv.learn.exercises import stages, worked_exercises
from qkv.learn.generation import draw_exercise
from qkv.learn.hand import check
from qkv.learn.hand_log import keep_answer, next_worked
from qkv.learn.progress import Progress

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_an_answer_is_kept_with_what_was_said_of_it(tmp_path: Path) -> None:
    fresh = draw_exercise(7)
    with Progress(tmp_path / "progress.db") as progress:
        verdict = check(fresh, "scaled", [-1, 0, -1, -2, 0])
        keep_answer(progress, fresh, "scaled", "-1 0 -1 -2 0" + " " * 999, verdict, NOW)
        (entry,) = progress.entries("hand")
    assert (entry.item, entry.rating) == ("fresh-7", 1)
    assert entry.detail["seed"] == 7
    assert entry.detail["mistake"] == "scale-forgotten"
    assert len(entry.detail["answer"]) == 200


def test_next_is_what_nobody_brought_to_its_end(tmp_path: Path) -> None:
    first, second = worked_exercises()[:2]
    with Progress(tmp_path / "progress.db") as progress:
        assert next_worked(worked_exercises(), progress.entries()) == first
        for stage, answers in (("masked", [1, 1, 1, 8]), ("output", [2.67])):
            verdict = check(first, stage, answers)
            keep_answer(progress, first, stage, "", verdict, NOW)
            assert next_worked(worked_exercises(), progress.entries()) == first
        keep_answer(progress, first, stages(first)[-1], "3", check(first, "output", [3]), NOW)
        assert next_worked(worked_exercises(), progress.entries()) == second
    assert next_worked((), ()) is None
