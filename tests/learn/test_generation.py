"""Fresh exercises: repeatable, fit for paper, and with every mistake apart from every other."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from qkv.learn.exercises import solve, stages
from qkv.learn.generation import draw_exercise, generate
from qkv.learn.mistakes import LEAST_DIFFERENCE, MISTAKES


def apart(left: Any, right: Any) -> float:
    """By how much two rows differ; −∞ is as far from any number as can be."""
    return max(0.0 if a == b else abs(a - b) for a, b in zip(left, right, strict=True))


@pytest.mark.slow
def test_fresh_exercises_tell_all_mistakes_apart(full: bool) -> None:
    for seed in range(500 if full else 50):
        exercise = draw_exercise(seed)
        right = solve(exercise)
        can = [mistake for mistake in MISTAKES if mistake.needs(exercise)]
        found = {mistake.id: mistake.run(exercise) for mistake in can}
        for name, numbers in found.items():
            assert apart(numbers["output"], right["output"]) >= LEAST_DIFFERENCE, (seed, name)
        for (name, left), (other, numbers) in combinations(found.items(), 2):
            most = max(apart(left[stage], numbers[stage]) for stage in stages(exercise))
            assert most >= LEAST_DIFFERENCE, (seed, name, other)


def test_a_seed_draws_one_exercise(rng: np.random.Generator) -> None:
    assert draw_exercise(3) == draw_exercise(3)
    assert len({str(draw_exercise(seed)) for seed in range(20)}) == 20
    assert generate(rng).seed is None


def test_fresh_exercises_can_be_worked_on_paper() -> None:
    for seed in range(40):
        exercise = draw_exercise(seed)
        numbers = [*(exercise.q or ()), *(exercise.affinities or ()), *sum(exercise.values, ())]
        assert all(number == int(number) and abs(number) <= 10 for number in numbers)
        assert solve(exercise)["exponentials"].max() <= 200
        assert 3 <= exercise.tokens <= 5
