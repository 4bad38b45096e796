"""One head as a payload keeps it: sixteen levels a cell, each row's eight largest, its edge tracks.

A level is a step of a fifth of a decade: level 0 is below .001, levels 1 to 15 go from .001 to 1,
so that .001, .01, .1 and 1 are borders of levels. No level means forbidden: what a mask forbids is
known from the mask (`Seen`), and cells outside of what a row may look at take no room at all.
Everything is little-endian; wide numbers are stored as planes of bytes, which deflate better.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Float16, Int, UInt8

from qkv.errors import QkvError

if TYPE_CHECKING:
    from qkv.lens import AttentionMap

__all__ = ["BOUNDS", "LEVELS", "TOP", "Reading", "Seen", "StoredHead", "levels_of"]

Array: TypeAlias = "np.ndarray[Any, Any]"

LEVELS = 16
# Level n holds the weights from BOUNDS[n] up to, but not including, BOUNDS[n + 1]; the last, 1 too.
BOUNDS: tuple[float, ...] = (0.0, *(10.0 ** ((n - 15) / 5) for n in range(LEVELS)))
TOP = 8
THUMBNAIL_SIDE = 48
_MISSING = 2**32 - 1


def levels_of(weights: Float[Array, "*S"]) -> UInt8[Array, "*S"]:
    """The level, 0 to 15, of each weight.

    >>> levels_of(np.array([0.0, 0.0009, 0.001, 0.02, 0.1, 0.7, 1.0])).tolist()
    [0, 0, 1, 7, 11, 15, 15]
    """
    return np.searchsorted(BOUNDS[1:-1], weights, side="right").astype(np.uint8)


class Reading(NamedTuple):
    """What is stored of one cell: its level's bounds, and its weight where that is one of eight."""

    low: float
    high: float
    weight: float | None


