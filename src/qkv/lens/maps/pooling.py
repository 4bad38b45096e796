"""Blocks of cells as one number each: the sum of their weights, the largest, or what is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from qkv.errors import QkvError
from qkv.lens.maps.sweep import Sweep, precision

if TYPE_CHECKING:
    from qkv.lens.maps.head import Head

__all__ = [
    "How",
    "blocks_of",
    "check_block",
    "pool",
    "pool_again",
    "pool_allowed",
    "pool_keys",
    "pool_queries",
    "pool_tile",
]

Array: TypeAlias = "np.ndarray[Any, Any]"
How: TypeAlias = Literal["sum", "max"]

# Cells that are looked at one by one where a mask won't say "none" or "all": a row of a small
# square costs as much as asking for it.
LEAF_CELLS = 2**12


def check_block(block: int, how: str = "sum") -> None:
    """Raise a QkvError for blocks of less than one cell, and for a way there isn't."""
    if block < 1:
        raise QkvError(f"blocks of {block} cells", "at least 1", "give 1 for every cell")
    if how not in ("sum", "max"):
        raise QkvError(f"how={how!r}", '"sum" or "max"', "give one of them")


def blocks_of(cells: range, block: int) -> slice:
    """The blocks, counted from 0, in which some contiguous cells lie.

    >>> blocks_of(range(3, 9), 4)
    slice(0, 3, None)
    """
    return slice(cells.start // block, -(-cells.stop // block))


def pool_keys(
    tile: Float[Tensor, "cols rows"], block: int, how: How, out: Tensor | None = None
) -> Float[Tensor, "blocks rows"]:
    """A tile's blocks of keys, as `Sweep` cuts it: whole ones, or a part of one."""
    gather: Any = torch.sum if how == "sum" else torch.amax
    cols, rows = tile.shape
    return cast("Tensor", gather(tile.view(-1, min(block, cols), rows), 1, out=out))


def pool_queries(
    tile: Float[Tensor, "cols rows"], block: int, how: How
) -> Float[Tensor, "cols blocks"]:
    """A tile's blocks of queries, likewise."""
    gather: Any = torch.sum if how == "sum" else torch.amax
    cols, rows = tile.shape
    size = min(block, rows)
    return cast("Tensor", gather(tile.view(cols, rows // size, size), 2))


def pool_tile(tile: Float[Tensor, "cols rows"], block: int, how: How) -> Tensor:
    """A tile's blocks of keys and queries."""
    return tile if block == 1 else pool_queries(pool_keys(tile, block, how), block, how)


def pool(
    head: Head, rows: range, cols: range, block: int, how: How
) -> tuple[Float[Array, "rows cols"], torch.dtype]:
    """The sum or the largest weight of each block that `rows` and `cols` touch, and how precisely.

    Cells outside of the two ranges don't count.
    """
    check_block(block, how)
    down, along = blocks_of(rows, block), blocks_of(cols, block)
    dtype = precision(head, rows, cols)
    sweep = Sweep(head, rows, cols, dtype, block)

    def pool_strip(strip: range) -> Tensor:
        here = blocks_of(strip, block)
        pooled = torch.zeros(here.stop - here.start, along.stop - along.start, dtype=dtype)
        for tile in sweep.weights(strip):
            at = blocks_of(tile.cols, block)
            part = pooled[:, at.start - along.start : at.stop - along.start]
            # A block may be seen in parts, in one strip and in several.
            _join(part, pool_tile(tile.cells, block, how).T, how)
        return pooled

    pooled = torch.zeros(down.stop - down.start, along.stop - along.start, dtype=dtype)
    for strip, part in sweep.each(pool_strip):
        at = blocks_of(strip, block)
        _join(pooled[at.start - down.start : at.stop - down.start], part, how)
    return pooled.numpy(), dtype


def _join(pooled: Tensor, part: Tensor, how: How) -> None:
    if how == "sum":
        pooled += part
    else:
        torch.maximum(pooled, part, out=pooled)


def pool_again(pooled: Float[Array, "rows cols"], times: int, how: How) -> Float[Array, "r c"]:
    """Blocks of `times` by `times` blocks, a power of two; fewer at the ends.

    >>> pool_again(np.arange(6.0).reshape(2, 3), 2, "sum").tolist()
    [[8.0, 7.0]]
    """
    join: Any = np.add if how == "sum" else np.maximum
    while times > 1:
        # By halves, one axis after the other: a tenth of the time of a sum over both of
        # (rows, 2, cols, 2). An odd last row or column stays alone.
        upper, lower = pooled[::2].copy(), pooled[1::2]
        join(upper[: len(lower)], lower, out=upper[: len(lower)])
        pooled, right = upper[:, ::2].copy(), upper[:, 1::2]
        joined = pooled[:, : right.shape[1]]
        join(joined, right, out=joined)
        times //= 2
    return pooled


def pool_allowed(head: Head, rows: range, cols: range, block: int) -> Bool[Array, "rows cols"]:
    """Whether the mask allows any cell of each block, of those in `rows` and `cols`.

    The mask is asked for all of it, then for quarters of what it says neither "none" nor "all" of.
    """
    check_block(block)
    down, along = blocks_of(rows, block), blocks_of(cols, block)
    seen = np.zeros((down.stop - down.start, along.stop - along.start), dtype=bool)
    todo = [(rows, cols)]
    while todo:
        part = todo.pop()
        at = [blocks_of(cells, block) for cells in part]
        here = seen[
            at[0].start - down.start : at[0].stop - down.start,
            at[1].start - along.start : at[1].stop - along.start,
        ]
        if here.all():
            continue
        extent = head.mask.extent(*part, queries=head.Q, keys=head.K)
        if extent == "all":
            here[:] = True
        elif extent == "some" and len(part[0]) * len(part[1]) <= LEAF_CELLS:
            here |= _look(head, *part, block)
        elif extent == "some":
            todo += [(r, c) for r in _halves(part[0], block) for c in _halves(part[1], block)]
    return seen


def _halves(cells: range, block: int) -> list[range]:
    """A range in two, between blocks where it has more than one; one cell stays whole."""
    middle = (cells.start + cells.stop) // 2
    between = -(-middle // block) * block
    if between >= cells.stop:
        between -= block
    if between > cells.start:
        middle = between
    halves = [range(cells.start, middle), range(middle, cells.stop)]
    return [half for half in halves if half]


def _look(head: Head, rows: range, cols: range, block: int) -> Bool[Array, "r c"]:
    """Whether any cell of each block is allowed, by looking at each cell."""
    found = head.allowed(rows, cols)
    for axis, cells in enumerate((rows, cols)):
        starts = np.arange(cells.start // block, -(-cells.stop // block)) * block
        found = np.logical_or.reduceat(found, np.maximum(starts - cells.start, 0), axis)
    return found
