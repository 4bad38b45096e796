"""Products of whole numbers against fp64 ones, and training with them against fp32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from qkv.models import Transformer, TransformerConfig
from qkv.training.fusing import block_call, compiler_found
from qkv.training.int8 import int8_linear, round_to_int8

N, IN, OUT = 37, 29, 23


@pytest.fixture
def layer() -> nn.Linear:
    torch.manual_seed(3)
    return nn.Linear(IN, OUT)


@pytest.mark.parametrize("by_row", [False, True])
def test_rounding_is_off_by_half_a_step_at_most(by_row: bool) -> None:
    x = torch.randn(N, IN) * torch.logspace(-6, 6, N)[:, None]
    x[5] = 0
    whole, step = round_to_int8(x, by_row=by_row)
    assert whole.dtype is torch.int8
    assert step.shape == ((N, 1) if by_row else ())
    assert whole.abs().max() == 127
    assert ((whole * step - x).abs() <= 0.501 * step).all()
    assert not whole[5].any()


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float(((found.double() - exact).norm() / exact.norm()).detach())


def test_all_three_products_are_within_two_percent(layer: nn.Linear) -> None:
    # Tokens of very different sizes: a step for each keeps the small ones.
    x = (torch.randn(N, IN) * torch.logspace(-2, 2, N)[:, None]).requires_grad_()
    upstream = torch.randn(N, OUT) * torch.logspace(1, -1, N)[:, None]
    found = int8_linear(layer, x)
    found.backward(upstream)
    exact_x, weight, bias = x.detach().double(), layer.weight.double(), layer.bias.double()
    assert relative(found.detach() - layer.bias, exact_x @ weight.T) < 0.02
    for row, exact in zip(found, exact_x @ weight.T + bias, strict=True):
        assert relative(row, exact) < 0.05
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    assert relative(x.grad, upstream.double() @ weight) < 0.02
    assert relative(layer.weight.grad, upstream.double().T @ exact_x) < 0.02
    torch.testing.assert_close(layer.bias.grad, upstream.sum(0))


VARIANTS = [
    {},
    {"convolution": 3},
    {"kv_heads": 1, "activation": "swiglu", "bias": True, "norm": "layer", "positions": "learned"},
    {"qk_norm": False, "positions": "alibi", "window": 4},
]


def scrambled(config: TransformerConfig) -> Transformer:
    torch.manual_seed(5)
    model = Transformer(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("variant", VARIANTS)
def test_blocks_in_two_halves_are_the_same_blocks(
    variant: dict[str, object], tiny: Callable[..., TransformerConfig]
) -> None:
    model = scrambled(tiny(**variant))
    ids = torch.randint(0, model.config.vocab, (3, 7))
    call = block_call(int8=False, compiled=False)
    torch.testing.assert_close(model(ids, call=call), model(ids), rtol=1e-5, atol=1e-5)
    rounded = model(ids, call=block_call(int8=True, compiled=False))
    assert 0 < relative(rounded, model(ids).double()) < 0.1


@pytest.mark.slow
@pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")
def test_compiled_blocks_are_the_same_blocks(tiny: Callable[..., TransformerConfig]) -> None:
    model = scrambled(tiny(convolution=3))
    ids = torch.randint(0, model.config.vocab, (3, 7))
    compiled, plain = (block_call(int8=True, compiled=way) for way in (True, False))
    results = []
    for call in (compiled, plain):
        model.zero_grad()
        logits = model(ids, call=call)
        logits.square().mean().backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append((logits.detach(), gradients))
    (found, theirs), (expected, ours) = results
    # Rounding to whole numbers may go the other way where sums differ in their last bit.
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    for name, gradient in ours.items():
        other = theirs[name]
        assert gradient is not None
        assert other is not None
        assert float((other - gradient).norm()) < 0.05 * float(gradient.norm()) + 1e-6, name
