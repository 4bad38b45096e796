"""Attention one step at a time in NumPy float64: every intermediate has a name and is kept.

The order is q·k, scale, softcap, bias, mask, softmax, and the values mixed. This is the readable
truth that `fused` is tested against; it holds (Q, K) tables, so keep T in the hundreds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from qkv.attention.masking import Mask, MaskLike, Positions, as_mask, fit
from qkv.attention.shapes import check_bias, check_heads, check_options, numbers
from qkv.errors import ShapeError

__all__ = ["BiasLike", "BiasTiles", "ScoreTile", "Steps", "score_tile", "softmax", "steps"]

Array: TypeAlias = "np.ndarray[Any, Any]"


@runtime_checkable
class BiasTiles(Protocol):
    """A bias that is asked for by the tile, such as `ALiBi`."""

    def tile(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Array:
        """The bias at some rows and columns, broadcastable to (B, H, rows, cols)."""
        ...


BiasLike: TypeAlias = "Array | BiasTiles | None"


@dataclass(frozen=True)
class Steps:
    """Everything attention computes on its way, in float64; axes as in `steps`.

    `scores` is q·k; `scaled` is scores * scale; `capped` is bent by the softcap; `biased` has the
    bias added; `masked` is -inf where not allowed; `pattern` is its softmax and `lse` its
    log-sum-exp; `mixed` is pattern @ v; `output` is concat(heads) @ W_O, if W_O was given.
    `allowed` is the mask as booleans, broadcastable to the scores.
    """

    q: Float[Array, "*B H Q C"]
    k: Float[Array, "*B G K C"]
    v: Float[Array, "*B G K Cv"]
    scores: Float[Array, "*B H Q K"]
    scaled: Float[Array, "*B H Q K"]
    capped: Float[Array, "*B H Q K"]
    biased: Float[Array, "*B H Q K"]
    masked: Float[Array, "*B H Q K"]
    pattern: Float[Array, "*B H Q K"]
    lse: Float[Array, "*B H Q"]
    mixed: Float[Array, "*B H Q Cv"]
    output: Float[Array, "*B Q D"] | None
    scale: float
    softcap: float | None
    mask: Mask
    allowed: Bool[Array, "*B H Q K"]
    bias: BiasLike


def as_float64(name: str, value: object) -> Array:
    """The value as float64; a ShapeError where it isn't an array of numbers."""
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ShapeError(
            f"{name} that is no array of numbers ({error})",
            "an array of numbers with rows of one length",
            "detach tensors and convert them with .numpy()",
        ) from error


def softmax(
    masked: Float[Array, "*B H Q K"],
) -> tuple[Float[Array, "*B H Q K"], Float[Array, "*B H Q"]]:
    """Softmax over the keys, and its log-sum-exp; a row of only -inf gives zeros and -inf.

    The row's maximum is taken off first, so that exp cannot overflow.

    >>> pattern, lse = softmax(np.array([[0.0, 0.0], [-np.inf, -np.inf]]))
    >>> pattern.tolist(), lse.round(3).tolist()
    ([[0.5, 0.5], [0.0, 0.0]], [0.693, -inf])
    """
    highest = masked.max(axis=-1, keepdims=True, initial=-np.inf)
    # A row that allows nothing has the maximum -inf, and -inf - -inf would be NaN.
    level = np.where(highest == -np.inf, 0.0, highest)
    exponentials = np.exp(masked - level)
    total = exponentials.sum(axis=-1, keepdims=True)
    empty = total == 0
    pattern = exponentials / np.where(empty, 1.0, total)
    lse = np.where(empty, -np.inf, level + np.log(np.where(empty, 1.0, total)))
    return pattern, lse[..., 0]


class ScoreTile(NamedTuple):
    """The scores of some queries and keys, step by step; axes as in `score_tile`."""

    scores: Float[Array, "*B H rows cols"]
    scaled: Float[Array, "*B H rows cols"]
    capped: Float[Array, "*B H rows cols"]
    biased: Float[Array, "*B H rows cols"]
    masked: Float[Array, "*B H rows cols"]


def score_tile(
    q_rows: Float[Array, "*B H rows C"],
    k_cols: Float[Array, "*B G cols C"],
    *,
    scale: float | None,
    softcap: float | None,
    bias_tile: Array | None,
    allowed: Bool[Array, "*B H rows cols"],
) -> ScoreTile:
    """What goes into the softmax for some queries and keys: the one place where it is written.

    Args:
        q_rows, k_cols: (*B, H, rows, C) and (*B, G, cols, C), or (rows, C) and (cols, C).
        scale: 1/sqrt(C) if None.
        softcap: scores are bent to softcap * tanh(scaled / softcap), unless None.
        bias_tile: added after the cap, broadcastable to the scores.
        allowed: what the mask allows, broadcastable likewise; elsewhere the result is -inf.

    >>> options = {"scale": None, "softcap": None, "bias_tile": None}
    >>> score_tile(np.ones((1, 4)), np.ones((1, 4)), allowed=np.True_, **options).masked.tolist()
    [[2.0]]
    """
    shape = (*q_rows.shape[:-1], k_cols.shape[-2])
    scores = (per_group(q_rows, k_cols) @ shared(k_cols).swapaxes(-1, -2)).reshape(shape)
    scaled = scores * (q_rows.shape[-1] ** -0.5 if scale is None else scale)
    capped = scaled if softcap is None else softcap * np.tanh(scaled / softcap)
    biased = capped if bias_tile is None else capped + bias_tile
    return ScoreTile(scores, scaled, capped, biased, np.where(allowed, biased, -np.inf))


