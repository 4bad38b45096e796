"""What an attention call computes, read off its arguments: one form for every kernel.

Each reader turns the arguments of one kernel into a `Call`. Nothing here knows who makes the call
or what becomes of it: capture records it, edits change it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import scaled_dot_product_attention

from qkv.attention import Causal, Full, Mask, as_mask
from qkv.attention.fused import attend
from qkv.attention.kernels import kernel_with_lse
from qkv.attention.tiles import Bias
from qkv.lens.seeing.masks import TopLeft

__all__ = ["FAR", "Call", "ScoreMod", "forbids", "read", "read_mask"]

# A number so far below the others of its row leaves a weight of exactly 0, even in fp64 beside
# scores of some thousands.
FAR = 9_999.0

# score_mod(scores, sequence, head, rows, cols): a tile of scaled scores, bent in any way.
ScoreMod: TypeAlias = Callable[[Tensor, int, int, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Call:
    """One attention call in the one form: softmax(mask(bias + softcap(scale q·k))) v.

    Args:
        q, k, v: as the kernel is given them, with four axes.
        run: makes the call as it was meant, and returns what the kernel returns.
        finish: mixed values (B, H, Q, Cv) as the kernel would return them.
        mask: what is allowed, by rule.
        allowed: what is allowed, as a table, broadcastable to (B, H, Q, K); both must allow.
        bias: added after the cap, broadcastable likewise.
        scale: what q·k is multiplied by.
        softcap: scores are bent to softcap * tanh(score / softcap).
        score_mod: bends scaled scores in any other way, in place of cap and bias.
        sink: a learned logit for each head, one more term of the softmax's sum.
        run_with_lse: as `run`, and lse (B, H, Q) beside, where the kernel has it for nothing.
        again: the very kernel with other q, k, v, and with its bias levelled or not.
        heads_first: whether the kernel returns (B, H, Q, Cv), else (B, Q, H, Cv).
    """

    q: Float[Tensor, "B H Q C"]
    k: Float[Tensor, "B G K C"]
    v: Float[Tensor, "B G K Cv"]
    run: Callable[[], Any]
    finish: Callable[[Tensor], Any]
    mask: Mask
    scale: float
    allowed: Bool[Tensor, "*B Q K"] | None = None
    bias: Bias = None
    softcap: float | None = None
    score_mod: ScoreMod | None = None
    sink: Float[Tensor, " H"] | None = None
    run_with_lse: Callable[[], tuple[Any, Tensor | None]] | None = None
    again: Callable[[Tensor, Tensor, Tensor, bool], Tensor] | None = None
    heads_first: bool = True

    def detached(self) -> Call:
        """The same call, of tensors that know no gradients."""
        names = ("q", "k", "v", "allowed", "bias", "sink")
        tensors = {name: getattr(self, name) for name in names}
        known: dict[str, Any] = {n: x.detach() for n, x in tensors.items() if isinstance(x, Tensor)}
        return replace(self, **known)


def read(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
    """The call that a function of torch or of ours makes, None where it is no attention.

    >>> x = torch.zeros(1, 2, 5, 4)  # B 1, H 2, T 5, C 4
    >>> read(F.scaled_dot_product_attention, (x, x, x), {"is_causal": True}).mask
    Causal()
    >>> read(torch.add, (x, x), {}) is None
    True
    """
    if func is attend:
        return _read_attend(*args, **kwargs)
    if func is F.scaled_dot_product_attention:
        return _read_sdpa(*args, **kwargs)
    name = getattr(func, "__name__", "")
    if name in _BY_NAME:
        return _BY_NAME[name](func, args, kwargs)
    return None


def _read_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
) -> Call:
    options: dict[str, Any] = {"mask": mask, "bias": bias, "scale": scale, "softcap": softcap}
    table = mask if isinstance(mask, Tensor) else None
    sizes = q.shape[2], k.shape[2]  # not q and k themselves, which `again` would keep alive

    def again(queries: Tensor, keys: Tensor, values: Tensor, biased: bool) -> Tensor:
        term = bias if biased else _levelled(bias, *sizes)
        return cast("Tensor", attend(queries, keys, values, **{**options, "bias": term}))

    def with_lse() -> tuple[Any, Tensor | None]:
        mixed, lse = attend(q, k, v, **options, return_lse=True)
        return ((mixed, lse) if return_lse else mixed), lse

    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    allowed = None if table is None else _four_axes(table, 4)
    added = bias
    if isinstance(bias, Tensor):
        seen, added = read_mask(_four_axes(bias, 4))
        if seen is not None:
            allowed = seen if allowed is None else allowed & seen
    return Call(
        q=q,
        k=k,
        v=v,
        run=partial(attend, q, k, v, **options, return_lse=return_lse),
        # Of an edited call the lse is nobody's: what it would mean has changed.
        finish=lambda mixed: (mixed, None) if return_lse else mixed,
        mask=Full() if table is not None else as_mask(mask),
        allowed=allowed,
        bias=added,
        scale=q.shape[-1] ** -0.5 if scale is None else float(scale),
        softcap=softcap,
        # With a gradient, or below fp32, a lse would take the call another way.
        run_with_lse=with_lse if return_lse or not (learns or q.dtype.itemsize < 4) else None,
        again=again,
    )


def _read_sdpa(  # noqa: PLR0917 (the order of torch)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Call:
    given = (query, key, value)
    options: dict[str, Any] = {"scale": scale, "enable_gqa": enable_gqa}
    run = partial(scaled_dot_product_attention, *given, attn_mask, dropout_p, is_causal, **options)
    device = query.device.type
    if torch.is_autocast_enabled(device):
        # Autocast lowers what the kernel is given; that is what was computed with.
        low = torch.get_autocast_dtype(device)
        query, key, value = (x.to(low) for x in given)
    q, k, v = (_four_axes(x) for x in (query, key, value))
    k, v = (x.expand(q.shape[0], *x.shape[1:]) for x in (k, v))
    mask: Mask = Full()
    if is_causal:
        mask = Causal() if q.shape[2] == k.shape[2] else TopLeft()
    allowed = bias = None
    if attn_mask is not None:
        if attn_mask.is_floating_point():
            attn_mask = attn_mask.to(q.dtype)
        attn_mask = _four_axes(attn_mask, query.dim())
        allowed, bias = read_mask(attn_mask)
    shape = (*query.shape[:-1], value.shape[-1])
    sizes = q.shape[2], k.shape[2]  # not q and k themselves, which `again` would keep alive

    def again(queries: Tensor, keys: Tensor, values: Tensor, biased: bool) -> Tensor:
        added = attn_mask if biased else _levelled(attn_mask, *sizes)
        return scaled_dot_product_attention(
            queries, keys, values, added, is_causal=is_causal, **options
        )

    def with_lse() -> tuple[Any, Tensor | None]:
        found = kernel_with_lse(
            q, k, v, attn_mask, causal=is_causal, scale=scale, grouped=enable_gqa
        )
        return (run(), None) if found is None else (found[0].reshape(shape), found[1])

    plain = dropout_p == 0 and q.dtype.itemsize >= 4 and device == "cpu"
    return Call(
        q=q,
        k=k,
        v=v,
        run=run,
        finish=lambda mixed: mixed.reshape(shape).to(query.dtype),
        mask=mask,
        allowed=allowed,
        bias=bias,
        scale=q.shape[-1] ** -0.5 if scale is None else float(scale),
        run_with_lse=with_lse if plain else None,
        again=again,
    )


def _read_flex(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """The operator under `torch.nn.attention.flex_attention.flex_attention`.

    Its block mask says the same as the mask function that stands last in it.
    """
    from qkv.lens.seeing.masks import Computed

    q, k, v, score_mod, block_mask, scale = args[:6]
    mask_mod = block_mask[-1]
    mask = Computed(mask_mod, q.shape[0], q.shape[1], str(q.device))
    plain = getattr(score_mod, "__name__", "") == "_identity"

    def with_lse() -> tuple[Any, Tensor | None]:
        result = func(*args, **kwargs)
        # This kernel's logarithms are to the base 2.
        return result, result[1].detach() * math.log(2)

    return Call(
        q=q,
        k=k,
        v=v,
        run=lambda: func(*args, **kwargs),
        # Of an edited call the lse and the largest scores are nobody's.
        finish=lambda mixed: (mixed, *[torch.full(q.shape[:3], math.nan, device=q.device)] * 2),
        mask=Full() if getattr(mask_mod, "__name__", "") == "noop_mask" else mask,
        scale=float(scale),
        score_mod=None if plain else mapped(score_mod),
        run_with_lse=with_lse if q.dtype.itemsize >= 4 else None,
    )


def mapped(score_mod: Callable[..., Tensor]) -> ScoreMod:
    """A score function of single numbers, such as flex attention's, over a tile."""
    over_cols = torch.vmap(score_mod, (0, None, None, None, 0))
    over_rows = torch.vmap(over_cols, (0, None, None, 0, None))

    def bend(scores: Tensor, sequence: int, head: int, rows: Tensor, cols: Tensor) -> Tensor:
        at = [torch.tensor(place, device=scores.device) for place in (sequence, head)]
        return over_rows(scores, *at, rows, cols)

    return bend


