"""What is to be seen of a map, or of a part of it: its cells, pooled where they are many."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from qkv.views.edges import block_means

if TYPE_CHECKING:
    from qkv.lens import AttentionMap, Cell

__all__ = ["Picture"]

Array: TypeAlias = "np.ndarray[Any, Any]"

# Maps with more tokens than this are pooled: a cell would be less than a pixel.
LARGEST_MAP = 1500
STRIP_ROWS = 256


@dataclass(frozen=True, eq=False)
class Picture:
    """What is to be seen of a map: cells of `block` by `block` weights, and the two edge tracks.

    Args:
        map: the head.
        rows, cols: the queries and keys that are seen, to whole blocks.
        weights, allowed: of each block.
        block: a power of two, as the levels of a pyramid are.
        how: whether a block's weight is its largest, or the mean over its queries of what they
            give to its keys.
        entropy, received: means over the blocks of each row, in nats, and of each key.
        strongest: the cell that the picture is read aloud by, unless another is chosen.
    """

    map: AttentionMap
    rows: range
    cols: range
    weights: Float[Array, "rows cols"]
    allowed: Bool[Array, "rows cols"]
    block: int
    how: str
    entropy: Float[Array, " rows"]
    received: Float[Array, " cols"]
    strongest: Cell | None

    @property
    def whole(self) -> bool:
        """Whether all of the map is seen."""
        return len(self.rows) == self.map.Q and len(self.cols) == self.map.K

    @classmethod
    def of(
        cls,
        head: AttentionMap,
        how: Literal["max", "sum"] = "max",
        rows: range | None = None,
        cols: range | None = None,
        cell: tuple[int, int] | None = None,
    ) -> Picture:
        """The picture of a head, or of some of its queries and keys, read aloud by a cell of them.

        >>> from qkv.lens import AttentionMap
        >>> x = np.zeros((4, 1))
        >>> Picture.of(AttentionMap.of(x, x), rows=range(1, 3)).weights.tolist()
        [[0.25, 0.25, 0.25, 0.25], [0.25, 0.25, 0.25, 0.25]]
        """
        rows, cols = rows or range(head.Q), cols or range(head.K)
        block = 1 << (math.ceil(max(len(rows), len(cols)) / LARGEST_MAP) - 1).bit_length()
        rows, cols = _to_blocks(rows, block, head.Q), _to_blocks(cols, block, head.K)
        if block == 1:
            weights, allowed = head.tile(rows, cols), head.allowed(rows, cols)
        else:
            part = tuple(slice(x.start // block, -(-x.stop // block)) for x in (rows, cols))
            weights, allowed = head.pool(block, how)[part], head.pool_allowed(block)[part]
        if how == "sum":
            queries = np.minimum(block, len(rows) - block * np.arange(len(weights)))
            weights = weights / queries[:, None]
        whole = len(rows) == head.Q and len(cols) == head.K
        chosen = _chosen(head, rows, cols, cell)
        if chosen is None:
            chosen = head.strongest() if whole else _strongest(head, rows, cols)
        return cls(
            map=head,
            rows=rows,
            cols=cols,
            weights=weights,
            allowed=allowed,
            block=block,
            how=how,
            entropy=block_means(head.entropy()[rows.start : rows.stop], block),
            received=block_means(head.received()[cols.start : cols.stop], block),
            strongest=chosen,
        )


def _to_blocks(shown: range, block: int, size: int) -> range:
    """Places up to the edges of their blocks."""
    return range(shown.start // block * block, min(-(-shown.stop // block) * block, size))


def _chosen(
    head: AttentionMap, rows: range, cols: range, cell: tuple[int, int] | None
) -> Cell | None:
    """A cell that was chosen, where it is seen; a masked one weighs nothing."""
    from qkv.lens import Cell

    if cell is None or cell[0] not in rows or cell[1] not in cols:
        return None
    return Cell(*cell, float(head.tile([cell[0]], [cell[1]])[0, 0]))


def _strongest(head: AttentionMap, rows: range, cols: range) -> Cell | None:
    """As `AttentionMap.strongest`, within a part: off the diagonal and the first key if it can."""
    from qkv.lens import Cell

    best: list[Cell | None] = [None, None]
    for start in range(0, len(rows), STRIP_ROWS):
        strip = rows[start : start + STRIP_ROWS]
        weights = head.tile(strip, cols)
        other = np.ones(weights.shape, dtype=bool)
        if not head.cross:
            other &= head.places[strip.start : strip.stop, None] != np.array(cols)
        other[:, np.array(cols) == 0] = False
        for at, cells in enumerate((np.where(other, weights, 0.0), weights)):
            row, col = divmod(int(cells.argmax()), len(cols))
            weight = float(cells[row, col])
            if weight > (0.0 if (held := best[at]) is None else held.weight):
                best[at] = Cell(strip[row], cols[col], weight)
    return best[0] or best[1]
