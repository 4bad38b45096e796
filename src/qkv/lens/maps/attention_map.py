"""One head's attention as (q, k, lse): any cell, row or tile is an exact query, none is stored.

With L_i the log-sum-exp of row i, the weight of a cell is exp(s_ij - L_i): a product of two short
vectors and one exponential. So a map costs memory linear in the number of tokens, and a picture
asks for the tiles it draws. Nothing here knows a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from qkv.attention import MaskLike, as_mask
from qkv.errors import QkvError
from qkv.lens.display import mimebundle
from qkv.lens.maps import metrics
from qkv.lens.maps.cells import Cell, CellArithmetic, arithmetic, brief, visible
from qkv.lens.maps.head import Head, ScoreMod
from qkv.lens.maps.pooling import How, pool, pool_allowed
from qkv.lens.maps.pyramid import Cancel, Progress, Pyramid, build, remembered, survey
from qkv.lens.maps.sweep import log_sum_exp
from qkv.lens.maps.viewport import RowProof, Viewport, prove, viewport

__all__ = ["AttentionMap", "Cell", "CellArithmetic", "ScoreMod", "brief", "visible"]

Array: TypeAlias = "np.ndarray[Any, Any]"
# A dense pattern of this many cells is 128 MB in float64; what is larger is asked for by the tile.
DENSE_CELLS = 4096**2


@dataclass(frozen=True, eq=False, repr=False)
class AttentionMap(Head):
    """One head of one sequence, to be asked for cells, rows and tiles of its softmax weights.

    Args:
        q, k: queries (Q, C) and keys (K, C), of any floating-point type.
        lse: each row's log-sum-exp (Q,), natural logarithm, fp32 or better; -inf where a row is
            allowed nothing.
        mask: what is allowed; its tiles may have leading axes of size 1.
        bias: added after the cap, broadcastable to (Q, K), or given by the tile like `ALiBi`.
        scale: what q·k is multiplied by; 1/sqrt(C) unless given.
        softcap: scores are bent to softcap * tanh(score / softcap).
        query_labels, key_labels: the tokens' text; empty where it isn't known.
        name: such as "L0H2", layer and head counted from 0.
        v: values (K, Cv), where they are known.
        w_o: this head's slice (Cv, D) of the output projection, where it is known.
        sink: a learned extra score in the softmax's denominator, already inside lse: a row then
            sums to 1 - exp(sink - lse).
        at: the key at which each query stands (Q,); the last query at the last key unless given.
        cross: queries and keys are different texts, so that no key is a query's own.
        query_ids, key_ids: token ids (Q,) and (K,), where they are known.
        score_mod: makes scores (rows, cols) of scaled scores, rows and columns, in place of
            softcap and bias.
        note: what a reader should know, such as "5 padding tokens left out".

    Raises:
        ShapeError: where shapes or the numbers of labels do not fit together.
        ConfigError: where score_mod comes with a softcap or a bias.

    >>> x = np.zeros((3, 2))
    >>> AttentionMap.of(x, x, mask=np.tri(3, dtype=bool)).row(1).tolist()
    [0.5, 0.5, 0.0]
    """

    @classmethod
    def of(
        cls,
        q: Float[Array, "Q C"],
        k: Float[Array, "K C"],
        *,
        mask: MaskLike = None,
        labels: Sequence[str] = (),
        **others: Any,
    ) -> AttentionMap:
        """A map whose lse is computed here, by tiles in float64; arguments as of the class.

        Args:
            labels: the text of the K key tokens; the queries are the last Q of them.
            others: further fields of the class, such as scale, bias, sink or v.

        Raises:
            ShapeError: where shapes do not fit together.

        >>> AttentionMap.of(np.zeros((1, 2)), np.zeros((4, 2))).lse.round(3).tolist()
        [1.386]
        """
        blank = cls._blank(q, k, mask=mask, labels=labels, **others)
        return replace(blank, lse=log_sum_exp(blank))

    @classmethod
    def survey(
        cls,
        q: Float[Array, "Q C"],
        k: Float[Array, "K C"],
        *,
        progress: Progress = None,
        cancel: Cancel = None,
        **others: Any,
    ) -> AttentionMap:
        """The map that `of` gives, for long texts: one pass finds lse and builds the pyramid.

        Products are of fp32 but where scores are too large for it; arguments as of `of`, and
        progress and cancel as of `pyramid`.

        Raises:
            ShapeError: where shapes do not fit together.
            CancelledError: where cancel said so.

        >>> x = np.zeros((32, 2))
        >>> AttentionMap.survey(x, x).pool(16).tolist()
        [[8.0, 8.0], [8.0, 8.0]]
        """
        return survey(cls._blank(q, k, **others), progress, cancel)

    @classmethod
    def _blank(
        cls, q: Any, k: Any, *, mask: MaskLike = None, labels: Sequence[str] = (), **others: Any
    ) -> AttentionMap:
        q, k = np.asarray(q), np.asarray(k)
        fields = {"query_labels": tuple(labels)[-len(q) :], "key_labels": tuple(labels), **others}
        return cls(q=q, k=k, lse=np.zeros(len(q)), mask=as_mask(mask), **fields)

    def row(self, query: int) -> Float[Array, " K"]:
        """The weights that one query, counted from 0, gives to every key."""
        weights: Array = self.tile([query], range(self.K))[0]
        return weights

    def cell(self, query: int, key: int) -> CellArithmetic:
        """The arithmetic of the weight that one query gives to one key, both counted from 0.

        Raises:
            QkvError: where a place is outside of the map.

        >>> float(AttentionMap.of(np.zeros((2, 1)), np.zeros((4, 1))).cell(1, 3))
        0.25
        """
        return arithmetic(self, query, key)

    def pattern(self) -> Float[Array, "Q K"]:
        """All weights at once, up to 4,096² cells.

        Raises:
            QkvError: where there would be more.
        """
        if self.Q * self.K > DENSE_CELLS:
            raise QkvError(
                f"a pattern of {self.Q:,} x {self.K:,} cells",
                "at most 4,096²",
                "ask for .row(i), .tile(rows, cols) or .pool(block) instead",
            )
        return self.tile(range(self.Q), range(self.K))

    def pool(self, block: int = 64, how: How = "sum") -> Float[Array, "rows cols"]:
        """The sum, or the largest, of the weights in each block of `block` by `block` cells.

        Raises:
            QkvError: where block is below 1.

        >>> x = np.zeros((3, 1))
        >>> AttentionMap.of(x, x, mask=np.tri(3, dtype=bool)).pool(2, "max").round(2).tolist()
        [[1.0, 0.0], [0.33, 0.33]]
        """
        rows, cols, built = range(self.Q), range(self.K), remembered(self)
        if built is not None and built.has(block):
            return np.maximum(built.read(rows, cols, block, how), 0.0)
        return pool(self, rows, cols, block, how)[0]

    def pool_allowed(self, block: int = 64) -> Bool[Array, "rows cols"]:
        """Whether the mask allows any cell of each block of `block` by `block` cells.

        Raises:
            QkvError: where block is below 1.

        >>> x = np.zeros((4, 1))
        >>> AttentionMap.of(x, x, mask=np.tri(4, dtype=bool)).pool_allowed(2).tolist()
        [[True, False], [True, True]]
        """
        return pool_allowed(self, range(self.Q), range(self.K), block)

    def pyramid(self, progress: Progress = None, cancel: Cancel = None) -> Pyramid:
        """Sums and maxima of blocks at every zoom, made in one pass and kept with the map.

        Args:
            progress: is called with the fraction done, from 0 to 1.
            cancel: is asked every some milliseconds; True ends the pass, and nothing is kept.

        Raises:
            CancelledError: where cancel said so.
        """
        return build(self, progress, cancel)

    def viewport(
        self, rows: range, cols: range, pixels: tuple[int, int], how: How = "sum"
    ) -> Viewport:
        """What a screen of (height, width) pixels shows of some queries and keys.

        Where many cells share a pixel and there is no pyramid, it is built first.

        Args:
            rows, cols: which cells, with step 1.
            pixels: how many values there may be, but for one more where a block is cut.
            how: whether a pixel is the sum or the largest weight of its cells.

        Raises:
            QkvError: where cells are outside of the map, or there are no pixels.

        >>> x = np.zeros((40, 1))
        >>> view = AttentionMap.of(x, x).viewport(range(40), range(0, 32), (8, 8))
        >>> view.level, view.values.shape, view.rows
        (8, (5, 4), range(0, 40))
        """
        return viewport(self, rows, cols, pixels, how)

    def proof(self, rows: range | None = None) -> RowProof:
        """How far the rows are from summing to 1, and some cells from float64's.

        A row sums to 1; with a sink to 1 - exp(sink - lse); to 0 where nothing is allowed.

        Args:
            rows: which queries; all unless given.

        >>> AttentionMap.of(np.zeros((2, 1)), np.zeros((2, 1))).proof().largest_row_error < 1e-15
        True
        """
        return prove(self, range(self.Q) if rows is None else rows)

    def entropy(self) -> Float[Array, " Q"]:
        """How spread out each row is: -Σ p ln p, in nats; 0 for one key, ln n for n equal ones.

        >>> AttentionMap.of(np.zeros((1, 1)), np.zeros((4, 1))).entropy().round(3).tolist()
        [1.386]
        """
        return metrics.entropy(self)

    def distance(self) -> Float[Array, " Q"]:
        """How many tokens away each query looks on average: Σ p |place - key|.

        Raises:
            QkvError: where queries and keys are different texts.

        >>> AttentionMap.of(np.zeros((1, 1)), np.zeros((4, 1))).distance().tolist()
        [1.5]
        """
        return metrics.distance(self)

    def received(self) -> Float[Array, " K"]:
        """What each key is given by all queries together: its column's sum.

        >>> AttentionMap.of(np.zeros((3, 1)), np.zeros((4, 1))).received().tolist()
        [0.75, 0.75, 0.75, 0.75]
        """
        return metrics.received(self)

    def confidence(self) -> Float[Array, " Q"]:
        """Each row's largest weight.

        >>> AttentionMap.of(np.zeros((1, 1)), np.zeros((4, 1))).confidence().tolist()
        [0.25]
        """
        return metrics.confidence(self)

    def strongest(self) -> Cell | None:
        """The cell with the largest weight off the diagonal and off the first key.

        Those two are left out since most heads rest there. Where nothing else has a weight the
        diagonal stays out; then nothing does. None where the mask allows nothing.

        >>> x = np.zeros((3, 1))
        >>> AttentionMap.of(x, x, mask=np.tri(3, dtype=bool)).strongest()
        Cell(query=2, key=1, weight=0.3333333333333333)
        """
        return metrics.strongest(self)

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
        stands = place
        if kind == "query" and not self.cross:
            # A query is named by where it stands in the text, which need not be its row.
            stands = int(self.places[place])
        return f"“{visible(labels[place])}” at {stands}" if labels else f"token {stands}"

    def __repr__(self) -> str:
        which = f"{self.name}: " if self.name else ""
        across = ", across texts" if self.cross else ""
        note = f", {self.note}" if self.note else ""
        return f"AttentionMap {which}Q {self.Q}, K {self.K}, C {self.C}{across}{note}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        return mimebundle(self, include, exclude)
