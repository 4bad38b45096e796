"""The examiner of exercises by hand: what is right, what follows, and which mistake was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

from qkv.errors import ConfigError
from qkv.learn.answers import AnswerError, write_number
from qkv.learn.exercises import STAGES, Array, Exercise, count_answers, solve, stages
from qkv.learn.hand_words import STAGE_NAMES, name_places
from qkv.learn.mistakes import LEAST_DIFFERENCE, MISTAKES, Mistake, shown_mistakes
from qkv.learn.rows import Found, difference, work

__all__ = ["Verdict", "check"]

# Half of the second decimal, and a hair for what it's counted in.
ROUNDING = 0.00501
# Where an exponential is large, three figures do.
THREE_FIGURES = 0.003
# Numbers rounded on the way may be this far off, by the size of the row's largest.
CARRIED = 0.015
# To be taken for right in spite of that, every mistake must be so many times farther away.
CLEARLY = 2.5
# Programs write such a number for −∞; so may a person.
AS_GOOD_AS_ENDLESS = -1e4


@dataclass(frozen=True)
class Verdict:
    """What the examiner says of the answers to one stage.

    Args:
        right: whether they are right.
        wrong_places: which of them are not, or don't follow where others do; counted from 0.
        mistakes: those that give these numbers; several where the numbers don't decide.
        says: it in words.
        follows: whether they follow from the person's own earlier numbers, some of which are wrong.
    """

    right: bool
    wrong_places: tuple[int, ...]
    mistakes: tuple[Mistake, ...]
    says: str
    follows: bool = False

    @property
    def mistake(self) -> Mistake | None:
        """The mistake, where it is certain which."""
        return self.mistakes[0] if len(self.mistakes) == 1 else None

    @property
    def done(self) -> bool:
        """Whether this step was done as it should be, even if from wrong numbers."""
        return self.right or self.follows


def check(
    exercise: Exercise,
    stage: str,
    answers: Sequence[float],
    earlier: Mapping[str, Sequence[float]] | None = None,
) -> Verdict:
    """Return the verdict on the answers to a stage.

    Args:
        answers: one for each token, or for each channel of the output.
        earlier: what the person has written at stages before it.

    Raises:
        AnswerError: not as many numbers as are asked for.
        ConfigError: a stage that the exercise doesn't ask.

    >>> from qkv.learn.exercises import worked_exercises
    >>> print(check(worked_exercises()[0], "output", [2.67]).says)
    That is what comes out if the mask writes 0 in place of −∞. e⁰ is 1, so later tokens keep a \
weight; only −∞ has the exponential 0.
    """
    right, shown = solve(exercise), shown_mistakes(exercise)
    before = STAGES[: STAGES.index(stage)] if stage in STAGES else ()
    own = {
        name: _without_shift(name, _read(exercise, name, numbers), right)
        for name, numbers in (earlier or {}).items()
        if name in before
    }
    sheet = _Sheet(exercise, stage, _read(exercise, stage, answers), own, right, shown)
    return _accept(sheet) or _follow(sheet) or _name(sheet) or _point(sheet)


@dataclass(frozen=True)
class _Sheet:
    """What a person wrote, beside what is right and what mistakes give."""

    exercise: Exercise
    stage: str
    given: Array
    own: Mapping[str, Array]
    right: Mapping[str, Array]
    shown: Mapping[Mistake, Found]

    @cached_property
    def carried(self) -> Array:
        """What follows from the person's earlier numbers."""
        return work(self.exercise, self.own)[self.stage]

    @cached_property
    def strayed(self) -> bool:
        """Whether some of the earlier numbers are wrong."""
        return any(not _fits(name, self.own[name], self.right[name]).all() for name in self.own)

    @cached_property
    def whole(self) -> list[Mistake]:
        """The mistakes that give all that was written so far."""
        written = {self.stage: self.given, **self.own}
        return [mistake for mistake, found in self.shown.items() if _agrees(found, written)]

    @cached_property
    def later(self) -> list[Mistake]:
        """The mistakes that, begun at wrong numbers of the person's own, give what came after."""
        return self._begun(STAGES.index(self.stage) + 1)

    @cached_property
    def later_before(self) -> list[Mistake]:
        """The same, before this stage was written."""
        return self._begun(STAGES.index(self.stage))

    def _begun(self, end: int) -> list[Mistake]:
        written = {**self.own, self.stage: self.given}
        asked = [stage for stage in STAGES[:end] if stage in written]
        return [
            mistake
            for mistake in MISTAKES
            if mistake.needs(self.exercise) and _is_begun(self.exercise, mistake, written, asked)
        ]

    @property
    def wrong(self) -> tuple[int, ...]:
        fits = _fits(self.stage, self.given, self.right[self.stage])
        return tuple(map(int, np.flatnonzero(~fits)))

    @property
    def source(self) -> str:
        """What the person's numbers of the last stage before are called."""
        return STAGE_NAMES[max(self.own, key=STAGES.index)]


