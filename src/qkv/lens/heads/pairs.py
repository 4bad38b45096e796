"""What a mask allows and what a head gives, asked of single pairs of a query and a key.

Many questions are about few cells: the token before, the first one, the same token earlier. Asked
pair by pair they need neither T² memory nor T² time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from qkv.attention import Causal, Full, Given, Mask
from qkv.attention.steps import BiasTiles
from qkv.lens.seeing.masks import Cut

if TYPE_CHECKING:
    from qkv.lens.maps.head import Head

__all__ = ["allowed_pairs", "allowed_sums", "same_mask", "uniform_distance", "weights_of_pairs"]

Array: TypeAlias = "np.ndarray[Any, Any]"

# Pairs asked of a mask or bias at once: the tile of their rows and columns holds them all.
BLOCK_PAIRS = 256
# Pairs whose q and k are gathered at once: a few megabytes.
GATHERED_PAIRS = 2**13
STRIP_ROWS = 256
STRIP_KEYS = 2048


def _blocks(rows: Array, cols: Array) -> Iterator[tuple[slice, Array, Array, Array, Array]]:
    """Pairs some at a time: which, their rows and columns once each, and where each pair lies."""
    for start in range(0, len(rows), BLOCK_PAIRS):
        here = slice(start, start + BLOCK_PAIRS)
        at_rows, row = np.unique(rows[here], return_inverse=True)
        at_cols, col = np.unique(cols[here], return_inverse=True)
        yield here, at_rows, at_cols, row, col


def allowed_pairs(head: Head, rows: Int[Array, " n"], cols: Int[Array, " n"]) -> Bool[Array, " n"]:
    """Whether the mask allows each of some pairs.

    >>> from qkv.attention import Causal
    >>> from qkv.lens import AttentionMap
    >>> x = np.zeros((3, 1))
    >>> m = AttentionMap.of(x, x, mask=Causal())
    >>> allowed_pairs(m, np.array([0, 2]), np.array([1, 1])).tolist()
    [False, True]
    """
    if isinstance(head.mask, Full):
        return np.ones(len(rows), dtype=bool)
    if isinstance(head.mask, Causal):
        # By far the most common, and a thousand times as fast as by the tile.
        return np.asarray(cols <= rows + head.K - head.Q)
    found = np.zeros(len(rows), dtype=bool)
    for here, at_rows, at_cols, row, col in _blocks(rows, cols):
        found[here] = head.allowed(at_rows, at_cols)[row, col]
    return found


def weights_of_pairs(
    head: Head, rows: Int[Array, " n"], cols: Int[Array, " n"]
) -> Float[Array, " n"]:
    """The weights, in float64, of some pairs that the mask allows.

    >>> from qkv.lens import AttentionMap
    >>> x = np.zeros((4, 1))
    >>> weights_of_pairs(AttentionMap.of(x, x), np.array([0, 3]), np.array([1, 2])).tolist()
    [0.25, 0.25]
    """
    found = np.zeros(len(rows))
    if head.score_mod is not None or isinstance(head.bias, BiasTiles):
        for here, at_rows, at_cols, row, col in _blocks(rows, cols):
            found[here] = head.tile(at_rows, at_cols)[row, col]
        return found
    scale = head.C**-0.5 if head.scale is None else head.scale
    for start in range(0, len(rows), GATHERED_PAIRS):
        here = slice(start, start + GATHERED_PAIRS)
        q, k = head.q[rows[here]].astype(np.float64), head.k[cols[here]].astype(np.float64)
        scores = np.einsum("nc,nc->n", q, k) * scale
        if head.softcap is not None:
            scores = head.softcap * np.tanh(scores / head.softcap)
        if head.bias is not None:
            table = np.asarray(head.bias)
            table = table.reshape((1, 1, *table.shape)[-2:])
            # An axis of size 1 stands for all positions.
            row, col = (at[here] % size for at, size in zip((rows, cols), table.shape, strict=True))
            scores = scores + table[row, col]
        found[here] = np.exp(scores - head.lse[rows[here]].astype(np.float64))
    return found


def _tiles(head: Head) -> Iterator[tuple[range, range, Array | None]]:
    """Tiles that aren't wholly forbidden, and what they allow; None where that is all."""
    sizes = {"queries": head.Q, "keys": head.K}
    for first in range(0, head.Q, STRIP_ROWS):
        rows = range(first, min(first + STRIP_ROWS, head.Q))
        start, stop = head.mask.span(rows, **sizes)
        for left in range(start, stop, STRIP_KEYS):
            cols = range(left, min(left + STRIP_KEYS, stop))
            extent = head.mask.extent(rows, cols, **sizes)
            if extent != "none":
                yield rows, cols, None if extent == "all" else head.allowed(rows, cols)


