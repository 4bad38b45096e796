"""What a run will need, against counting by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qkv.models import RungConfig, TransformerConfig, build_model, count_parameters
from qkv.training import TrainingConfig
from qkv.training.estimate import estimate
from qkv.training.flops import training_flops_per_token
from qkv.training.run import Data

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


def test_estimate_of_a_run(data: Data, tiny: Tiny) -> None:
    training = TrainingConfig(tokens=3300, batch=3, precision="fp32", average=0.9)
    told = estimate(tiny(), training, data)
    assert told["steps"] == 100
    assert told["checkpoint_bytes"] == 4 * told["parameters"] * 4  # weights, two moments, last
    assert told["memory_bytes"] > told["checkpoint_bytes"]
    assert told["steps_timed"] >= 2
    nothing = estimate(RungConfig("uniform", vocab=data.tokenizer.size), training, data)
    assert (nothing["parameters"], nothing["flops"], nothing["seconds"]) == (0, 0, 0)
