"""Masks as models give them: recognised as a rule where they are one, and cut to what is shown.

A table of booleans costs T² memory and says little; most are Causal, a Window or padding, and known
as such they cost nothing. The other masks here see a larger mask through a window of some kind: one
head of it, some of its rows, or the calls of a cache one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Int

from qkv.attention import Causal, Extent, Full, Given, Mask, Window
from qkv.attention.masking import Positions, indices
from qkv.attention.steps import BiasTiles

__all__ = [
    "Computed",
    "Cut",
    "CutBias",
    "Seen",
    "Stitched",
    "TopLeft",
    "pick",
    "recognise",
    "stitched",
]


@dataclass(frozen=True)
class TopLeft(Mask):
    """torch's `is_causal` with Q other than K: query i sees keys 0 to i, aligned at the top left.

    >>> TopLeft().dense(2, 3).astype(int).tolist()
    [[1, 0, 0], [1, 1, 0]]
    """

    def allowed(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Any:
        return indices(cols, keys) <= indices(rows, queries)[:, None]

    def span(self, rows: Positions, *, queries: int, keys: int) -> tuple[int, int]:
        # With as many keys as queries the two alignments are one.
        return 0, min(keys, Causal().span(rows, queries=queries, keys=queries)[1])

    def extent(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Extent:
        return Causal().extent(rows, indices(cols, keys), queries=queries, keys=queries)

    def _reach(self, at: Any) -> tuple[int, int]:
        return 0, cast("int", at.keys)

    def _whole(self, at: Any) -> bool:  # noqa: ARG002 (asked of all masks)
        return False


class Seen(Mask):
    """A mask of which only `allowed` is known."""

    def _reach(self, at: Any) -> tuple[int, int]:
        return 0, cast("int", at.keys)

    def _whole(self, at: Any) -> bool:  # noqa: ARG002 (asked of all masks)
        return False


@dataclass(frozen=True, eq=False)
class Computed(Seen):
    """What a function of single places allows, such as flex attention's mask_mod, by the tile.

    >>> Computed(lambda b, h, i, j: i >= j, 1, 1).dense(2, 2)[0, 0].astype(int).tolist()
    [[1, 0], [1, 1]]
    """

    allows: Callable[..., Any]
    sequences: int
    heads: int
    device: str = "cpu"

    def allowed(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Any:
        at = [
            torch.arange(self.sequences, device=self.device),
            torch.arange(self.heads, device=self.device),
            torch.from_numpy(indices(rows, queries)).to(self.device),
            torch.from_numpy(indices(cols, keys)).to(self.device),
        ]
        over = self.allows
        for axis in (3, 2, 1, 0):
            over = torch.vmap(over, tuple(0 if other == axis else None for other in range(4)))
        shape = tuple(len(places) for places in at)
        tile = torch.as_tensor(over(*at)).to(torch.bool)
        return np.asarray(tile.expand(shape).cpu().numpy())


@dataclass(frozen=True, eq=False)
class _Part:
    """Some rows and columns of one sequence and head of something that is asked by the tile.

    Args:
        whole: the mask or bias of all queries and keys.
        sequence, head: which of its leading axes; several heads keep theirs.
        rows, cols: places in the whole, (Q,) and (K,).
        queries, keys: how many the whole has.
    """

    whole: Any
    sequence: int
    head: int | tuple[int, ...]
    rows: Int[np.ndarray, " Q"]
    cols: Int[np.ndarray, " K"]
    queries: int
    keys: int

    def _of_whole(
        self, ask: Callable[..., Any], rows: Positions, cols: Positions, queries: int, keys: int
    ) -> Any:
        tile = ask(
            self.rows[indices(rows, queries)],
            self.cols[indices(cols, keys)],
            queries=self.queries,
            keys=self.keys,
        )
        return pick(tile, self.sequence, self.head)


@dataclass(frozen=True, eq=False)
class Cut(_Part, Seen):
    """A part of a mask, its queries and keys counted anew from 0.

    >>> Cut(Causal(), 0, 0, np.array([1, 2]), np.array([0, 2]), 3, 3).dense(2, 2).astype(int)
    array([[1, 0],
           [1, 1]])
    """

    whole: Mask

    def allowed(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Any:
        return self._of_whole(self.whole.allowed, rows, cols, queries, keys)


@dataclass(frozen=True, eq=False)
class CutBias(_Part):
    """A part of a bias that is given by the tile."""

    whole: BiasTiles

    def tile(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Any:
        """The bias at some query rows and key columns."""
        return self._of_whole(self.whole.tile, rows, cols, queries, keys)


@dataclass(frozen=True, eq=False)
class Stitched(Seen):
    """The masks of several calls, one below the other, each over some of the keys.

    Args:
        parts: (mask, how many queries, first key, how many keys) of each call.

    >>> once = (Full(), 1, 0, 1), (Full(), 1, 0, 2)  # a prompt of one token, and one step
    >>> Stitched(once).dense(2, 2)[0, 0].astype(int).tolist()
    [[1, 0], [1, 1]]
    """

    parts: Sequence[tuple[Mask, int, int, int]]

    def allowed(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Any:
        def ask(mask: Mask, mine: Any, there: Any, count: int, size: int) -> Any:
            return mask.allowed(mine, there, queries=count, keys=size)

        return stitched(self.parts, indices(rows, queries), indices(cols, keys), ask, np.bool_)


def stitched(
    parts: Sequence[tuple[Any, int, int, int]],
    rows: Int[np.ndarray, " Q"],
    cols: Int[np.ndarray, " K"],
    ask: Callable[[Any, Any, Any, int, int], Any],
    kind: Any,
) -> Any:
    """A tile (B, H, rows, cols) of what stands one below the other, zeros where nothing does.

    Args:
        parts: (something, how many rows, first column, how many columns) of each.
        rows, cols: places in the whole.
        ask: the tile of one part, given its rows and columns and its sizes.
        kind: the type of the result.
    """
    order = np.argsort(rows, kind="stable")
    tiles, first = [], 0
    for part, count, start, size in parts:
        mine = rows[order][np.searchsorted(rows[order], first) :]
        mine = mine[: np.searchsorted(mine, first + count)]
        if mine.size:
            inside = (cols >= start) & (cols < start + size)
            found = ask(part, mine - first, np.where(inside, cols - start, 0), count, size)
            found = np.where(inside, found.reshape((1,) * (4 - found.ndim) + found.shape), kind(0))
            tiles.append(np.broadcast_to(found, (*found.shape[:2], mine.size, cols.size)))
        first += count
    lead = np.broadcast_shapes(*(tile.shape[:2] for tile in tiles)) if tiles else (1, 1)
    whole = np.zeros((*lead, rows.size, cols.size), dtype=kind)
    if tiles:
        joined = [np.broadcast_to(tile, (*lead, *tile.shape[2:])) for tile in tiles]
        whole[:, :, order] = np.concatenate(joined, axis=2)
    return whole


def recognise(table: Bool[np.ndarray, "Q K"]) -> Mask:
    """The rule that a table of what is allowed follows, or the table where it follows none.

    >>> recognise(np.tri(5, dtype=bool)), recognise(np.ones((2, 3), dtype=bool))
    (Causal(), Full())
    >>> recognise(np.tri(5, dtype=bool) & ~np.tri(5, k=-2, dtype=bool))
    Window(size=2)
    """
    queries, keys = table.shape
    if table.all():
        return Full()
    # What the last row sees tells a window's size; every row must then agree.
    width = int(table[-1].sum())
    rules: list[Mask] = [Causal()] if queries <= keys else []
    rules += [TopLeft()] if queries != keys else []
    rules += [Window(width)] if 0 < width < keys and queries <= keys else []
    for rule in rules:
        if np.array_equal(rule.dense(queries, keys), table):
            return rule
    return Given(table)


def pick(table: Any, sequence: int, head: int | tuple[int, ...]) -> Any:
    """The last two axes of (*B, H, Q, K) for one sequence and head; axes may be 1 or absent.

    Of several heads (heads, Q, K), or (1, Q, K) where they share.
    """
    full = table.reshape((1,) * (4 - table.ndim) + tuple(table.shape))
    of = full[sequence if full.shape[0] > 1 else 0]
    if isinstance(head, tuple):
        return of[list(head)] if of.shape[0] > 1 else of
    return of[head if of.shape[0] > 1 else 0]
