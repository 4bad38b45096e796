"""How a mask is asked: by the tile, by the span of keys it reaches, and whole only for pictures.

A mask says what is *allowed*. No object here builds the (Q, K) table unless `dense` asks for it:
`allowed` gives the tile of some query and key positions, `span` the keys outside which some rows
see nothing, and `extent` whether a tile is wholly forbidden, wholly allowed, or must be looked at.

Positions of queries count from 0 to Q - 1 as rows of q, and are aligned at the bottom right: with
fewer queries than keys (a cache) the last query is the last token, so query i stands at i + K - Q.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool

from qkv.attention.shapes import broadcasts
from qkv.errors import ShapeError

__all__ = [
    "Both",
    "Extent",
    "Full",
    "Given",
    "Mask",
    "MaskLike",
    "Positions",
    "as_mask",
    "fit",
]

Extent: TypeAlias = Literal["none", "some", "all"]
Positions: TypeAlias = "range | slice | Sequence[int] | np.ndarray[Any, Any]"


def indices(positions: Positions, size: int) -> np.ndarray[Any, Any]:
    if isinstance(positions, slice):
        positions = range(*positions.indices(size))
    if isinstance(positions, range):
        return np.arange(positions.start, positions.stop, positions.step)
    return np.asarray(positions, dtype=np.int64)


def ends(positions: Positions, size: int) -> tuple[int, int] | None:
    """The least and greatest of some positions; None where there are none."""
    if isinstance(positions, slice):
        positions = range(*positions.indices(size))
    if isinstance(positions, range):
        if not positions:
            return None
        return min(positions[0], positions[-1]), max(positions[0], positions[-1])
    array = np.asarray(positions, dtype=np.int64)
    return (int(array.min()), int(array.max())) if array.size else None


class Bounds(NamedTuple):
    """A tile's corners: absolute positions first..last of its queries, its keys left..right."""

    first: int
    last: int
    left: int
    right: int
    keys: int

    @classmethod
    def of(cls, rows: tuple[int, int], cols: tuple[int, int], queries: int, keys: int) -> Bounds:
        """The bounds of a tile from the least and greatest of its rows and columns."""
        return cls(rows[0] + keys - queries, rows[1] + keys - queries, *cols, keys)


