"""The six steps, done right, give what `qkv.attention` does."""

from __future__ import annotations

import numpy as np
import pytest

from qkv.learn.exercises import solve, worked_exercises
from qkv.learn.rows import difference, work


def test_no_step_done_otherwise_gives_what_is_right() -> None:
    for exercise in worked_exercises():
        found = work(exercise)
        for stage, numbers in solve(exercise).items():
            np.testing.assert_allclose(found[stage], numbers, rtol=1e-12)


def test_numbers_that_stand_already_are_built_on() -> None:
    (scaled,) = (one for one in worked_exercises() if one.id == "scaled")
    found = work(scaled, {"scores": [1, 1, 1]})
    assert found["weights"] == pytest.approx([1 / 3] * 3)


def test_a_ban_differs_from_every_number_and_not_from_another_ban() -> None:
    ban, number = np.array([-np.inf]), np.array([2.0])
    assert difference(ban, ban) == 0
    assert difference(ban, number) == np.inf
    assert difference(np.array([np.nan]), number) == np.inf
    assert difference(np.array([1.0, 5.0]), np.array([1.5, 2.0])) == 3
