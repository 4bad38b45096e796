"""When probes are made: spaced by logarithm, both ends among them, and within their share."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from qkv.training.pacing import Pace, probe_steps


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 39, 40, 41, 146, 488, 10_000, 1_000_000])
@pytest.mark.parametrize("count", [2, 3, 7, 40])
def test_steps_are_planned(steps: int, count: int) -> None:
    plan = probe_steps(steps, count)
    assert plan[0] == 0
    assert plan[-1] == steps
    assert list(plan) == sorted(set(plan))
    assert len(plan) <= count
    if steps > 2 * count:
        assert len(plan) == count


def test_they_are_spaced_by_logarithm() -> None:
    late = [step for step in probe_steps(100_000, 40) if step > 50]
    gaps = [math.log(b / a) for a, b in pairwise(late)]
    assert max(gaps) / min(gaps) < 1.05


def made(pace: Pace, cost: float, step_seconds: float = 1.0) -> list[int]:
    found = []
    for step in range(pace.plan[-1] + 1):
        if pace.due(step, step_seconds):
            pace.note(step, cost)
            found.append(step)
    return found


@pytest.mark.parametrize("cost", [0.01, 0.3, 0.5, 0.7, 1, 2, 3, 5, 7, 9, 12, 20])
def test_they_stay_within_their_share(cost: float) -> None:
    steps = made(Pace(probe_steps(1000), share=0.02), cost)
    assert len(steps) * cost <= 0.02 * 1000
    if 2.5 * cost <= 0.02 * 1000:
        assert steps[0] == 0
        assert steps[-1] == 1000
    if cost <= 0.3:
        assert tuple(steps) == probe_steps(1000)
    # Not dense at first and then none.
    late = [step for step in steps if step > 30]
    assert len(late) < 3 or max(b / a for a, b in pairwise(late)) < 10


def test_a_run_too_short_for_one_has_none() -> None:
    assert made(Pace(probe_steps(20), share=0.02), 0.1, step_seconds=0.01) == []
    assert made(Pace(probe_steps(20), share=0.0), 0.1, step_seconds=100.0) == []


@pytest.mark.parametrize("cost", [0.01, 0.3, 0.7, 1, 2, 3, 5, 7, 9, 12, 20, 500])
def test_ends_are_made_whatever_they_cost(cost: float) -> None:
    steps = made(Pace(probe_steps(1000), share=0.02, ends=True), cost)
    assert (steps[0], steps[-1]) == (0, 1000)
    assert len(steps) == 2 or len(steps) * cost <= 0.02 * 1000
    # Of what is left, no less is made than without them.
    assert len(steps) >= len(made(Pace(probe_steps(1000), share=0.02), cost))


@pytest.mark.parametrize(("steps", "a_step"), [(1, 1e-3), (215, 0.012), (351, 0.012), (500, 0.02)])
def test_a_short_run_has_both_ends(steps: int, a_step: float) -> None:
    for cost in (0.01, 0.08):
        found = made(Pace(probe_steps(steps), 0.02 * 2 / 3, ends=True), cost, a_step)
        assert (found[0], found[-1]) == (0, steps)


@pytest.mark.parametrize(("cost", "count"), [(0.01, 10), (0.02, 5), (0.2, 2)])
def test_a_run_of_a_moment_has_what_nobody_notices(cost: float, count: int) -> None:
    pace = Pace(probe_steps(500), share=0.02, least_seconds=0.1, ends=True)
    for step in range(501):
        if pace.due(step, 0.001):
            pace.note(step, cost)
    assert list(pace.done)[-1] == 500
    assert count - 2 <= len(pace.done) <= count + 1


def test_taken_up_again_it_goes_on() -> None:
    whole, first = Pace(probe_steps(1000), 0.02), Pace(probe_steps(1000), 0.02)
    steps = made(whole, 1.0)
    made(first, 1.0)
    again = Pace(probe_steps(1000), 0.02)
    for step in steps:
        if step <= 100:
            again.note(step, 1.0)
    assert [s for s in steps if s > 100] == [s for s in made(again, 1.0) if s > 100]
