"""What goes into one head's softmax, and what comes out, by the tile, in float64.

`AttentionMap` is this with questions to ask of it; the modules that answer them read only this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from qkv.attention import BiasLike, Full, Mask
from qkv.attention.masking import Positions, indices
from qkv.attention.steps import BiasTiles, ScoreTile, score_tile
from qkv.errors import ConfigError, QkvError, ShapeError

__all__ = ["Head", "ScoreMod"]

Array: TypeAlias = "np.ndarray[Any, Any]"
# What flex_attention calls so, by the tile: (scaled scores (rows, cols), rows, cols) -> scores.
ScoreMod: TypeAlias = Callable[[Array, Array, Array], Array]

# Cells of one strip while a whole map is scanned: 8 MB.
STRIP_CELLS = 2**20


@dataclass(frozen=True, eq=False)
class Head:
    """One head of one sequence: its queries, keys, lse, and all that bends its scores.

    The fields are told at `AttentionMap`.
    """

    q: Float[Array, "Q C"]
    k: Float[Array, "K C"]
    lse: Float[Array, " Q"]
    mask: Mask = field(default_factory=Full)
    bias: BiasLike = None
    scale: float | None = None
    softcap: float | None = None
    query_labels: tuple[str, ...] = ()
    key_labels: tuple[str, ...] = ()
    name: str = ""
    v: Float[Array, "K Cv"] | None = None
    w_o: Float[Array, "Cv D"] | None = None
    sink: float | None = None
    at: Int[Array, " Q"] | None = None
    cross: bool = False
    query_ids: Int[Array, " Q"] | None = None
    key_ids: Int[Array, " K"] | None = None
    score_mod: ScoreMod | None = None
    note: str = ""

    def __post_init__(self) -> None:
        # Shapes only: a trace makes a map of each head it is asked for, at once.
        q, k, lse = self.q.shape, self.k.shape, self.lse.shape
        if len(q) != 2 or len(k) != 2 or q[1] != k[1] or lse != q[:1] or 0 in (*q, *k):
            raise ShapeError(
                f"q {q}, k {k}, lse {lse}", "(Q, C), (K, C), (Q,)", "give one head of one sequence"
            )
        for kind, labels, size in (
            ("query", self.query_labels, q[0]),
            ("key", self.key_labels, k[0]),
        ):
            if labels and len(labels) != size:
                raise ShapeError(
                    f"{len(labels)} {kind} labels",
                    f"one for each of {size} tokens",
                    "give the text of every token, in order",
                )
        self._check_rest(q[0], k[0])

    def _check_rest(self, queries: int, keys: int) -> None:
        width = None if self.v is None else self.v.shape[-1]
        for name, array, shape in (
            ("v", self.v, (keys, width)),
            ("at", self.at, (queries,)),
            ("query_ids", self.query_ids, (queries,)),
            ("key_ids", self.key_ids, (keys,)),
        ):
            if array is not None and array.shape != shape:
                raise ShapeError(
                    f"{name} {array.shape} for {queries} queries and {keys} keys",
                    "one row for each of its tokens",
                    "give those of this one sequence",
                )
        if self.w_o is not None and (
            self.w_o.ndim != 2 or (width is not None and self.w_o.shape[0] != width)
        ):
            raise ShapeError(
                f"w_o {self.w_o.shape} for values of width {width}",
                "(Cv, D)",
                "give this head's rows of the output projection, transposed from torch's",
            )
        if self.score_mod is not None and (self.softcap is not None or self.bias is not None):
            raise ConfigError(
                "score_mod with a softcap or a bias", "one of them", "let score_mod do all of it"
            )

    @property
    def Q(self) -> int:  # noqa: N802 (an axis)
        """The number of queries (rows)."""
        return int(self.q.shape[0])

    @property
    def K(self) -> int:  # noqa: N802 (an axis)
        """The number of keys (columns)."""
        return int(self.k.shape[0])

    @property
    def C(self) -> int:  # noqa: N802 (an axis)
        """The width of a query and of a key."""
        return int(self.k.shape[1])

    @property
    def places(self) -> Int[Array, " Q"]:
        """The key at which each query stands, counted from 0.

        Raises:
            QkvError: where queries and keys are different texts.

        >>> from qkv.lens import AttentionMap
        >>> AttentionMap.of(np.zeros((2, 1)), np.zeros((5, 1))).places.tolist()
        [3, 4]
        """
        if self.cross:
            raise QkvError(
                f"{self.name or 'a map'} of cross-attention",
                "queries and keys of one text",
                "ask for what needs no distance: cells, entropy, received",
            )
        return np.arange(self.K - self.Q, self.K) if self.at is None else self.at

    def allowed(self, rows: Positions, cols: Positions) -> Bool[Array, "rows cols"]:
        """What the mask allows at some rows and columns.

        >>> from qkv.lens import AttentionMap
        >>> AttentionMap.of(np.zeros((2, 1)), np.zeros((2, 1))).allowed([0], range(2)).tolist()
        [[True, True]]
        """
        at = self._places(rows, cols)
        tile = self.mask.allowed(*at, queries=self.Q, keys=self.K)
        return np.broadcast_to(tile, (*tile.shape[:-2], len(at[0]), len(at[1]))).reshape(
            len(at[0]), len(at[1])
        )

    def scores(self, rows: Positions, cols: Positions) -> Float[Array, "rows cols"]:
        """What goes into the softmax at some rows and columns: -inf where the mask forbids.

        >>> from qkv.lens import AttentionMap
        >>> AttentionMap.of(np.ones((1, 4)), np.ones((1, 4))).scores([0], [0]).tolist()
        [[2.0]]
        """
        return self.steps(rows, cols).masked

    def steps(self, rows: Positions, cols: Positions) -> ScoreTile:
        """Scores, scaled, capped, biased and masked at some rows and columns, in float64.

        >>> from qkv.lens import AttentionMap
        >>> AttentionMap.of(np.ones((1, 4)), np.ones((1, 4))).steps([0], [0]).scores.tolist()
        [[4.0]]
        """
        at_rows, at_cols = self._places(rows, cols)
        allowed = self.allowed(at_rows, at_cols)
        tile = score_tile(
            self.q[at_rows].astype(np.float64),
            self.k[at_cols].astype(np.float64),
            scale=self.scale,
            softcap=self.softcap,
            bias_tile=None if self.bias is None else self.bias_tile(at_rows, at_cols),
            allowed=allowed,
        )
        if self.score_mod is None:
            return tile
        made = np.asarray(self.score_mod(tile.scaled, at_rows, at_cols), dtype=np.float64)
        return tile._replace(biased=made, masked=np.where(allowed, made, -np.inf))

    def tile(self, rows: Positions, cols: Positions) -> Float[Array, "rows cols"]:
        """The weights exp(s_ij - L_i) at some rows and columns; a row allowed nothing is zeros.

        Args:
            rows, cols: places from 0, as a range, slice or integers.

        Raises:
            QkvError: where a place is outside of the map.

        >>> from qkv.lens import AttentionMap
        >>> AttentionMap.of(np.zeros((2, 1)), np.zeros((2, 1))).tile([1], range(2)).tolist()
        [[0.5, 0.5]]
        """
        lse = self.lse[self._places(rows, ())[0]].astype(np.float64)
        # -inf - -inf would be NaN: any finite level gives such a row exp(-inf) = 0.
        level = np.where(np.isneginf(lse), 0.0, lse)
        weights: Array = np.exp(self.scores(rows, cols) - level[:, None])
        return weights

    def _places(self, rows: Positions, cols: Positions) -> tuple[Array, Array]:
        found = []
        for positions, size, kind in ((rows, self.Q, "query"), (cols, self.K, "key")):
            places = indices(positions, size)
            if places.size and (places.min() < 0 or places.max() >= size):
                raise QkvError(
                    f"{kind} {int(places.min() if places.min() < 0 else places.max())}",
                    f"0 to {size - 1}",
                    "count tokens from 0",
                )
            found.append(places)
        return found[0], found[1]

    def bias_tile(self, rows: Positions, cols: Positions) -> Array:
        """The bias at some rows and columns, (rows or 1, cols or 1); there must be one."""
        at_rows, at_cols = self._places(rows, cols)
        if isinstance(self.bias, BiasTiles):
            tile = self.bias.tile(at_rows, at_cols, queries=self.Q, keys=self.K)
            return tile.reshape(tile.shape[-2:])
        table = np.asarray(self.bias)
        table = table.reshape((1, 1, *table.shape)[-2:])
        # An axis of size 1 stands for all positions.
        picked = table[at_rows if table.shape[0] > 1 else [0]]
        return np.asarray(picked[:, at_cols if table.shape[1] > 1 else [0]])

    def strips(self, multiple: int = 1) -> Iterator[range]:
        """All rows, some at a time: so many that a strip of them is a few megabytes."""
        step = max(1, STRIP_CELLS // max(1, self.K) // multiple) * multiple
        for start in range(0, self.Q, step):
            yield range(start, min(start + step, self.Q))
