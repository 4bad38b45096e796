"""Attention by tiles in torch: the loops of the blocked path, forward and backward.

Only a tile of scores exists at a time, so memory is linear in the number of tokens (Rabe and
Staats 2021; Dao et al. 2022, FlashAttention). Forward keeps a running maximum and sum for each row
(Milakov and Gimelshein 2018, online softmax); backward rebuilds each tile from q, k and lse. All of
it is in fp32 at least, matrix products too: lse in bf16 would be wrong by up to 6 %.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from qkv.attention.masking import Mask, as_mask
from qkv.attention.steps import BiasTiles

__all__ = ["Scoring", "attend_backward", "attend_forward"]


Bias: TypeAlias = "Tensor | BiasTiles | None"


@dataclass(frozen=True)
class Scoring:
    """How scores come about, but for q and k: everything that both directions must agree on."""

    mask: Mask
    bias: Bias
    scale: float
    softcap: float | None
    heads: int
    keys_heads: int
    queries: int
    keys: int

    def cuts(self, batch: int) -> tuple[int, int]:
        """Rows and columns of a tile: as many scores as stay near the processor, whatever B and H.

        Measured on 2 cores (fp32, forward + backward, T 64 to 4,096): 0.5M to 2M scores are alike;
        128k (more Python) and 4M (beyond the cache) cost up to a quarter more.
        """
        per_head = max(16 * 16, 2**20 // max(1, batch * self.heads))
        rows = 2 ** (int(math.log2(per_head)) // 2)
        return min(rows, max(1, self.queries)), min(max(rows, per_head // rows), max(1, self.keys))

    def tiles(self, rows: range, step: int) -> Iterator[tuple[range, bool]]:
        """Columns that some of `rows` may see, and whether to mask them; others are skipped."""
        start, stop = self.mask.span(rows, queries=self.queries, keys=self.keys)
        for first in range(start, stop, step):
            cols = range(first, min(first + step, stop))
            extent = self.mask.extent(rows, cols, queries=self.queries, keys=self.keys)
            if extent != "none":
                yield cols, extent == "some"

    def score(
        self, q: Tensor, k: Tensor, rows: range, cols: range, *, masked: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Masked scores (B, H, rows, cols) of one tile, and tanh(scaled/softcap) if there is a cap.

        q: (B, H, rows, C), scaled already. k: (B, G, cols, C).
        """
        scores = stack_heads(q, self.keys_heads) @ k.mT
        scores = scores.view(q.shape[0], self.heads, len(rows), len(cols))
        bent = None
        if self.softcap is not None:
            bent = torch.tanh(scores / self.softcap)
            scores = bent * self.softcap
        if self.bias is not None:
            scores = scores + self.bias_tile(rows, cols).to(scores)
        if masked:
            allowed = self.mask.allowed(rows, cols, queries=self.queries, keys=self.keys)
            forbidden = torch.from_numpy(~allowed).to(scores.device)
            scores = scores.masked_fill_(forbidden, -math.inf)
        return scores, bent

    def bias_tile(self, rows: range, cols: range) -> Tensor:
        """The bias of one tile, broadcastable to (B, H, rows, cols)."""
        if isinstance(self.bias, Tensor):
            return self.bias[tile_index(self.bias, rows, cols)]
        assert self.bias is not None
        tile = self.bias.tile(rows, cols, queries=self.queries, keys=self.keys)
        return torch.from_numpy(np.ascontiguousarray(tile))


def tile_index(
    bias: Tensor, rows: range, cols: range
) -> tuple[EllipsisType | slice[Any, Any, Any], ...]:
    """Where a tile lies in a bias, whose axes may be absent or of size 1."""
    cut_rows = slice(rows.start, rows.stop) if bias.ndim > 1 and bias.shape[-2] > 1 else slice(None)
    cut_cols = slice(cols.start, cols.stop) if bias.shape[-1] > 1 else slice(None)
    return (..., cut_rows, cut_cols) if bias.ndim > 1 else (cut_cols,)


