"""Multi-head attention from x to output in NumPy float64: projections, rotary, cache, heads, W_O.

Weights multiply from the right, `x @ w`, so they are (in, out): the transpose of a torch Linear's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from qkv.attention.masking import MaskLike
from qkv.attention.positions import rotate
from qkv.attention.steps import Array, BiasLike, Steps, as_float64, concat_heads, project, steps
from qkv.errors import ShapeError

__all__ = ["Cache", "MultiHeadSteps", "multi_head_steps", "split_heads"]

# Keys (after rotation) and values of the past: (*B, G, past, C) and (*B, G, past, Cv).
Cache = tuple[Array, Array]


@dataclass(frozen=True)
class MultiHeadSteps:
    """Everything multi-head attention computes on its way; axes as in `multi_head_steps`.

    `attention` holds the steps inside the heads (its q and k are rotated, its k and v include the
    past); `concatenated` is the heads side by side; `cache` is the new k and v, to be handed on;
    `past` is how many of its tokens came with the old cache.
    """

    x: Float[Array, "*B T D"]
    w_q: Float[Array, "D HC"]
    w_k: Float[Array, "D GC"]
    w_v: Float[Array, "D GCv"]
    w_o: Float[Array, "HCv D"]
    heads: int
    kv_heads: int
    rotary: tuple[Array, Array] | None
    attention: Steps
    concatenated: Float[Array, "*B T HCv"]
    output: Float[Array, "*B T D"]
    cache: Cache
    past: int


def split_heads(projected: Float[Array, "*B T HC"], heads: int, name: str) -> Array:
    """(*B, T, H*C) as (*B, H, T, C).

    Raises:
        ShapeError: where the width is no multiple of the heads.

    >>> split_heads(np.ones((5, 6)), 3, "w_q").shape
    (3, 5, 2)
    """
    width = projected.shape[-1]
    if heads < 1 or width % heads:
        raise ShapeError(
            f"{name} that gives width {width} for {heads} heads",
            "a width that is a multiple of the heads",
            "change the number of heads or the weight's columns",
        )
    split = projected.reshape(*projected.shape[:-1], heads, width // heads)
    return np.moveaxis(split, -2, -3)


def multi_head_steps(
    x: Float[Array, "*B T D"],
    w_q: Float[Array, "D HC"],
    w_k: Float[Array, "D GC"],
    w_v: Float[Array, "D GCv"],
    w_o: Float[Array, "HCv D"],
    *,
    heads: int,
    kv_heads: int | None = None,
    mask: MaskLike = None,
    bias: BiasLike = None,
    scale: float | None = None,
    softcap: float | None = None,
    rotary: tuple[Array, Array] | None = None,
    cache: Cache | None = None,
) -> MultiHeadSteps:
    """Multi-head attention with every intermediate named (Vaswani et al. 2017, section 3.2.2).

    Args:
        x: tokens (*B, T, D).
        w_q, w_k, w_v, w_o: (D, H*C), (D, G*C), (D, G*Cv) and (H*Cv, D).
        heads: H; kv_heads: G, as many as heads unless given (Ainslie et al. 2023).
        mask, bias, scale, softcap: as in `steps`, over the T queries and past + T keys.
        rotary: cos and sin (T, C/2) of these T tokens' positions; with a cache they go on after it.
        cache: the `cache` of the call for the past tokens.

    Raises:
        ShapeError: where shapes do not fit together.

    >>> from qkv.attention.masks import Causal
    >>> rng = np.random.default_rng(0)
    >>> x, w = rng.normal(size=(5, 6)), rng.normal(size=(4, 6, 6))
    >>> whole = multi_head_steps(x, *w, heads=2, mask=Causal())
    >>> past = multi_head_steps(x[:3], *w, heads=2, mask=Causal())
    >>> rest = multi_head_steps(x[3:], *w, heads=2, mask=Causal(), cache=past.cache)
    >>> bool(np.allclose(rest.output, whole.output[3:]))
    True
    """
    x = as_float64("x", x)
    w_q, w_k, w_v, w_o = (
        as_float64(name, weight)
        for name, weight in (("w_q", w_q), ("w_k", w_k), ("w_v", w_v), ("w_o", w_o))
    )
    if x.ndim < 2:
        raise ShapeError(f"x of shape {x.shape}", "(*B, T, D)", "add a token axis")
    groups = heads if kv_heads is None else kv_heads
    q = split_heads(project(x, w_q, "w_q"), heads, "w_q")  # (*B, H, T, C)
    k = split_heads(project(x, w_k, "w_k"), groups, "w_k")  # (*B, G, T, C)
    v = split_heads(project(x, w_v, "w_v"), groups, "w_v")  # (*B, G, T, Cv)
    if rotary is not None:
        rotary = as_float64("cos", rotary[0]), as_float64("sin", rotary[1])
        q, k = rotate(q, *rotary), rotate(k, *rotary)
    past = 0
    if cache is not None:
        # Cached keys were rotated when they were new, by their own positions.
        past = cache[0].shape[-2]
        k, v = append(cache[0], k), append(cache[1], v)
    attention = steps(q, k, v, mask=mask, bias=bias, scale=scale, softcap=softcap, w_o=w_o)
    assert attention.output is not None
    return MultiHeadSteps(
        x=x,
        w_q=w_q,
        w_k=w_k,
        w_v=w_v,
        w_o=w_o,
        heads=heads,
        kv_heads=groups,
        rotary=rotary,
        attention=attention,
        concatenated=concat_heads(attention.mixed),
        output=attention.output,
        cache=(k, v),
        past=past,
    )


def append(past: Float[Array, "*B G past C"], new: Float[Array, "*B G T C"]) -> Array:
    """The past's keys or values with the new ones behind them.

    Raises:
        ShapeError: where they differ in more than the number of tokens.
    """
    past = as_float64("a cache", past)
    if (
        past.ndim != new.ndim
        or past.shape[:-2] != new.shape[:-2]
        or past.shape[-1:] != new.shape[-1:]
    ):
        raise ShapeError(
            f"a cache of shape {past.shape} for new keys or values {new.shape}",
            "the same shape but for the number of tokens",
            "hand on the `cache` of the call before, with the same batch",
        )
    return np.concatenate([past, new], axis=-2)
