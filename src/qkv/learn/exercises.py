"""Exercises by hand: one token's row of attention, small enough for paper, stage after stage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from qkv.attention import Causal, steps, steps_from_affinities
from qkv.errors import ConfigError, QkvError, ShapeError
from qkv.learn.sheets import Entry, read_sheet

__all__ = [
    "STAGES",
    "Exercise",
    "count_answers",
    "read_exercise",
    "solve",
    "stages",
    "worked_exercises",
]

Array: TypeAlias = "np.ndarray[Any, Any]"
Numbers: TypeAlias = tuple[float, ...]

STAGES = ("scores", "scaled", "masked", "exponentials", "weights", "output")
MOST_TOKENS, MOST_CHANNELS, LARGEST = 12, 16, 1e6
CONTENT = Path(__file__).parent / "content"
NUMBERS = ("q", "keys", "affinities", "values")
FIELDS = {*NUMBERS, "token", "scale", "width", "model_width", "asks", "title", "then", "section"}


@dataclass(frozen=True)
class Exercise:
    """One token asks; what does it take in?

    Args:
        id, title, story: what it is called, and the words before its numbers.
        place: which token asks, counted from 0.
        values: (T, Cv); NaN where a token's value isn't given.
        q, keys: (C,) and (T, C); or
        affinities: (T,), scores that are there already.
        scale: whether scores are divided by √C.
        width: C; that of q where there is one.
        model_width: D, where the story tells it.
        asks: the stages that are asked; all that there are unless given.
        then: the id of the exercise that follows.
        section: the id of the guide's section that it belongs to.
        seed: what it was drawn from.

    Raises:
        ShapeError: rows that don't fit each other.
        ConfigError: neither q and keys nor affinities, a token or a stage that is none, a scale
            without a width, an asking token that may look at one without a value.

    >>> row = Exercise("one", "One", values=((3.0,), (6.0,)), place=1, affinities=(1.0, 1.0))
    >>> stages(row), solve(row)["output"].tolist()
    (('masked', 'exponentials', 'weights', 'output'), [4.5])
    """

    id: str
    title: str
    values: tuple[Numbers, ...]
    place: int
    q: Numbers | None = None
    keys: tuple[Numbers, ...] | None = None
    affinities: Numbers | None = None
    scale: bool = False
    width: int | None = None
    model_width: int | None = None
    asks: tuple[str, ...] = ()
    then: str = ""
    story: str = ""
    section: str = ""
    seed: int | None = None

    def __post_init__(self) -> None:
        if (self.q is None) != (self.keys is None) or (self.q is None) == (self.affinities is None):
            raise ConfigError("scores from nowhere or twice", "q and keys, or affinities", "choose")
        rows = self.affinities if self.keys is None else self.keys
        assert rows is not None
        if len(self.values) != len(rows):
            given = "affinities" if self.keys is None else "keys"
            raise ShapeError(
                f"{len(rows)} {given}, {len(self.values)} values", "one for each token", "mend it"
            )
        if not 1 <= self.tokens <= MOST_TOKENS:
            raise ShapeError(f"{self.tokens} tokens", f"1 to {MOST_TOKENS}", "fewer do")
        if not 0 <= self.place < self.tokens:
            raise ConfigError(
                f"token {self.place + 1}", f"1 to {self.tokens}", "count tokens from 1"
            )
        self._check_widths()
        self._check_numbers()
        unknown = [stage for stage in self.asks if stage not in _there(self)]
        if unknown:
            raise ConfigError(f"a stage {unknown[0]!r}", ", ".join(_there(self)), "ask those")

    def _check_widths(self) -> None:
        vectors = [*(self.keys or ()), *([self.q] if self.q is not None else [])]
        for name, found in (("q and keys", vectors), ("values", self.values)):
            widths = {len(vector) for vector in found}
            if len(widths) > 1:
                raise ShapeError(f"{name} of widths {sorted(widths)}", "one width", "mend them")
            if found and not 1 <= widths.copy().pop() <= MOST_CHANNELS:
                raise ShapeError(f"{name} of width {widths.pop()}", f"1 to {MOST_CHANNELS}", "less")
        if self.q is not None and self.width is None:
            object.__setattr__(self, "width", len(self.q))
        if self.q is not None and self.width != len(self.q):
            raise ShapeError(f"width {self.width}, q of {len(self.q)}", "one width", "leave it out")
        if self.scale and self.width is None:
            raise ConfigError("scale without a width", "width = C", "add the head's width")
        for name, width in (("width", self.width), ("model_width", self.model_width)):
            if width is not None and not 1 <= width <= LARGEST:
                raise ConfigError(f"{name} {width}", "1 or more", "mend it")

    def _check_numbers(self) -> None:
        known = [*(self.q or ()), *(self.affinities or ()), *sum(self.keys or (), ())]
        for number in known:
            if not math.isfinite(number) or abs(number) > LARGEST:
                raise ConfigError(f"a number {number}", "one of at most 1,000,000", "mend it")
        for at, value in enumerate(self.values):
            if any(math.isinf(number) or abs(number) > LARGEST for number in value):
                raise ConfigError(f"values {value}", "numbers of at most 1,000,000", "mend them")
            if at <= self.place and any(map(math.isnan, value)):
                raise ConfigError(
                    f"no value for token {at + 1}, which token {self.place + 1} looks at",
                    "a value for every token that is seen", "give it",
                )  # fmt: skip

    @property
    def tokens(self) -> int:
        """T."""
        return len(self.values)

    @property
    def channels(self) -> int:
        """Cv, the width of the values."""
        return len(self.values[0])

    @property
    def allowed(self) -> Array:
        """What the asking token may look at, (T,) booleans."""
        return np.asarray(Causal().dense(self.tokens, self.tokens)[self.place])


def stages(exercise: Exercise) -> tuple[str, ...]:
    """Return the stages that an exercise asks, in their order."""
    there = _there(exercise)
    return tuple(stage for stage in there if stage in exercise.asks) if exercise.asks else there


def _there(exercise: Exercise) -> tuple[str, ...]:
    left = {"scores": exercise.q is None, "scaled": not exercise.scale}
    return tuple(stage for stage in STAGES if not left.get(stage, False))


def count_answers(exercise: Exercise, stage: str) -> int:
    """Return how many numbers a stage asks for: one for each token, or for each value's channel."""
    return exercise.channels if stage == "output" else exercise.tokens


