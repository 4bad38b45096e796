"""Gradients by hand: against central differences and against torch's autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from qkv.attention import (
    ALiBi,
    Causal,
    Padding,
    Window,
    alibi_slopes,
    attend_gradients,
    multi_head_gradients,
    multi_head_steps,
    rotary_angles,
    rotate,
    steps,
)
from qkv.errors import ShapeError

B, H, G, Q, K, C, CV, D = 2, 6, 3, 5, 7, 4, 3, 11

FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "causal": {"mask": Causal()},
    "scale": {"mask": Causal(), "scale": 1.3},
    "softcap": {"mask": Causal(), "softcap": 1.5},
    "bias": {"mask": Causal(), "bias": (B, H, Q, K)},
    "bias of one head": {"bias": (1, 1, K), "softcap": 2.0},
    "bias of a row": {"bias": (B, 1, Q, 1), "mask": Window(3)},
    "alibi": {"bias": ALiBi(alibi_slopes(H)), "mask": Window(3)},
    "empty rows": {"mask": Padding((0, K)) & Causal(), "softcap": 3.0, "bias": (Q, K)},
}


def difference(loss: Callable[[], float], array: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Central differences of a loss by each element of `array`, which is changed in place."""
    result = np.empty_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + step
        above = loss()
        array[index] = kept - step
        result[index] = (above - loss()) / (2 * step)
        array[index] = kept
    return result


def assert_close(got: np.ndarray, expected: np.ndarray, tolerance: float = 1e-6) -> None:
    assert got.shape == expected.shape
    size = max(1e-3, float(np.abs(expected).max()))
    np.testing.assert_allclose(got / size, expected / size, atol=tolerance)


@pytest.mark.parametrize("name", FEATURES)
def test_attention_by_central_differences(name: str, rng: np.random.Generator) -> None:
    options = dict(FEATURES[name])
    if isinstance(options.get("bias"), tuple):
        options["bias"] = rng.normal(size=options["bias"])
    q, k, v = (rng.normal(size=shape) for shape in ((B, H, Q, C), (B, G, K, C), (B, G, K, CV)))
    d_mixed, d_lse = rng.normal(size=(B, H, Q, CV)), rng.normal(size=(B, H, Q))

    def loss() -> float:
        done = steps(q, k, v, **options)
        finite = np.where(done.lse == -np.inf, 0, done.lse)
        return float((done.mixed * d_mixed).sum() + (finite * d_lse).sum())

    found = attend_gradients(steps(q, k, v, **options), d_mixed, d_lse)
    assert_close(found.q, difference(loss, q))
    assert_close(found.k, difference(loss, k))
    assert_close(found.v, difference(loss, v))
    if isinstance(options.get("bias"), np.ndarray):
        assert found.bias is not None
        assert_close(found.bias, difference(loss, options["bias"]))
    else:
        assert found.bias is None


def test_a_single_head_without_head_axis(rng: np.random.Generator) -> None:
    q, k, v = (rng.normal(size=shape) for shape in ((Q, C), (K, C), (K, CV)))
    d_mixed = rng.normal(size=(Q, CV))
    found = attend_gradients(steps(q, k, v, mask=Causal()), d_mixed)

    def loss() -> float:
        return float((steps(q, k, v, mask=Causal()).mixed * d_mixed).sum())

    for got, array in ((found.q, q), (found.k, k), (found.v, v)):
        assert_close(got, difference(loss, array))