class Mask(abc.ABC):
    """What is allowed, as a question that can be asked of any tile; `a & b` allows what both do."""

    # Lets `array & mask` reach __rand__ instead of NumPy looping over the array's elements.
    __array_ufunc__ = None

    @abc.abstractmethod
    def allowed(
        self, rows: Positions, cols: Positions, *, queries: int, keys: int
    ) -> Bool[np.ndarray, "*B rows cols"]:
        """What is allowed at some query rows and key columns, broadcastable to (B, H, rows, cols).

        Args:
            rows: query positions in 0..queries-1; a range, slice or array of integers.
            cols: key positions in 0..keys-1, likewise.
            queries: Q, how many queries there are in all.
            keys: K, how many keys there are in all.

        >>> from qkv.attention.masks import Causal
        >>> Causal().allowed(range(2), range(3), queries=2, keys=3).astype(int).tolist()
        [[1, 1, 0], [1, 1, 1]]
        """

    def span(self, rows: Positions, *, queries: int, keys: int) -> tuple[int, int]:
        """The keys [start, stop) outside which none of `rows` may look, in any batch element.

        >>> from qkv.attention.masks import Window
        >>> Window(2).span(range(4, 6), queries=9, keys=9)
        (3, 6)
        """
        row_ends = ends(rows, queries)
        if row_ends is None:
            return 0, 0
        start, stop = self._reach(Bounds.of(row_ends, (0, keys - 1), queries, keys))
        stop = max(0, min(stop, keys))
        return min(max(0, start), stop), stop

    def extent(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Extent:
        """Whether "none" or "all" of a tile is certainly allowed; else "some": look at `allowed`.

        Exact for a mask alone and contiguous positions; a conjunction may say "some" for none.

        >>> from qkv.attention.masks import Causal
        >>> Causal().extent(range(4), range(4, 8), queries=8, keys=8)
        'none'
        """
        row_ends, col_ends = ends(rows, queries), ends(cols, keys)
        if row_ends is None or col_ends is None:
            return "none"
        at = Bounds.of(row_ends, col_ends, queries, keys)
        start, stop = self._reach(at)
        if col_ends[1] < start or col_ends[0] >= stop:
            return "none"
        return "all" if self._whole(at) else "some"

    def dense(self, queries: int, keys: int) -> Bool[np.ndarray, "*B Q K"]:
        """The whole table, Q times K: for small sizes and for pictures.

        >>> from qkv.attention.masks import Prefix
        >>> Prefix(2).dense(3, 3).astype(int).tolist()
        [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
        """
        return self.allowed(range(queries), range(keys), queries=queries, keys=keys)

    def check(self, shape: tuple[int, ...]) -> None:  # noqa: B027 (most masks fit any shape)
        """Checks that the mask fits scores of shape (*B, H, Q, K).

        Raises:
            ShapeError: where it does not.
        """

    @abc.abstractmethod
    def _reach(self, at: Bounds) -> tuple[int, int]:
        """Keys [start, stop) that tokens at.first..at.last may look at."""

    @abc.abstractmethod
    def _whole(self, at: Bounds) -> bool:
        """Whether all tokens at.first..at.last certainly see all keys at.left..at.right."""

    def __and__(self, other: MaskLike) -> Mask:
        return Both(self, as_mask(other))

    def __rand__(self, other: MaskLike) -> Mask:
        return Both(as_mask(other), self)


# A boolean array (or torch tensor) broadcastable to (B, H, Q, K) is accepted wherever a mask is.
MaskLike: TypeAlias = "Mask | np.ndarray[Any, Any] | None"


@dataclass(frozen=True)
class Full(Mask):
    """Every query sees every key.

    >>> bool(Full().dense(2, 3).all())
    True
    """

    def allowed(
        self, rows: Positions, cols: Positions, *, queries: int, keys: int
    ) -> Bool[np.ndarray, "rows cols"]:
        return np.ones((len(indices(rows, queries)), len(indices(cols, keys))), dtype=bool)

    def _reach(self, at: Bounds) -> tuple[int, int]:
        return 0, at.keys

    def _whole(self, at: Bounds) -> bool:  # noqa: ARG002 (asked of all masks)
        return True


@dataclass(frozen=True, eq=False)
class Given(Mask):
    """A mask given as a boolean array that broadcasts to (B, H, Q, K); True is allowed.

    Raises:
        ShapeError: where the array is not boolean or has fewer than two axes.

    >>> Given(np.array([[True, False]])).dense(1, 2).tolist()
    [[True, False]]
    """

    table: Bool[np.ndarray, "*B Q K"]

    def __post_init__(self) -> None:
        if self.table.dtype != np.bool_ or self.table.ndim < 1:
            raise ShapeError(
                f"a mask of {self.table.dtype} and shape {self.table.shape}",
                "booleans that say what is allowed, broadcastable to (B, H, Q, K)",
                "pass numbers to be added to the scores as bias",
            )
        if self.table.ndim == 1:
            object.__setattr__(self, "table", self.table[None])

    def allowed(
        self, rows: Positions, cols: Positions, *, queries: int, keys: int
    ) -> Bool[np.ndarray, "*B rows cols"]:
        wanted = (indices(rows, queries), indices(cols, keys))
        table = self.table
        for axis, index in zip((-2, -1), wanted, strict=True):
            # An axis of size 1 stands for all positions.
            table = np.take(table, index if table.shape[axis] > 1 else index * 0, axis=axis)
        return table

    def extent(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Extent:
        tile = self.allowed(rows, cols, queries=queries, keys=keys)
        if not tile.any():
            return "none"
        return "all" if tile.all() else "some"

    def check(self, shape: tuple[int, ...]) -> None:
        fit(self.table, shape)

    def _reach(self, at: Bounds) -> tuple[int, int]:
        return 0, at.keys

    def _whole(self, at: Bounds) -> bool:  # noqa: ARG002 (asked of all masks)
        return False


@dataclass(frozen=True)
class Both(Mask):
    """What each of two masks allows; written `a & b`.

    >>> from qkv.attention.masks import Causal, Window
    >>> (Causal() & Window(1)).dense(2, 2).astype(int).tolist()
    [[1, 0], [0, 1]]
    """

    left: Mask
    right: Mask

    def allowed(
        self, rows: Positions, cols: Positions, *, queries: int, keys: int
    ) -> Bool[np.ndarray, "*B rows cols"]:
        left, right = (
            mask.allowed(rows, cols, queries=queries, keys=keys) for mask in (self.left, self.right)
        )
        return np.asarray(left & right)

    def extent(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Extent:
        left = self.left.extent(rows, cols, queries=queries, keys=keys)
        if left == "none":
            return "none"
        right = self.right.extent(rows, cols, queries=queries, keys=keys)
        return right if left == "all" else ("none" if right == "none" else "some")

    def check(self, shape: tuple[int, ...]) -> None:
        self.left.check(shape)
        self.right.check(shape)

    def _reach(self, at: Bounds) -> tuple[int, int]:
        left = self.left._reach(at)
        right = self.right._reach(at)
        return max(left[0], right[0]), min(left[1], right[1])

    def _whole(self, at: Bounds) -> bool:
        return self.left._whole(at) and self.right._whole(at)


def as_mask(mask: MaskLike | object) -> Mask:
    """A mask object for whatever stands for one: a mask, None (all allowed), booleans.

    Raises:
        ShapeError: where it is something else.

    >>> as_mask(None)
    Full()
    """
    if isinstance(mask, Mask):
        return mask
    if mask is None:
        return Full()
    if not isinstance(mask, np.ndarray) and not hasattr(mask, "__array__"):
        raise ShapeError(
            f"a mask of type {type(mask).__name__}",
            "a mask object or a boolean array",
            "use Causal(), Window(n), Prefix(n), Padding(lengths), or an array of what is allowed",
        )
    return Given(np.asarray(mask))


def fit(array: np.ndarray[Any, Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """`array` without leading axes of size 1 beyond those of `shape`, to which it broadcasts.

    Raises:
        ShapeError: where it does not broadcast.

    >>> fit(np.ones((1, 1, 2, 3), dtype=bool), (2, 3)).shape
    (2, 3)
    """
    extra = max(0, array.ndim - len(shape))
    if all(size == 1 for size in array.shape[:extra]):
        fitted = array.reshape(array.shape[extra:])
        if broadcasts(fitted.shape, shape):
            return fitted
    raise ShapeError(
        f"a mask of shape {array.shape} for scores {shape}",
        "a shape that broadcasts to (B, H, Q, K)",
        "give each axis its full size or 1",
    )
