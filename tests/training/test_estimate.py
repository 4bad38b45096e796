"""What a run will need, against counting by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qkv.models import RungConfig, TransformerConfig, build_model, count_parameters
from qkv.training import TrainingConfig
from qkv.training.estimate import estimate
from qkv.training.flops import training_flops_per_token
from qkv.training.loop import StepReport
from qkv.training.run import Data
from qkv.training.schedules import windows_at

Tiny = Callable[..., TransformerConfig]


@pytest.mark.parametrize("window", [None, 1, 4, 30])
def test_flops_are_counted_cell_by_cell(window: int | None, tiny: Tiny) -> None:
    config = tiny(window=window)
    parameters = count_parameters(build_model(config))
    cells = sum(min(query + 1, window or 11) for query in range(11))
    products = 6 * (parameters - config.vocab * 24)
    # A cell is C products for its score and C for its value, 2 operations each, 3 times.
    attention = 2 * 3 * 8 * 2 * 2 * 3 * cells / 11
    assert training_flops_per_token(config, parameters) == round(products + attention)


def test_each_length_of_windows_counts_by_its_steps(
    data: Data, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []

    def steps(state: Any, ids: Any, config: TrainingConfig) -> Iterator[StepReport]:
        total = config.steps(12)
        for step in range(total):
            length = windows_at(step, total, config, 12).tokens
            lengths.append(length)
            # As long as its windows; the first, as ever, longer.
            seconds = length if step else 1000.0
            yield StepReport(step + 1, total, 1.0, 1.0, 0.1, 0, seconds)

    monkeypatch.setattr("qkv.training.estimate.train", steps)
    training = TrainingConfig(tokens=80 * 36, batch=3, shortest=3, precision="fp32")
    told = estimate(tiny(context=12), training, data)
    assert set(lengths) == {3, 6, 12}
    assert told["seconds"] == pytest.approx(40 * 3 + 20 * 6 + 20 * 12)
    assert told["steps_timed"] == len(lengths) - 3


def test_precision_is_the_one_that_was_timed(
    data: Data, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = {"fp32": 100.0, "bf16": 50.0, "int8": 400.0}
    monkeypatch.setattr("qkv.training.precision.measure_precisions", lambda *, int8: speeds)
    monkeypatch.setattr("qkv.training.precision.compiler_found", lambda: True)
    for tokens, compiled, precision in ((3300, False, "fp32"), (10**9, True, "int8")):
        told = estimate(tiny(), TrainingConfig(tokens=tokens, batch=3), data)
        assert told["precision"] == "fp32"
        assert (told["compiled"], told["run_precision"]) == (compiled, precision)


def test_estimate_of_a_run(data: Data, tiny: Tiny) -> None:
    training = TrainingConfig(tokens=3300, batch=3, precision="fp32", average=0.9)
    told = estimate(tiny(), training, data)
    assert told["steps"] == 100
    assert told["checkpoint_bytes"] == 4 * told["parameters"] * 4  # weights, two moments, last
    assert told["memory_bytes"] > told["checkpoint_bytes"]
    assert told["steps_timed"] >= 2
    nothing = estimate(RungConfig("uniform", vocab=data.tokenizer.size), training, data)
    assert (nothing["parameters"], nothing["flops"], nothing["seconds"]) == (0, 0, 0)