def stack_heads(x: Tensor, groups: int) -> Tensor:
    """(B, H, rows, C) as (B, G, H/G * rows, C): the heads of a group one below the other.

    So one product with the group's k or v serves all its heads, and k and v are never repeated.
    """
    batch, heads, rows, width = x.shape
    return x.reshape(batch, groups, heads // groups * rows, width)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _wide_zeros(x: Tensor) -> Tensor:
    return torch.zeros(x.shape, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)


def _pieces(total: int, step: int) -> Iterator[range]:
    for start in range(0, total, step):
        yield range(start, min(start + step, total))


def _cut(x: Tensor, tokens: range) -> Tensor:
    return _wide(x[:, :, tokens.start : tokens.stop])


def attend_forward(
    q: Float[Tensor, "B H Q C"],
    k: Float[Tensor, "B G K C"],
    v: Float[Tensor, "B G K Cv"],
    how: Scoring,
) -> tuple[Float[Tensor, "B H Q Cv"], Float[Tensor, "B H Q"]]:
    """The mixed values, in q's type, and lse, in fp32 (fp64 for fp64)."""
    batch, heads, queries, _ = q.shape
    mixed = q.new_zeros(batch, heads, queries, v.shape[-1])
    lse = _wide_zeros(q[..., 0]).fill_(-math.inf)
    row_step, col_step = how.cuts(batch)
    for rows in _pieces(queries, row_step):
        q_rows = _cut(q, rows) * how.scale
        highest = q_rows.new_full((batch, heads, len(rows), 1), -math.inf)
        total = torch.zeros_like(highest)
        summed = q_rows.new_zeros(batch, heads, len(rows), v.shape[-1])
        for cols, masked in how.tiles(rows, col_step):
            scores, _ = how.score(q_rows, _cut(k, cols), rows, cols, masked=masked)
            raised = torch.maximum(highest, scores.amax(-1, keepdim=True))
            # A row that has seen nothing yet has the maximum -inf: -inf - -inf would be NaN.
            level = raised.masked_fill(raised == -math.inf, 0.0)
            weights = scores.sub_(level).exp_()
            # What was summed against the old maximum is brought down to the new one.
            shrink = (highest - level).exp_()
            total = total.mul_(shrink).add_(weights.sum(-1, keepdim=True))
            fresh = stack_heads(weights, how.keys_heads) @ _cut(v, cols)
            summed = summed.mul_(shrink).add_(fresh.view_as(summed))
            highest = raised
        here = slice(rows.start, rows.stop)
        mixed[:, :, here] = summed / total.masked_fill(total == 0, 1.0)
        lse[:, :, here] = (highest + total.log()).squeeze(-1)
    return mixed, lse


@dataclass
class Sums:
    """Gradients as they are summed up over tiles, in fp32 at least."""

    q: Float[Tensor, "B H Q C"]
    k: Float[Tensor, "B G K C"]
    v: Float[Tensor, "B G K Cv"]
    bias: Tensor | None


def attend_backward(  # noqa: PLR0917 (what was saved, in its order)
    q: Float[Tensor, "B H Q C"],
    k: Float[Tensor, "B G K C"],
    v: Float[Tensor, "B G K Cv"],
    mixed: Float[Tensor, "B H Q Cv"],
    lse: Float[Tensor, "B H Q"],
    d_mixed: Float[Tensor, "B H Q Cv"],
    d_lse: Float[Tensor, "B H Q"] | None,
    how: Scoring,
    *,
    with_bias: bool,
) -> Sums:
    """Gradients of q, k, v and, if asked, of a tensor bias; tiles are rebuilt from q, k and lse.

    The derivation stands, line by line, in `gradients.attend_gradients`.
    """
    batch, groups = q.shape[0], how.keys_heads
    bias = how.bias if with_bias and isinstance(how.bias, Tensor) else None
    sums = Sums(
        _wide_zeros(q),
        _wide_zeros(k),
        _wide_zeros(v),
        None if bias is None else _wide_zeros(bias),
    )
    row_step, col_step = how.cuts(batch)
    for rows in _pieces(how.queries, row_step):
        here = slice(rows.start, rows.stop)
        q_rows, d_rows = _cut(q, rows) * how.scale, _cut(d_mixed, rows)
        # A row that saw nothing has lse -inf; any finite level gives it weights exp(-inf) = 0.
        level = lse[:, :, here, None]
        level = level.masked_fill(level == -math.inf, 0.0)
        # What softmax's backward takes off each row; lse's own gradient, d_lse * pattern, joins it.
        drop = (d_rows * _cut(mixed, rows)).sum(-1, keepdim=True)
        if d_lse is not None:
            drop = drop - d_lse[:, :, here, None]
        for cols, masked in how.tiles(rows, col_step):
            there = slice(cols.start, cols.stop)
            k_cols, v_cols = _cut(k, cols), _cut(v, cols)
            scores, bent = how.score(q_rows, k_cols, rows, cols, masked=masked)
            pattern = scores.sub_(level).exp_()
            sums.v[:, :, there] += stack_heads(pattern, groups).mT @ stack_heads(d_rows, groups)
            d_scores = (stack_heads(d_rows, groups) @ v_cols.mT).view_as(pattern)
            d_scores = d_scores.sub_(drop).mul_(pattern)
            if sums.bias is not None:
                index = tile_index(sums.bias, rows, cols)
                part = sums.bias[index]
                part += d_scores.sum_to_size(part.shape)
            if bent is not None:
                d_scores = d_scores.mul_(1 - bent * bent)
            stacked = stack_heads(d_scores, groups)
            sums.q[:, :, here] += (stacked @ k_cols).view_as(q_rows).mul_(how.scale)
            sums.k[:, :, there] += stacked.mT @ stack_heads(q_rows, groups)
    return sums


def through_tiles(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Mask | None,
    bias: Bias,
    scale: float | None,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """Tiles with an online softmax; serves every case, and gives lse."""
    (_, heads, queries, width), (groups, keys) = q.shape, k.shape[1:3]
    how = Scoring(
        mask=as_mask(mask),
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
        # Backward may run under the caller's autocast, though forward did not.
        with torch.autocast(q.device.type, enabled=False):
            sums = attend_backward(
                q, k, v, mixed, lse, d_mixed, d_lse, ctx.how, with_bias=with_bias
            )
        d_bias = None if sums.bias is None else sums.bias.to(bias.dtype)
        return sums.q.to(q.dtype), sums.k.to(k.dtype), sums.v.to(v.dtype), d_bias, None