def per_group(x: Float[Array, "*B H rows C"], k: Array) -> Float[Array, "*B G sharing rows C"]:
    """(*B, H, ...) as (*B, G, H/G, ...), so that it broadcasts against k[..., None, :, :].

    Query head h reads key head h // (H/G), as in grouped-query attention (Ainslie et al. 2023).
    """
    if x.ndim == 2:
        return x
    heads, groups = x.shape[-3], k.shape[-3]
    return x.reshape(*x.shape[:-3], groups, heads // groups, *x.shape[-2:])


def shared(k: Float[Array, "*B G K C"]) -> Float[Array, "*B G 1 K C"]:
    """Keys or values with an axis for the heads that share them."""
    return k if k.ndim == 2 else k[..., None, :, :]


def bias_table(bias: BiasLike, shape: tuple[int, ...]) -> Array | None:
    """The bias as an array that broadcasts to scores of `shape`.

    Raises:
        ShapeError: where it does not.
    """
    if bias is None:
        return None
    queries, keys = shape[-2:]
    if isinstance(bias, BiasTiles):
        table = bias.tile(range(queries), range(keys), queries=queries, keys=keys)
    else:
        table = as_float64("a bias", numbers(bias))
    if table.ndim == len(shape) + 1 and table.shape[0] == 1:
        table = table[0]
    check_bias(table, shape)
    return table


def concat_heads(mixed: Float[Array, "*B H Q Cv"]) -> Float[Array, "*B Q HCv"]:
    """The heads of each token side by side; a single head without head axis stays as it is."""
    if mixed.ndim == 2:
        return mixed
    moved = np.moveaxis(mixed, -3, -2)  # (*B, Q, H, Cv)
    return moved.reshape(*moved.shape[:-2], -1)


def steps(
    q: Float[Array, "*B H Q C"],
    k: Float[Array, "*B G K C"],
    v: Float[Array, "*B G K Cv"],
    *,
    mask: MaskLike = None,
    bias: BiasLike = None,
    scale: float | None = None,
    softcap: float | None = None,
    w_o: Float[Array, "HCv D"] | None = None,
) -> Steps:
    """Attention with every intermediate named, in float64 (Vaswani et al. 2017, section 3.2).

    Args:
        q, k, v: (*B, H, Q, C), (*B, G, K, C) and (*B, G, K, Cv), H a multiple of G; a single head
            may come without head axis: (Q, C), (K, C), (K, Cv).
        mask: a mask object, or booleans of what is allowed, broadcastable to (*B, H, Q, K).
        bias: numbers added after the cap, broadcastable likewise; or an `ALiBi`.
        scale: 1/sqrt(C) unless given.
        softcap: scores are bent to softcap * tanh(scaled / softcap) (Gemma 2, 2024).
        w_o: the output projection (H*Cv, D), applied to the concatenated heads.

    Raises:
        ShapeError: where shapes do not fit together.
        ConfigError: where scale or softcap is out of range.

    >>> keys = np.array([[1.0, 0.0], [2.0, 1.0], [1.0, 1.0]])
    >>> values = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> done = steps(np.array([[1.0, 1.0]]), keys, values)
    >>> done.pattern.round(3).tolist(), done.mixed.round(3).tolist()
    ([[0.14, 0.576, 0.284]], [[0.424, 1.436]])
    """
    q, k, v = as_float64("q", q), as_float64("k", k), as_float64("v", v)
    check_heads(q.shape, k.shape, v.shape)
    check_options(scale, softcap)
    shape = (*q.shape[:-1], k.shape[-2])
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)

    mask = as_mask(mask)
    mask.check(shape)
    allowed = fit(mask.dense(*shape[-2:]), shape)
    table = bias_table(bias, shape)
    tile = score_tile(q, k, scale=scale, softcap=softcap, bias_tile=table, allowed=allowed)
    pattern, lse = softmax(tile.masked)
    mixed = (per_group(pattern, k) @ shared(v)).reshape(*q.shape[:-1], v.shape[-1])
    return Steps(
        q=q,
        k=k,
        v=v,
        **tile._asdict(),
        pattern=pattern,
        lse=lse,
        mixed=mixed,
        output=None if w_o is None else project(concat_heads(mixed), as_float64("w_o", w_o), "w_o"),
        scale=scale,
        softcap=softcap,
        mask=mask,
        allowed=allowed,
        bias=bias,
    )


def project(
    x: Float[Array, "*B T D"], weight: Float[Array, "D width"], name: str
) -> Float[Array, "*B T width"]:
    """x @ weight, or a ShapeError that names the weight."""
    if weight.ndim != 2 or weight.shape[0] != x.shape[-1]:
        raise ShapeError(
            f"{name} of shape {weight.shape} for rows of width {x.shape[-1]}",
            f"({x.shape[-1]}, any)",
            "transpose it if it comes from a torch Linear, whose weights are (out, in)",
        )
    product: Array = x @ weight
    return product
