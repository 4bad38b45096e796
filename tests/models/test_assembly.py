"""A Transformer around given tensors: the same as one they are copied into, and no larger."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from qkv.errors import CheckpointError
from qkv.models import Transformer, TransformerConfig
from qkv.models.assembly import assemble, own

from .conftest import scramble, tokens

CONFIG = TransformerConfig(vocab=53, context=31, layers=3, width=30, heads=5, head_width=14)
HERE = Path("here")


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: own(tensor) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("positions", ["rotary", "learned", "sinusoidal", "alibi", "none"])
@pytest.mark.parametrize("tied", [True, False])
def test_it_computes_what_a_copy_computes(positions: Any, tied: bool) -> None:
    wanted = scramble(Transformer(replace(CONFIG, positions=positions, tied=tied, bias=tied)))
    weights = weights_of(wanted)
    before = torch.random.get_rng_state()
    model = assemble(wanted.config, weights, HERE)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not model.training
    ids = tokens(2, 31, 53)
    assert torch.equal(model(ids), wanted(ids))
    assert model.angles.device.type == "cpu"
    assert all(parameter.requires_grad for parameter in model.parameters())
    # The tensors themselves, not copies.
    assert model.tokens.data_ptr() == weights["tokens"].data_ptr()


def test_it_can_be_trained_on() -> None:
    model = assemble(CONFIG, weights_of(Transformer(CONFIG)), HERE).train()
    model(tokens(2, 7, 53)).sum().backward()
    assert model.tokens.grad is not None


def test_own_is_a_plain_copy() -> None:
    one = torch.arange(6.0).double().reshape(2, 3)
    copy = own(one.T)
    assert (copy.dtype, copy.is_contiguous()) == (torch.float32, True)
    same = own(copy)
    same[0] = 7.0
    assert torch.equal(copy, one.T.float())
    assert not own(torch.ones(2, requires_grad=True)).requires_grad


@pytest.mark.parametrize(
    ("others", "line"),
    [
        ({"layers": 10**12}, "1000000000000 layers in the config of here"),
        ({"layers": 4}, "blocks.3.attention.gain: nothing in here"),
        ({"layers": 2}, "blocks.2.attention.gain: (10, 1, 14) in here"),
        ({"vocab": 2**62}, "sizes that its"),
        ({"width": 2**62, "heads": 1}, "sizes that its"),
        ({"hidden": 2**62}, "sizes that its"),
        ({"head_width": 2**62}, "sizes that its"),
        ({"context": 2**62}, "a context of 4611686018427387904 tokens"),
        ({"context": 2**23}, "at most 599186, beside weights as few as these"),
        ({"context": 2**62, "positions": "learned"}, "sizes that its"),
        ({"hidden": 41}, "blocks.0.feed_forward.down.weight: (30, 120) in here"),
        ({"tied": True}, "unembed.weight: (53, 30) in here"),
    ],
)
def test_configs_that_lie_cost_nothing(others: dict[str, Any], line: str) -> None:
    weights = weights_of(Transformer(CONFIG))
    tracemalloc.start()
    with pytest.raises(CheckpointError) as caught:
        assemble(replace(CONFIG, **others), weights, HERE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert line in str(caught.value)
    assert peak < 10e6


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(wrong: float) -> None:
    weights = weights_of(Transformer(CONFIG))
    weights["blocks.1.attention.output.weight"][3, 5] = wrong
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attention\.output\.weight in here with"):
        assemble(CONFIG, weights, HERE)