@dataclass(frozen=True, eq=False)
class Seen:
    """What a mask allows: each row's keys [start, stop), and `holes` (a bit a cell) within them.

    `count` is how many keys each row may look at; `even` what each key would be given if every row
    spread itself evenly.
    """

    start: Int[Array, " Q"]
    stop: Int[Array, " Q"]
    count: Int[Array, " Q"]
    even: Float[Array, " K"]
    holes: Array | None

    @classmethod
    def of(cls, head: AttentionMap) -> Seen:
        """What one map's mask allows.

        >>> from qkv.attention import Causal
        >>> from qkv.lens import AttentionMap
        >>> x = np.zeros((3, 1))
        >>> Seen.of(AttentionMap.of(x, x, mask=Causal())).stop.tolist()
        [1, 2, 3]
        """
        start, stop, count = (np.zeros(head.Q, dtype=np.int64) for _ in range(3))
        even = np.zeros(head.K)
        bits: list[Array] = []
        for rows in head.strips():
            here = slice(rows.start, rows.stop)
            seen = head.allowed(rows, range(head.K))
            count[here] = seen.sum(1)
            start[here] = np.where(count[here] > 0, seen.argmax(1), 0)
            stop[here] = np.where(count[here] > 0, head.K - seen[:, ::-1].argmax(1), 0)
            even += (seen / np.maximum(count[here], 1)[:, None]).sum(0)
            bits.append(seen[_within(start[here], stop[here], head.K)])
        whole = bool((stop - start == count).all())
        return cls(start, stop, count, even, None if whole else np.concatenate(bits))

    @property
    def cells(self) -> int:
        """How many cells are stored."""
        return int((self.stop - self.start).sum())

    def pack(self) -> bytes:
        """start, stop and count as int32 (Q,), even as float32 (K,), then the bits of `holes`."""
        numbers = (self.start, self.stop, self.count)
        parts = [planes(x.astype("<i4")) for x in numbers] + [planes(self.even.astype("<f4"))]
        if self.holes is not None:
            parts.append(np.packbits(self.holes).tobytes())
        return b"".join(parts)

    @classmethod
    def unpack(cls, data: bytes, queries: int, keys: int, *, holes: bool) -> Seen:
        """What `pack` made."""
        reader = _Reader(data)
        start, stop, count = (reader.take("<i4", queries).astype(np.int64) for _ in range(3))
        even = reader.take("<f4", keys).astype(np.float64)
        bits = None
        if holes:
            cells = int((stop - start).sum())
            bits = np.unpackbits(reader.bytes((cells + 7) // 8))[:cells].astype(bool)
        return cls(start, stop, count, even, bits)


@dataclass(frozen=True, eq=False)
class StoredHead:
    """One head, quantised; `levels` holds the cells of `seen`, row after row.

    `keys` and `weights` are each row's eight largest (fewer where fewer are allowed: key -1), in
    the order of their keys; `error` is how far the worst row's sum is from what it must be.
    `thumbnail`, kept apart from the rest, is a pattern of the text in at most 48 pieces: the level,
    plus 1, of the share of attention that each piece gives to each; 0 where all is forbidden.
    `strongest`, apart as well, is the (query, key, weight) that `AttentionMap.strongest` finds.
    """

    seen: Seen
    levels: UInt8[Array, " cells"]
    keys: Int[Array, "Q 8"]
    weights: Float16[Array, "Q 8"]
    entropy: Float[Array, " Q"]
    received: Float[Array, " K"]
    error: float = 0.0
    thumbnail: UInt8[Array, "rows cols"] | None = None
    strongest: tuple[int, int, float] | None = None

    @classmethod
    def of(cls, head: AttentionMap, seen: Seen) -> StoredHead:
        """One map, read once, by strips.

        Raises:
            QkvError: where a weight is not a number.

        >>> from qkv.lens import AttentionMap
        >>> x = np.zeros((2, 1))
        >>> head = AttentionMap.of(x, x, mask=np.tri(2, dtype=bool))
        >>> StoredHead.of(head, Seen.of(head)).levels.tolist()
        [15, 14, 14]
        """
        levels: list[Array] = []
        keys, weights = np.full((head.Q, TOP), -1, np.int64), np.zeros((head.Q, TOP))
        entropy, received, error = np.zeros(head.Q), np.zeros(head.K), 0.0
        block = -(-max(head.Q, head.K) // THUMBNAIL_SIDE)
        shares = np.full((-(-head.Q // block), -(-head.K // block)), np.nan)
        for rows in head.strips(multiple=block):
            here = slice(rows.start, rows.stop)
            tile = head.tile(rows, range(head.K))
            if not np.isfinite(tile).all():
                raise QkvError(
                    f"{head.name or 'a map'} with weights that are not numbers",
                    "finite queries and keys",
                    "look for the layer where NaN or infinity first comes up",
                )
            allowed = head.allowed(rows, range(head.K))
            levels.append(levels_of(tile[_within(seen.start[here], seen.stop[here], head.K)]))
            keys[here], weights[here] = _largest(tile, allowed)
            entropy[here] = -(tile * np.log(np.where(tile > 0, tile, 1.0))).sum(1)
            received += tile.sum(0)
            error = max(error, float(np.abs(tile.sum(1) - _sums(head, seen, here)).max()))
            blocks = slice(rows.start // block, -(-rows.stop // block))
            shares[blocks] = _shares(tile, allowed, block)
        thumbnail = np.where(np.isnan(shares), 0, levels_of(np.nan_to_num(shares)) + 1)
        cells = np.concatenate(levels)
        return cls(
            seen=seen,
            levels=cells,
            keys=keys,
            weights=_halves(weights),
            entropy=entropy,
            received=received,
            error=error,
            thumbnail=thumbnail.astype(np.uint8),
            strongest=_strongest(head, keys, weights),
        )

    def read(self, query: int, key: int) -> Reading | None:
        """What is stored of a cell, both places from 0; None where it is forbidden.

        >>> from qkv.lens import AttentionMap
        >>> x = np.zeros((2, 1))
        >>> head = AttentionMap.of(x, x, mask=np.tri(2, dtype=bool))
        >>> StoredHead.of(head, Seen.of(head)).read(1, 0).weight
        0.5
        """
        seen = self.seen
        if not seen.start[query] <= key < seen.stop[query]:
            return None
        place = int((seen.stop - seen.start)[:query].sum()) + key - int(seen.start[query])
        if seen.holes is not None and not seen.holes[place]:
            return None
        level = int(self.levels[place])
        exact = self.weights[query][self.keys[query] == key]
        return Reading(BOUNDS[level], BOUNDS[level + 1], float(exact[0]) if len(exact) else None)

    def pack(self) -> bytes:
        """levels, two a byte, the first in the high half; then keys, weights, entropy, received.

        keys are uint32 (all bits set where missing), weights float16, the tracks float32.
        """
        even = np.append(self.levels, np.zeros(len(self.levels) % 2, np.uint8))
        parts = [((even[0::2] << 4) | even[1::2]).tobytes()]
        parts.append(planes(np.where(self.keys < 0, _MISSING, self.keys).astype("<u4")))
        parts.append(planes(self.weights.astype("<f2")))
        parts += [planes(track.astype("<f4")) for track in (self.entropy, self.received)]
        return b"".join(parts)

    @classmethod
    def unpack(cls, data: bytes, seen: Seen, *, error: float = 0.0) -> StoredHead:
        """What `pack` made."""
        queries, keys, reader = len(seen.start), len(seen.even), _Reader(data)
        packed = reader.bytes((seen.cells + 1) // 2)
        levels = np.stack([packed >> 4, packed & 15], 1).reshape(-1)[: seen.cells]
        places = reader.take("<u4", queries * TOP).astype(np.int64).reshape(queries, TOP)
        weights = reader.take("<f2", queries * TOP).reshape(queries, TOP)
        entropy, received = (reader.take("<f4", size) for size in (queries, keys))
        places = np.where(places == _MISSING, -1, places)
        return cls(seen, levels, places, weights, entropy, received, error)


def planes(numbers: Array) -> bytes:
    """Numbers as their first bytes, then their second bytes, and so on."""
    flat = np.ascontiguousarray(numbers).reshape(-1)
    return flat.view(np.uint8).reshape(-1, flat.itemsize).T.tobytes()


class _Reader:
    """Reads arrays one after another."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = np.frombuffer(data, np.uint8), 0

    def bytes(self, size: int) -> Array:
        self.place += size
        return self.data[self.place - size : self.place]

    def take(self, kind: str, count: int) -> Array:
        width = np.dtype(kind).itemsize
        rows = self.bytes(count * width).reshape(width, count)
        return np.ascontiguousarray(rows.T).view(kind).reshape(count)


def _within(start: Array, stop: Array, keys: int) -> Array:
    columns = np.arange(keys)
    inside: Array = (columns >= start[:, None]) & (columns < stop[:, None])
    return inside


def _largest(tile: Array, allowed: Array) -> tuple[Array, Array]:
    """Each row's largest allowed weights, in the order of their keys; -1 fills what is missing."""
    keys = tile.shape[1]
    ranked = np.where(allowed, tile, -1.0)
    if keys > TOP:
        best = np.sort(np.argpartition(ranked, -TOP, axis=1)[:, -TOP:], axis=1)
    else:
        best = np.broadcast_to(np.arange(keys), (len(tile), keys))
    weights = np.take_along_axis(ranked, best, axis=1)
    best = np.where(weights < 0, -1, best)
    missing = ((0, 0), (0, TOP - best.shape[1]))
    return np.pad(best, missing, constant_values=-1), np.pad(np.maximum(weights, 0.0), missing)


def _halves(weights: Array) -> Array:
    """Weights in float16, where all above .99976 would be 1: here that is said of whole rows only.

    >>> _halves(np.array([0.9999, 1.0])).tolist()
    [0.99951171875, 1.0]
    """
    halves = weights.astype(np.float16)
    below = np.nextafter(np.float16(1), np.float16(0))
    return np.where((weights < 1 - 1e-6) & (halves >= 1), below, halves)


def _strongest(head: AttentionMap, keys: Array, weights: Array) -> tuple[int, int, float] | None:
    """The largest weight off the diagonal and the first key; else off the diagonal; else any.

    At most two keys of a row are left out, so it is among the row's eight largest.
    """
    others = np.ones_like(keys, dtype=bool) if head.cross else keys != head.places[:, None]
    for kept in (others & (keys > 0), others, np.ones_like(others)):
        left = np.where(kept, weights, 0.0)
        row, at = np.unravel_index(int(left.argmax()), left.shape)
        if left[row, at] > 0:
            return int(row), int(keys[row, at]), float(left[row, at])
    return None


def _shares(tile: Array, allowed: Array, block: int) -> Array:
    """What rows give to each block of keys, averaged over a block of rows; NaN if all forbidden."""
    cuts, columns = np.arange(0, len(tile), block), np.arange(0, tile.shape[1], block)
    sums = np.add.reduceat(np.add.reduceat(tile, columns, axis=1), cuts, axis=0)
    # A row that may look at nothing takes no part in the average.
    looking = np.add.reduceat(allowed.any(axis=1).astype(np.int64), cuts)
    any_cell = np.logical_or.reduceat(np.logical_or.reduceat(allowed, columns, axis=1), cuts)
    return np.where(any_cell, sums / np.maximum(looking, 1)[:, None], np.nan)


def _sums(head: AttentionMap, seen: Seen, rows: slice) -> Array:
    """What each row must sum to: 1, less what a sink takes; 0 where nothing is allowed."""
    whole = np.ones(rows.stop - rows.start)
    if head.sink is not None:
        whole -= np.exp(head.sink - head.lse[rows].astype(np.float64))
    return np.where(seen.count[rows] > 0, whole, 0.0)