@pytest.mark.parametrize("with_cache", [False, True])
def test_multi_head_by_central_differences(with_cache: bool, rng: np.random.Generator) -> None:
    past = 2 if with_cache else 0
    x = rng.normal(size=(B, Q, D))
    w_q, w_k = rng.normal(size=(D, H * C)) / 4, rng.normal(size=(D, G * C)) / 4
    w_v, w_o = rng.normal(size=(D, G * CV)), rng.normal(size=(H * CV, D))
    bias = rng.normal(size=(H, 1, Q + past))
    cache = (rng.normal(size=(B, G, past, C)), rng.normal(size=(B, G, past, CV)))
    d_output = rng.normal(size=(B, Q, D))
    d_cache = tuple(rng.normal(size=(B, G, past + Q, width)) for width in (C, CV))
    options: dict[str, Any] = {
        "heads": H,
        "kv_heads": G,
        "mask": Causal(),
        "softcap": 2.5,
        "scale": 0.8,
        "bias": bias,
        "rotary": rotary_angles(range(past, past + Q), C),
        "cache": cache if with_cache else None,
    }

    def loss() -> float:
        done = multi_head_steps(x, w_q, w_k, w_v, w_o, **options)
        reused = sum((new * grad).sum() for new, grad in zip(done.cache, d_cache, strict=True))
        return float((done.output * d_output).sum() + reused)

    done = multi_head_steps(x, w_q, w_k, w_v, w_o, **options)
    found = multi_head_gradients(done, d_output, d_cache)
    arrays = {"x": x, "w_q": w_q, "w_k": w_k, "w_v": w_v, "w_o": w_o, "bias": bias}
    for name, array in arrays.items():
        assert_close(getattr(found, name), difference(loss, array))
    if not with_cache:
        assert found.cache is None
        return
    assert found.cache is not None
    for got, array in zip(found.cache, cache, strict=True):
        assert_close(got, difference(loss, array))


def test_multi_head_agrees_with_autograd(rng: np.random.Generator) -> None:
    shapes = (B, Q, D), (D, H * C), (D, G * C), (D, G * CV), (H * CV, D)
    arrays = [rng.normal(size=shape) for shape in shapes]
    d_output = rng.normal(size=(B, Q, D))
    angles = rotary_angles(range(Q), C)
    done = multi_head_steps(*arrays, heads=H, kv_heads=G, mask=Causal(), rotary=angles)
    found = multi_head_gradients(done, d_output)

    x, w_q, w_k, w_v, w_o = tensors = [torch.from_numpy(a).requires_grad_() for a in arrays]
    cos, sin = (torch.from_numpy(part) for part in angles)
    q = rotate((x @ w_q).unflatten(-1, (H, C)).transpose(1, 2), cos, sin)
    k = rotate((x @ w_k).unflatten(-1, (G, C)).transpose(1, 2), cos, sin)
    v = (x @ w_v).unflatten(-1, (G, CV)).transpose(1, 2)
    scores = q @ k.repeat_interleave(2, 1).mT / C**0.5
    scores = scores.masked_fill(~torch.ones(Q, Q, dtype=torch.bool).tril(), -torch.inf)
    mixed = scores.softmax(-1) @ v.repeat_interleave(2, 1)
    output = mixed.transpose(1, 2).flatten(-2) @ w_o
    expected = torch.autograd.grad(output, tensors, torch.from_numpy(d_output))
    names = ("x", "w_q", "w_k", "w_v", "w_o")
    for name, tensor in zip(names, expected, strict=True):
        assert_close(getattr(found, name), tensor.numpy(), 1e-12)


def test_pieces_with_a_cache_add_up_to_the_whole(rng: np.random.Generator) -> None:
    x, d_output = rng.normal(size=(2, K, D))
    weights = [rng.normal(size=(D, H * C)), *rng.normal(size=(2, D, G * C))]
    weights.append(rng.normal(size=(H * C, D)))
    options: dict[str, Any] = {"heads": H, "kv_heads": G, "mask": Causal()}
    whole = multi_head_gradients(multi_head_steps(x, *weights, **options), d_output)
    first = multi_head_steps(x[:3], *weights, **options)
    second = multi_head_steps(x[3:], *weights, cache=first.cache, **options)
    late = multi_head_gradients(second, d_output[3:])
    early = multi_head_gradients(first, d_output[:3], late.cache)
    assert_close(np.concatenate([early.x, late.x]), whole.x, 1e-12)
    for name in ("w_q", "w_k", "w_v", "w_o"):
        assert_close(getattr(early, name) + getattr(late, name), getattr(whole, name), 1e-12)


def test_errors_say_what_to_do(rng: np.random.Generator) -> None:
    done = steps(np.ones((Q, C)), np.ones((K, C)), np.ones((K, CV)))
    with pytest.raises(ShapeError, match="d_mixed of shape"):
        attend_gradients(done, np.ones((CV, Q)))
