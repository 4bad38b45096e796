"""The examiner names the mistakes of people who were written apart from its catalogue."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from qkv.errors import ConfigError
from qkv.learn.answers import AnswerError
from qkv.learn.exercises import Exercise, solve, stages, worked_exercises
from qkv.learn.generation import draw_exercise
from qkv.learn.hand import Verdict, check

Sheets = Callable[[Exercise], dict[str, dict[str, list[float]]]]


@pytest.fixture(scope="module")
def drawn(full: bool) -> list[Exercise]:
    return [draw_exercise(seed) for seed in range(500 if full else 50)]


def worked(id: str) -> Exercise:
    (found,) = (exercise for exercise in worked_exercises() if exercise.id == id)
    return found


def examine(exercise: Exercise, sheet: dict[str, list[float]]) -> tuple[str | None, list[Verdict]]:
    """The mistake that was named last, and all verdicts, of numbers rounded to two decimals."""
    written: dict[str, list[float]] = {}
    named, verdicts = None, []
    for stage in stages(exercise):
        answers = [round(number, 2) for number in sheet[stage]]
        verdict = check(exercise, stage, answers, written)
        written[stage] = answers
        verdicts.append(verdict)
        if verdict.mistake:
            named = verdict.mistake.id
    return named, verdicts


@pytest.mark.slow
def test_wrong_methods_are_named(drawn: list[Exercise], wrong_sheets: Sheets) -> None:
    asked, missed = 0, []
    for exercise in drawn:
        for name, sheet in wrong_sheets(exercise).items():
            asked += 1
            named, verdicts = examine(exercise, sheet)
            assert not all(verdict.right for verdict in verdicts), (exercise.id, name)
            if named != name:
                missed.append((name, named, exercise.id))
    assert asked > 20 * len(drawn)
    assert len(missed) <= 0.05 * asked, missed[:20]


def test_who_strayed_once_is_not_wrong_ever_after(
    drawn: list[Exercise], wrong_sheets: Sheets
) -> None:
    """Steps after the mistaken one are accepted as what follows from the person's own numbers."""
    late = 0
    for exercise in drawn[:40]:
        for name in ("first-channel", "scale-forgotten", "mask-of-zero", "base-two"):
            sheet = wrong_sheets(exercise).get(name)
            if sheet is None:
                continue
            _, verdicts = examine(exercise, sheet)
            wrong = [verdict for verdict in verdicts if not verdict.done]
            assert len(wrong) == 1, (exercise.id, name, [v.says for v in verdicts])
            late += sum(verdict.follows for verdict in verdicts)
    assert late > 50


PAIRS = [
    ("scale-forgotten", "mask-of-zero"), ("scale-twice", "no-mask"), ("mask-too-late", "base-two"),
    ("mask-of-zero", "averaged"), ("scale-forgotten", "mask-after-softmax"),
    ("base-two", "values-summed"), ("scale-of-tokens", "output-averaged"),
]  # fmt: skip


def test_who_strays_twice_is_told_both(
    drawn: list[Exercise],
    twice_wrong: Callable[[Exercise, str, str], dict[str, list[float]] | None],
) -> None:
    asked = missed = 0
    for exercise in drawn[:30]:
        for pair in PAIRS:
            sheet = twice_wrong(exercise, *pair)
            if sheet is not None:
                _, verdicts = examine(exercise, sheet)
                named = {verdict.mistake.id for verdict in verdicts if verdict.mistake}
                asked += 1
                missed += not named.issuperset(pair)
    assert asked > 100
    assert missed <= 0.05 * asked


def test_an_answer_alone_fits_its_mistake(drawn: list[Exercise], wrong_sheets: Sheets) -> None:
    asked = alone = 0
    for exercise in drawn[:40]:
        for name, sheet in wrong_sheets(exercise).items():
            verdict = check(exercise, "output", [round(number, 2) for number in sheet["output"]])
            assert not verdict.right, (exercise.id, name)
            found = [mistake.id for mistake in verdict.mistakes]
            assert name in found, (exercise.id, name, found)
            asked += 1
            alone += len(found) == 1
    assert alone > 0.5 * asked


