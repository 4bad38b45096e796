"""Calls that belong together: a prompt and the steps of a cache after it, as one layer.

A step is known by its keys: those of the calls before stand first in it, bit for bit. Two traps
(`transformers` 5): on a masked step of one token the heads of a group come as rows of queries, and
a sliding cache passes the last keys only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.attention import Full, Mask
from qkv.attention.masking import Positions, indices
from qkv.lens.seeing.calls import Call
from qkv.lens.seeing.masks import stitched

# Keys of the past of which the bits are compared.
TRIED = 64

__all__ = ["Part", "StitchedBias", "begins_at", "grouped", "prints", "trimmed", "unfolded"]


@dataclass(eq=False)
class Part:
    """One call of a layer: what is stored of its queries, and the keys it saw.

    `first` is where its keys begin among all keys of the layer, `size` how many it saw.
    """

    q: Float[Tensor, "B H Q C"]
    lse: Float[Tensor, "B H Q"]
    rows: np.ndarray[Any, Any]
    queries: int
    first: int
    size: int
    mask: Mask
    allowed: Tensor | None
    bias: Any
    query_ids: np.ndarray[Any, Any] | None = None


@dataclass(frozen=True, eq=False)
class StitchedBias:
    """The biases of several calls, one below the other, each over some of the keys."""

    parts: Sequence[tuple[Any, int, int, int]] = field(default_factory=tuple)

    def tile(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Any:
        """The bias at some query rows and key columns, 0 where a call saw no key."""

        def ask(bias: Any, mine: Any, there: Any, count: int, size: int) -> Any:
            if bias is None:
                return np.zeros((1, 1, len(mine), len(there)))
            if not isinstance(bias, Tensor):
                return np.asarray(bias.tile(mine, there, queries=count, keys=size))
            table = bias.double().cpu().numpy()
            picked = table[..., mine if table.shape[-2] > 1 else mine * 0, :]
            return picked[..., there if table.shape[-1] > 1 else there * 0]

        at = indices(rows, queries), indices(cols, keys)
        return stitched(self.parts, at[0], at[1], ask, np.float64)


def prints(k: Float[Tensor, "B G K C"]) -> Int[Tensor, " K"]:
    """A number for each key that tells its bits from others', so that k itself needn't be kept."""
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = k.detach().contiguous().view(kinds[k.dtype.itemsize]).to(torch.int64)
    generator = torch.Generator().manual_seed(0)
    shape = (*k.shape[:2], 1, k.shape[3])
    factors = torch.randint(-(2**62), 2**62, shape, generator=generator) | 1
    return (bits * factors.to(k.device)).sum((0, 1, 3)).cpu()


def begins_at(
    k: Float[Tensor, "B G K C"], queries: int, before: Tensor | None, *, cross: bool = False
) -> int | None:
    """Where a call's keys begin among those before; None where it doesn't go on from them.

    Args:
        k: the keys of the call.
        queries: how many queries it has.
        before: the `prints` of all keys so far.
        cross: of another text: then they are the same at every step.

    >>> x = torch.arange(6.0).reshape(1, 1, 6, 1)
    >>> begins_at(x, 1, prints(x[:, :, :5])), begins_at(x[:, :, 2:], 1, prints(x[:, :, :5]))
    (0, 2)
    >>> begins_at(x, 6, prints(x)) is None
    True
    """
    known = k.shape[2] - queries
    if before is None or known < 0 or queries == k.shape[2]:
        return None
    total = len(before)
    if cross:
        return 0 if queries == 1 and torch.equal(prints(k), before) else None
    if known > total:
        return None
    # The whole past, as a cache that grows has it, or its end, as one that slides. Of a long past
    # some keys tell: all of them again at each step would cost more than the step.
    start = total - known
    some = torch.linspace(0, known - 1, min(known, TRIED)).round().long()
    return start if torch.equal(prints(k[:, :, some]), before[start + some]) else None


def unfolded(call: Call, heads: int, lse: Tensor | None) -> tuple[Call, Tensor | None]:
    """A step whose query rows are the heads of a group, as one query of all heads."""
    groups, rows = call.q.shape[1:3]
    if groups == heads or groups * rows != heads:
        return call, lse
    batch = call.q.shape[0]

    def unfold(table: Any) -> Any:
        if not isinstance(table, Tensor) or table.dim() != 4 or table.shape[1] in (1, heads):
            return table
        return table.reshape(table.shape[0], -1, 1, table.shape[-1])

    changed = replace(
        call,
        q=call.q.reshape(batch, heads, 1, -1),
        allowed=unfold(call.allowed),
        bias=unfold(call.bias),
        again=None,
    )
    return changed, None if lse is None else lse.reshape(batch, heads, 1)


def grouped(call: Call) -> Call:
    """A call whose keys and values were repeated for the heads of a group, with them once."""
    heads = call.k.shape[1]
    for times in range(heads, 1, -1):
        if heads % times or call.q.shape[1] % heads:
            continue
        if all(_repeated(x, times) for x in (call.k, call.v)):
            return replace(call, k=call.k[:, ::times], v=call.v[:, ::times], again=None)
    return call


def _repeated(x: Tensor, times: int) -> bool:
    sets = x.reshape(x.shape[0], -1, times, *x.shape[2:])
    first = sets[:, :, :1]
    # One token tells nearly always.
    if not torch.equal(sets[..., :1, :], first[..., :1, :].expand_as(sets[..., :1, :])):
        return False
    return torch.equal(sets, first.expand_as(sets))


def trimmed(call: Call) -> Call:
    """A call without the keys at its end that none may see: a cache of fixed size, not yet full."""
    if call.allowed is None or call.k.shape[2] <= call.q.shape[2] or call.allowed.dim() < 2:
        return call
    if not isinstance(call.mask, Full) or call.allowed.shape[-1] != call.k.shape[2]:
        return call
    seen = call.allowed.flatten(0, -2).any(0)
    if bool(seen[-1]) or not bool(seen.any()):
        return call
    size = int(seen.nonzero()[-1]) + 1
    if size < call.q.shape[2]:
        return call
    bias = call.bias
    if isinstance(bias, Tensor) and bias.shape[-1] > 1:
        bias = bias[..., :size]
    return replace(
        call,
        k=call.k[:, :, :size],
        v=call.v[:, :, :size],
        allowed=call.allowed[..., :size],
        bias=bias,
        again=None,
    )
