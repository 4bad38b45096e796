"""What a capture keeps of each call, layer by layer, and how it becomes sites.

A call that goes on from the one before (a step of a cache) joins it; any other call of the same
layer is a site of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qkv.attention import Causal, Full, Mask
from qkv.lens.seeing.calls import Call
from qkv.lens.seeing.masks import Stitched, TopLeft
from qkv.lens.seeing.places import Place
from qkv.lens.seeing.reckoning import lse_of, some_weights
from qkv.lens.traces.choosing import Chosen
from qkv.lens.traces.disk import joined
from qkv.lens.traces.padding import Tables
from qkv.lens.traces.sites import Kept, Site
from qkv.lens.traces.stitching import Part, StitchedBias, begins_at, prints

__all__ = ["Layer"]

Array = np.ndarray[Any, Any]
# Rows of which a narrower store's error is measured, of each call.
TRIED = 16


@dataclass(eq=False)
class Layer:
    """One layer, as it is written: a call, and the steps that went on from it."""

    place: Place
    chosen: Chosen
    tables: Tables
    parts: list[Part] = field(default_factory=list)
    k: list[Tensor] = field(default_factory=list)
    v: list[Tensor] = field(default_factory=list)
    keys: int = 0
    seen: Tensor | None = None
    call: Call | None = None
    heads: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    held: tuple[int, ...] = ()
    H: int = 0
    key_ids: np.ndarray[Any, Any] | None = None
    w_o: Tensor | None = None
    cross: bool = False
    error: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def queries(self) -> int:
        """How many queries there were so far."""
        return sum(part.queries for part in self.parts)

    def goes_on(self, call: Call) -> int | None:
        """Where the keys of a call begin among those so far; None where it is a new one."""
        first = self.call
        if first is None or call.q.shape[0] != first.q.shape[0]:
            return None
        if (call.q.shape[1], call.k.shape[1]) != (self.H, first.k.shape[1]):
            return None
        if self.seen is None:
            # Nothing was narrowed: the stored keys are those of the calls.
            self.seen = prints(torch.cat(self.k, 2))
        return begins_at(call.k, call.q.shape[2], self.seen, cross=self.cross)

    def add(self, call: Call, lse: Tensor | None, start: int, ids: tuple[Any, Any]) -> None:
        """Stores a call whose keys begin at `start` among those so far."""
        chosen, Q, K = self.chosen, call.q.shape[2], call.k.shape[2]
        if self.call is None:
            self._begin(call)
        rows = chosen.rows_of(self.queries, Q)
        fresh = max(0, start + K - self.keys)
        narrow = chosen.dtype is not None and chosen.dtype is not call.q.dtype
        if lse is None or narrow:
            lse = self._narrowed(call, lse) if narrow else lse_of(call)
        self._see(call.k[:, :, K - fresh :], narrow)
        self.k.append(self._keep(self._held(call.k[:, :, K - fresh :])))
        if chosen.values:
            self.v.append(self._keep(self._held(call.v[:, :, K - fresh :])))
        self.parts.append(
            Part(
                q=self._keep(self._asked(call.q, rows)),
                lse=chosen.keep(self._asked(lse, rows).detach().cpu().contiguous()),
                rows=rows,
                queries=Q,
                first=start,
                size=K,
                mask=call.mask,
                allowed=None if call.allowed is None else self.tables.shared(call.allowed),
                bias=self.tables.shared(call.bias) if isinstance(call.bias, Tensor) else call.bias,
                query_ids=ids[0],
            )
        )
        self.keys += fresh
        self.key_ids = ids[1] if self.key_ids is None else self.key_ids

    def _begin(self, call: Call) -> None:
        H, G = call.q.shape[1], call.k.shape[1]
        # What the call was, without what it was made of.
        q, k, v = (x.to("meta") for x in (call.q, call.k, call.v))
        self.H, self.call = (
            H,
            replace(
                call,
                q=q,
                k=k,
                v=v,
                allowed=None,
                bias=None,
                run=_nothing,
                finish=_nothing,
                run_with_lse=None,
            ),
        )
        wanted = range(H) if self.chosen.heads is None else self.chosen.heads
        self.heads = tuple(head for head in wanted if 0 <= head < H)
        of = [head * G // H for head in self.heads]
        self.held = tuple(range(G)) if len(self.heads) == H else tuple(sorted(set(of)))
        self.groups = tuple(self.held.index(group) for group in of)

    def _asked(self, x: Tensor, rows: Array) -> Tensor:
        """The chosen heads and rows of (B, H, Q, ...)."""
        if len(self.heads) != x.shape[1]:
            x = x[:, list(self.heads)]
        return x if len(rows) == x.shape[2] else x[:, :, torch.from_numpy(rows)]

    def _held(self, x: Tensor) -> Tensor:
        """The key heads (B, G, K, C) that the chosen heads look at."""
        return x if len(self.held) == x.shape[1] else x[:, list(self.held)]

    def _keep(self, x: Tensor) -> Tensor:
        return self.chosen.keep(x.detach().to("cpu", self.chosen.dtype or x.dtype))

    def _see(self, fresh: Tensor, narrow: bool) -> None:
        """Remembers the bits of new keys, unless those that are stored are the same."""
        if self.seen is not None or narrow or len(self.held) != fresh.shape[1]:
            before = [] if self.seen is None else [self.seen]
            self.seen = torch.cat([*before, prints(fresh)])

    def _narrowed(self, call: Call, lse: Tensor | None) -> Tensor:
        """The lse of the rounded q and k; says by how much some weights have changed."""
        kind = self.chosen.dtype
        wide = torch.promote_types(call.q.dtype, torch.float32)
        rounded = replace(call, q=call.q.to(kind).to(wide), k=call.k.to(kind).to(wide))
        lse = lse_of(call) if lse is None else lse
        new = lse_of(rounded)
        rows = np.unique(np.linspace(0, call.q.shape[2] - 1, TRIED).astype(np.int64))
        change = some_weights(call, lse, rows) - some_weights(rounded, new, rows)
        if change.numel():
            self.error = max(self.error, float(change.abs().max()))
        return new

    def site(self, index: int) -> Site:
        """What was seen of the layer, as one site."""
        call, parts = self.call, self.parts
        assert call is not None
        keep = self.chosen.keep
        B, first = call.q.shape[0], 0
        rows, readings = [], []
        for part in parts:
            rows.append(part.rows + first)
            readings.append(self.tables.read(part, self.cross, B, whole=len(parts) == 1))
            first += part.queries
        kept = tuple(_joined(parts, [reading[b] for reading in readings]) for b in range(B))
        masks = tuple(
            _stitch(parts, [reading[b] for reading in readings], kept[b]) for b in range(B)
        )
        one = len(parts) == 1
        pieces = tuple((part.bias, part.queries, part.first, part.size) for part in parts)
        bias = parts[0].bias if one else StitchedBias(pieces)
        if not one and all(part.bias is None for part in parts):
            bias = None
        whole = one and len(parts[0].rows) == first and len(self.heads) == self.H
        return Site(
            index=index,
            name=self.place.name,
            q=joined([part.q for part in parts], keep),
            k=joined(self.k, keep),
            lse=joined([part.lse for part in parts], keep),
            mask=self.tables.whole(parts[0])
            if one
            else Stitched(tuple((self.tables.whole(p), p.queries, p.first, p.size) for p in parts)),
            masks=masks,
            kept=kept,
            at=None if self.cross else _stands(parts),
            scale=call.scale,
            heads=self.heads,
            groups=self.groups,
            rows=np.concatenate(rows),
            queries=first,
            H_all=self.H,
            bias=bias,
            softcap=call.softcap,
            score_mod=call.score_mod,
            sink=None if call.sink is None else call.sink[list(self.heads)].clone(),
            v=joined(self.v, keep) if self.v else None,
            w_o=self.w_o,
            query_ids=_ids([part.query_ids for part in parts]),
            key_ids=self._key_ids(first),
            error=self.error,
            note="; ".join([*self.notes, *_rounding(parts)]),
            again=call.again if whole and self.chosen.dtype is None else None,
        )

    def _key_ids(self, queries: int) -> Array | None:
        if self.cross:
            return self.key_ids
        found = _ids([part.query_ids for part in self.parts])
        return found if found is not None and found.shape[1] == self.keys == queries else None


def _rounding(parts: list[Part]) -> list[str]:
    """What a reader should know where lse is so large that fp32 rounds weights."""
    finite = [part.lse[part.lse.isfinite()] for part in parts]
    most = max((float(lse.abs().max()) for lse in finite if lse.numel()), default=0.0)
    error = most * torch.finfo(parts[0].lse.dtype).eps / 2
    return [f"scores reach {most:.0f}: weights are known to {error:.0e}"] if error > 1e-4 else []


def _nothing(*_: Any) -> Any:
    raise AssertionError("a call that is stored isn't made again")


def _ids(parts: list[Array | None]) -> Array | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known, 1) if known and len(known) == len(parts) else None


def _stands(parts: list[Part]) -> Array:
    """The key at which each query stands: the last query of a call at its last key."""
    found = []
    for part in parts:
        ahead = 0 if isinstance(part.mask, TopLeft) else part.size - part.queries
        found.append(np.arange(part.queries) + part.first + ahead)
    return np.concatenate(found)


def _joined(parts: list[Part], readings: list[tuple[Mask, Kept]]) -> Kept:
    """What of one sequence isn't padding in any of its calls; padding stands before or after."""
    cols = [
        range(part.first + kept.cols.start, part.first + kept.cols.stop)
        for part, (_, kept) in zip(parts, readings, strict=True)
    ]
    # What a later call doesn't see any more, as of a window, isn't padding.
    start = cols[0].start
    stop = max(span.stop for span in cols)
    rows, first = [], 0
    for part, (_, kept) in zip(parts, readings, strict=True):
        rows.append(range(first + kept.rows.start, first + kept.rows.stop))
        first += part.queries
    return Kept(range(rows[0].start, rows[-1].stop), range(start, stop))


def _stitch(parts: list[Part], readings: list[tuple[Mask, Kept]], kept: Kept) -> Mask:
    """The mask of one sequence over what is kept of all its calls."""
    if len(parts) == 1:
        return readings[0][0]
    pieces = []
    for part, (mask, of) in zip(parts, readings, strict=True):
        first = part.first + of.cols.start - kept.cols.start
        pieces.append((mask, len(of.rows), first, len(of.cols)))
    whole = Stitched(tuple(pieces))
    queries, keys = len(kept.rows), len(kept.cols)
    # Steps of a plain cache are plain causal attention, and known as such they cost nothing.
    if queries == keys and pieces[0][1] == pieces[0][3] and all(map(_steps_on, pieces)):
        return Causal()
    return whole


def _steps_on(piece: tuple[Mask, int, int, int]) -> bool:
    mask, queries, first, _ = piece
    return first == 0 and (isinstance(mask, Causal) or (isinstance(mask, Full) and queries == 1))