def test_right_answers_are_accepted(
    drawn: list[Exercise], right_sheet: Callable[[Exercise], dict[str, list[float]]]
) -> None:
    for exercise in [*drawn, *worked_exercises()]:
        sheet = right_sheet(exercise)
        _, verdicts = examine(exercise, sheet)
        assert all(verdict.right and not verdict.mistakes for verdict in verdicts), exercise.id
        for places in (3, 6):
            for stage in stages(exercise):
                assert check(exercise, stage, [round(x, places) for x in sheet[stage]]).right


def test_numbers_rounded_on_the_way_are_accepted(drawn: list[Exercise]) -> None:
    """Each step from the two decimals of the one before, as on paper."""
    accepted = asked = 0
    for exercise in drawn[:100]:
        own = {"scaled": np.asarray(solve(exercise).get("scaled", exercise.affinities)).round(2)}
        own["exponentials"] = np.where(exercise.allowed, np.exp(own["scaled"]), 0).round(2)
        own["weights"] = (own["exponentials"] / own["exponentials"].sum()).round(2)
        own["output"] = (own["weights"] @ np.array(exercise.values)).round(2)
        own = {stage: own[stage] for stage in stages(exercise) if stage in own}
        for stage in ("exponentials", "weights", "output"):
            asked += 1
            accepted += check(exercise, stage, own[stage].tolist(), own).done
    assert accepted >= 0.97 * asked


WORKED = [
    ("third-of-four", "weights", [0.001, 0.001, 0.001, 0.997], ["no-mask"]),
    ("third-of-four", "masked", [1, 1, 1, 0], ["mask-of-zero"]),
    ("third-of-four", "weights", [0.297, 0.297, 0.297, 0.109], ["mask-of-zero"]),
    ("third-of-four", "output", [2.67], ["mask-of-zero"]),
    ("third-of-four", "weights", [0.0009, 0.0009, 0.0009, 0], ["mask-after-softmax"]),
    ("third-of-four", "output", [0.008], ["no-mask", "mask-after-softmax"]),
    ("third-of-four-then", "output", [3], ["averaged"]),
    ("third-of-four-then", "output", [0.96], ["scale-forgotten"]),
    ("second-of-three-then", "output", [3], ["averaged"]),
    ("second-of-three-then", "output", [3.91], ["scale-forgotten"]),
    ("scaled", "output", [0.335, 1.575], ["scale-forgotten"]),
    ("scaled", "output", [0.33, 1.58], ["scale-forgotten"]),
]


@pytest.mark.parametrize(("id", "stage", "answers", "named"), WORKED)
def test_wrong_answers_of_the_worked_steps(
    id: str, stage: str, answers: list[float], named: list[str]
) -> None:
    verdict = check(worked(id), stage, answers)
    assert not verdict.right
    assert [mistake.id for mistake in verdict.mistakes] == named


def test_worked_steps_accept_their_right_answers() -> None:
    third, second, scaled = map(worked, ("third-of-four", "second-of-three", "scaled"))
    minus = -math.inf
    for exercise, stage, answers in [
        (third, "masked", [1, 1, 1, minus]),
        (third, "exponentials", [2.718, 2.718, 2.718, 0]),
        (third, "weights", [1 / 3, 0.333, 0.33, 0]),
        (third, "output", [3]),
        (second, "scores", [1, 1, 5]),
        (second, "scaled", [0.707, 0.707, 3.536]),
        (second, "weights", [0.5, 0.5, 0]),
        (second, "output", [3]),
        (scaled, "scores", [1, 3, 2]),
        (scaled, "scaled", [0.707, 2.121, 1.414]),
        (scaled, "weights", [0.140, 0.576, 0.284]),
        (scaled, "output", [0.424, 1.436]),
        (scaled, "output", [0.42, 1.44]),
    ]:
        assert check(exercise, stage, answers).right


