"""torch's own attention kernel: given what it takes, made to share heads, asked for its lse.

Three things that calling it takes beside its arguments: types below fp32 are widened where that is
faster or more precise, groups share keys where the device can, mask and bias become one table.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from qkv.attention.masking import Full, Given, Mask, fit
from qkv.attention.tiles import Bias

__all__ = ["kernel_with_lse", "learns", "through_sdpa", "through_table"]

# torch.nn.attention.SDPBackend.FLASH_ATTENTION, without loading that module.
_FLASH = 1


def learns(q: Tensor, k: Tensor, v: Tensor) -> bool:
    return torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)


def through_sdpa(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None) -> Tensor:
    """torch's own kernel; causal only with as many queries as keys."""
    if q.dtype.itemsize < 4 and q.device.type == "cpu" and learns(q, k, v):
        wide = through_sdpa(q.float(), k.float(), v.float(), causal=causal, scale=scale)
        return wide.to(q.dtype)
    batch, heads, queries, width = q.shape
    groups = k.shape[1]
    if heads != groups and queries == 1:
        # One query: a group's heads stand as rows below its keys, and nothing is repeated.
        rows = q.reshape(batch, groups, heads // groups, width)
        mixed = scaled_dot_product_attention(rows, k, v, scale=scale)
        return mixed.reshape(batch, heads, 1, v.shape[3])
    return _kernel(q, k, v, None, causal=causal, scale=scale)


def _kernel(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor | None, *, causal: bool, scale: float | None
) -> Tensor:
    """torch's kernel, with the keys and values of a group shared or, where it must be, repeated."""
    grouped = q.shape[1] != k.shape[1]
    if grouped and q.device.type != "cpu" and (q.dtype.itemsize >= 4 or table is not None):
        # There only flash attention shares keys, which takes neither fp32 nor a table: torch would
        # fall back to whole patterns. Repeating k and v is linear in T.
        sharing = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(sharing, 1), v.repeat_interleave(sharing, 1)
        grouped = False
    return scaled_dot_product_attention(
        q, k, v, attn_mask=table, is_causal=causal, scale=scale, enable_gqa=grouped
    )


def kernel_with_lse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor | None,
    *,
    causal: bool,
    scale: float | None,
    grouped: bool = True,
) -> tuple[Tensor, Tensor] | None:
    """What torch's CPU kernel mixes, and lse, which it has anyway; None where it isn't its choice.

    The result is that of `scaled_dot_product_attention`, bit for bit: it calls this very operator.
    The lse isn't differentiable. A row that is allowed nothing has lse -inf.
    """
    grouped = grouped and q.shape[1] != k.shape[1]
    choice = torch._fused_sdp_choice(q, k, v, table, 0.0, causal, scale=scale, enable_gqa=grouped)
    if choice != _FLASH or q.device.type != "cpu":
        return None
    forbidden = None
    if table is not None and table.dtype is torch.bool:
        forbidden = ~table
        table = torch.zeros(table.shape, dtype=q.dtype).masked_fill_(forbidden, -math.inf)
    elif table is not None:
        forbidden = table == -math.inf
    mixed, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, attn_mask=table, scale=scale
    )
    if forbidden is not None and bool((empty := forbidden.all(-1)).any()):
        lse = lse.masked_fill(empty, -math.inf)
    return mixed, lse.detach()


def through_table(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None,
    bias: Bias,
    scale: float | None,
    lse: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """torch's own kernel, given bias and mask as one table that is added to the scores."""
    dtype = q.dtype
    if dtype.itemsize < 4 and (bias is not None or (q.device.type == "cpu" and learns(q, k, v))):
        q, k, v = q.float(), k.float(), v.float()
    table, empty = _table(q, (*q.shape[:3], k.shape[2]), mask, bias)
    sums = None
    both = kernel_with_lse(q, k, v, table, causal=False, scale=scale) if lse else None
    mixed, sums = both or (_kernel(q, k, v, table, causal=False, scale=scale), None)
    if empty is not None:
        mixed = mixed.masked_fill(empty, 0.0)
        sums = None if sums is None else sums.masked_fill(empty[..., 0], -math.inf)
    return mixed.to(dtype), sums


def _table(
    q: Tensor, target: tuple[int, ...], mask: Mask | None, bias: Bias
) -> tuple[Tensor, Tensor | None]:
    """Bias, -inf where forbidden, in q's type; and the rows that allow nothing, if there are any.

    Those rows have zeros in the table: what torch makes of a row of -inf differs by kernel.
    """
    queries, keys = target[2:]
    if bias is None:
        table = q.new_zeros(1, 1, 1, 1)
    else:
        if not isinstance(bias, Tensor):
            tile = bias.tile(range(queries), range(keys), queries=queries, keys=keys)
            bias = torch.from_numpy(np.ascontiguousarray(tile))
        table = bias.detach().to(q)
        table = table[(None,) * (4 - table.ndim)]
    if mask is not None and not isinstance(mask, Full):
        allowed = mask.table if isinstance(mask, Given) else mask.dense(queries, keys)
        forbidden = torch.from_numpy(~fit(allowed, target)).to(q.device)
        table = table.masked_fill(forbidden, -math.inf)
    empty = table.amax(-1, keepdim=True) == -math.inf
    if not empty.any():
        return table, None
    return table.masked_fill(empty, 0.0), empty
