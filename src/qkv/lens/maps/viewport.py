"""What a screen shows of a map: as many numbers as it has pixels, and how sure they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from qkv.errors import QkvError
from qkv.lens.maps.pooling import How, blocks_of, check_block, pool, pool_allowed
from qkv.lens.maps.pyramid import FINEST, Pyramid, build, remembered
from qkv.lens.maps.sweep import Sweep, expected_sums, precision

if TYPE_CHECKING:
    from qkv.lens.maps.head import Head

__all__ = ["RowProof", "Viewport", "prove", "viewport"]

Array: TypeAlias = "np.ndarray[Any, Any]"

# Up to so many cells, some 60 ms, a viewport is computed; beyond, the pyramid is worth building.
DIRECT_CELLS = 2**26
# Rows summed up to tell of a viewport without a pyramid, and in a proof compared with float64.
SAMPLE_ROWS = 16
# Cells, and at most pixels, of a viewport that are computed once more in float64.
SAMPLE_CELLS = 2**16
SAMPLE_PIXELS = 16


@dataclass(frozen=True, eq=False)
class Viewport:
    """The sums or largest weights of blocks of cells, one to a pixel.

    Args:
        values: of blocks of `level` by `level` cells (h, w).
        allowed: whether the mask allows any cell of each block (h, w).
        level: cells to a pixel's side, a power of two.
        rows, cols: the cells that are covered: those asked for and the rest of their blocks.
        row_sum_error: by how much a row here missed what its weights must sum to, at most: of all
            rows where there is a pyramid, else of some.
        cell_error: by how much values missed those computed in float64 at most, of some.
    """

    values: Float[Array, "h w"]
    allowed: Bool[Array, "h w"]
    level: int
    rows: range
    cols: range
    row_sum_error: float
    cell_error: float


@dataclass(frozen=True)
class RowProof:
    """How far some rows are from what they must sum to, and some of their cells from float64's."""

    rows: range
    largest_row_error: float
    largest_cell_error: float


def viewport(head: Head, rows: range, cols: range, pixels: tuple[int, int], how: How) -> Viewport:
    """See `AttentionMap.viewport`: pooled levels come from the pyramid, finer ones are computed."""
    _check(head, rows, cols)
    check_block(min(pixels), how)
    level = 1
    while -(-len(rows) // level) > pixels[0] or -(-len(cols) // level) > pixels[1]:
        level *= 2
    rows, cols = _whole(rows, level, head.Q), _whole(cols, level, head.K)
    pyramid = remembered(head)
    if pyramid is None and level >= FINEST and len(rows) * len(cols) > DIRECT_CELLS:
        pyramid = build(head)
    if pyramid is not None and pyramid.has(level):
        tops = pyramid.read(rows, cols, level, "max")
        allowed = tops >= 0
        values = pyramid.read(rows, cols, level, "sum") if how == "sum" else np.maximum(tops, 0.0)
    else:
        values, _ = pool(head, rows, cols, level, how)
        allowed = pool_allowed(head, rows, cols, level)
    row_error = _row_error(head, rows, pyramid)
    view = Viewport(values, allowed, level, rows, cols, row_error, cell_error=0.0)
    return replace(view, cell_error=_value_error(head, view, how))


def _check(head: Head, rows: range, cols: range) -> None:
    for name, cells, size in (("rows", rows, head.Q), ("cols", cols, head.K)):
        if cells.step != 1 or not cells or cells.start < 0 or cells.stop > size:
            raise QkvError(
                f"{name} {cells}",
                f"a part of range(0, {size}), with step 1",
                "count tokens from 0",
            )


def _whole(cells: range, block: int, size: int) -> range:
    """Some cells and the rest of their blocks."""
    at = blocks_of(cells, block)
    return range(at.start * block, min(at.stop * block, size))


def _row_error(head: Head, rows: range, pyramid: Pyramid | None) -> float:
    if pyramid is not None:
        return float(pyramid.row_errors[rows.start : rows.stop].max())
    some = _spread(rows)
    summed = [head.tile([row], range(head.K)).sum() for row in some.tolist()]
    return float(np.abs(summed - expected_sums(head, head.lse[some])).max())


def _spread(rows: range) -> Array:
    """The first row, the last, and some between."""
    return np.unique(np.linspace(rows.start, rows.stop - 1, SAMPLE_ROWS).astype(np.int64))


def _value_error(head: Head, view: Viewport, how: How) -> float:
    """How far the largest value and some others are from float64's."""
    count = min(SAMPLE_PIXELS, max(1, SAMPLE_CELLS // view.level**2))
    seen = np.flatnonzero(view.allowed)
    if not seen.size:
        return 0.0
    flat = view.values.reshape(-1)
    some = seen[np.linspace(0, seen.size - 1, count).astype(np.int64)]
    some[0] = flat.argmax()
    error = 0.0
    for place in some.tolist():
        row, col = divmod(place, view.values.shape[1])
        # Their slices are ranges, and end where these end.
        rows, cols = (
            cells[at * view.level : (at + 1) * view.level]
            for at, cells in ((row, view.rows), (col, view.cols))
        )
        error = max(error, abs(float(flat[place]) - _again(head, rows, cols, how)))
    return error


def _again(head: Head, rows: range, cols: range, how: How) -> float:
    """A block's sum or largest weight in float64, by NumPy and some rows at a time."""
    step = max(1, SAMPLE_CELLS // len(cols))
    parts = [rows[at : at + step] for at in range(0, len(rows), step)]
    if how == "sum":
        return float(sum(head.tile(part, cols).sum() for part in parts))
    return float(max(head.tile(part, cols).max() for part in parts))


def prove(head: Head, rows: range) -> RowProof:
    """See `AttentionMap.proof`."""
    cols = range(head.K)
    _check(head, rows, cols)
    sweep, some = Sweep(head, rows, cols, precision(head, rows, cols)), _spread(rows)

    def look(strip: range) -> tuple[float, float]:
        summed, error = np.zeros(len(strip)), 0.0
        for tile in sweep.weights(strip):
            summed += tile.cells.sum(0).numpy()
            for row in some[(some >= strip.start) & (some < strip.stop)].tolist():
                exact = head.tile([row], tile.cols)[0]
                found = tile.cells[:, row - strip.start].numpy()
                error = max(error, float(np.abs(found - exact).max()))
        wanted = expected_sums(head, head.lse[strip.start : strip.stop])
        return float(np.abs(summed - wanted).max()), error

    errors = [found for _, found in sweep.each(look)]
    return RowProof(rows, *(max(kind) for kind in zip(*errors, strict=True)))
