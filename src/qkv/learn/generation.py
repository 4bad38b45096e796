"""Fresh exercises: small whole numbers, drawn again until every mistake would show."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import combinations

import numpy as np

from qkv.learn.exercises import Exercise, solve, stages
from qkv.learn.mistakes import MISTAKES
from qkv.learn.rows import difference

__all__ = ["draw_exercise", "generate", "tells_apart"]

# Twice what the catalogue needs, so that an answer rounded to two decimals is nearer to its own.
APART = 0.02
LARGEST_EXPONENTIAL = 200.0
SMALLEST_WEIGHT = 0.02
ATTEMPTS = 20_000
KINDS, SHARES = ("affinities", "dots", "last", "square"), (0.25, 0.4, 0.2, 0.15)


@lru_cache(maxsize=256)
def draw_exercise(seed: int) -> Exercise:
    """Return the exercise of a seed, always the same.

    >>> draw_exercise(7) == draw_exercise(7), draw_exercise(7).id
    (True, 'fresh-7')
    """
    rng = np.random.default_rng(seed)
    return replace(generate(rng), id=f"fresh-{seed}", seed=seed)


def generate(rng: np.random.Generator) -> Exercise:
    """Return an exercise that tells apart all the mistakes that it could show.

    Each of them ends in another output than the right one, and differs from every other at some
    stage.
    """
    kind = str(rng.choice(KINDS, p=SHARES))
    for _ in range(ATTEMPTS):
        drawn = _draw(rng, kind)
        if _is_handy(drawn) and tells_apart(drawn, APART):
            return drawn
    raise AssertionError("no exercise in so many attempts")


def tells_apart(exercise: Exercise, least: float) -> bool:
    """Return whether each mistake that an exercise could show differs by so much.

    From the right output, and from every other mistake at some stage.
    """
    right = solve(exercise)
    found = []
    for mistake in MISTAKES:
        if mistake.needs(exercise):
            given = mistake.run(exercise)
            if not difference(given["output"], right["output"]) >= least:
                return False
            # What isn't a number is no answer that a person could give.
            if not all(np.isfinite(given[stage]).all() for stage in ("weights", "output")):
                return False
            found.append(given)
    asked = stages(exercise)
    return all(
        any(difference(left[stage], other[stage]) >= least for stage in asked)
        for left, other in combinations(found, 2)
    )


def _draw(rng: np.random.Generator, kind: str) -> Exercise:
    if kind == "affinities":
        return _draw_affinities(rng)
    if kind == "square":
        tokens, width, place = 4, 4, 1
    elif kind == "last":
        tokens, width = 3, 2
        place = 2
    else:
        # Two later tokens at least: with one, a mask too late is no mask.
        tokens, width = int(rng.integers(4, 6)), 2
        place = int(rng.integers(1, tokens - 2))
    channels = int(rng.integers(1, 3))
    model_width = width * int(rng.integers(2, 5)) if rng.random() < 0.5 else None
    if model_width in (tokens, width**2):
        model_width = 3 * width  # or √D would be √T, or √C twice
    return Exercise(
        id="fresh",
        title=_title(place, tokens),
        values=_vectors(rng.integers(0, 10, (tokens, channels))),
        place=place,
        q=_vectors(rng.integers(-1, 3, (1, width)))[0],
        keys=_vectors(rng.integers(-1, 3, (tokens, width))),
        scale=True,
        model_width=model_width,
    )


def _draw_affinities(rng: np.random.Generator) -> Exercise:
    tokens = int(rng.integers(4, 6))
    place = int(rng.integers(1, tokens - 2))
    width = int(rng.choice([1, 4, 9]))
    return Exercise(
        id="fresh",
        title=_title(place, tokens),
        values=_vectors(rng.integers(0, 10, (tokens, int(rng.integers(1, 3))))),
        place=place,
        affinities=_vectors(rng.integers(-1, 6, (1, tokens)) * (1 if width < 9 else 2))[0],
        scale=width > 1,
        width=width if width > 1 else None,
    )


def _title(place: int, tokens: int) -> str:
    return f"Token {place + 1} of {tokens}"


def _vectors(numbers: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(map(float, row)) for row in numbers.tolist())


def _is_handy(exercise: Exercise) -> bool:
    """Whether it can be worked on paper: no huge exponential, no weight next to 0, no tie."""
    found = solve(exercise)
    seen = found["masked"][exercise.allowed]
    return bool(
        found["exponentials"].max() <= LARGEST_EXPONENTIAL
        and found["weights"][exercise.allowed].min() >= SMALLEST_WEIGHT
        and np.sort(seen)[-1] > np.sort(seen)[-2]
        and len(set(exercise.values)) == exercise.tokens
    )
