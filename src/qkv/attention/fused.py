"""Exact attention in torch: the same meaning as `steps`, at speed, in memory linear in T.

Three ways to the same numbers; `attend` takes the fastest that is exact for the case:

* **sdpa**: torch's own kernel, for no mask or plain causal, without bias, softcap or lse;
* **dense**: the whole pattern at once, where it is small and torch's kernel slow (bf16 training);
* **blocked**: tiles with an online softmax (`tiles`), for everything else.

Measured forward + backward, causal, 2 cores of an AVX-512 Xeon without AMX, torch 2.13
(B, H, T, C; ms):

======================  ============  =============  ============  =============
size                    fp32 sdpa     fp32 dense     bf16 sdpa     bf16 dense
======================  ============  =============  ============  =============
(64, 4, 64, 32)         4.0           4.9            36.9          5.2
(64, 8, 64, 16)         7.1           5.9            56.5          6.9
(16, 6, 256, 64)        38.9          38.3           79.8          40.9
(4, 6, 512, 64)         34.1          40.4           53.4          44.6
(2, 6, 1024, 64)        46.9          141            75.5          102
======================  ============  =============  ============  =============

Without a gradient sdpa won everywhere. So dense is for bf16 with a gradient and up to 512 keys; in
fp32 the two tie where patterns are small. Blocked costs about twice sdpa in fp32, 69 ms against 34
at (16, 6, 256, 64) and 351 ms against 184 at (1, 4, 4096, 64). One query against 64 keys takes 16
microseconds, 5 of them here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast, overload

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import handle_torch_function, has_torch_function

from qkv.attention.masking import Full, Mask, as_mask
from qkv.attention.masks import Causal
from qkv.attention.shapes import check_bias, check_heads, check_options
from qkv.attention.tiles import (
    Bias,
    Scoring,
    TileBias,
    attend_backward,
    attend_forward,
    per_group,
)
from qkv.errors import ShapeError

__all__ = ["attend", "choose_path"]

Path: TypeAlias = Literal["sdpa", "dense", "blocked"]

# See the table above: beyond this many keys the dense path loses to sdpa even in bf16.
DENSE_KEYS = 512


@overload
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | Tensor | Any = None,
    bias: Bias = None,
    scale: float | None = None,
    softcap: float | None = None,
    return_lse: Literal[False] = False,
) -> Tensor: ...
@overload
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | Tensor | Any = None,
    bias: Bias = None,
    scale: float | None = None,
    softcap: float | None = None,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...
@overload
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | Tensor | Any = None,
    bias: Bias = None,
    scale: float | None = None,
    softcap: float | None = None,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...
def attend(
    q: Float[Tensor, "B H Q C"],
    k: Float[Tensor, "B G K C"],
    v: Float[Tensor, "B G K Cv"],
    *,
    mask: Mask | Tensor | Any = None,
    bias: Bias = None,
    scale: float | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
) -> Float[Tensor, "B H Q Cv"] | tuple[Float[Tensor, "B H Q Cv"], Float[Tensor, "B H Q"]]:
    """Mixes values by softmax(mask(bias + softcap(scale q·k))), exactly, in memory linear in T.

    Args:
        q, k, v: queries (B, H, Q, C), keys (B, G, K, C) and values (B, G, K, Cv), of one type.
        mask: a mask object, or booleans of what is allowed, broadcastable to (B, H, Q, K).
        bias: added after the cap, (B, H, Q, K) or broadcastable to it; or an `ALiBi`.
        scale: 1/sqrt(C) unless given.
        softcap: scores are bent to softcap * tanh(score / softcap).
        return_lse: whether each row's log-sum-exp (natural logarithm) is wanted too.

    Returns:
        The mixed values (B, H, Q, Cv) in q's type; with return_lse also lse (B, H, Q) in fp32 (fp64
        for fp64). A row that is allowed nothing gives zeros and -inf.

    Raises:
        ShapeError: where shapes or types do not fit together.
        ConfigError: where scale or softcap is out of range.

    A `torch.overrides.TorchFunctionMode` sees this very function as `func`. Source: Vaswani et al.
    2017; FlashAttention (Dao et al. 2022) for the tiles.

    >>> q, k, v = torch.randn(3, 1, 2, 5, 4)  # B 1, H 2, T 5, C 4
    >>> mixed, lse = attend(q, k, v, mask=Causal(), return_lse=True)
    >>> tuple(mixed.shape), tuple(lse.shape)
    ((1, 2, 5, 4), (1, 2, 5))
    """
    if has_torch_function((q, k, v)):
        return cast(
            "Tensor | tuple[Tensor, Tensor]",
            handle_torch_function(
                cast("Callable[..., Any]", attend),
                (q, k, v),
                q,
                k,
                v,
                mask=mask,
                bias=bias,
                scale=scale,
                softcap=softcap,
                return_lse=return_lse,
            ),
        )
    _check(q, k, v, scale, softcap)
    device = q.device.type
    if torch.is_autocast_enabled(device):
        # Autocast would lower fp32 products to bf16, and the result with them.
        with torch.autocast(device, enabled=False):
            return _attend(
                q, k, v, mask=mask, bias=bias, scale=scale, softcap=softcap, lse=return_lse
            )
    return _attend(q, k, v, mask=mask, bias=bias, scale=scale, softcap=softcap, lse=return_lse)


def _check(q: Tensor, k: Tensor, v: Tensor, scale: float | None, softcap: float | None) -> None:
    check_heads(q.shape, k.shape, v.shape)
    if q.dim() != 4:
        raise ShapeError(
            f"q of shape {tuple(q.shape)}", "(B, H, Q, C)", "add axes of size 1 in front"
        )
    if not (q.dtype is k.dtype is v.dtype) or not q.is_floating_point():
        raise ShapeError(
            f"q of {q.dtype}, k of {k.dtype}, v of {v.dtype}",
            "one floating-point type",
            "convert them to the type the result shall have",
        )
    if scale is not None or softcap is not None:
        check_options(scale, softcap)


def choose_path(
    q: Tensor, k: Tensor, v: Tensor, *, mask: object, bias: object, softcap: object, lse: bool
) -> Path:
    """The fastest path that is exact: "sdpa", "dense" or "blocked" (see the top of this file).

    >>> x = torch.ones(1, 2, 5, 4)
    >>> choose_path(x, x, x, mask=Causal(), bias=None, softcap=None, lse=False)
    'sdpa'
    """
    queries, keys = q.shape[2], k.shape[2]
    if lse or bias is not None or softcap is not None or not queries or not keys:
        return "blocked"
    # torch's is_causal is aligned at the top left: right only with as many queries as keys. A
    # single query, being the last token, sees all keys.
    plain = mask is None or isinstance(mask, Full)
    if not plain and not (isinstance(mask, Causal) and queries in (1, keys)):
        return "blocked"
    if (
        q.dtype is torch.bfloat16
        and keys <= DENSE_KEYS
        and queries <= DENSE_KEYS
        and q.device.type == "cpu"
        and torch.is_grad_enabled()
        and (q.requires_grad or k.requires_grad or v.requires_grad)
    ):
        return "dense"
    # torch's kernel of linear memory wants one width for k and v, and wants it contiguous.
    if q.shape[3] != v.shape[3] or not q.stride(3) == k.stride(3) == v.stride(3) == 1:
        return "blocked"
    return "sdpa"


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Any,
    bias: Bias,
    scale: float | None,
    softcap: float | None,
    lse: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    path = choose_path(q, k, v, mask=mask, bias=bias, softcap=softcap, lse=lse)
    causal = mask is not None and not isinstance(mask, Full) and q.shape[2] != 1
    if path == "sdpa":
        return through_sdpa(q, k, v, causal=causal, scale=scale)
    if path == "dense":
        return through_dense(q, k, v, causal=causal, scale=scale)
    both = through_tiles(q, k, v, mask=mask, bias=bias, scale=scale, softcap=softcap)
    return both if lse else both[0]


def through_sdpa(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None) -> Tensor:
    """torch's own kernel; causal only with as many queries as keys."""
    batch, heads, queries, width = q.shape
    groups = k.shape[1]
    if heads == groups:
        return scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    if queries == 1:
        # One query: a group's heads stand as rows below its keys, and nothing is repeated.
        rows = q.reshape(batch, groups, heads // groups, width)
        mixed = scaled_dot_product_attention(rows, k, v, scale=scale)
        return mixed.reshape(batch, heads, 1, v.shape[3])
    return scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=True)


