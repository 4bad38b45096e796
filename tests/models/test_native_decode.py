"""Tokens taken in by the kernels: equal to the model's own forward pass, on every processor's."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from qkv.errors import ShapeError
from qkv.models import Transformer, TransformerConfig, build_model, native_decode
from qkv.models.decode import Decoder
from qkv.models.native_decode import round_rows
from qkv.native import VARIABLE, load_kernels, missing
from qkv.native.build import TARGETS

CONTEXT = 23

VARIANTS: dict[str, dict[str, Any]] = {
    "the recipe": {"convolution": 3},
    "GPT-2": {
        "positions": "learned",
        "norm": "layer",
        "activation": "gelu",
        "bias": True,
        "qk_norm": False,
        "tied": True,
    },
    "gelu_tanh, no bias in norms": {"norm": "layer", "activation": "gelu_tanh"},
    "Llama": {"activation": "swiglu", "hidden": 50, "kv_heads": 2, "qk_norm": False},
    "window": {"window": 7},
    "alibi, grouped": {"positions": "alibi", "kv_heads": 1},
    "sinusoidal": {"positions": "sinusoidal"},
    "no positions": {"positions": "none", "convolution": 5},
    "softcaps": {"softcap": 2.0, "logit_softcap": 5.0},
    "odd sizes": {"width": 21, "heads": 3, "head_width": 6, "hidden": 7, "vocab": 5, "scale": 0.3},
}


@pytest.fixture(params=list(TARGETS))
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A kind of processor whose kernels run here."""
    monkeypatch.delenv(VARIABLE, raising=False)
    kernels = load_kernels()
    if kernels is None:
        pytest.skip(f"no kernels: {missing()}")
    kinds = list(TARGETS)
    if kinds.index(request.param) > kinds.index(kernels.target):
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setenv(VARIABLE, request.param)
    return str(request.param)


def whole_numbered(**more: Any) -> Transformer:
    """A model whose matrices lose nothing by being rounded."""
    sizes = {"vocab": 19, "context": CONTEXT, "layers": 2, "width": 24, "heads": 4}
    config = TransformerConfig(**{**sizes, "zero_init": False, **more})
    torch.manual_seed(0)
    model = cast(Transformer, build_model(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for block in model.blocks:
            for linear in block.modules():
                if isinstance(linear, nn.Linear):
                    rows, steps = round_rows(linear.weight)
                    linear.weight.copy_(rows * steps[:, None])
    return model


def read(model: Transformer, ids: Tensor, prompt: int) -> Tensor:
    """The logits after each token from the prompt's last on."""
    with torch.inference_mode():
        decoder = Decoder(model, 1, "int8")
        logits = [decoder.read(ids[:, :prompt])]
        logits += [decoder.step(ids[:, at]) for at in range(prompt, ids.shape[1])]
    return torch.cat(logits)


@pytest.mark.parametrize("variant", VARIANTS)
def test_they_equal_the_forward_pass_in_fp64(variant: str, target: str) -> None:
    model = whole_numbered(**VARIANTS[variant])
    ids = torch.randint(model.config.vocab, (1, CONTEXT))
    found = read(model, ids, 4)
    with torch.inference_mode():
        expected = model.double()(ids)[0, 3:]
    # A vector has 2^15 steps to a side before a product, and there are six products in a row.
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-4 * expected.abs().max())


def test_a_long_text_and_wide_matrices(target: str) -> None:
    model = whole_numbered(context=300, width=72, heads=3, hidden=2048, layers=1)
    ids = torch.randint(19, (1, 300))
    found = read(model, ids, 1)
    with torch.inference_mode():
        expected = model.double()(ids)[0]
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=3e-4 * expected.abs().max())


def test_a_large_head_is_left_to_torch(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = whole_numbered(), torch.randint(19, (1, CONTEXT))
    inside = read(model, ids, 2)
    monkeypatch.setattr(native_decode, "SMALL_HEAD", 0)
    torch.testing.assert_close(read(model, ids, 2), inside, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_no_default_type_changes_anything(dtype: torch.dtype, target: str) -> None:
    model, ids = whole_numbered(convolution=3), torch.randint(19, (1, CONTEXT))
    expected = read(model, ids, 2)
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            found = read(model, ids, 2)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, expected)


def test_a_window_beyond_the_context_is_none(target: str) -> None:
    model, ids = whole_numbered(window=2**64), torch.randint(19, (1, CONTEXT))
    torch.testing.assert_close(read(model, ids, 2), read(whole_numbered(), ids, 2))


@pytest.mark.parametrize(("token", "at"), [(19, 3), (-1, 3), (0, CONTEXT)])
def test_what_is_not_there_is_refused(token: int, at: int, target: str) -> None:
    with torch.inference_mode():
        decoder = Decoder(whole_numbered(), 1, "int8")
        decoder.read(torch.zeros(1, at, dtype=torch.long))
        with pytest.raises(ShapeError, match=f"token {token} at position {at}"):
            decoder.step(torch.tensor([token]))


def test_norms_in_another_type_are_read_as_what_they_are(target: str) -> None:
    model, ids = whole_numbered(), torch.randint(19, (1, CONTEXT))
    norms = [cast(Any, block).attention_norm for block in model.blocks]
    with torch.inference_mode():
        for norm in norms:
            norm.weight.copy_(norm.weight.bfloat16())
        plain = Decoder(model, 1, "int8")
        plain.read(ids[:, :-1])
        for norm in norms:
            norm.weight.data = norm.weight.data.bfloat16()
        mixed = Decoder(model, 1, "int8")
        mixed.past.copy_(plain.past)
        mixed.at = plain.at
        assert torch.equal(mixed.step(ids[:, -1]), plain.step(ids[:, -1]))


def test_every_processor_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    best = load_kernels()
    if best is None:
        pytest.skip(f"no kernels: {missing()}")
    model, ids = whole_numbered(convolution=3), torch.randint(19, (1, CONTEXT))
    expected = read(model, ids, 1)
    monkeypatch.setenv(VARIABLE, "portable")
    torch.testing.assert_close(read(model, ids, 1), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_not_hidden(bad: float, target: str) -> None:
    model, ids = whole_numbered(), torch.randint(19, (1, 5))
    with torch.no_grad():
        cast(Any, model.blocks[0]).feed_forward_norm.weight[3] = bad
    assert read(model, ids, 4)[-1].isnan().all()


def test_rounding_a_matrix_moves_no_number_by_more_than_half_a_step() -> None:
    weight = torch.randn(7, 31) * torch.logspace(-6, 6, 7)[:, None]
    weight[2] = 0
    rows, steps = round_rows(weight)
    assert rows.dtype is torch.int8
    error = (rows.double() * steps.double()[:, None] - weight.double()).abs()
    assert (error <= steps.double()[:, None] * 0.5001).all()
    assert int(rows.min()) >= -127
