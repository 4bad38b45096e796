"""`qkv hand` as a person meets it: asks, names the mistake, goes on, keeps what was answered."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qkv.learn.progress import Progress

Command = Callable[..., Any]
RIGHT = "1 1 1 -inf\ne e e 0\n1/3 1/3 1/3 0\n3\n"
FIRST_STAGE_DONE = "1 4 5\n"


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "progress.db"
    monkeypatch.setenv("QKV_PROGRESS", str(path))
    return path


def words(text: str) -> str:
    return " ".join(text.split())


def log(path: Path) -> list[tuple[str, int, str, str | None]]:
    with Progress(path) as progress:
        return [
            (entry.item, entry.rating, entry.detail["stage"], entry.detail["mistake"])
            for entry in progress.entries("hand")
        ]


def test_the_worked_exercises_come_first_and_are_not_asked_again(
    command: Command, kept: Path
) -> None:
    ended = command("hand", stdin=RIGHT + "q\n")
    assert ended.code == 0
    told = words(ended.out)
    assert "Token 3 of 4 asks, with causal attention. Its scores are there" in told
    assert "v 3 6 0 _" in told
    assert told.count("Right.") == 4
    assert "Done: 4 of 4 stages right at the first try." in told
    assert log(kept) == [
        ("third-of-four", 3, stage, None)
        for stage in ("masked", "exponentials", "weights", "output")
    ]
    assert "Token 3 of 4, no tie" in words(command("hand", stdin="q\n").out)


def test_a_wrong_number_is_told_its_mistake_and_later_stages_are_not_doomed(
    command: Command, kept: Path
) -> None:
    answers = "1 1 1 0\n1 1 1 0\n\ne e e 1\n.297 .297 .297 .109\n2.67\nq\n"
    told = words(command("hand", "third-of-four", stdin=answers).out)
    assert told.count("That is what comes out if the mask writes 0 in place of −∞.") == 2
    assert told.count("? shows this stage; Enter alone goes on with your numbers.") == 1
    assert "That follows from your masked scores: this step is right." in told
    assert "That follows from your weights: this step is right." in told
    assert "Done: 2 of 4" not in told
    assert log(kept)[0] == ("third-of-four", 1, "masked", "mask-of-zero")
    assert log(kept)[-1] == ("third-of-four", 3, "output", "mask-of-zero")


def test_a_stage_is_shown_when_asked(command: Command) -> None:
    told = words(command("hand", "scaled", stdin="1 3 2\n?\nq\n").out)
    assert ".707 2.121 1.414" in told
    assert "3 masked scores" in told


def test_what_is_no_answer_is_asked_again(command: Command, kept: Path) -> None:
    ended = command("hand", "scaled", stdin="\n1 2\nx y z\nq\n")
    told = words(ended.out)
    assert ended.code == 0
    assert "3 numbers, split by spaces; ? shows, q quits" in told
    assert "Got 2 numbers; expected 3; split them by spaces." in told
    assert "Got “x”; expected a number; write it like .33, 1/3" in told
    assert log(kept) == []


def test_what_follows_a_worked_exercise_comes_next(command: Command) -> None:
    told = words(command("hand", "third-of-four", stdin=RIGHT + "\nq\n").out)
    assert "Before, the three visible scores tied" in told


def test_what_was_only_shown_is_not_asked_twice_in_a_row(command: Command) -> None:
    told = command("hand", stdin=("?\n" * 4) + "\n" + ("?\n" * 5) + "\nq\n").out
    titles = ("Token 3 of 4\n", "Token 3 of 4, no tie\n", "Token 2 of 3\n")
    assert [told.count(title) for title in titles] == [1, 1, 1]


def test_the_command_that_shows_every_number_works(command: Command) -> None:
    for name, answers in (
        ("third-of-four", RIGHT),
        ("third-of-four-then", "?\n" * 5),
        ("scaled", "?\n" * 6),
    ):
        told = command("hand", name, "--count", "1", stdin=answers).out
        line = next(one for one in told.splitlines() if "Every number of it: " in one)
        shown = command(*shlex.split(line.split("qkv ", 1)[1]))
        assert shown.code == 0
        assert "takes in" in shown.out


def test_fresh_ones_by_seed(command: Command) -> None:
    told = command("hand", "--seed", "7", "--count", "2", stdin="?\n" * 12).out
    assert "Token 3 of 5   --seed 7" in told
    assert "--seed 8" in told
    assert told.count("Done: 0 of") == 2


def test_a_narrow_terminal(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from qkv.cli import hand

    monkeypatch.setattr(hand, "out", _narrow)
    told = command("hand", "--seed", "7", stdin="q\n").out
    assert "k token 1: (−1, 0)" in told
    assert max(map(len, told.splitlines()[:14])) <= 40


def _narrow() -> Any:
    from rich.console import Console

    return Console(width=40, highlight=False, emoji=False)


def test_it_goes_without_a_log(command: Command, kept: Path) -> None:
    kept.mkdir()
    ended = command("hand", "--count", "1", stdin=RIGHT)
    assert ended.code == 0
    assert "Your answers are not kept" in words(ended.err)
    assert "Done: 4 of 4" in words(ended.out)


def test_a_list_and_a_sheet(command: Command, tmp_path: Path) -> None:
    assert "third-of-four " in command("hand", "--list").out
    file = tmp_path / "by-hand.pdf"
    told = command("hand", "--sheet", file, "--seed", "7", "--count", "3").out
    assert words(told).endswith("; --seed 7 draws the same again")
    assert file.read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("third",), "got an exercise 'third'; expected third-of-four,"),
        (("--sheet", "one.doc", "--seed", "1"), "got a sheet one.doc; expected a .pdf or a .txt"),
        (("--seed", "-1"), "'--seed': Input should be greater than or equal to 0"),
        (("--seed", "one"), "'--seed': Input should be a valid integer"),
    ],
)
def test_bad_input_is_one_line(command: Command, arguments: tuple[str, ...], says: str) -> None:
    ended = command("hand", *arguments)
    assert ended.code == 2
    assert says in words(ended.err)
    assert ended.err.count("\n") == 1
