"""A head's weights at every zoom: sums and maxima of blocks, in one pass that can find lse as well.

A block of the base and of each level above holds two fp32 numbers. Rows come in bands, and a band
holds only the blocks that its mask can reach, so that a causal head takes half. Of the levels every
other one is kept: one between comes of the next finer at once.

The base is 16 where that fits into 200 MB (at 100,000 tokens: 167 MB under a causal mask), else 32,
64 and so on (at 100,000 tokens without a mask: 32, and 83 MB). The finer the base, the less is left
to compute: what lies below it is recomputed cell by cell, and at 8 cells a pixel that is 67 million
cells, some 70 ms; with a base of 64 it would be 1.07 billion at 32, a second.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from qkv.errors import QkvError
from qkv.lens.maps.pooling import How, blocks_of, check_block, pool_again, pool_keys, pool_queries
from qkv.lens.maps.sweep import (
    TILE_ROWS,
    CancelledError,
    Sweep,
    Tile,
    expected_sums,
    finite,
    precision,
)

if TYPE_CHECKING:
    from qkv.lens.maps.head import Head

__all__ = ["CancelledError", "Pyramid", "build", "forget", "survey"]

Array: TypeAlias = "np.ndarray[Any, Any]"
Progress: TypeAlias = "Callable[[float], object] | None"
Cancel: TypeAlias = "Callable[[], bool] | None"
AnyHead = TypeVar("AnyHead", bound="Head")

BYTES = 200_000_000
FINEST = 16
# Levels kept are this many times apart, from the base up to a band's rows.
STEP = 4
# The largest weight of a block in which nothing is allowed; others are never negative.
FORBIDDEN = -1.0


@dataclass(frozen=True, eq=False)
class Band:
    """The blocks of one level in one band of rows: sum and largest, from block `first` on."""

    first: int
    sums: Float[Array, "rows cols"]
    tops: Float[Array, "rows cols"]


@dataclass(frozen=True, eq=False)
class Pyramid:
    """Sums and maxima of all blocks of `base` by `base` cells and up, by factors of 2.

    `row_errors` says of each row by how much its weights, summed up in the pass, missed what they
    must sum to (1, or less with a sink). `levels` has the kept levels by their block.
    """

    Q: int
    K: int
    base: int
    levels: dict[int, list[Band]]
    row_errors: Float[Array, " Q"]

    @property
    def nbytes(self) -> int:
        """The memory it takes, in bytes."""
        bands = [band for level in self.levels.values() for band in level]
        return self.row_errors.nbytes + sum(b.sums.nbytes + b.tops.nbytes for b in bands)

    def has(self, block: int) -> bool:
        """Whether it can answer for blocks of this size: a power of two, the base or above."""
        return block >= self.base and block % self.base == 0 and block & (block - 1) == 0

    def read(
        self, rows: range, cols: range, block: int, how: How = "sum"
    ) -> Float[Array, "rows cols"]:
        """The sums or maxima of all blocks that some rows and columns of cells touch.

        Where nothing is allowed the largest is -1.

        Raises:
            QkvError: where block is no power of two, or below the base.

        >>> from qkv.lens import AttentionMap
        >>> x = np.zeros((40, 1))
        >>> AttentionMap.of(x, x).pyramid().read(range(40), range(16), 32, "max").tolist()
        [[0.02500000037252903], [0.02500000037252903]]
        """
        check_block(block, how)
        if not self.has(block):
            raise QkvError(
                f"blocks of {block} cells",
                f"{self.base} or a larger power of two",
                "ask the map itself: .pool(block) or .viewport(rows, cols, pixels)",
            )
        kept = max(size for size in self.levels if size <= block)
        times = block // kept
        down, along = (
            slice(at.start * times, min(at.stop * times, -(-whole // kept)))
            for at, whole in ((blocks_of(rows, block), self.Q), (blocks_of(cols, block), self.K))
        )
        return pool_again(self._read(kept, down, along, how), times, how)

    def _read(self, kept: int, down: slice, along: slice, how: How) -> Array:
        """Blocks of a level that is kept."""
        empty = 0.0 if how == "sum" else FORBIDDEN
        found = np.full((down.stop - down.start, along.stop - along.start), empty, np.float32)
        per_band = TILE_ROWS // kept
        for number in range(down.start // per_band, -(-down.stop // per_band)):
            band = self.levels[kept][number]
            values = band.sums if how == "sum" else band.tops
            top = number * per_band
            upper, lower = max(down.start, top), min(down.stop, top + len(values))
            left = max(along.start, band.first)
            right = max(left, min(along.stop, band.first + values.shape[1]))
            found[
                upper - down.start : lower - down.start, left - along.start : right - along.start
            ] = values[upper - top : lower - top, left - band.first : right - band.first]
        return found


def remember(head: Head, pyramid: Pyramid) -> None:
    """Keep the pyramid with its head, which is frozen otherwise."""
    object.__setattr__(head, "_pyramid", pyramid)


def remembered(head: Head) -> Pyramid | None:
    """The pyramid that a head keeps, if one was built."""
    return vars(head).get("_pyramid")


def forget(head: Head) -> None:
    """Let go of a head's pyramid; one is built again when it is asked for."""
    vars(head).pop("_pyramid", None)