@pytest.mark.parametrize("id", ["third-of-four", "second-of-three"])
def test_what_follows_a_tie_tells_apart_who_passed_it(id: str, wrong_sheets: Sheets) -> None:
    first = worked(id)
    then = worked(first.then)
    for name in ("averaged", "scale-forgotten"):
        sheet = wrong_sheets(first).get(name)
        if sheet is not None:
            assert check(first, "output", sheet["output"]).right
        verdict = check(then, "output", wrong_sheets(then)[name]["output"])
        assert verdict.mistake is not None
        assert verdict.mistake.id == name


def test_two_mistakes_that_agree_are_both_named_and_a_later_stage_decides() -> None:
    third = worked("third-of-four")
    verdict = check(third, "masked", [1, 1, 1, 8])
    assert verdict.says == (
        "That fits two mistakes: either nothing is masked in this row or the mask is applied after "
        "the softmax. The weights will tell which."
    )
    assert verdict.wrong_places == (3,)
    own = {"masked": [1, 1, 1, 8], "exponentials": [2.72, 2.72, 2.72, 2981]}
    verdict = check(third, "exponentials", own["exponentials"], {"masked": own["masked"]})
    assert verdict.follows
    assert verdict.says == "That follows from your masked scores: this step is right."
    assert check(third, "weights", [0, 0, 0, 1], own).says == (
        "That follows from your exponentials: this step is right. And now it is clear that nothing "
        "is masked in this row."
    )
    late = check(third, "weights", [0.0009, 0.0009, 0.0009, 0], own)
    assert late.mistake is not None
    assert late.mistake.id == "mask-after-softmax"
    assert not late.done


def test_a_mistake_made_on_wrong_numbers_is_named_all_the_same() -> None:
    scaled = worked("scaled")
    verdict = check(scaled, "scaled", [1, 4, 2], {"scores": [1, 4, 2]})
    assert verdict.mistake is not None
    assert verdict.mistake.id == "scale-forgotten"
    assert verdict.says.startswith("From your scores: that is what comes out if the scale is")


def test_other_ways_to_be_right_are_right() -> None:
    third, scaled = worked("third-of-four"), worked("scaled")
    assert check(third, "masked", [1, 1, 1, -1e9]).right
    shifted = [0.24, 1, 0.49]  # as programs do, so that nothing overflows
    verdict = check(scaled, "exponentials", shifted)
    assert verdict.right
    assert "the maximum taken off" in verdict.says
    assert check(scaled, "weights", [0.14, 0.58, 0.28], {"exponentials": shifted}).right
    average = check(scaled, "weights", [1 / 3] * 3, {"exponentials": shifted})
    assert average.says.startswith("That is what comes out if the visible tokens are averaged.")


def test_where_some_follow_the_others_are_pointed_at() -> None:
    own = {"scores": [1, 4, 2]}
    verdict = check(worked("scaled"), "scaled", [0.71, 2.83, 5], own)
    assert verdict.wrong_places == (2,)
    assert verdict.says == "Not yet: look at token 3 again. The rest follows from your scores."


def test_what_no_mistake_explains_is_said_so() -> None:
    scaled = worked("scaled")
    assert check(scaled, "scores", [1, 3, 7]).says == (
        "Not yet: look at token 3 again. The rest is right."
    )
    assert check(scaled, "weights", [0.5, 0.5, 0.5]).says == (
        "Not yet. The weights of a row sum to 1; yours sum to 1.5."
    )
    assert "never negative" in check(scaled, "exponentials", [-1, 2, 3]).says
    assert "no mistake that I know" in check(scaled, "output", [70, 80]).says
    assert check(scaled, "output", [math.inf, -math.inf]).mistakes == ()


def test_bad_answers_are_said_to_be() -> None:
    scaled = worked("scaled")
    with pytest.raises(AnswerError, match=r"got 2 numbers; expected 3; one for each token"):
        check(scaled, "scores", [1, 2])
    with pytest.raises(ConfigError, match="a stage 'roots'"):
        check(scaled, "roots", [1, 2])


def test_the_same_numbers_worked_otherwise_are_no_other_mistake() -> None:
    verdict = check(worked("scaled"), "scaled", [0.71, 2.13, 1.41])
    assert verdict.right
    assert verdict.says == "Right, but for rounding: .707, 2.121, 1.414."
