"""Exercises are solved as `qkv.attention` does, and fresh ones have room for no ambiguity."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qkv.errors import QkvError
from qkv.learn.exercises import (
    Exercise,
    count_answers,
    read_exercise,
    solve,
    stages,
    worked_exercises,
)
from qkv.learn.generation import draw_exercise
from qkv.learn.sheets import LessonError, read_sheet

MINUS = -math.inf
HEADER = 'kind = "exercise"\nid = "one"\ntitle = "One"\n'


def test_the_worked_steps_have_their_numbers() -> None:
    by_id = {exercise.id: exercise for exercise in worked_exercises()}
    third = solve(by_id["third-of-four"])
    assert third["masked"].tolist() == [1, 1, 1, MINUS]
    assert third["exponentials"].round(3).tolist() == [2.718, 2.718, 2.718, 0]
    assert float(third["exponentials"].sum().round(3)) == 8.155
    assert third["output"] == pytest.approx([3])
    second = solve(by_id["second-of-three"])
    assert second["scores"].tolist() == [1, 1, 5]
    assert second["weights"] == pytest.approx([0.5, 0.5, 0])
    assert second["output"] == pytest.approx([3])
    scaled = solve(by_id["scaled"])
    assert scaled["scaled"].round(3).tolist() == [0.707, 2.121, 1.414]
    assert scaled["weights"].round(3).tolist() == [0.140, 0.576, 0.284]
    assert scaled["output"].round(3).tolist() == [0.424, 1.436]


def test_each_worked_step_that_ties_is_followed() -> None:
    by_id = {exercise.id: exercise for exercise in worked_exercises()}
    for name in ("third-of-four", "second-of-three"):
        assert by_id[by_id[name].then].values[-1] == (9,)


def test_right_numbers_agree_with_paper(right_sheet: Callable[[Exercise], Any]) -> None:
    for exercise in [*worked_exercises(), *map(draw_exercise, range(30))]:
        sheet = right_sheet(exercise)
        for stage, numbers in solve(exercise).items():
            assert numbers == pytest.approx(sheet[stage], rel=1e-12)
            assert len(numbers) == count_answers(exercise, stage)


def test_stages_are_those_that_there_are_and_are_asked() -> None:
    row = {"values": ((1.0,), (2.0,)), "place": 0}
    plain = Exercise("a", "A", affinities=(1.0, 2.0), **row)
    assert stages(plain) == ("masked", "exponentials", "weights", "output")
    wide = Exercise("a", "A", affinities=(1.0, 2.0), scale=True, width=4, **row)
    assert stages(wide)[0] == "scaled"
    asked = Exercise("a", "A", q=(1.0,), keys=((1.0,), (2.0,)), asks=("output", "scores"), **row)
    assert stages(asked) == ("scores", "output")


def read(tmp_path: Path, fields: str) -> Exercise:
    path = tmp_path / "own.md"
    path.write_text(f"+++\n{HEADER}{fields}\n+++\nA story.\n", encoding="utf-8")
    (entry,) = read_sheet(path)
    return read_exercise(entry)


def test_a_teachers_exercise_is_read(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        'token = 2\nq = [1, 0]\nkeys = [[1, 2], [0, 1], [2, 2]]\nvalues = [[1, 0], [0, 1], "_"]\n'
        'scale = true\nmodel_width = 8\nasks = ["weights", "output"]\nthen = "two"',
    )
    assert (found.place, found.width, found.model_width, found.then) == (1, 2, 8, "two")
    assert stages(found) == ("weights", "output")
    assert np.isnan(found.values[2]).all()
    assert found.story == "A story."


AFFINITIES = "affinities = [1, 2]\nvalues = [3, 4]\n"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ("token = 1\nvalues = [1]", "scores from nowhere or twice"),
        (AFFINITIES, "no token"),
        (AFFINITIES + "token = 3", "token 3; expected 1 to 2; count tokens from 1"),
        (AFFINITIES + "token = true", "token = True; expected a int"),
        (AFFINITIES + "token = 1\nfoo = 1", "a field foo"),
        (AFFINITIES + "token = 1\nscale = true", "scale without a width"),
        (AFFINITIES + 'token = 1\nasks = ["roots"]', "a stage 'roots'"),
        ("affinities = [1, 2]\nvalues = [3]\ntoken = 1", "2 affinities, 1 values"),
        ('affinities = [1, 2]\nvalues = ["_", 4]\ntoken = 1', "no value for token 1"),
        ('affinities = ["a", 2]\nvalues = [3, 4]\ntoken = 1', "affinities with 'a'"),
        ("affinities = [1, 2]\nvalues = 3\ntoken = 1", "numbers in brackets"),
        ("affinities = [1, 2]\ntoken = 1", "no values"),
        ("affinities = [1, inf]\nvalues = [3, 4]\ntoken = 1", "a number inf"),
        ("affinities = [900, 1]\nvalues = [3, 4]\ntoken = 1", "beyond paper"),
        ("q = [1, 2]\nkeys = [[1], [2]]\nvalues = [3, 4]\ntoken = 1", "widths [1, 2]"),
        ("q = [1]\nkeys = [[1], [2]]\nvalues = [[3, 1], 4]\ntoken = 1", "values of widths [1, 2]"),
        ("q = [1]\nkeys = [[1], [2]]\nvalues = [3, 4]\ntoken = 1\nwidth = 2", "width 2, q of 1"),
        ("affinities = [1]\nvalues = [[]]\ntoken = 1", "numbers in brackets"),
    ],
)
def test_an_exercise_that_is_none_is_said_with_its_place(
    tmp_path: Path, fields: str, says: str
) -> None:
    with pytest.raises(LessonError) as caught:
        read(tmp_path, fields)
    assert says in str(caught.value)
    assert "own.md:1:" in str(caught.value)
    assert isinstance(caught.value, QkvError)
