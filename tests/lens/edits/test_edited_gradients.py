"""Gradients through edits: those of the formula, of a model changed by hand, and run once more."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from qkv.attention import Causal
from qkv.attention.fused import attend
from qkv.lens import capture
from qkv.lens.edits.edits import edit
from qkv.models import Transformer, TransformerConfig

V, T, B = 53, 11, 2
IDS = torch.randint(3, V, (B, T), generator=torch.Generator().manual_seed(1))


def close(got: Any, expected: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def ours(**settings: Any) -> Transformer:
    torch.manual_seed(5)
    config = TransformerConfig(vocab=V, context=13, layers=3, width=24, heads=4, **settings)
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def test_gradients_are_those_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(9)
    drawn = [torch.randn(B, heads, T, 5, generator=generator) for heads in (6, 3, 3)]
    bias = torch.randn(1, 6, T, T, generator=generator)
    for cap in (None, 1.5):
        learnt = [x.clone().requires_grad_() for x in (*drawn, bias)]
        with edit("L0H1", temperature=2.0, sharpen="L0H4"):
            mixed = attend(*learnt[:3], mask=Causal(), bias=learnt[3], softcap=cap)
        keep = torch.ones(6)
        keep[[1, 4]] = 0
        (mixed * keep[:, None, None]).square().sum().backward()
        theirs = [x.detach().clone().requires_grad_() for x in learnt]
        q, k, v = (x.double() for x in theirs[:3])
        scores = q @ k.repeat_interleave(2, 1).mT / 5**0.5
        scores = scores if cap is None else cap * torch.tanh(scores / cap)
        scores = ((scores + theirs[3]) / 2).masked_fill(torch.ones(T, T).triu(1) == 1, -math.inf)
        formula = scores.softmax(-1) @ v.repeat_interleave(2, 1)
        (formula * keep[:, None, None]).square().sum().backward()
        for mine, other in zip(learnt, theirs, strict=True):
            assert mine.grad is not None
            assert other.grad is not None
            close(mine.grad, other.grad, 1e-4)


def test_gradients_are_those_of_the_changed_model() -> None:
    edited, by_hand = ours(), ours()
    with edit("L1H3", temperature=2.0):
        edited(IDS).square().mean().backward()
    with torch.no_grad():
        by_hand.blocks[1].attention.output.weight[:, 18:] = 0
    for block in by_hand.blocks:
        block.attention.scale = 6**-0.5 / 2
    by_hand(IDS).square().mean().backward()
    for name, parameter in by_hand.named_parameters():
        mine, theirs = edited.get_parameter(name).grad, parameter.grad
        if name == "blocks.1.attention.output.weight":
            # The zeroed columns themselves would learn; an ablated head gives them nothing.
            assert not mine[:, 18:].any()
            theirs[:, 18:] = 0
        close(mine, theirs, 1e-4)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        projected = self.project(x)
        return F.scaled_dot_product_attention(projected, projected, projected, is_causal=True)


# Re-entrant checkpoints know no torch.autograd.grad.
@pytest.mark.parametrize(
    ("way", "reentrant"),
    [("method", True), ("method", False), ("function", True), ("function", False), ("grad", False)],
)
def test_layers_that_run_once_more_are_edited_once_more(way: str, reentrant: bool) -> None:
    torch.manual_seed(0)
    first, second = Layer(), Layer()
    weights = [*first.parameters(), *second.parameters()]
    x = torch.randn(1, 3, T, 5, requires_grad=True)

    def gradients(forward: Any) -> list[Tensor]:
        loss = forward().square().sum()
        if way == "grad":
            return list(torch.autograd.grad(loss, weights))
        for weight in weights:
            weight.grad = None
        if way == "method":
            loss.backward()
        else:
            torch.autograd.backward(loss)
        return [weight.grad for weight in weights if weight.grad is not None]

    def checkpointed() -> Any:
        middle = checkpoint(first, x, use_reentrant=reentrant)
        return checkpoint(second, middle, use_reentrant=reentrant)

    with capture() as trace, edit("L1H1", temperature=2.0):
        got = gradients(checkpointed)
    assert [site.name for site in trace.layers] == ["Layer", "Layer"]
    with edit("L1H1", temperature=2.0):
        expected = gradients(lambda: second(first(x)))
    close(got, expected)
