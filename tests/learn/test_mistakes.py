"""The catalogue: each mistake does what it says, and fresh exercises tell all of them apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qkv.learn.exercises import Exercise, stages, worked_exercises
from qkv.learn.generation import draw_exercise
from qkv.learn.mistakes import MISTAKES, Mistake, shown_mistakes

Sheets = Callable[[Exercise], dict[str, dict[str, list[float]]]]


def test_every_mistake_has_its_own_words() -> None:
    for words in ("id", "name", "deed"):
        assert len({getattr(mistake, words) for mistake in MISTAKES}) == len(MISTAKES) >= 24
    for mistake in MISTAKES:
        assert mistake.says == f"That is what comes out if {mistake.deed}. {mistake.why}"
        assert mistake.why.endswith(".")


def test_all_are_met_in_fresh_exercises() -> None:
    met: set[str] = set()
    for seed in range(60):
        met |= {mistake.id for mistake in shown_mistakes(draw_exercise(seed))}
    assert met == {mistake.id for mistake in MISTAKES}


def test_the_catalogue_agrees_with_people_written_apart(wrong_sheets: Sheets) -> None:
    for seed in range(40):
        exercise = draw_exercise(seed)
        sheets = wrong_sheets(exercise)
        shown = {mistake.id: found for mistake, found in shown_mistakes(exercise).items()}
        assert sheets.keys() == shown.keys()
        for name, sheet in sheets.items():
            for stage in stages(exercise):
                assert shown[name][stage] == pytest.approx(sheet[stage]), (seed, name, stage)


def of(name: str) -> Mistake:
    (found,) = (mistake for mistake in MISTAKES if mistake.id == name)
    return found


@pytest.mark.parametrize(
    ("id", "name", "stage", "numbers"),
    [
        ("third-of-four", "no-mask", "weights", [0.001, 0.001, 0.001, 0.997]),
        ("third-of-four", "mask-of-zero", "weights", [0.297, 0.297, 0.297, 0.109]),
        ("third-of-four", "mask-of-zero", "output", [2.672]),
        ("third-of-four", "mask-after-softmax", "output", [0.008]),
        ("scaled", "scale-forgotten", "output", [0.335, 1.575]),
    ],
)
def test_the_wrong_answers_that_are_known(
    id: str, name: str, stage: str, numbers: list[float]
) -> None:
    (exercise,) = (one for one in worked_exercises() if one.id == id)
    assert of(name).run(exercise)[stage].round(3).tolist() == numbers


def test_masked_after_the_softmax_a_row_sums_to_0027() -> None:
    row = of("mask-after-softmax").run(worked_exercises()[0])["weights"]
    assert round(float(row.sum()), 4) == 0.0027