def _read_flash(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """The operator under `flash_attn.flash_attn_func`; tokens stand before heads there."""
    from qkv.lens.seeing.flash import read_flash

    return read_flash(func, args, kwargs)


def _read_mix(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:  # noqa: ARG001
    """An edited call, in this very form already."""
    return args[0] if args and isinstance(args[0], Call) else None


# Operators that are not functions of torch's namespace are known by their name alone.
_BY_NAME: dict[str, Callable[[Any, tuple[Any, ...], dict[str, Any]], Call | None]] = {
    "mix": _read_mix,
    "flex_attention": _read_flex,
    "_flash_attn_forward": _read_flash,
    "_flash_attn_forward.default": _read_flash,
    "_flash_attn_varlen_forward": _read_flash,
    "_flash_attn_varlen_forward.default": _read_flash,
}


def _levelled(bias: Any, queries: int, keys: int) -> Any:
    """A bias without what it adds, but with what it forbids; booleans and None as they are."""
    if bias is None or (isinstance(bias, Tensor) and bias.dtype is torch.bool):
        return bias
    if not isinstance(bias, Tensor):
        tile = bias.tile(range(queries), range(keys), queries=queries, keys=keys)
        bias = torch.tensor(tile)
    # Times 0 and not just 0: what is not a number stays none.
    return torch.where(forbids(bias), bias, bias * 0)


def _four_axes(x: Tensor, axes: int | None = None) -> Tensor:
    """Torch takes (T, C), (B, T, C), (B, H, T, C) and more leading axes; here they are four.

    `axes` says how many the queries had, for a mask that may have fewer.
    """
    axes = x.dim() if axes is None else axes
    x = x.reshape((1,) * (axes - x.dim()) + tuple(x.shape))
    if axes <= 3:
        return x.reshape((1,) * (3 - axes) + tuple(x.shape)).unsqueeze(1)
    return x if axes == 4 else x.flatten(0, axes - 4)


def forbids(bias: Float[Tensor, "*B Q K"]) -> Bool[Tensor, "*B Q K"]:
    """Where what is added to scores forbids: -inf, and what lies FAR below the rest of its row.

    Models write -1e4, -1e9 or the lowest number of the type; no score makes up for it, so the
    weight is exactly 0. A row that is low all over is one of padding: it sees nothing, though a
    kernel makes an average of something of it.
    """
    highest = bias.amax(-1, keepdim=True)
    return (bias == -torch.inf) | (highest - bias >= FAR) | (highest <= -FAR)


def read_mask(mask: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """What a mask of torch allows, and what it adds to scores; None where that is all, or just 0.

    >>> allowed, bias = read_mask(torch.tensor([[0.0, -1e9], [1.0, 2.0]]))
    >>> allowed.tolist(), bias.tolist()
    ([[True, False], [True, True]], [[0.0, 0.0], [1.0, 2.0]])
    """
    if mask.dtype is torch.bool:
        return mask, None
    forbidden = forbids(mask)
    bias = mask.masked_fill(forbidden, 0.0)
    return ~forbidden if bool(forbidden.any()) else None, bias if bool(bias.any()) else None
