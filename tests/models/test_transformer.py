"""The Transformer: causal, every field of its config matters, shapes and errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from qkv.attention import Causal, multi_head_steps, rotary_angles
from qkv.errors import ShapeError
from qkv.models import Transformer, TransformerConfig, build_model, count_parameters
from qkv.models.blocks import Attention

from .conftest import scramble, tokens

SIZES: dict[str, Any] = {"vocab": 29, "context": 19, "layers": 2, "width": 30, "heads": 3}
CHANGES: dict[str, Any] = {
    "layers": 3,
    "heads": 5,
    "kv_heads": 1,
    "head_width": 6,
    "hidden": 37,
    "positions": "alibi",
    "rotary_theta": 50.0,
    "norm": "layer",
    "norm_eps": 0.5,
    "activation": "swiglu",
    "bias": True,
    "qk_norm": False,
    "tied": True,
    "softcap": 0.5,
    "logit_softcap": 1.0,
    "window": 3,
    "scale": 1.0,
}


def transformer(scrambled: bool = True, **more: Any) -> Any:
    """A small Transformer, in float64 and with random weights unless told otherwise."""
    torch.manual_seed(7)
    model = Transformer(TransformerConfig(**{**SIZES, **more}))
    return scramble(model, scale=2.0).double() if scrambled else model.eval()


def changed_at(ids: Tensor, at: int) -> Tensor:
    """The same ids with another token at one position."""
    other = ids.clone()
    other[:, at] = (other[:, at] + 1) % SIZES["vocab"]
    return other


VARIANTS: list[dict[str, Any]] = [
    {},
    {"positions": "learned", "norm": "layer", "bias": True, "tied": True, "activation": "gelu"},
    {"positions": "sinusoidal"},
    {"positions": "alibi", "kv_heads": 1},
    {"positions": "none", "softcap": 2.0},
    {"window": 4, "activation": "swiglu", "head_width": 14, "hidden": 41},
    {"convolution": 3},
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_future_token_changes_no_earlier_logit(variant: dict[str, Any]) -> None:
    model, ids = transformer(**variant), tokens(2, 19, 29)
    before = model(ids)
    for at in (0, 1, 11, 18):
        after = model(changed_at(ids, at))
        torch.testing.assert_close(after[:, :at], before[:, :at], rtol=0, atol=1e-12)
        assert not torch.allclose(after[:, at:], before[:, at:])


@pytest.mark.parametrize("window", [1, 2, 5])
def test_a_window_limits_sight(window: int) -> None:
    ids = tokens(2, 19, 29)
    one = transformer(layers=1, window=window)
    two = transformer(layers=2, window=window)
    for model, reach in ((one, window - 1), (two, 2 * (window - 1))):
        before, at = model(ids), 4
        after = model(changed_at(ids, at))
        differs = [not torch.allclose(after[:, t], before[:, t]) for t in range(19)]
        assert differs == [at <= t <= at + reach for t in range(19)]


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_changes_what_is_computed(field: str) -> None:
    ids = tokens(2, 19, 29)
    plain, changed = transformer(), transformer(**{field: CHANGES[field]})
    assert not torch.allclose(plain(ids), changed(ids))
    if field in ("hidden", "bias", "tied", "kv_heads", "head_width", "layers", "qk_norm"):
        assert count_parameters(plain) != count_parameters(changed)


def test_the_other_fields_do_something_too() -> None:
    ids = tokens(2, 19, 29)
    noisy = transformer(dropout=0.5)
    torch.testing.assert_close(noisy(ids), transformer()(ids))  # not in evaluation
    noisy.train()
    assert not torch.allclose(noisy(ids), noisy(ids))
    biased = transformer(norm="layer", norm_bias=True)
    assert biased.norm.bias is not None
    assert biased.blocks[0].attention.project.bias is None
    assert transformer(norm="layer", bias=True, norm_bias=False).norm.bias is None
    assert transformer(scrambled=False, zero_init=False)(ids).std() > 0.1
    limits = {
        activation: transformer(activation=activation)(ids)
        for activation in ("relu2", "gelu", "gelu_tanh", "swiglu")
    }
    assert not torch.allclose(limits["gelu"], limits["gelu_tanh"], rtol=0, atol=1e-6)
    assert not torch.allclose(limits["gelu"], limits["relu2"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_zero_init_the_untrained_loss_is_ln_v(variant: dict[str, Any]) -> None:
    model = transformer(scrambled=False, **{**variant, "vocab": 65})
    loss = F.cross_entropy(model(tokens(4, 19, 65)).flatten(0, 1), tokens(4, 19, 65, 1).flatten())
    if variant.get("tied"):  # GPT-2's small embedding serves as unembedding: nearly uniform
        assert loss.item() == pytest.approx(math.log(65), abs=0.1)
    else:
        assert loss.item() == pytest.approx(4.174, abs=5e-4)


@pytest.mark.parametrize("kv_heads", [1, 3, 9])
@pytest.mark.parametrize("rotary", [False, True])
def test_attention_equals_the_steps_in_numpy(kv_heads: int, rotary: bool) -> None:
    C, H, D, T = 10, 9, 31, 17
    config = TransformerConfig(
        vocab=5, width=D, heads=H, kv_heads=kv_heads, head_width=C, qk_norm=False
    )
    attention: Any = scramble(Attention(config), scale=2.0)
    x = torch.randn(3, T, D)
    cosine, sine = rotary_angles(range(T), C)
    angles = (torch.from_numpy(cosine).float()[:, None], torch.from_numpy(sine).float()[:, None])
    w_q, w_k, w_v = (
        part.double().numpy().T
        for part in attention.project.weight.detach().split([H * C, kv_heads * C, kv_heads * C])
    )
    wanted = multi_head_steps(
        x.double().numpy(),
        *(w_q, w_k, w_v, attention.output.weight.detach().double().numpy().T),
        heads=H,
        kv_heads=kv_heads,
        mask=Causal(),
        rotary=(cosine, sine) if rotary else None,
    ).output
    found = attention(x, angles if rotary else None, None, 0).detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_rotary_positions_are_relative() -> None:
    model = transformer(scrambled=True, window=3, layers=1)
    ids = tokens(2, 13, 29)
    shifted = torch.cat([tokens(2, 5, 29, seed=1), ids], dim=1)
    # Two positions in, the window holds the same tokens in both.
    torch.testing.assert_close(model(ids)[:, 2:], model(shifted)[:, 7:], rtol=0, atol=1e-6)


def test_without_positions_the_past_is_a_set() -> None:
    model = transformer(positions="none", layers=1)
    ids = tokens(2, 11, 29)
    mixed = torch.cat([ids[:, :10].flip(1), ids[:, 10:]], dim=1)
    torch.testing.assert_close(model(ids)[:, -1], model(mixed)[:, -1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_can_learn(variant: dict[str, Any]) -> None:
    model, ids = transformer(**variant), tokens(3, 19, 29)
    F.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_rows_of_a_batch_do_not_meet() -> None:
    model, ids = transformer(), tokens(3, 19, 29)
    for row in range(3):
        alone = model(ids[row : row + 1])[0]
        torch.testing.assert_close(model(ids)[row], alone, rtol=0, atol=1e-12)


def test_parameters_are_counted() -> None:
    model = build_model(TransformerConfig(**SIZES, kv_heads=1))
    V, D, C, hidden = 29, 30, 10, 120
    attention = D * (3 + 1 + 1) * C + 3 * C * D + (3 + 1) * C  # gains
    block = attention + 2 * D * hidden + 2 * D
    assert count_parameters(model) == 2 * V * D + 2 * block + D


def test_what_is_longer_than_the_context_is_refused() -> None:
    model = transformer()
    with pytest.raises(ShapeError, match=r"^got 20 tokens; expected at most the context of 19; .*"):
        model(tokens(1, 20, 29))
    cache = model.new_cache(batch=1)
    model(tokens(1, 19, 29), cache)
    with pytest.raises(ShapeError, match=r"^got 20 tokens"):
        model(tokens(1, 1, 29), cache)
    with pytest.raises(ShapeError, match=r"^got 6 tokens; expected at most the context of 5"):
        model(tokens(1, 6, 29), model.new_cache(batch=1, length=5))


def test_the_state_holds_weights_alone() -> None:
    names = transformer().state_dict().keys()
    assert names == dict(transformer().named_parameters()).keys()
