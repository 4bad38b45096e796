"""Attention's backward, derived by hand: NumPy, float64, from the named steps.

Written d_name: the gradient of a loss with respect to `name`, of the same shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from qkv.attention.multihead import Cache, MultiHeadSteps, split_heads
from qkv.attention.positions import unrotate
from qkv.attention.steps import Array, Steps, as_float64, concat_heads, per_group, shared
from qkv.errors import ShapeError

__all__ = ["Gradients", "MultiHeadGradients", "attend_gradients", "multi_head_gradients"]


@dataclass(frozen=True)
class Gradients:
    """Gradients of a loss, each of its field's shape; `bias` is None where no array was given."""

    q: Float[Array, "*B H Q C"]
    k: Float[Array, "*B G K C"]
    v: Float[Array, "*B G K Cv"]
    bias: Array | None


@dataclass(frozen=True)
class MultiHeadGradients:
    """Gradients of a loss, each of its field's shape; `cache` is that of the past's k and v."""

    x: Float[Array, "*B T D"]
    w_q: Float[Array, "D HC"]
    w_k: Float[Array, "D GC"]
    w_v: Float[Array, "D GCv"]
    w_o: Float[Array, "HCv D"]
    bias: Array | None
    cache: Cache | None


def sum_to(gradient: Array, shape: tuple[int, ...]) -> Array:
    """A gradient summed over the axes along which a value of `shape` was broadcast.

    What is used several times has the sum of the gradients of its uses.

    >>> sum_to(np.ones((2, 3, 5)), (3, 1)).tolist()
    [[10.0], [10.0], [10.0]]
    """
    extra = gradient.ndim - len(shape)
    gradient = gradient.sum(axis=tuple(range(extra))) if extra > 0 else gradient
    axes = tuple(axis for axis, size in enumerate(shape) if size == 1 and gradient.shape[axis] != 1)
    summed: Array = gradient.sum(axis=axes, keepdims=True)
    return summed.reshape(shape)


def _like(name: str, value: object, shape: tuple[int, ...]) -> Array:
    array = as_float64(name, value)
    if array.shape != shape:
        raise ShapeError(
            f"{name} of shape {array.shape}",
            f"{shape}, as what it is the gradient of",
            "differentiate the loss by that very array",
        )
    return array


def attend_gradients(
    steps: Steps,
    d_mixed: Float[Array, "*B H Q Cv"],
    d_lse: Float[Array, "*B H Q"] | None = None,
) -> Gradients:
    """The gradients of q, k, v and bias from those of `mixed` and, if the loss uses it, `lse`.

    Args:
        steps: what `steps` returned.
        d_mixed: the loss by `steps.mixed`.
        d_lse: the loss by `steps.lse`; none unless given. A row that allows nothing passes nothing.

    Raises:
        ShapeError: where a gradient has another shape than its value.

    >>> from qkv.attention.steps import steps
    >>> done = steps(np.zeros((1, 2)), np.zeros((2, 2)), np.array([[1.0], [3.0]]))
    >>> attend_gradients(done, np.array([[1.0]])).v.tolist()
    [[0.5], [0.5]]
    """
    d_mixed = _like("d_mixed", d_mixed, steps.mixed.shape)
    q, k, v, pattern = steps.q, steps.k, steps.v, steps.pattern
    d_mixed_grouped = per_group(d_mixed, k)  # (*B, G, H/G, Q, Cv): H/G share a key head

    # mixed = pattern @ v, so d_pattern = d_mixed @ v^T and d_v = pattern^T @ d_mixed; a value that
    # H/G heads share has the sum of theirs.
    d_pattern = (d_mixed_grouped @ shared(v).swapaxes(-1, -2)).reshape(pattern.shape)
    d_v = _sum_heads(per_group(pattern, k).swapaxes(-1, -2) @ d_mixed_grouped, v)

    # pattern_j = exp(masked_j - lse), and d lse / d masked_j = pattern_j, so
    # d pattern_i / d masked_j = pattern_i (1[i=j] - pattern_j), which summed against d_pattern is
    # pattern_j (d_pattern_j - sum_i pattern_i d_pattern_i).
    mean = (pattern * d_pattern).sum(axis=-1, keepdims=True)
    d_masked = pattern * (d_pattern - mean)
    if d_lse is not None:
        d_masked = d_masked + pattern * _like("d_lse", d_lse, steps.lse.shape)[..., None]

    # masked = biased where allowed, else the constant -inf: there the pattern is 0, and so
    # d_masked is.
    d_biased = d_masked

    # biased = capped + bias: both have d_biased; the bias summed over where it was broadcast.
    d_bias = None
    if steps.bias is not None and not hasattr(steps.bias, "tile"):
        shape = np.shape(steps.bias)
        d_bias = sum_to(d_biased, shape[1:] if len(shape) > d_biased.ndim else shape).reshape(shape)
    d_capped = d_biased

    # capped = softcap tanh(scaled/softcap), and tanh' = 1 - tanh^2, so d_scaled = d_capped
    # (1 - (capped/softcap)^2).
    d_scaled = d_capped
    if steps.softcap is not None:
        d_scaled = d_capped * (1.0 - (steps.capped / steps.softcap) ** 2)

    # scaled = scores * scale.
    d_scores = per_group(d_scaled * steps.scale, k)

    # scores = q @ k^T, so d_q = d_scores @ k and d_k = d_scores^T @ q, the latter summed over the
    # heads that share k.
    d_q = (d_scores @ shared(k)).reshape(q.shape)
    d_k = _sum_heads(d_scores.swapaxes(-1, -2) @ per_group(q, k), k)
    return Gradients(q=d_q, k=d_k, v=d_v, bias=d_bias)