@lru_cache(maxsize=256)
def solve(exercise: Exercise) -> Mapping[str, Array]:
    """Return the right numbers of every stage that there is, by `qkv.attention`.

    >>> [numbers.round(3).tolist() for numbers in solve(worked_exercises()[0]).values()][-2:]
    [[0.333, 0.333, 0.333, 0.0], [3.0]]
    """
    found: dict[str, Array] = {}
    scaled = np.asarray(exercise.affinities, dtype=float) if exercise.affinities else None
    if exercise.q is not None:
        nothing = np.zeros((exercise.tokens, 1))
        scale = None if exercise.scale else 1.0
        done = steps(np.array([exercise.q]), np.array(exercise.keys), nothing, scale=scale)
        found["scores"], scaled = done.scores[0], done.scaled[0]
    elif exercise.scale and scaled is not None:
        assert exercise.width is not None
        scaled = scaled * exercise.width**-0.5
    assert scaled is not None
    mixed = steps_from_affinities(scaled, exercise.values, mask=Causal(), row=exercise.place)
    found |= {
        "scaled": scaled,
        "masked": mixed.masked,
        "exponentials": mixed.exponentials,
        "weights": mixed.pattern,
        "output": mixed.mixed,
    }
    return MappingProxyType({stage: found[stage] for stage in _there(exercise)})


def read_exercise(entry: Entry) -> Exercise:
    """Return the exercise that an entry of a sheet says.

    Its fields: `title`; `token`, which asks, counted from 1; `values`, and `q` and `keys` or
    `affinities`; `scale`, `width`, `model_width`, `asks`, `then`. A value of `"_"` isn't given.

    Raises:
        LessonError: a field that is none, numbers that don't fit, with file and line.
    """
    fields = entry.fields
    unknown = sorted(set(fields) - FIELDS)
    if unknown:
        raise entry.wrong(f"a field {unknown[0]}", ", ".join(sorted(FIELDS)), "leave it out")
    try:
        read = Exercise(
            id=entry.id,
            title=_typed(fields, "title", str, entry.id),
            values=_rows("values", fields.get("values")),
            place=_typed(fields, "token", int) - 1,
            q=None if "q" not in fields else _row("q", fields["q"]),
            keys=None if "keys" not in fields else _rows("keys", fields["keys"]),
            affinities=None
            if "affinities" not in fields
            else _row("affinities", fields["affinities"]),
            scale=_typed(fields, "scale", bool, False),
            width=_typed(fields, "width", int, None),
            model_width=_typed(fields, "model_width", int, None),
            asks=tuple(map(str, _typed(fields, "asks", list, []))),
            then=_typed(fields, "then", str, ""),
            section=_typed(fields, "section", str, ""),
            story=entry.parts[0],
        )
        if not solve(read)["exponentials"].max() <= LARGEST:
            raise ConfigError(
                "scores whose exponentials are beyond paper", "smaller ones", "mend it"
            )
    except QkvError as error:
        raise entry.wrong(error.got, error.expected, error.remedy) from None
    return read


_MISSING = object()


def _typed(fields: Mapping[str, Any], name: str, kind: type, default: Any = _MISSING) -> Any:
    value = fields.get(name, default)
    if value is _MISSING:
        raise ConfigError(f"no {name}", f"{name} = …", "give it one")
    if value is not default and (
        not isinstance(value, kind) or (kind is int and isinstance(value, bool))
    ):
        raise ConfigError(f"{name} = {value!r}", f"a {kind.__name__}", "mend it")
    return value


def _row(name: str, found: object) -> Numbers:
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        raise ConfigError(f"{name} = {found!r}" if found is not None else f"no {name}",
                          "numbers in brackets", f"try {name} = [1, 2]")  # fmt: skip
    return tuple(_number(name, number) for number in found)


def _number(name: str, found: object) -> float:
    if found == "_" and name == "values":
        return math.nan
    if isinstance(found, bool) or not isinstance(found, int | float):
        raise ConfigError(f"{name} with {found!r}", "numbers", "mend it")
    return float(found)


def _rows(name: str, found: object) -> tuple[Numbers, ...]:
    """Vectors; single numbers are vectors of width 1, `"_"` one of which nothing is given."""
    if not isinstance(found, Sequence) or isinstance(found, str) or not found:
        _row(name, found if isinstance(found, str) else None)
    assert isinstance(found, Sequence)
    rows = [_row(name, one) if isinstance(one, list) else (_number(name, one),) for one in found]
    width = max(map(len, rows))
    return tuple(row * width if len(row) == 1 and math.isnan(row[0]) else row for row in rows)


@cache
def worked_exercises() -> tuple[Exercise, ...]:
    """Return the exercises that come with qkv, in order.

    >>> [exercise.id for exercise in worked_exercises()][:2]
    ['third-of-four', 'third-of-four-then']
    """
    entries = read_sheet(CONTENT / "exercises.md")
    return tuple(read_exercise(entry) for entry in entries if entry.kind == "exercise")