def through_dense(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None) -> Tensor:
    """The whole pattern at once, three batched products; for patterns small enough to keep.

    Scores are rounded to q's type once; softmax sums in fp32 inside, whatever that type.
    """
    (batch, heads, queries, width), (groups, keys) = q.shape, k.shape[1:3]
    rows = per_group(q, groups).flatten(0, 1)  # (B*G, H/G * Q, C)
    forbidden = q.new_zeros(1)
    if causal:
        forbidden = q.new_full((queries, keys), -math.inf).triu_(1).repeat(heads // groups, 1)
    scale = width**-0.5 if scale is None else scale
    # The mask is what the product is added to: no pass over the scores of its own.
    scores = torch.baddbmm(forbidden, rows, k.flatten(0, 1).mT, alpha=scale)
    mixed = scores.softmax(-1).bmm(v.flatten(0, 1))  # (B*G, H/G * Q, Cv)
    return mixed.view(batch, heads, queries, v.shape[3])


def through_tiles(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Any,
    bias: Bias,
    scale: float | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """Tiles with an online softmax; serves every case, and gives lse."""
    (batch, heads, queries, width), (groups, keys) = q.shape, k.shape[1:3]
    target = (batch, heads, queries, keys)
    asked = as_mask(mask.detach().cpu().numpy() if isinstance(mask, Tensor) else mask)
    asked.check(target)
    if isinstance(bias, Tensor):
        check_bias(bias.shape, target)
    elif bias is not None:
        if not isinstance(bias, TileBias):
            raise ShapeError(
                f"a bias of type {type(bias).__name__}",
                "a tensor or an object with .tile, as q is a tensor",
                "convert it with torch.from_numpy",
            )
        check_bias(bias.tile(range(1), range(1), queries=queries, keys=keys).shape, target)
    how = Scoring(
        mask=asked,
        bias=bias,
        scale=width**-0.5 if scale is None else scale,
        softcap=softcap,
        heads=heads,
        keys_heads=groups,
        queries=queries,
        keys=keys,
    )
    tensor_bias = bias if isinstance(bias, Tensor) else None
    out = _Blocked.apply(q, k, v, tensor_bias, how)  # type: ignore[no-untyped-call]
    return cast("tuple[Tensor, Tensor]", out)


class _Blocked(torch.autograd.Function):
    """Attention by tiles; saves q, k, v, the result and lse, never a pattern."""

    @staticmethod
    def forward(  # noqa: PLR0917 (torch passes them by position)
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, how: Scoring
    ) -> tuple[Tensor, Tensor]:
        mixed, lse = attend_forward(q, k, v, how)
        ctx.save_for_backward(q, k, v, mixed, lse, bias)
        ctx.how = how
        ctx.set_materialize_grads(False)
        return mixed, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, d_mixed: Tensor | None, d_lse: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        q, k, v, mixed, lse, bias = ctx.saved_tensors
        if d_mixed is None:
            d_mixed = torch.zeros_like(mixed)
        with_bias = bias is not None and ctx.needs_input_grad[3]
        sums = attend_backward(q, k, v, mixed, lse, d_mixed, d_lse, ctx.how, with_bias=with_bias)
        d_bias = None if sums.bias is None else sums.bias.to(bias.dtype)
        return sums.q.to(q.dtype), sums.k.to(k.dtype), sums.v.to(v.dtype), d_bias, None