def allowed_sums(head: Head, values: Float[Array, "K n"]) -> Float[Array, "Q n"]:
    """For each query the sum of some values over the keys that it may look at.

    >>> from qkv.attention import Causal
    >>> from qkv.lens import AttentionMap
    >>> x = np.zeros((3, 1))
    >>> allowed_sums(AttentionMap.of(x, x, mask=Causal()), np.ones((3, 1))).ravel().tolist()
    [1.0, 2.0, 3.0]
    """
    found = np.zeros((head.Q, values.shape[1]))
    before = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])
    for rows, cols, allowed in _tiles(head):
        here = slice(rows.start, rows.stop)
        if allowed is None:
            found[here] += before[cols.stop] - before[cols.start]
        else:
            found[here] += allowed.astype(np.float64) @ values[cols.start : cols.stop]
    return found


def uniform_distance(head: Head, counts: Float[Array, " Q"]) -> Float[Array, " Q"]:
    """How many tokens away each query would look on average if it gave all its keys the same.

    Args:
        head: of one text with itself.
        counts: how many keys each query may look at.
    """
    found = np.zeros(head.Q)
    for rows, cols, allowed in _tiles(head):
        here = slice(rows.start, rows.stop)
        places = head.places[here].astype(np.float64)
        if allowed is None:
            found[here] += _distances(places, cols)
        else:
            away = np.abs(places[:, None] - np.arange(cols.start, cols.stop))
            found[here] += np.einsum("ij,ij->i", allowed, away)
    return np.divide(found, counts, out=np.zeros(head.Q), where=counts > 0)


def _distances(places: Float[Array, " rows"], cols: range) -> Float[Array, " rows"]:
    """The sum of |place - j| over j in `cols`, without a loop: two runs of whole numbers."""
    past = np.clip(places - cols.start + 1, 0, len(cols))
    future = len(cols) - past
    behind = past * (places - cols.start) - past * (past - 1) / 2
    ahead = future * (cols.start + past - places) + future * (future - 1) / 2
    total: Array = behind + ahead
    return total


def same_mask(one: Mask, other: Mask) -> bool:
    """Whether two masks are certainly the same; heads of a layer mostly share theirs.

    >>> from qkv.attention import Causal, Window
    >>> same_mask(Causal(), Causal()), same_mask(Causal(), Window(2))
    (True, False)
    """
    if one is other:
        return True
    if isinstance(one, Given) and isinstance(other, Given):
        tables = [mask.table.__array_interface__ for mask in (one, other)]
        return all(tables[0][key] == tables[1][key] for key in ("data", "shape", "strides"))
    if isinstance(one, Cut) and isinstance(other, Cut):
        return (
            one.whole is other.whole
            and one.sequence == other.sequence
            and (one.head == other.head or _for_all_heads(one))
            and (one.queries, one.keys) == (other.queries, other.keys)
            and np.array_equal(one.rows, other.rows)
            and np.array_equal(one.cols, other.cols)
        )
    return type(one) is type(other) and bool(one == other)


def _for_all_heads(mask: Cut) -> bool:
    corner = mask.whole.allowed(mask.rows[:1], mask.cols[:1], queries=mask.queries, keys=mask.keys)
    return corner.ndim < 3 or corner.shape[-3] == 1
