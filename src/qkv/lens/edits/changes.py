"""What edits make of a call: each takes a call in the one form and gives a changed one.

Each is told which heads to change, `chosen` (H,). Where all are meant the call keeps a simple form,
with another scale or mask; else what differs between heads goes into q, the bias, or a mask with
an axis of heads. Nothing here computes attention but for the strongest key, by strips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from qkv.attention import Both, Causal, Full, Given, Mask, Padding, Prefix, Window
from qkv.attention.masking import Positions, indices
from qkv.attention.steps import BiasTiles
from qkv.attention.tiles import Bias
from qkv.lens.edits.mixing import strongest
from qkv.lens.seeing.calls import Call, forbids, read_mask
from qkv.lens.seeing.flash import Packed
from qkv.lens.seeing.masks import Seen, TopLeft
from qkv.lens.seeing.reckoning import whole_mask

__all__ = ["sharpened", "uniformed", "with_scale", "with_temperature", "without_mask"]

Chosen = Bool[np.ndarray, " H"]
STRIP_ROWS = 256


def with_scale(call: Call, chosen: Chosen, scale: float) -> Call:
    """The call with q·k multiplied by `scale` instead; 1 drops the scale."""
    if chosen.all():
        return replace(call, scale=scale)
    # Heads that keep their scale keep their bits: a factor of 1 changes nothing.
    old, others = (call.scale, 1.0) if call.scale else (1.0, 0.0)
    call = _wide(call)
    return replace(call, q=call.q * _per_head(call, chosen, scale / old, others), scale=old)


def with_temperature(call: Call, chosen: Chosen, temperature: float) -> Call:
    """The call with all that enters softmax divided by `temperature`."""
    factor = np.where(chosen, 1 / temperature, 1.0)
    if call.sink is not None:
        call = replace(call, sink=call.sink * torch.from_numpy(factor).to(call.sink))
    if call.score_mod is not None or (call.softcap is not None and not chosen.all()):
        return _bent(call, chosen, lambda scores: scores / temperature)
    call = replace(call, bias=_scaled(call.bias, factor))
    if chosen.all():
        cap = None if call.softcap is None else call.softcap / temperature
        return replace(call, scale=call.scale / temperature, softcap=cap)
    call = _wide(call)
    return replace(call, q=call.q * _per_head(call, chosen, 1 / temperature))


def uniformed(call: Call, chosen: Chosen) -> Call:
    """The call with the same weight for every key that a query may see: 1 / their number."""
    call = replace(call, sink=_without_sink(call, chosen))
    if call.score_mod is not None:
        return _bent(call, chosen, torch.zeros_like)
    heads = _axis(call, chosen)
    bias = _scaled(call.bias, np.where(chosen, 0.0, 1.0))
    return replace(call, q=call.q.masked_fill(heads, 0.0), bias=bias)


def sharpened(call: Call, chosen: Chosen) -> Call:
    """The call with all of the weight on the key that had most, the first of equals."""
    only = _Only(strongest(call).cpu().numpy())
    return replace(
        call,
        mask=_by_head(chosen, only, whole_mask(call.mask, call.allowed)),
        allowed=None,
        sink=_without_sink(call, chosen),
    )


def without_mask(call: Call, chosen: Chosen) -> Call:
    """The call with every key seen that any query of its sequence may see.

    So causal rules, windows and tables go, and what no query at all may see stays unseen: padding,
    and the empty places of a cache.
    """
    if isinstance(call.bias, Tensor):
        # Numbers as low as the type can hold forbid as -inf does.
        allowed, bias = read_mask(call.bias)
        both = allowed if call.allowed is None else call.allowed
        if allowed is not None and call.allowed is not None:
            both = call.allowed & allowed
        call = replace(call, allowed=both, bias=bias)
    kept = _kept(call.mask, call)
    if call.allowed is not None:
        table = _kept_columns(call.allowed)
        kept = table if isinstance(kept, Full) else kept & table
    return replace(
        call, mask=_by_head(chosen, kept, whole_mask(call.mask, call.allowed)), allowed=None
    )


def _kept(mask: Mask, call: Call) -> Mask:
    """What stays of a mask: padding, and the borders between sequences packed in one row."""
    if isinstance(mask, Causal | Window | Prefix | TopLeft | Full):
        return Full()
    if isinstance(mask, Padding):
        return mask
    if isinstance(mask, Packed):
        return replace(mask, left=-1, right=-1)
    if isinstance(mask, Both):
        left, right = _kept(mask.left, call), _kept(mask.right, call)
        return right if isinstance(left, Full) else left & right
    queries, keys = call.q.shape[2], call.k.shape[2]
    seen: Any = np.False_
    for start in range(0, queries, STRIP_ROWS):
        rows = range(start, min(start + STRIP_ROWS, queries))
        tile = mask.allowed(rows, range(keys), queries=queries, keys=keys)
        seen = seen | tile.any(-2, keepdims=True)
    return Full() if seen.all() else Given(seen)


def _kept_columns(allowed: Tensor) -> Mask:
    """The keys that any query may see by a table."""
    seen = allowed.any(-2, keepdim=True).detach().cpu().numpy()
    return Full() if seen.all() else Given(seen)


def _wide(call: Call) -> Call:
    """In fp32 at least: a factor for each head would else be rounded."""
    kind = torch.promote_types(call.q.dtype, torch.float32)
    return replace(call, q=call.q.to(kind), k=call.k.to(kind), v=call.v.to(kind))


def _axis(call: Call, chosen: Chosen) -> Tensor:
    return torch.from_numpy(chosen).to(call.q.device)[:, None, None]


def _per_head(call: Call, chosen: Chosen, factor: float, others: float = 1.0) -> Tensor:
    return torch.where(_axis(call, chosen), factor, others).to(call.q)


def _without_sink(call: Call, chosen: Chosen) -> Tensor | None:
    if call.sink is None or chosen.all():
        return None
    return call.sink.masked_fill(_axis(call, chosen)[:, 0, 0], -math.inf)


def _scaled(bias: Bias, factor: np.ndarray[Any, Any]) -> Bias:
    """A bias times a factor for each head; what forbids, as -inf does, goes on to forbid."""
    if bias is None or (factor == 1).all():
        return bias
    if not isinstance(bias, Tensor):
        return _ScaledBias(bias, factor)
    same = factor[0] if (factor == factor[0]).all() else None
    forbidden = forbids(bias)
    if same == 0 and not bool(forbidden.any()):
        return None
    by = torch.tensor(factor if same is None else [same], dtype=bias.dtype, device=bias.device)
    return torch.where(forbidden, bias, bias * by[:, None, None])


def _bent(call: Call, chosen: Chosen, bend: Any) -> Call:
    """The call with the scores of some heads bent once more, after cap, bias and score_mod."""
    inner = call

    def score_mod(scores: Tensor, sequence: int, head: int, rows: Tensor, cols: Tensor) -> Tensor:
        if inner.score_mod is not None:
            scores = inner.score_mod(scores, sequence, head, rows, cols)
        elif inner.softcap is not None:
            scores = torch.tanh(scores / inner.softcap) * inner.softcap
        if inner.bias is not None:
            tile = _tile(inner, rows, cols).to(scores)
            tile = tile.expand(*inner.q.shape[:2], *tile.shape[2:])
            scores = scores + tile[sequence, head]
        if not chosen[head]:
            return scores
        return torch.where(scores == -math.inf, scores, bend(scores))

    return replace(call, score_mod=score_mod, softcap=None, bias=None)


def _tile(call: Call, rows: Tensor, cols: Tensor) -> Tensor:
    """Some rows and columns of the bias, broadcastable to (B, H, rows, cols)."""
    bias = call.bias
    assert bias is not None
    if not isinstance(bias, Tensor):
        at = rows.cpu().numpy(), cols.cpu().numpy()
        tile = bias.tile(*at, queries=call.q.shape[2], keys=call.k.shape[2])
        bias = torch.from_numpy(np.ascontiguousarray(tile)).to(call.q.device)
        return bias[(None,) * (4 - bias.dim())]
    bias = bias[(None,) * (4 - bias.dim())]
    bias = bias[:, :, rows] if bias.shape[2] > 1 else bias
    return bias[..., cols] if bias.shape[3] > 1 else bias


def _by_head(chosen: Chosen, inside: Mask, outside: Mask) -> Mask:
    return inside if chosen.all() else _ByHead(chosen, inside, outside)


@dataclass(frozen=True, eq=False)
class _ByHead(Seen):
    """One mask for some heads and another for the rest."""

    chosen: Chosen
    inside: Mask
    outside: Mask

    def allowed(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Any:
        inside, outside = (
            mask.allowed(rows, cols, queries=queries, keys=keys)
            for mask in (self.inside, self.outside)
        )
        return np.where(self.chosen[:, None, None], inside, outside)


@dataclass(frozen=True, eq=False)
class _Only(Seen):
    """One key for each query, (B, H, Q); none for -1."""

    keys: Int[np.ndarray, "B H Q"]

    def allowed(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Any:
        return self.keys[:, :, indices(rows, queries), None] == indices(cols, keys)


@dataclass(frozen=True, eq=False)
class _ScaledBias:
    """A bias that is given by the tile, times a factor for each head, (H,)."""

    bias: BiasTiles
    factor: np.ndarray[Any, Any]

    def tile(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Any:
        tile = np.asarray(self.bias.tile(rows, cols, queries=queries, keys=keys))
        with np.errstate(invalid="ignore"):
            scaled = tile * self.factor[:, None, None]
        return np.where(np.isneginf(tile), tile, scaled)
