"""Exact attention in torch: the same meaning as `steps`, at speed, in memory linear in T.

Three ways to the same numbers; `attend` takes the fastest that is exact for the case:

* **sdpa**: torch's own kernel, for no mask or plain causal;
* **table**: the same kernel, given mask and bias as one table to add, where that table is small or
  no larger than what the caller gave;
* **blocked**: tiles with an online softmax (`tiles`), for everything else: softcap, a bias that
  learns, long texts under a mask object, and lse where torch's kernel can't give it (with a
  gradient, below fp32, off the CPU).

Types below fp32 are widened for torch's kernel where a gradient is wanted on the CPU (it is faster
and more precise) and where there is a bias (bf16 would round -250 to the nearest 1).

Measured forward + backward, one core of an AVX-512 Xeon without AMX, torch 2.13, milliseconds of
processor time, the least of 3 to 7 runs on a busy machine (B, H, T, C):

==================  ==========  ==========  ==========  ============
causal              fp32 sdpa   bf16 sdpa   bf16 wide   fp32 blocked
==================  ==========  ==========  ==========  ============
(64, 4, 64, 32)     10          48          13          28
(16, 6, 256, 64)    61          119         65          94
(2, 6, 1024, 64)    73          135         76          122
(1, 4, 4096, 64)    271         508         274         432
==================  ==========  ==========  ==========  ============

==================  ===========  ===========  ===========  ===========
fp32                window T/8   window T/8   boolean T²   boolean T²
                    table        blocked      table        blocked
==================  ===========  ===========  ===========  ===========
(64, 4, 64, 32)     8.5          25           7.9          24
(16, 6, 256, 64)    62           66           66           230
(4, 6, 512, 64)     54           50           56           242
(2, 6, 1024, 64)    107          90           113          495
(1, 4, 2048, 64)    148          114          170          672
(1, 4, 4096, 64)    598          278          688          2546
==================  ===========  ===========  ===========  ===========

So a mask object becomes a table up to 512 x 512 cells: beyond, tiles skip what it forbids. Booleans
and biases given as arrays are a table at any length, of as many cells as the array. Blocked costs
1.5 to 3 times sdpa under a causal mask. A bias that learns stays blocked, 118 ms at
(16, 6, 256, 64), where torch takes 78 and keeps whole patterns. One query against 64 keys takes 23
microseconds, 13 of them in torch's kernel; under a `Window` 81, where tiles took 223.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast, overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from qkv.attention.kernels import kernel_with_lse, learns, through_sdpa, through_table
from qkv.attention.masking import Full, Given, Mask, as_mask
from qkv.attention.masks import Causal
from qkv.attention.shapes import check_bias, check_heads, check_options
from qkv.attention.steps import BiasTiles
from qkv.attention.tiles import Bias, through_tiles
from qkv.errors import ShapeError

__all__ = ["attend", "choose_path"]

Path: TypeAlias = Literal["sdpa", "table", "blocked"]

# See the tables above: beyond this many cells, Q times K, tiles are faster under a mask object.
TABLE_CELLS = 512**2


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
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None,
    bias: Bias,
    softcap: float | None,
    lse: bool,
) -> Path:
    """The fastest path that is exact: "sdpa", "table" or "blocked" (see the top of this file).

    >>> x = torch.ones(1, 2, 5, 4)
    >>> choose_path(x, x, x, mask=Causal(), bias=None, softcap=None, lse=False)
    'sdpa'
    """
    queries, keys = q.shape[2], k.shape[2]
    if softcap is not None or not queries or not keys:
        return "blocked"
    if lse and (learns(q, k, v) or q.dtype.itemsize < 4 or q.device.type != "cpu"):
        return "blocked"
    # torch's kernel of linear memory wants one width for k and v, and wants it contiguous.
    if q.shape[3] != v.shape[3] or not q.stride(3) == k.stride(3) == v.stride(3) == 1:
        return "blocked"
    # torch's is_causal is aligned at the top left: right only with as many queries as keys. A
    # single query, being the last token, sees all keys.
    plain = mask is None or isinstance(mask, Full)
    if bias is None and (plain or (isinstance(mask, Causal) and queries in (1, keys))):
        return "sdpa"
    # For a bias that learns torch would keep whole patterns.
    if isinstance(bias, Tensor) and bias.requires_grad and torch.is_grad_enabled():
        return "blocked"
    return "table" if queries * keys <= TABLE_CELLS or _given(mask, bias) else "blocked"


def _given(mask: Mask | None, bias: Bias) -> bool:
    """Whether mask and bias are arrays, their table no larger than what the caller holds."""
    terms: list[Any] = [] if mask is None or isinstance(mask, Full) else [mask]
    terms += [] if bias is None else [bias]
    arrays = [term.table if isinstance(term, Given) else term for term in terms]
    if not all(isinstance(array, np.ndarray | Tensor) for array in arrays):
        return False
    sizes = [math.prod(array.shape) for array in arrays]
    return math.prod(np.broadcast_shapes(*(tuple(array.shape) for array in arrays))) <= max(sizes)


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
    if mask is not None or bias is not None:
        mask = _check_terms(mask, bias, (*q.shape[:3], k.shape[2]))
    path = choose_path(q, k, v, mask=mask, bias=bias, softcap=softcap, lse=lse)
    if path == "sdpa":
        causal = mask is not None and not isinstance(mask, Full) and q.shape[2] != 1
        if not lse:
            return through_sdpa(q, k, v, causal=causal, scale=scale)
        if (found := kernel_with_lse(q, k, v, None, causal=causal, scale=scale)) is not None:
            return found
    elif path == "table":
        if not lse:
            return through_table(q, k, v, mask=mask, bias=bias, scale=scale)[0]
        mixed, sums = through_table(q, k, v, mask=mask, bias=bias, scale=scale, lse=True)
        if sums is not None:
            return mixed, sums
    both = through_tiles(q, k, v, mask=mask, bias=bias, scale=scale, softcap=softcap)
    return both if lse else both[0]


def _check_terms(mask: Any, bias: Any, target: tuple[int, ...]) -> Mask:
    """The mask as an object, after checking that mask and bias fit scores of shape `target`."""
    asked = as_mask(mask.detach().cpu().numpy() if isinstance(mask, Tensor) else mask)
    asked.check(target)
    if isinstance(bias, Tensor):
        check_bias(bias, target)
    elif bias is not None:
        if not isinstance(bias, BiasTiles):
            raise ShapeError(
                f"a bias of type {type(bias).__name__}",
                "a tensor or an object with .tile, as q is a tensor",
                "convert it with torch.from_numpy",
            )
        corner = bias.tile(range(1), range(1), queries=target[2], keys=target[3])
        check_bias(corner, target)
    return asked
