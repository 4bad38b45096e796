"""What is read off one head for all its scores: the weights of some pairs, and one look at all.

Where a head has more cells than `MOST_CELLS`, the look at all is one at a seeded sample of its
queries; what is asked of single pairs stays exact.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.attention.steps import BiasTiles
from qkv.lens.heads.layouts import Layout, Targets
from qkv.lens.heads.pairs import weights_of_pairs
from qkv.lens.maps.sweep import Sweep, Tile, expected_sums, plainly, tensor
from qkv.lens.seeing.masks import Cut, CutBias

if TYPE_CHECKING:
    from qkv.lens.maps.attention_map import AttentionMap

__all__ = ["Reading", "Scan", "read_head", "some_rows"]

Array: TypeAlias = "np.ndarray[Any, Any]"

# 4,096²: some 60 ms of a causal head on two cores.
MOST_CELLS = 2**24
# Weights that differ by less than this share of the larger are alike: fp32 cannot tell them apart.
ALIKE = 1e-6


@dataclass(frozen=True, eq=False)
class Scan:
    """What one look at all cells of some rows tells of each of them.

    Args:
        rows: which queries, rising, (R,).
        entropy: -Σ p ln p, in nats.
        largest: the largest weight.
        away: Σ p |place - key|, in tokens; zeros across texts.
        overlap: Σ min(p, 1/n), n being how many keys the query may look at.
        overlap_left: the same without the first key, among what is left of the row.
        copied: the share of next tokens among the strongest keys; one or zero but for ties.
        copied_left: the same without the first key.
        norm: the length of the row's mixed values times W_O; None where they aren't known.
    """

    rows: Int[Array, " R"]
    entropy: Float[Array, " R"]
    largest: Float[Array, " R"]
    away: Float[Array, " R"]
    overlap: Float[Array, " R"]
    overlap_left: Float[Array, " R"]
    copied: Float[Array, " R"]
    copied_left: Float[Array, " R"]
    norm: Float[Array, " R"] | None


@dataclass(frozen=True, eq=False)
class Reading:
    """What all scores of a head are made from.

    Args:
        layout: what its queries could look at.
        first: what each query gives the first key, (Q,).
        left: what it gives all others, (Q,).
        sums: for each score that is about certain keys, what each eligible query gives them.
        scan: what one look at all cells tells.
    """

    layout: Layout
    first: Float[Array, " Q"]
    left: Float[Array, " Q"]
    sums: dict[str, Float[Array, " E"]]
    scan: Scan


def some_rows(head: AttentionMap, rows: Int[Array, " R"]) -> AttentionMap:
    """The same head with only some of its queries.

    >>> from qkv.attention import Causal
    >>> from qkv.lens import AttentionMap
    >>> x = np.zeros((3, 1))
    >>> some_rows(AttentionMap.of(x, x, mask=Causal()), np.array([1])).row(0).tolist()
    [0.5, 0.5, 0.0]
    """
    keys, mod, bias = np.arange(head.K), head.score_mod, head.bias
    if isinstance(bias, BiasTiles):
        bias = CutBias(bias, 0, 0, rows, keys, head.Q, head.K)
    elif bias is not None:
        table = np.asarray(bias)
        table = table.reshape((1, 1, *table.shape)[-2:])
        bias = table if len(table) == 1 else table[rows]
    return replace(
        head,
        q=head.q[rows],
        lse=head.lse[rows],
        mask=Cut(head.mask, 0, 0, rows, keys, head.Q, head.K),
        bias=bias,
        query_labels=(),
        at=None if head.cross else head.places[rows],
        query_ids=None if head.query_ids is None else head.query_ids[rows],
        score_mod=None if mod is None else lambda tile, at, cols: mod(tile, rows[at], cols),
    )


def read_head(head: AttentionMap, layout: Layout, cells: int | None = None) -> Reading:
    """Reads a head whose layout is given; of more than `cells` cells it scans some queries."""
    rows = np.arange(head.Q)
    first = np.zeros(head.Q)
    seen = rows[layout.first_allowed]
    first[seen] = weights_of_pairs(head, seen, seen * 0)
    left = np.maximum(expected_sums(head, head.lse) - first, 0.0)
    targets = {name: t for name, t in layout.targets.items() if name != "retrieval"}
    scanned = np.flatnonzero(layout.counts)
    most = (MOST_CELLS if cells is None else cells) // head.K
    if len(scanned) <= most:
        scanner = _Scanner(head, layout, rows, first, left)
        weights = scanner.run(targets)
    else:
        rng = np.random.default_rng(layout.seed)
        rows = np.sort(rng.choice(scanned, max(1, most), replace=False))
        scanner = _Scanner(some_rows(head, rows), layout, rows, first, left)
        scanner.run({})
        weights = {
            name: weights_of_pairs(head, t.rows[t.at], t.cols) for name, t in targets.items()
        }
    sums = {name: targets[name].sums(weights[name]) for name in targets}
    return Reading(layout, first, left, sums, scanner.scan())


class _Scanner:
    """Adds up what the tiles of a head tell of `rows`, which are all of its queries."""

    def __init__(
        self, head: AttentionMap, layout: Layout, rows: Array, first: Array, left: Array
    ) -> None:
        self.head, self.layout, self.rows = head, layout, rows
        self.key_ids = None if layout.next_ids is None else layout.head.key_ids
        self.next_ids = None if layout.next_ids is None else layout.next_ids[rows]
        self.first = first[rows]
        self.share = _inverse(layout.counts[rows])
        self.share_left = left[rows] * _inverse(layout.others[rows])
        self.entropy, self.away, self.overlap, self.overlap_left = np.zeros((4, len(rows)))
        # The largest weight but the first key's; how many have it; and how many of those are a
        # copy of the next token.
        self.best, self.tied, self.hits = np.zeros((3, len(rows)))
        self.scratch = torch.empty(0)
        self.mixed = (
            None if head.v is None or head.w_o is None else np.zeros((len(rows), head.v.shape[1]))
        )

    def run(self, targets: dict[str, Targets]) -> dict[str, Float[Array, " n"]]:
        """Looks at all tiles; returns the weights of the pairs of some targets by the way."""
        found = {name: np.zeros(len(t.cols)) for name, t in targets.items()}
        with plainly():
            for tile in Sweep.over(self.head).weights():
                cells = tile.cells.reshape(-1)
                for name, weights in found.items():
                    inside, at = self.layout.inside(name, tile.rows, tile.cols)
                    weights[inside] = cells[torch.from_numpy(at)].numpy()
                self._add(tile)
        return found

    def _add(self, tile: Tile) -> None:
        here, cells = slice(tile.rows.start, tile.rows.stop), tile.cells
        # Written over again and again: fresh memory of this size costs more than the arithmetic.
        if self.scratch.numel() < cells.numel():
            self.scratch = torch.empty(cells.numel(), dtype=cells.dtype)
        others = cells[1:] if tile.cols.start == 0 else cells
        self.overlap[here] += self._overlap(cells, self.share[here])
        self.overlap_left[here] += self._overlap(others, self.share_left[here])
        if self.mixed is not None and self.head.v is not None:
            v = self.head.v[tile.cols.start : tile.cols.stop]
            self.mixed[here] += (cells.T @ tensor(v, cells.dtype)).numpy()
        if not self.head.cross:
            self.away[here] += self._distance(tile)
        if len(others):
            self._strongest(tile, others)
        # The least number keeps 0 ln 0 at 0.
        logs = torch.clamp_min(cells, torch.finfo(cells.dtype).tiny, out=self._like(cells))
        self.entropy[here] -= logs.log_().mul_(cells).sum(0).numpy()

    def _like(self, cells: Tensor) -> Tensor:
        return self.scratch[: cells.numel()].view(cells.shape)

    def _overlap(self, cells: Tensor, share: Array) -> Array:
        least = torch.minimum(cells, tensor(share, cells.dtype), out=self._like(cells))
        return np.asarray(least.sum(0).numpy())

    def _distance(self, tile: Tile) -> Array:
        """Σ p |place - key| over the keys of a tile."""
        cells, start = tile.cells, tile.cols.start
        # Counted from the tile's first key, so that fp32 holds them well.
        places = self.head.places[tile.rows.start : tile.rows.stop] - start
        keys = torch.arange(len(tile.cols), dtype=cells.dtype)
        if places.min() >= len(tile.cols) - 1:
            # All of them lie behind: a product does it.
            total, at = (torch.stack([torch.ones_like(keys), keys]) @ cells).numpy()
            return np.asarray(places * total - at)
        away = torch.sub(keys[:, None], tensor(places, cells.dtype), out=self._like(cells))
        return np.asarray(away.abs_().mul_(cells).sum(0).numpy())

    def _strongest(self, tile: Tile, others: Tensor) -> None:
        here = slice(tile.rows.start, tile.rows.stop)
        top = others.amax(0).double().numpy()
        best = np.maximum(self.best[here], top)
        beaten = self.best[here] < best * (1 - ALIKE)
        self.best[here] = best
        if self.key_ids is None or self.next_ids is None:
            return
        self.tied[here][beaten] = 0
        self.hits[here][beaten] = 0
        # Where nothing has any weight nothing is strongest.
        level = np.where(best > 0, best * (1 - ALIKE), np.inf)
        level[top < level] = np.inf
        found = torch.nonzero(others >= tensor(level, others.dtype)).numpy()
        cols, rows = found[:, 0] + tile.cols.stop - len(others), found[:, 1]
        copies = self._copies(cols, rows + tile.rows.start)
        self.tied[here] += np.bincount(rows, minlength=len(best))
        self.hits[here] += np.bincount(rows, copies, len(best))

    def _copies(self, cols: Array, rows: Array) -> Array:
        """Whether keys hold the next token of queries, and don't come after them."""
        assert self.key_ids is not None
        assert self.next_ids is not None
        copies = self.key_ids[cols] == self.next_ids[rows]
        return np.asarray(copies & (cols <= self.head.places[rows]))

    def scan(self) -> Scan:
        """What was found."""
        copied_left = self.hits * _inverse(self.tied)
        copied = copied_left
        if self.key_ids is not None:
            every = np.arange(len(self.rows))
            hit = self._copies(every * 0, every)
            shared = (self.hits + hit) / (self.tied + 1)
            copied = np.where(self.first >= self.best * (1 - ALIKE), shared, copied_left)
            copied = np.where(self.first > self.best * (1 + ALIKE), hit, copied)
        norm = None
        if self.mixed is not None and self.head.w_o is not None:
            # ‖x W‖² = x (W Wᵀ) xᵀ: as wide as a head, not as the model.
            w_o, mixed = tensor(self.head.w_o, torch.float64), torch.from_numpy(self.mixed)
            squares = ((mixed @ (w_o @ w_o.T)) * mixed).sum(-1)
            norm = np.asarray(squares.clamp_min(0.0).sqrt().numpy())
        return Scan(
            rows=self.rows,
            entropy=self.entropy,
            largest=np.maximum(self.best, self.first),
            away=self.away,
            overlap=self.overlap,
            overlap_left=self.overlap_left,
            copied=copied,
            copied_left=copied_left,
            norm=norm,
        )


def _inverse(x: Array) -> Array:
    return np.divide(1.0, x, out=np.zeros(len(x)), where=x > 0)