def _accept(sheet: _Sheet) -> Verdict | None:
    """Right, or right but for numbers that were rounded on the way."""
    stage, given, right = sheet.stage, sheet.given, sheet.right[sheet.stage]
    if not sheet.wrong:
        return Verdict(True, (), (), "Right.")
    hidden = np.isneginf(sheet.right["masked"])
    if stage == "exponentials" and _fits(stage, given, _shifted(sheet.right)).all():
        said = "Right, with the maximum taken off first: the shares are equal."
        if _fits("masked", given[~hidden], sheet.right["masked"][~hidden]).all():
            said = (
                "Right if the maximum was taken off first: e⁰ is 1. If the scores were copied, "
                "e to each of them is still to be taken."
            )
        return Verdict(True, (), (), said)
    follows = sheet.own and not sheet.strayed and _fits(stage, given, sheet.carried).all()
    wrong_rows = [found[stage] for found in sheet.shown.values()]
    if follows or _is_clearly(stage, given, right, wrong_rows):
        return Verdict(True, (), (), f"Right, but for rounding: {_written(right)}.")
    return None


def _follow(sheet: _Sheet) -> Verdict | None:
    """The right step, from numbers that are wrong."""
    # A mistake that was made before goes on without being made again.
    goes_on = any(sheet.stage not in mistake.steps for mistake in sheet.whole)
    if not sheet.strayed or not (goes_on or _near(sheet.stage, sheet.given, sheet.carried).all()):
        return None
    says = f"That follows from your {sheet.source}: this step is right."
    still = sheet.whole or sheet.later
    before = [m for m, found in sheet.shown.items() if _agrees(found, sheet.own)]
    if len(still) == 1 and len(before or sheet.later_before) > 1:
        says += f" And now it is clear that {still[0].deed}."
    return Verdict(False, sheet.wrong, tuple(still), says, follows=True)


def _name(sheet: _Sheet) -> Verdict | None:
    """The mistakes that give these numbers: from the start, or from the person's own."""
    stage, given, shown = sheet.stage, sheet.given, sheet.shown
    if sheet.strayed and not sheet.whole:
        here = [mistake for mistake in sheet.later if stage in mistake.steps]
        if here:
            said = _say_mistakes(sheet, here)
            says = f"From your {sheet.source}: {said[0].lower()}{said[1:]}"
            return Verdict(False, sheet.wrong, tuple(here), says)
    fitting = sheet.whole or [m for m, found in shown.items() if _agrees(found, {stage: given})]
    if not fitting:
        return None
    fitting = _as_precise(given, {mistake: shown[mistake][stage] for mistake in fitting})
    return Verdict(False, sheet.wrong, tuple(fitting), _say_mistakes(sheet, fitting))


def _point(sheet: _Sheet) -> Verdict:
    """What can be said where no known mistake gives these numbers."""
    stage, given, wrong = sheet.stage, sheet.given, sheet.wrong
    if sheet.strayed:
        astray = tuple(map(int, np.flatnonzero(~_near(stage, given, sheet.carried))))
        if len(astray) < len(given):
            places = name_places(stage, astray)
            says = f"Not yet: look at {places} again. The rest follows from your {sheet.source}."
            return Verdict(False, astray, (), says)
    if stage == "weights" and abs(given.sum() - 1) > 0.02:
        total = write_number(float(given.sum()))
        says = f"Not yet. The weights of a row sum to 1; yours sum to {total}."
    elif stage == "exponentials" and (given < 0).any():
        says = "Not yet. An exponential is never negative, and 0 only for −∞."
    elif len(wrong) < len(given):
        says = f"Not yet: look at {name_places(stage, wrong)} again. The rest is right."
    else:
        says = "Not yet, and no mistake that I know gives these numbers. Work it again."
    return Verdict(False, wrong, (), says)


def _read(exercise: Exercise, stage: str, answers: Sequence[float]) -> Array:
    if stage not in stages(exercise):
        raise ConfigError(f"a stage {stage!r}", ", ".join(stages(exercise)), "ask one of those")
    given = np.asarray(answers, dtype=float)
    count = count_answers(exercise, stage)
    if given.shape != (count,):
        raise AnswerError(f"{given.size} numbers", f"{count}", f"one for each {_each(stage)}")
    return np.where(given <= AS_GOOD_AS_ENDLESS, -np.inf, given) if stage == "masked" else given


