"""People who work exercises by hand in a wrong way, written apart from the catalogue of mistakes.

Each is a function of plain numbers to what it writes at every stage, in plain Python, and in
another formulation than `qkv.learn.mistakes` where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

NEVER = -math.inf
Sheet = dict[str, list[float]]


def _dot(left: Any, right: Any) -> float:
    return math.fsum(a * b for a, b in zip(left, right, strict=True))


def _power(base: float, number: float) -> float:
    return 0.0 if number == NEVER else base**number


def _known(value: Any) -> list[float]:
    return [0.0 if math.isnan(x) else x for x in value]


def _mix(shares: list[float], rows: Any) -> list[float]:
    taken = [0.0] * len(rows[0])
    for share, row in zip(shares, rows, strict=True):
        for channel, number in enumerate(_known(row)):
            taken[channel] += share * number
    return taken


class Paper:
    """What a person has before them, and what they do when nothing goes wrong."""

    def __init__(self, exercise: Any) -> None:
        self.e = exercise
        self.T, self.me = len(exercise.values), exercise.place

    def scores(self) -> list[float]:
        if self.e.affinities is not None:
            return list(self.e.affinities)
        return [_dot(self.e.q, key) for key in self.e.keys]

    def scaled(self, scores: list[float]) -> list[float]:
        return [s / math.sqrt(self.e.width) for s in scores] if self.e.scale else scores

    def masked(self, scaled: list[float]) -> list[float]:
        return [*scaled[: self.me + 1], *[NEVER] * (self.T - 1 - self.me)]

    def exponentials(self, masked: list[float]) -> list[float]:
        return [_power(math.e, x) for x in masked]

    def weights(self, exponentials: list[float]) -> list[float]:
        total = math.fsum(exponentials)
        return [x / total for x in exponentials]

    def output(self, weights: list[float]) -> list[float]:
        return _mix(weights, self.e.values)

    def write(self) -> Sheet:
        sheet: Sheet = {}
        sheet["scores"] = self.scores()
        sheet["scaled"] = self.scaled(sheet["scores"])
        sheet["masked"] = self.masked(sheet["scaled"])
        sheet["exponentials"] = self.exponentials(sheet["masked"])
        sheet["weights"] = self.weights(sheet["exponentials"])
        sheet["output"] = self.output(sheet["weights"])
        return sheet


class FirstChannel(Paper):
    def scores(self) -> list[float]:
        return [self.e.q[0] * key[0] for key in self.e.keys]


class AddsChannels(Paper):
    def scores(self) -> list[float]:
        return [sum(self.e.q) + sum(key) for key in self.e.keys]


class NoTranspose(Paper):
    def scores(self) -> list[float]:
        found = [0.0] * len(self.e.q)
        for number, key in zip(self.e.q, self.e.keys, strict=True):
            found = [old + number * x for old, x in zip(found, key, strict=True)]
        return found


class Swapper(Paper):
    def scores(self) -> list[float]:
        return [_dot(_known(value), self.e.q) for value in self.e.values]

    def output(self, weights: list[float]) -> list[float]:
        return _mix(weights, self.e.keys)


class ForgetsScale(Paper):
    def scaled(self, scores: list[float]) -> list[float]:
        return scores


class ScalesTwice(Paper):
    def scaled(self, scores: list[float]) -> list[float]:
        return super().scaled(super().scaled(scores))


class Multiplies(Paper):
    def scaled(self, scores: list[float]) -> list[float]:
        return [s * self.e.width**0.5 for s in scores]


class WholeModel(Paper):
    def scaled(self, scores: list[float]) -> list[float]:
        return [s * self.e.model_width**-0.5 for s in scores]


class CountsTokens(Paper):
    def scaled(self, scores: list[float]) -> list[float]:
        return [s / len(scores) ** 0.5 for s in scores]


class NoMask(Paper):
    def masked(self, scaled: list[float]) -> list[float]:
        return scaled


class WritesZero(Paper):
    def masked(self, scaled: list[float]) -> list[float]:
        return [s * (at <= self.me) for at, s in enumerate(scaled)]


class WritesMinusOne(Paper):
    def masked(self, scaled: list[float]) -> list[float]:
        return [s if at <= self.me else -1.0 for at, s in enumerate(scaled)]


class MasksLate(NoMask):
    def weights(self, exponentials: list[float]) -> list[float]:
        everything = sum(exponentials)
        seen = exponentials[: self.me + 1]
        return [x / everything for x in seen] + [0.0] * (self.T - len(seen))


class OneTooMany(Paper):
    def masked(self, scaled: list[float]) -> list[float]:
        return [NEVER if at > self.me + 1 else s for at, s in enumerate(scaled)]


class OneTooFew(Paper):
    def masked(self, scaled: list[float]) -> list[float]:
        return [NEVER if at >= self.me else s for at, s in enumerate(scaled)]


class Inverted(Paper):
    def masked(self, scaled: list[float]) -> list[float]:
        right = super().masked(scaled)
        return [s if found == NEVER else NEVER for s, found in zip(scaled, right, strict=True)]


class WrongTriangle(Paper):
    def masked(self, scaled: list[float]) -> list[float]:
        return [NEVER] * self.me + scaled[self.me :]


class BaseTwo(Paper):
    def exponentials(self, masked: list[float]) -> list[float]:
        return [_power(2.0, x) for x in masked]


class NoPowers(Paper):
    def exponentials(self, masked: list[float]) -> list[float]:
        return [max(x, -1e9) if x > -1e9 else 0.0 for x in masked]


class TimesE(NoPowers):
    def exponentials(self, masked: list[float]) -> list[float]:
        return [math.exp(1) * x for x in super().exponentials(masked)]


class Averages(Paper):
    def weights(self, exponentials: list[float]) -> list[float]:
        return [1 / (self.me + 1) if at <= self.me else 0.0 for at in range(self.T)]


class NeverDivides(Paper):
    def weights(self, exponentials: list[float]) -> list[float]:
        return list(exponentials)


class DividesByCount(Paper):
    def weights(self, exponentials: list[float]) -> list[float]:
        return [x / sum(1 for y in exponentials if y > 0) for x in exponentials]


class TakesTheBest(Paper):
    def weights(self, exponentials: list[float]) -> list[float]:
        return [float(x == max(exponentials)) for x in exponentials]


class DownTheColumn(Paper):
    def weights(self, exponentials: list[float]) -> list[float]:
        return [x / x if x else 0.0 for x in exponentials]


class SumsValues(Paper):
    def output(self, weights: list[float]) -> list[float]:
        return [sum(column) for column in zip(*self.e.values[: self.me + 1], strict=True)]


class MixesKeys(Paper):
    def output(self, weights: list[float]) -> list[float]:
        return _mix(weights, self.e.keys)


class MeansProducts(Paper):
    def output(self, weights: list[float]) -> list[float]:
        return [x / (self.me + 1) for x in super().output(weights)]


def _with_scale(e: Any) -> bool:
    return bool(e.scale and e.width > 1)


def _with_query(e: Any) -> bool:
    return e.q is not None


def _like_values(e: Any) -> bool:
    return e.q is not None and len(e.q) == len(e.values[0])


def _later(count: int) -> Callable[[Any], bool]:
    return lambda e: len(e.values) - 1 - e.place >= count


def _always(e: Any) -> bool:
    return True


PEOPLE: dict[str, tuple[type[Paper], Callable[[Any], bool]]] = {
    "first-channel": (FirstChannel, _with_query),
    "added-channels": (AddsChannels, _with_query),
    "keys-not-transposed": (NoTranspose, lambda e: e.q is not None and len(e.q) == len(e.keys)),
    "keys-for-values": (Swapper, _like_values),
    "scale-forgotten": (ForgetsScale, _with_scale),
    "scale-twice": (ScalesTwice, _with_scale),
    "scale-multiplied": (Multiplies, _with_scale),
    "scale-of-model": (WholeModel, lambda e: e.model_width is not None),
    "scale-of-tokens": (CountsTokens, lambda e: _with_scale(e) and e.width != len(e.values)),
    "no-mask": (NoMask, _later(1)),
    "mask-of-zero": (WritesZero, _later(1)),
    "mask-of-minus-one": (WritesMinusOne, _later(1)),
    "mask-after-softmax": (MasksLate, _later(1)),
    "mask-too-late": (OneTooMany, _later(2)),
    "mask-too-early": (OneTooFew, _always),
    "mask-inverted": (Inverted, _later(1)),
    "mask-of-past": (WrongTriangle, _always),
    "base-two": (BaseTwo, _always),
    "no-exponential": (NoPowers, _always),
    "e-times": (TimesE, _always),
    "averaged": (Averages, _always),
    "not-normalised": (NeverDivides, _always),
    "divided-by-count": (DividesByCount, _always),
    "hard-maximum": (TakesTheBest, _always),
    "softmax-over-queries": (DownTheColumn, _always),
    "values-summed": (SumsValues, _always),
    "keys-mixed": (MixesKeys, _like_values),
    "output-averaged": (MeansProducts, _always),
}


@pytest.fixture(scope="session")
def right_sheet() -> Callable[[Any], Sheet]:
    """What a person writes who makes no mistake."""
    return lambda exercise: Paper(exercise).write()


@pytest.fixture(scope="session")
def wrong_sheets() -> Callable[[Any], dict[str, Sheet]]:
    """What people write whose mistake an exercise has room for, by the mistake's id."""

    def write(exercise: Any) -> dict[str, Sheet]:
        return {
            name: person(exercise).write()
            for name, (person, can) in PEOPLE.items()
            if can(exercise)
        }

    return write


@pytest.fixture(scope="session")
def twice_wrong() -> Callable[[Any, str, str], Sheet | None]:
    """What somebody writes who makes two mistakes; nothing where there is no room for both."""

    def write(exercise: Any, first: str, second: str) -> Sheet | None:
        people = [PEOPLE[first], PEOPLE[second]]
        if not all(can(exercise) for _, can in people):
            return None
        person: Any = type("Twice", tuple(person for person, _ in people), {})
        return dict(person(exercise).write())

    return write
