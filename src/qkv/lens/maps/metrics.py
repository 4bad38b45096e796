"""What a map says of each query and each key, in one pass of tiles: no (Q, K) table is held.

Where a row sums to less than 1 (a sink) or to 0 (nothing is allowed), all of these are of the
weights as they are, not made up to 1.

Entropy could be had of a fused kernel with the keys as values, as H_i = L_i - Σ p s. That takes as
long (2.4 ns of processor time a cell, here 2.9; T = 20,000, C = 64, fp32), gives no way for a
softcap, a score_mod or most biases, and is a difference of large numbers: here all of Σ p (L - s)
has one sign.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from qkv.lens.maps.cells import Cell
from qkv.lens.maps.sweep import Sweep, Tile

if TYPE_CHECKING:
    from qkv.lens.maps.head import Head

__all__ = ["confidence", "distance", "entropy", "received", "strongest"]

Array: TypeAlias = "np.ndarray[Any, Any]"

# exp of less is 0 in fp32 and fp64 alike, and 0 times this is 0, where 0 times -inf is no number.
NOTHING = -1000.0


def entropy(head: Head) -> Float[Array, " Q"]:
    """Each row's -Σ p ln p, in nats; 0 where nothing is allowed."""
    sweep = Sweep.over(head)

    def add_up(rows: range) -> Array:
        found, level, spare = np.zeros(len(rows)), sweep.levels(rows), torch.empty(0)
        for tile in sweep.scores(rows):
            log_p = tile.cells.sub_(level).clamp_(min=NOTHING)
            if spare.shape != log_p.shape:
                spare = torch.empty_like(log_p)
            found -= torch.exp(log_p, out=spare).mul_(log_p).sum(0).numpy()
        # Rounding may leave a row that is all at one key a little below 0.
        return np.maximum(found, 0.0)

    return np.concatenate([part for _, part in sweep.each(add_up)])


def distance(head: Head) -> Float[Array, " Q"]:
    """Each row's Σ p |place - key|, in tokens; keys ahead of the query count like those behind it.

    Source: Vig and Belinkov 2019, section 4.4, for causal heads.
    """
    sweep, places = Sweep.over(head), head.places

    def add_up(rows: range) -> Array:
        found, here = np.zeros(len(rows)), places[rows.start : rows.stop]
        for tile in sweep.weights(rows):
            found += _away(tile, here).numpy()
        return found

    return np.concatenate([part for _, part in sweep.each(add_up)])


def _away(tile: Tile, places: Array) -> Tensor:
    """Each row's Σ p |place - key| within a tile."""
    cells, cols = tile.cells, tile.cols
    # From the tile's first key on: from the text's, fp32 would be off by parts of a token.
    keys = torch.arange(len(cols), dtype=cells.dtype)
    here = torch.from_numpy(places - cols.start).to(cells.dtype)
    if cols.start < places.max() and places.min() < cols.stop - 1:
        return torch.sum((here - keys[:, None]).abs_().mul_(cells), 0)
    moments = torch.stack([torch.ones_like(keys), keys]) @ cells
    return torch.abs(here * moments[0] - moments[1])


def received(head: Head) -> Float[Array, " K"]:
    """Each key's Σ p over all queries: all of them sum to Q where every row sums to 1."""
    sweep = Sweep.over(head)

    def add_up(rows: range) -> Array:
        found = np.zeros(head.K)
        for tile in sweep.weights(rows):
            found[tile.cols.start : tile.cols.stop] += tile.cells.sum(1).numpy()
        return found

    total = np.zeros(head.K)
    for _, part in sweep.each(add_up):
        total += part
    return total


def confidence(head: Head) -> Float[Array, " Q"]:
    """Each row's largest weight; 0 where nothing is allowed."""
    sweep = Sweep.over(head)

    def look(rows: range) -> Array:
        found = np.zeros(len(rows))
        for tile in sweep.weights(rows):
            found = np.maximum(found, tile.cells.amax(0).numpy())
        return found

    return np.concatenate([part for _, part in sweep.each(look)])


def strongest(head: Head) -> Cell | None:
    """The largest cell off the diagonal and the first key; else off the diagonal; else any."""
    sweep = Sweep.over(head)
    best: list[Cell | None] = [None, None, None]

    def look(rows: range) -> list[Cell | None]:
        here: list[Cell | None] = [None, None, None]
        for tile in sweep.weights(rows):
            highest = float(tile.cells.max())
            # Another thread may raise it meanwhile: then a tile is looked at for nothing.
            if any(x is not None and highest <= x.weight for x in (best[2], here[2])):
                continue
            for choice, cells in enumerate(_fewer_and_fewer(head, tile)):
                query, key = divmod(int(cells.T.argmax()), len(tile.cols))
                cell = Cell(tile.rows[query], tile.cols[key], float(cells[key, query]))
                here[choice] = _larger(here[choice], cell)
        return here

    for _, found in sweep.each(look):
        best = [_larger(*pair) for pair in zip(best, found, strict=True)]
    cell = next((cell for cell in reversed(best) if cell is not None), None)
    if cell is None:
        return None
    return cell._replace(weight=float(head.tile([cell.query], [cell.key])[0, 0]))


def _larger(first: Cell | None, second: Cell | None) -> Cell | None:
    """The cell of more weight, the first of equal ones; a weight of 0 is none."""
    if second is None or second.weight <= (0.0 if first is None else first.weight):
        return first
    return second


def _fewer_and_fewer(head: Head, tile: Tile) -> Iterator[Tensor]:
    """A tile whole; then without each query's own key; then without the first key too."""
    cells, cols = tile.cells, tile.cols
    yield cells
    if not head.cross:
        own = head.places[tile.rows.start : tile.rows.stop] - cols.start
        inside = np.flatnonzero((own >= 0) & (own < len(cols)))
        cells[own[inside], inside] = 0.0
    yield cells
    if cols.start == 0:
        cells[0] = 0.0
    yield cells