def _without_shift(stage: str, given: Array, right: Mapping[str, Array]) -> Array:
    """The exponentials themselves, for those with the maximum taken off first: shares are equal."""
    plain = stage != "exponentials" or _fits(stage, given, right[stage]).all()
    return given if plain or not _fits(stage, given, _shifted(right)).all() else right[stage]


def _shifted(right: Mapping[str, Array]) -> Array:
    return np.asarray(np.exp(right["masked"] - right["masked"].max()))


def _each(stage: str) -> str:
    return "channel of the value" if stage == "output" else "token"


def _fits(stage: str, given: Array, numbers: Array) -> Array:
    """Which answers say a number, for someone who rounds to two decimals."""
    room = np.full(len(numbers), ROUNDING)
    if stage == "exponentials":
        room = np.maximum(room, THREE_FIGURES * np.abs(numbers))
    with np.errstate(invalid="ignore"):
        return np.asarray((given == numbers) | (np.abs(given - numbers) <= room))


def _carried(stage: str, numbers: Array) -> Array:
    """How far off numbers may be that come of rounded ones."""
    size = np.where(np.isfinite(numbers), np.abs(numbers), 0.0)
    if stage in ("weights", "output"):  # sums of all
        size = np.full(len(size), size.max())
    return ROUNDING + (0.0 if stage == "scores" else CARRIED) * size


def _near(stage: str, given: Array, numbers: Array) -> Array:
    """Which answers are what comes of a person's own numbers, which were rounded themselves."""
    with np.errstate(invalid="ignore"):
        off = np.abs(given - numbers)
        return np.asarray((given == numbers) | (off <= _carried(stage, numbers)))


def _is_clearly(stage: str, given: Array, meant: Array, others: Sequence[Array]) -> bool:
    """Whether answers are near to a row, and much farther from all that differ from it."""
    off = difference(given, meant)
    return bool(_near(stage, given, meant).all()) and all(
        difference(given, row) > CLEARLY * off
        for row in others
        if difference(row, meant) >= LEAST_DIFFERENCE  # the same numbers, worked otherwise, aren't
    )


def _is_begun(
    exercise: Exercise, mistake: Mistake, written: Mapping[str, Array], asked: Sequence[str]
) -> bool:
    """Whether all that was written from a mistake's first step on comes of it, step by step."""
    first = min(map(STAGES.index, mistake.steps))
    met = False
    for stage in asked:
        if STAGES.index(stage) < first:
            continue
        own = {name: written[name] for name in asked[: asked.index(stage)]}
        row = work(exercise, own, mistake.steps)[stage]
        right = work(exercise, own)[stage]
        if stage not in mistake.steps or difference(row, right) < LEAST_DIFFERENCE:
            if not _near(stage, written[stage], row).all():
                return False
        elif not _is_clearly(stage, written[stage], row, [right]):
            return False
        else:
            met = True
    return met


def _agrees(found: Found, given: Mapping[str, Array]) -> bool:
    """Whether a mistake gives all that a person wrote."""
    return all(_fits(stage, numbers, found[stage]).all() for stage, numbers in given.items())


def _as_precise(given: Array, rows: Mapping[Mistake, Array]) -> list[Mistake]:
    """Those that answers of three decimals or more fit to their last, where there are any."""
    decimals = next((n for n in (2, 3) if np.array_equal(given, given.round(n))), 4)
    room = 0.51 * 10.0**-decimals
    return [one for one, row in rows.items() if difference(given, row) <= room] or list(rows)


def _say_mistakes(sheet: _Sheet, fitting: list[Mistake]) -> str:
    if len(fitting) == 1:
        return fitting[0].says
    deeds = [mistake.deed for mistake in fitting]
    count = {2: "two", 3: "three", 4: "four"}.get(len(deeds), "several")
    told = f"That fits {count} mistakes: either {', '.join(deeds[:-1])} or {deeds[-1]}."
    if all(mistake in sheet.shown for mistake in fitting):
        told += _say_what_decides(sheet, [sheet.shown[mistake] for mistake in fitting])
    return told


def _say_what_decides(sheet: _Sheet, rows: list[Found]) -> str:
    """Which other stage tells mistakes apart, later ones first."""
    asked = stages(sheet.exercise)
    at = asked.index(sheet.stage)
    for name in (*asked[at + 1 :], *reversed(asked[:at])):
        if all(not _fits(name, a[name], b[name]).all() for a, b in combinations(rows, 2)):
            return f" The {STAGE_NAMES[name]} will tell which."
    return ""


def _written(numbers: Array) -> str:
    return ", ".join(write_number(float(number)) for number in numbers)
