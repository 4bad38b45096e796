"""The NumPy steps: against torch's attention, against loops, and their shapes and errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from qkv.attention import (
    ALiBi,
    Causal,
    Padding,
    alibi_slopes,
    attend,
    multi_head_steps,
    rotary_angles,
    steps,
)
from qkv.errors import ConfigError, ShapeError

B, H, G, Q, K, C, CV, D = 2, 6, 3, 11, 13, 5, 7, 17


@pytest.fixture
def arrays(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    shapes = (B, H, Q, C), (B, G, K, C), (B, G, K, CV)
    return tuple(rng.normal(size=shape) for shape in shapes)


def test_every_intermediate_follows_from_the_one_before(arrays: tuple[np.ndarray, ...]) -> None:
    q, k, v = arrays
    bias = ALiBi(alibi_slopes(H))
    done = steps(q, k, v, mask=Causal(), bias=bias, scale=0.7, softcap=2.0)
    for head in range(H):
        own_k, own_v = k[1, head // 2], v[1, head // 2]
        scores = q[1, head] @ own_k.T
        np.testing.assert_allclose(done.scores[1, head], scores, atol=1e-12)
        capped = 2.0 * np.tanh(scores * 0.7 / 2.0)
        np.testing.assert_allclose(done.capped[1, head], capped, atol=1e-12)
        biased = capped + bias.dense(Q, K)[head]
        masked = np.where(np.tri(Q, K, K - Q, dtype=bool), biased, -np.inf)
        np.testing.assert_allclose(done.masked[1, head], masked, atol=1e-12)
        weights = np.exp(masked)
        pattern = weights / weights.sum(-1, keepdims=True)
        np.testing.assert_allclose(done.pattern[1, head], pattern, atol=1e-12)
        np.testing.assert_allclose(done.lse[1, head], np.log(weights.sum(-1)), atol=1e-12)
        np.testing.assert_allclose(done.mixed[1, head], pattern @ own_v, atol=1e-12)
    np.testing.assert_allclose(done.scaled, done.scores * 0.7)
    assert (done.scale, done.softcap, done.mask, done.bias) == (0.7, 2.0, Causal(), bias)


def test_a_head_alone_is_a_head_among_others(arrays: tuple[np.ndarray, ...]) -> None:
    q, k, v = arrays
    whole = steps(q, k, v, mask=Causal() & Padding((9, K)))
    one = steps(q[0, 3], k[0, 1], v[0, 1], mask=Causal() & Padding((9,)))
    np.testing.assert_allclose(one.mixed, whole.mixed[0, 3], atol=1e-13)
    element = steps(q[0], k[0], v[0], mask=Causal() & Padding((9,)))
    np.testing.assert_allclose(element.lse, whole.lse[0], atol=1e-13)


def test_rows_that_allow_nothing_give_zeros_and_minus_infinity(
    arrays: tuple[np.ndarray, ...],
) -> None:
    q, k, v = arrays
    done = steps(q, k, v, mask=Padding((0, K)))
    assert (done.pattern[0] == 0).all()
    assert (done.mixed[0] == 0).all()
    assert (done.lse[0] == -np.inf).all()
    assert np.isfinite(done.mixed).all()
    more_queries = steps(k.repeat(2, 1), q[:, :G], q[:, :G], mask=Causal())
    assert (more_queries.lse[:, :, : K - Q] == -np.inf).all()
    assert np.isfinite(more_queries.lse[:, :, K - Q :]).all()
    assert steps(q, k[:, :, :0], v[:, :, :0]).mixed.tolist() == np.zeros((B, H, Q, CV)).tolist()


def test_large_scores_overflow_nowhere(arrays: tuple[np.ndarray, ...]) -> None:
    q, k, v = arrays
    done = steps(q * 1e6, k, v, mask=Causal())
    np.testing.assert_allclose(done.pattern.sum(-1), 1)


def test_agrees_with_torch_multi_head_attention(rng: np.random.Generator) -> None:
    module = torch.nn.MultiheadAttention(12, 3, bias=False, batch_first=True, dtype=torch.float64)
    x = rng.normal(size=(2, 7, 12))
    forbidden = ~torch.ones(7, 7, dtype=torch.bool).tril()
    tensor = torch.from_numpy(x)
    with torch.no_grad():
        expected, weights = module(
            tensor, tensor, tensor, attn_mask=forbidden, average_attn_weights=False
        )
        w_q, w_k, w_v = (part.T.numpy() for part in module.in_proj_weight.chunk(3))
        w_o = module.out_proj.weight.T.numpy()
    done = multi_head_steps(x, w_q, w_k, w_v, w_o, heads=3, mask=Causal())
    np.testing.assert_allclose(done.output, expected.numpy(), atol=1e-12)
    np.testing.assert_allclose(done.attention.pattern, weights.numpy(), atol=1e-12)
    np.testing.assert_allclose(done.concatenated @ w_o, done.output)


def test_a_text_in_pieces_with_a_cache_is_the_text_whole(rng: np.random.Generator) -> None:
    x = rng.normal(size=(B, K, D))
    w_q, w_k = rng.normal(size=(D, H * 4)), rng.normal(size=(D, G * 4))
    w_v, w_o = rng.normal(size=(D, G * CV)), rng.normal(size=(H * CV, D))
    options = {"heads": H, "kv_heads": G, "mask": Causal()}
    whole = multi_head_steps(x, w_q, w_k, w_v, w_o, rotary=rotary_angles(range(K), 4), **options)
    cache, outputs = None, []
    for start, stop in ((0, 5), (5, 6), (6, K)):
        rotary = rotary_angles(range(start, stop), 4)
        piece = multi_head_steps(
            x[:, start:stop], w_q, w_k, w_v, w_o, rotary=rotary, cache=cache, **options
        )
        cache = piece.cache
        outputs.append(piece.output)
    np.testing.assert_allclose(np.concatenate(outputs, 1), whole.output, atol=1e-11)
    np.testing.assert_allclose(cache[0], whole.cache[0], atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_attend_serves_arrays_and_keeps_their_type(
    arrays: tuple[np.ndarray, ...], dtype: type
) -> None:
    q, k, v = (array.astype(dtype) for array in arrays)
    mixed, lse = attend(q, k, v, return_lse=True)
    assert mixed.dtype == dtype
    assert lse.shape == (B, H, Q)
    tensors = (torch.from_numpy(array.repeat(H // array.shape[1], 1)) for array in (q, k, v))
    expected = scaled_dot_product_attention(*tensors).numpy()
    np.testing.assert_allclose(mixed, expected, atol=1e-12 if dtype is np.float64 else 1e-6)


def test_errors_say_what_to_do(arrays: tuple[np.ndarray, ...]) -> None:
    q, k, v = arrays
    cases = {
        "one head width": (q, k[..., :3], v),
        "one value for each key": (q, k, v[:, :, 1:]),
        "a multiple of them": (q[:, :5], k, v),
        "batch": (q[:1], k, v),
        "as many axes": (q[0], k, v),
        "array of numbers": (q, k, [[1.0], [2.0, 3.0]]),
    }
    for message, wrong in cases.items():
        with pytest.raises(ShapeError, match=message):
            steps(*wrong)
    with pytest.raises(ShapeError, match="broadcasts"):
        steps(q, k, v, mask=np.ones((5, 5), dtype=bool))
    with pytest.raises(ShapeError, match="a bias of shape"):
        steps(q, k, v, bias=np.ones((5, 5)))
    with pytest.raises(ShapeError, match="w_o of shape"):
        steps(q, k, v, w_o=np.ones((3, 3)))
    with pytest.raises(ConfigError, match="softcap"):
        steps(q, k, v, softcap=0.0)
    with pytest.raises(ConfigError, match="scale"):
        steps(q, k, v, scale=float("nan"))
    with pytest.raises(ShapeError, match="all NumPy arrays or all torch tensors"):
        attend(q, torch.from_numpy(k), v)
    x, w = np.ones((5, 6)), np.ones((6, 6))
    with pytest.raises(ShapeError, match="multiple of the heads"):
        multi_head_steps(x, w, w, w, w, heads=4)
    with pytest.raises(ShapeError, match="a cache of shape"):
        multi_head_steps(x, w, w, w, w, heads=3, cache=(np.ones((2, 1, 2)), np.ones((2, 1, 2))))
