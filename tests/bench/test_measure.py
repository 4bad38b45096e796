"""Measurements have units, shapes and the machine; nothing here asserts a time."""

from __future__ import annotations

import json
import typing
from collections import Counter

import pytest

from qkv.bench import SUITES, Measurement, Timing, compare
from qkv.bench.measure import ratio
from qkv.cli.bench import bench_command


def test_ways_are_timed_in_turn_after_a_round_that_does_not_count() -> None:
    calls: list[str] = []
    times = compare({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert Counter({name: len(timing.seconds) for name, timing in times.items()}) == {
        "a": 3,
        "b": 3,
    }
    assert all(second >= 0 for timing in times.values() for second in timing.seconds)


def test_each_turn_may_start_with_a_warm_up() -> None:
    calls: list[str] = []
    ways = {name: lambda name=name: calls.append(name) for name in "ab"}
    warm_ups = {name: lambda name=name: calls.append(f"warm {name}") for name in "ab"}
    times = compare(ways, rounds=2, warm_ups=warm_ups)
    assert calls == ["warm a", "a", "warm b", "b"] * 3
    assert [len(timing.seconds) for timing in times.values()] == [2, 2]


def test_timings_are_told_in_milliseconds() -> None:
    told = Timing([0.5, 0.002, 0.003]).to_json()
    assert told == {"median_ms": 3.0, "min_ms": 2.0, "max_ms": 500.0}


def test_ratio_is_taken_round_by_round() -> None:
    assert ratio(Timing([10.0, 2.0, 9.0]), Timing([1.0, 1.0, 3.0])) == {
        "median": 3.0, "min": 2.0, "max": 10.0,
    }  # fmt: skip
    with pytest.raises(ValueError, match="zip"):
        ratio(Timing([1.0]), Timing([1.0, 2.0]))


def test_measurement_is_json_with_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    told = json.loads(json.dumps(Measurement("x", {"T": 3}, {"y_ms": 1.0}, 7).to_json()))
    assert set(told) == {"what", "shape", "figures", "rounds", "machine"}
    assert {"system", "cores", "threads", "python", "torch", "numpy"} <= set(told["machine"])
    assert told["machine"]["OMP_NUM_THREADS"] == "3"
    assert told["machine"]["GOMP_SPINCOUNT"] is None


def test_every_suite_can_be_asked_for_and_no_other() -> None:
    hints = typing.get_type_hints(bench_command)
    assert set(typing.get_args(hints["what"])) == set(SUITES)