def survey(head: AnyHead, progress: Progress = None, cancel: Cancel = None) -> AnyHead:
    """The head with an lse found here, in one pass with its pyramid; `head.lse` isn't read.

    Args:
        progress: is called with the fraction done, from 0 to 1.
        cancel: is asked after each band of rows; True ends the pass.

    Raises:
        CancelledError: where cancel said so.
    """
    lse = np.empty(head.Q)
    pyramid = _build(head, lse, progress, cancel)
    surveyed = replace(head, lse=lse)
    remember(surveyed, pyramid)
    return surveyed


def build(head: Head, progress: Progress = None, cancel: Cancel = None) -> Pyramid:
    """The pyramid of a head, from its q, k and lse; kept with it. Arguments as of `survey`."""
    found = remembered(head) or _build(head, None, progress, cancel)
    remember(head, found)
    return found


def _build(head: Head, lse: Array | None, progress: Progress, cancel: Cancel) -> Pyramid:
    """One pass; where lse is given, it is written."""
    bands = [range(at, min(at + TILE_ROWS, head.Q)) for at in range(0, head.Q, TILE_ROWS)]
    spans = [_span(head, rows) for rows in bands]
    base = _base(bands, spans)
    dtype = precision(head, range(head.Q), range(head.K))
    sweep = Sweep(head, range(head.Q), range(head.K), dtype, base)
    pyramid = Pyramid(head.Q, head.K, base, {}, np.empty(head.Q))
    # A band that can see nothing takes a moment, too.
    costs = np.cumsum([0, *(len(span) + 1 for span in spans)])

    def pass_over(rows: range) -> tuple[Array, Array, dict[int, Band]]:
        strip = _Strip(sweep, rows, spans[rows.start // TILE_ROWS])
        if lse is None:
            found, summed = head.lse[rows.start : rows.stop], strip.pass_over()
        else:
            found, summed = strip.find()
        return found, np.abs(summed - expected_sums(head, found)), strip.bands()

    for number, (rows, (found, errors, levels)) in enumerate(sweep.each(pass_over, bands)):
        here = slice(rows.start, rows.stop)
        pyramid.row_errors[here] = errors
        if lse is not None:
            lse[here] = found
        for block, band in levels.items():
            pyramid.levels.setdefault(block, []).append(band)
        done = costs[number + 1] / costs[-1]
        if progress is not None:
            progress(float(done))
        if done < 1 and cancel is not None and cancel():
            raise CancelledError(
                f"word to stop after {done:.0%} of a pass",
                "a pass that runs to its end",
                "ask again for the pyramid",
            )
    return pyramid


def _span(head: Head, rows: range) -> range:
    """The keys that a band may see, from a multiple of every kept block on."""
    start, stop = head.mask.span(rows, queries=head.Q, keys=head.K)
    return range(start // TILE_ROWS * TILE_ROWS, stop)


def _base(bands: list[range], spans: list[range]) -> int:
    cells = sum(len(rows) * len(span) for rows, span in zip(bands, spans, strict=True))
    base = FINEST
    while base < TILE_ROWS and 8 * cells / base**2 / (1 - STEP**-2) > BYTES:
        base *= 2
    return base


class _Strip:
    """A band while it is passed over: its blocks of keys, each row still by itself."""

    def __init__(self, sweep: Sweep, rows: range, span: range) -> None:
        self.sweep, self.rows, self.span = sweep, rows, span
        keys, queries = (-(-len(cells) // sweep.block) for cells in (span, rows))
        self.sums = torch.zeros(keys, len(rows), dtype=sweep.dtype)
        self.tops = torch.full_like(self.sums, -torch.inf)
        self.seen = np.zeros((keys, queries), dtype=bool)

    def pass_over(self) -> Float[Array, " rows"]:
        """Fill the blocks with weights, from the rows' lse; the rows' sums are returned."""
        level = self.sweep.levels(self.rows)
        for tile in self.sweep.scores(self.rows):
            self._add(self._look(tile), tile, level)
        self.tops.sub_(level).exp_()
        return self._row_sums()

    def find(self) -> tuple[Float[Array, " rows"], Float[Array, " rows"]]:
        """Fill them without knowing lse, which is returned with the rows' sums.

        Scores are taken against each row's largest so far, and brought to the row's lse in the end
        (Milakov and Gimelshein 2018, online softmax). That level is only raised where it must be:
        up to e**30 is no trouble to fp32, and every call of torch makes threads wait.
        """
        sweep = self.sweep
        level = np.full(len(self.rows), -np.inf)
        raised: list[tuple[int, Tensor]] = []
        for tile in sweep.scores(self.rows):
            at = self._look(tile)
            highest = self.tops[at].amax(0).numpy()
            if not raised or (highest > level + 30).any():
                level = np.maximum(level, highest)
                raised.append((at.start, finite(torch.from_numpy(level).to(sweep.dtype))))
            self._add(at, tile, raised[-1][1])
        starts = [start for start, _ in raised] + [len(self.sums)]
        parts = [
            (self.sums[start:stop], against)
            for (start, against), stop in zip(raised, starts[1:], strict=True)
        ]
        top = finite(torch.from_numpy(level))
        total = torch.zeros_like(top)
        for sums, against in parts:
            total += sums.sum(0) * (against - top).exp_()
        lse = top + total.log()
        if sweep.head.sink is not None:
            lse = torch.logaddexp(lse, lse.new_tensor(sweep.head.sink))
        for sums, against in parts:
            sums.mul_((against - finite(lse)).exp_().to(sweep.dtype))
        self.tops.sub_(finite(lse).to(sweep.dtype)).exp_()
        return lse.numpy(), self._row_sums()

    def _look(self, tile: Tile) -> slice:
        """Note each block's largest score and whether it is allowed at all; where it stands."""
        base, first = self.sweep.block, self.span.start
        at = blocks_of(range(tile.cols.start - first, tile.cols.stop - first), base)
        pool_keys(tile.cells, base, "max", out=self.tops[at])
        if tile.forbidden is None:
            self.seen[at] = True
        else:
            self.seen[at] = self._pool_rows(pool_keys(~tile.forbidden, base, "max"), "max").numpy()
        return at

    def _add(self, at: slice, tile: Tile, level: Tensor) -> None:
        weights = tile.cells.sub_(level).exp_()
        pool_keys(weights, self.sweep.block, "sum", out=self.sums[at])

    def _row_sums(self) -> Float[Array, " rows"]:
        return cast("Array", self.sums.sum(0).double().numpy())

    def _pool_rows(self, x: Tensor, how: How) -> Tensor:
        short = self.seen.shape[1] * self.sweep.block - len(self.rows)
        # Only the last band's rows may be no whole blocks.
        whole = torch.nn.functional.pad(x, (0, short)) if short else x
        return pool_queries(whole, self.sweep.block, how)

    def bands(self) -> dict[int, Band]:
        """The band's blocks, rows pooled too, at every level that is kept."""
        block, kept = self.sweep.block, {}
        sums, tops = (self._pool_rows(x, how) for x, how in _both(self.sums, self.tops))
        tops.masked_fill_(torch.from_numpy(~self.seen), FORBIDDEN)
        pair = [x.T.float().contiguous().numpy() for x in (sums, tops)]
        while True:
            kept[block] = Band(self.span.start // block, *pair)
            if block * STEP > TILE_ROWS:
                return kept
            block *= STEP
            pair = [pool_again(x, STEP, how) for x, how in _both(*pair)]


def _both(sums: Any, tops: Any) -> tuple[tuple[Any, How], tuple[Any, How]]:
    return (sums, "sum"), (tops, "max")
