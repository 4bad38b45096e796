"""One head's attention as (q, k, lse): any cell, row or tile is an exact query, none is stored.

With L_i the log-sum-exp of row i, the weight of a cell is exp(s_ij - L_i): a product of two short
vectors and one exponential. So a map costs memory linear in the number of tokens, and a picture
asks for the tiles it draws. NumPy alone; nothing here knows a model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from qkv.attention import BiasLike, Full, Mask, MaskLike, as_mask
from qkv.attention.masking import Positions, indices
from qkv.attention.steps import BiasTiles, score_tile, softmax
from qkv.errors import QkvError, ShapeError

__all__ = ["AttentionMap", "Cell", "brief", "visible"]

Array: TypeAlias = "np.ndarray[Any, Any]"

# A dense pattern of this many cells is 128 MB in float64; what is larger is asked for by the tile.
DENSE_CELLS = 4096**2
# Cells of one strip while a whole map is scanned: 8 MB.
STRIP_CELLS = 2**20

GLYPHS = {"\n": "⏎", "\r": "␍", "\t": "⇥", " ": "␣", "\u00a0": "␣"}


def visible(label: str) -> str:
    """A token's text with what cannot be seen made visible: a newline is ⏎, a space ␣.

    >>> visible("a b\\n")
    'a␣b⏎'
    """
    shown = (GLYPHS.get(c, c if c.isprintable() else "�") for c in label)
    return "".join(shown) or "∅"


def brief(weight: float) -> str:
    """A weight in two digits, as it is read aloud.

    >>> brief(0.621), brief(1.0), brief(0.998), brief(0.00042)
    ('.62', '1', 'over .99', '4.2e-4')
    """
    if 0 < abs(weight) < 0.005:
        return f"{weight:.1e}".replace("e-0", "e-")
    text = f"{weight:.2f}"
    if text == "1.00":
        return "1" if weight > 1 - 1e-6 else "over .99"
    return text.removeprefix("0")


class Cell(NamedTuple):
    """A query's place, a key's place (both from 0), and the weight that the one gives the other."""

    query: int
    key: int
    weight: float


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """One head of one sequence, to be asked for cells, rows and tiles of its softmax weights.

    Args:
        q, k: queries (Q, C) and keys (K, C).
        lse: each row's log-sum-exp (Q,), natural logarithm, fp32 or better; -inf where a row is
            allowed nothing.
        mask: what is allowed; its tiles may have leading axes of size 1.
        bias: added after the cap, broadcastable to (Q, K), or given by the tile like `ALiBi`.
        scale: what q·k is multiplied by; 1/sqrt(C) unless given.
        softcap: scores are bent to softcap * tanh(score / softcap).
        query_labels, key_labels: the tokens' text; empty where it isn't known.
        name: such as "L0H2", layer and head counted from 0.

    Raises:
        ShapeError: where shapes or the numbers of labels do not fit together.

    >>> x = np.zeros((3, 2))
    >>> AttentionMap.of(x, x, mask=np.tri(3, dtype=bool)).row(1).tolist()
    [0.5, 0.5, 0.0]
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

    def __post_init__(self) -> None:
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

    @classmethod
    def of(
        cls,
        q: Float[Array, "Q C"],
        k: Float[Array, "K C"],
        *,
        mask: MaskLike = None,
        bias: BiasLike = None,
        scale: float | None = None,
        softcap: float | None = None,
        labels: Sequence[str] = (),
        name: str = "",
    ) -> AttentionMap:
        """A map whose lse is computed here, by strips in float64; arguments as of the class.

        Args:
            labels: the text of the K key tokens; the queries are the last Q of them.

        Raises:
            ShapeError: where shapes do not fit together.

        >>> AttentionMap.of(np.zeros((1, 2)), np.zeros((4, 2))).lse.round(3).tolist()
        [1.386]
        """
        blank = cls(
            q=np.asarray(q),
            k=np.asarray(k),
            lse=np.zeros(len(q)),
            mask=as_mask(mask),
            bias=bias,
            scale=scale,
            softcap=softcap,
            query_labels=tuple(labels)[-len(q) :],
            key_labels=tuple(labels),
            name=name,
        )
        lse = np.empty(blank.Q)
        for rows in blank._strips():
            lse[rows.start : rows.stop] = softmax(blank.scores(rows, range(blank.K)))[1]
        return cls(**{**blank.__dict__, "lse": lse})

    @property
    def Q(self) -> int:  # noqa: N802 (an axis)
        """The number of queries (rows)."""
        return int(self.q.shape[0])

    @property
    def K(self) -> int:  # noqa: N802 (an axis)
        """The number of keys (columns)."""
        return int(self.k.shape[0])

    def allowed(self, rows: Positions, cols: Positions) -> Bool[Array, "rows cols"]:
        """What the mask allows at some rows and columns.

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

        >>> AttentionMap.of(np.ones((1, 4)), np.ones((1, 4))).scores([0], [0]).tolist()
        [[2.0]]
        """
        at_rows, at_cols = self._places(rows, cols)
        return score_tile(
            self.q[at_rows].astype(np.float64),
            self.k[at_cols].astype(np.float64),
            scale=self.scale,
            softcap=self.softcap,
            bias_tile=None if self.bias is None else self._bias_tile(self.bias, at_rows, at_cols),
            allowed=self.allowed(at_rows, at_cols),
        ).masked

    def tile(self, rows: Positions, cols: Positions) -> Float[Array, "rows cols"]:
        """The weights exp(s_ij - L_i) at some rows and columns; a row allowed nothing is zeros.

        Args:
            rows, cols: places from 0, as a range, slice or integers.

        Raises:
            QkvError: where a place is outside of the map.

        >>> AttentionMap.of(np.zeros((2, 1)), np.zeros((2, 1))).tile([1], range(2)).tolist()
        [[0.5, 0.5]]
        """
        lse = self.lse[self._places(rows, ())[0]].astype(np.float64)
        # -inf - -inf would be NaN: any finite level gives such a row exp(-inf) = 0.
        level = np.where(np.isneginf(lse), 0.0, lse)
        weights: Array = np.exp(self.scores(rows, cols) - level[:, None])
        return weights

    def row(self, query: int) -> Float[Array, " K"]:
        """The weights that one query, counted from 0, gives to every key."""
        weights: Array = self.tile([query], range(self.K))[0]
        return weights

    def cell(self, query: int, key: int) -> float:
        """The weight that one query gives to one key, both counted from 0.

        >>> AttentionMap.of(np.zeros((2, 1)), np.zeros((4, 1))).cell(1, 3)
        0.25
        """
        return float(self.tile([query], [key])[0, 0])

    def pattern(self) -> Float[Array, "Q K"]:
        """All weights at once, up to 4,096² cells.

        Raises:
            QkvError: where there would be more.
        """
        if self.Q * self.K > DENSE_CELLS:
            raise QkvError(
                f"a pattern of {self.Q:,} x {self.K:,} cells",
                "at most 4,096²",
                "ask for .row(i), .tile(rows, cols) or .pool(size) instead",
            )
        return self.tile(range(self.Q), range(self.K))

    def pool(self, size: int) -> tuple[Float[Array, "rows cols"], Bool[Array, "rows cols"]]:
        """The largest weight of each block of size by size cells, and whether any cell is allowed.

        Raises:
            QkvError: where size is below 1.

        >>> x = np.zeros((3, 1))
        >>> AttentionMap.of(x, x, mask=np.tri(3, dtype=bool)).pool(2)[0].round(2).tolist()
        [[1.0, 0.0], [0.33, 0.33]]
        """
        if size < 1:
            raise QkvError(f"blocks of {size} cells", "at least 1", "give 1 for every cell")
        shape = (math.ceil(self.Q / size), math.ceil(self.K / size))
        weights, allowed = np.zeros(shape), np.zeros(shape, dtype=bool)
        starts = np.arange(0, self.K, size)
        for rows in self._strips(multiple=size):
            cuts = np.arange(0, len(rows), size)
            here = slice(rows.start // size, rows.start // size + len(cuts))
            tile, seen = self.tile(rows, range(self.K)), self.allowed(rows, range(self.K))
            weights[here] = np.maximum.reduceat(np.maximum.reduceat(tile, starts, 1), cuts, 0)
            allowed[here] = np.logical_or.reduceat(np.logical_or.reduceat(seen, starts, 1), cuts, 0)
        return weights, allowed

    def strongest(self) -> Cell | None:
        """The cell with the largest weight off the diagonal and off the first key.

        Those two are left out since most heads rest there. Where nothing else has a weight the
        diagonal stays out; then nothing does. None where the mask allows nothing.

        >>> x = np.zeros((3, 1))
        >>> AttentionMap.of(x, x, mask=np.tri(3, dtype=bool)).strongest()
        Cell(query=2, key=1, weight=0.3333333333333333)
        """
        best: list[Cell | None] = [None, None, None]
        keys = np.arange(self.K)
        for rows in self._strips():
            tile = self.tile(rows, keys)
            others = (np.array(rows) + self.K - self.Q)[:, None] != keys
            for choice, kept in enumerate((others & (keys > 0), others, np.True_)):
                weights = np.where(kept, tile, 0.0)
                query, key = np.unravel_index(int(weights.argmax()), tile.shape)
                weight, found = float(weights[query, key]), best[choice]
                if weight > 0 and (found is None or weight > found.weight):
                    best[choice] = Cell(rows[int(query)], int(key), weight)
        return next((cell for cell in best if cell is not None), None)

    def sentence(self) -> str:
        """The picture read aloud: what its strongest cell says.

        >>> x = np.zeros((3, 1))
        >>> AttentionMap.of(x, x, mask=np.tri(3, dtype=bool), labels="abc").sentence()
        '“c” at 2 gives .33 to “b” at 1'
        """
        cell = self.strongest()
        if cell is None:
            return "the mask allows no token to look at any"
        asker, asked = self.spoken("query", cell.query), self.spoken("key", cell.key)
        return f"{asker} gives {brief(cell.weight)} to {asked}"

    def spoken(self, kind: str, place: int) -> str:
        """A token as a sentence names it: “l” at 12, or token 12 where there are no labels."""
        labels = self.query_labels if kind == "query" else self.key_labels
        return f"“{visible(labels[place])}” at {place}" if labels else f"token {place}"

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

    def _bias_tile(self, bias: BiasLike, rows: Array, cols: Array) -> Array:
        if isinstance(bias, BiasTiles):
            tile = bias.tile(rows, cols, queries=self.Q, keys=self.K)
            return tile.reshape(tile.shape[-2:])
        table = np.asarray(bias)
        table = table.reshape((1, *table.shape)[-2:])
        # An axis of size 1 stands for all positions.
        picked = table[rows if table.shape[0] > 1 else rows * 0]
        return np.asarray(picked[:, cols if table.shape[1] > 1 else cols * 0])

    def _strips(self, multiple: int = 1) -> Iterator[range]:
        step = max(1, STRIP_CELLS // max(1, self.K) // multiple) * multiple
        for start in range(0, self.Q, step):
            yield range(start, min(start + step, self.Q))
