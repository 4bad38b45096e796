"""What a run's precision and compiler are settled as, and which are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qkv.errors import ConfigError
from qkv.models import RungConfig, TransformerConfig
from qkv.training import TrainingConfig
from qkv.training import precision as precisions
from qkv.training.precision import settle

Tiny = Callable[..., TransformerConfig]
HEADS = RungConfig("heads", vocab=65)


@pytest.fixture(params=[True, False])
def compiler(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    there = bool(request.param)
    monkeypatch.setattr(precisions, "compiler_found", lambda: there)
    return there


@pytest.mark.parametrize("fast", [{"precision": "int8"}, {"compile": "on"}])
def test_fast_steps_are_for_transformers_on_the_cpu(
    tiny: Tiny, fast: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precisions, "compiler_found", lambda: True)
    training = TrainingConfig(**{"precision": "fp32", "compile": "off", **fast})
    assert settle(training, tiny()) == training
    ((name, value),) = fast.items()
    for model, device, said in (
        (HEADS, "cpu", "for heads"),
        (tiny(), "cuda", "on cuda"),
        (tiny(), "cuda:1", "on cuda:1"),
        (tiny(), "mps", "on mps"),
    ):
        with pytest.raises(ConfigError) as caught:
            settle(training, model, device)
        assert str(caught.value) == (
            f"got {name}={value} {said}; expected a transformer on the CPU; leave {name} at auto"
        )


def test_a_compiler_that_is_not_there_is_refused(tiny: Tiny, compiler: bool) -> None:
    training = TrainingConfig(precision="fp32", compile="on")
    if compiler:
        assert settle(training, tiny()) == training
        return
    with pytest.raises(ConfigError, match=r"got compile=on, but nothing .* Python's header files"):
        settle(training, tiny())


def test_int8_is_timed_and_taken_for_long_runs_with_a_compiler_alone(
    tiny: Tiny, compiler: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[bool] = []

    def measure(*, int8: bool) -> dict[str, float]:
        timed.append(int8)
        return {"fp32": 100.0, "bf16": 50.0} | ({"int8": 400.0} if int8 else {})

    monkeypatch.setattr(precisions, "measure_precisions", measure)
    found = [
        settle(TrainingConfig(tokens=tokens), model)
        for tokens, model in ((10**9, tiny()), (1000, tiny()), (10**9, HEADS))
    ]
    plain = ("off", "fp32")
    expected = [("on", "int8") if compiler else plain, plain, plain]
    assert [(each.compile, each.precision) for each in found] == expected
    assert timed == [compiler, False, False]