def _sum_heads(gradient: Array, like: Array) -> Array:
    """(*B, G, H/G, K, C) summed over the heads that share a key head; without heads, as it is."""
    summed: Array = gradient if like.ndim == 2 else gradient.sum(axis=-3)
    return summed


def multi_head_gradients(
    steps: MultiHeadSteps,
    d_output: Float[Array, "*B T D"],
    d_cache: Cache | None = None,
) -> MultiHeadGradients:
    """The gradients of x, all four weights, bias and the old cache from that of `output`.

    Args:
        steps: what `multi_head_steps` returned.
        d_output: the loss by `steps.output`.
        d_cache: the loss by `steps.cache`, if later tokens looked at it: with it the gradients of a
            text run in pieces add up to those of the text run whole.

    Raises:
        ShapeError: where a gradient has another shape than its value.

    >>> from qkv.attention.multihead import multi_head_steps
    >>> done = multi_head_steps(np.ones((3, 4)), *np.ones((4, 4, 4)), heads=2)
    >>> multi_head_gradients(done, np.ones((3, 4))).w_o[0].tolist()
    [12.0, 12.0, 12.0, 12.0]
    """
    d_output = _like("d_output", d_output, steps.output.shape)
    # output = concatenated @ w_o.
    d_w_o = _by_weight(steps.concatenated, d_output)
    d_concatenated = d_output @ steps.w_o.T
    # concatenated lays the heads side by side; its gradient is cut the same way.
    inner = attend_gradients(steps.attention, split_heads(d_concatenated, steps.heads, "w_o"))
    d_q, d_k, d_v = inner.q, inner.k, inner.v
    if d_cache is not None:
        d_k = d_k + _like("d_cache[0]", d_cache[0], d_k.shape)
        d_v = d_v + _like("d_cache[1]", d_cache[1], d_v.shape)
    # k = (cached k, new k) along the tokens: the first `past` of d_k belong to the cache.
    past = steps.past
    d_past = (d_k[..., :past, :], d_v[..., :past, :]) if past else None
    d_k, d_v = d_k[..., past:, :], d_v[..., past:, :]
    # q and k were turned by a rotation, whose transpose is its inverse: that by -angle. The
    # cached keys were turned before, elsewhere.
    if steps.rotary is not None:
        d_q, d_k = unrotate(d_q, *steps.rotary), unrotate(d_k, *steps.rotary)
    # projected = x @ w for each of the three, so d_w = x^T @ d_projected, and x, used three times,
    # has the sum of d_projected @ w^T.
    d_queries, d_keys, d_values = concat_heads(d_q), concat_heads(d_k), concat_heads(d_v)
    return MultiHeadGradients(
        x=d_queries @ steps.w_q.T + d_keys @ steps.w_k.T + d_values @ steps.w_v.T,
        w_q=_by_weight(steps.x, d_queries),
        w_k=_by_weight(steps.x, d_keys),
        w_v=_by_weight(steps.x, d_values),
        w_o=d_w_o,
        bias=inner.bias,
        cache=d_past,
    )


def _by_weight(x: Float[Array, "*B T D"], d_product: Float[Array, "*B T width"]) -> Array:
    """x^T @ d_product, summed over batch and tokens: all of them used the one weight."""
    flat: Any = x.reshape(-1, x.shape[-1])
    product: Array = flat.T @ d_product.reshape(-1, d_product.shape[-1])
    return product
