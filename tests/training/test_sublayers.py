"""The backward written by hand against autograd's of the model, and against finite differences."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from qkv.models import Transformer, TransformerConfig
from qkv.models.blocks import Block
from qkv.training.config import TrainingConfig
from qkv.training.fusing import training_forward
from qkv.training.sublayers import fits, run_block

VOCAB = 13
SHAPES = [
    {"width": 24, "heads": 3, "convolution": 3},
    {"width": 24, "heads": 3, "convolution": 1},
    {"width": 20, "heads": 5, "kv_heads": 1, "convolution": 2},
    {"width": 24, "heads": 4, "kv_heads": 2, "window": 3, "convolution": 4},
    {"width": 12, "heads": 2, "head_width": 10, "hidden": 7, "convolution": 3},
]


def model_of(**fields: object) -> Transformer:
    torch.manual_seed(5)
    model = Transformer(TransformerConfig(vocab=VOCAB, context=11, layers=2, **fields)).double()  # type: ignore[arg-type]
    for parameter in model.parameters():  # so that nothing is zero or one
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("fields", SHAPES)
@pytest.mark.parametrize("T", [1, 2, 7, 11])
def test_output_and_all_gradients_are_those_of_autograd(fields: dict[str, int], T: int) -> None:
    model = model_of(**fields)
    ids = torch.randint(0, VOCAB, (3, T))

    def gradients(**how: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        logits = model(ids, **how)
        torch.autograd.backward(logits.sin().sum())
        return logits.detach(), {name: p.grad for name, p in model.named_parameters()}  # type: ignore[misc]

    exact, wanted = gradients()
    found, ours = gradients(call=run_block)
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)
    assert all(gradient is not None for gradient in ours.values())
    torch.testing.assert_close(ours, wanted, rtol=1e-10, atol=1e-11)


def test_a_block_is_the_derivative_of_itself() -> None:
    model = model_of(width=12, heads=2, convolution=3)
    block = model.blocks[1]
    assert isinstance(block, Block)
    cosine, sine = model.angles[:, :4, None].double()
    x = torch.randn(2, 4, 12, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: run_block(block, y, (cosine, sine)), (x,))


def test_training_in_fp32_takes_it_where_it_fits() -> None:
    model = model_of(**SHAPES[0])
    forward = training_forward(model, TrainingConfig(precision="fp32", compile="off"))
    assert isinstance(forward, partial)
    assert forward.keywords == {"call": run_block}


@pytest.mark.parametrize(
    "fields",
    [
        {"norm": "layer"},
        {"activation": "swiglu"},
        {"positions": "learned"},
        {"qk_norm": False},
        {"bias": True},
        {"dropout": 0.1},
    ],
)
def test_other_blocks_are_run_by_the_model_itself(fields: dict[str, object]) -> None:
    assert fits(TransformerConfig(vocab=VOCAB, context=8))
    config = TransformerConfig(vocab=VOCAB, context=8, layers=1, width=12, heads=2, **fields)  # type: ignore[arg-type]
    model = Transformer(config)
    assert not fits(config)
    assert training_forward(model, TrainingConfig(precision="fp32", compile="off")) is model
