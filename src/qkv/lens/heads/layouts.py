"""What the queries of a head could look at: the keys that each score asks about, and by chance how
much of the weight would fall there. It hangs on mask and tokens only, so heads mostly share it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from qkv.lens.heads.pairs import allowed_pairs, allowed_sums, same_mask, uniform_distance

if TYPE_CHECKING:
    from qkv.lens.maps.head import Head

__all__ = ["Layout", "Layouts", "Targets"]

Array: TypeAlias = "np.ndarray[Any, Any]"

# Pairs of equal tokens that are looked at, 16 MB of them; beyond, a sample of the queries.
MOST_PAIRS = 2**20


@dataclass(frozen=True, eq=False)
class Targets:
    """The keys that a score asks about, for each query that could score and could fail.

    Args:
        rows: the eligible queries (E,), rising: some but not all of their keys are targets.
        share: what uniform attention over its keys gives each one's targets, (E,).
        first: whether the first key is among them, (E,).
        at: which of the eligible queries each pair belongs to, (n,), rising.
        cols: the key of each pair, (n,).
        sampled: whether queries were left out since there were too many pairs.
    """

    rows: Int[Array, " E"]
    share: Float[Array, " E"]
    first: Bool[Array, " E"]
    at: Int[Array, " n"]
    cols: Int[Array, " n"]
    sampled: bool = False

    def sums(self, weights: Float[Array, " n"]) -> Float[Array, " E"]:
        """What each eligible query gives its targets in all, from the weights of the pairs."""
        return np.bincount(self.at, weights, len(self.rows))


class Layout:
    """Mask, places and tokens of a head, and what follows from them.

    Args:
        head: whose q, k and lse are not read.
        seed: of the sample of queries, where there are too many pairs.
    """

    def __init__(self, head: Head, seed: int = 0) -> None:
        self.head, self.seed = head, seed
        self._inside: dict[tuple[str, range, range], tuple[Array, Array]] = {}

    def fits(self, head: Head) -> bool:
        """Whether it is the layout of another head too."""
        own = self.head
        return (
            (own.Q, own.K, own.cross) == (head.Q, head.K, head.cross)
            and (own.cross or np.array_equal(own.places, head.places))
            and _same(own.query_ids, head.query_ids)
            and _same(own.key_ids, head.key_ids)
            and same_mask(own.mask, head.mask)
        )

    @cached_property
    def counts(self) -> Float[Array, " Q"]:
        """How many keys each query may look at."""
        return allowed_sums(self.head, np.ones((self.head.K, 1)))[:, 0]

    @cached_property
    def first_allowed(self) -> Bool[Array, " Q"]:
        """Whether each query may look at the first key."""
        rows = np.arange(self.head.Q)
        return allowed_pairs(self.head, rows, rows * 0)

    @cached_property
    def others(self) -> Float[Array, " Q"]:
        """How many keys but the first each query may look at."""
        return self.counts - self.first_allowed

    @cached_property
    def distances(self) -> Float[Array, " Q"]:
        """How many tokens away uniform attention looks."""
        return uniform_distance(self.head, self.counts)

    @cached_property
    def next_ids(self) -> Int[Array, " Q"] | None:
        """The token that follows each query, -1 where it isn't known."""
        head = self.head
        if head.cross or head.key_ids is None:
            return None
        after = head.places + 1
        known = (after >= 0) & (after < head.K)
        return np.where(known, head.key_ids[np.where(known, after, 0)], -1)

    @cached_property
    def targets(self) -> dict[str, Targets]:
        """The targets of each score that is about certain keys and can be asked of this head."""
        head = self.head
        rows = np.arange(head.Q)
        found = {"first": self._targets(rows, rows * 0)}
        if head.cross:
            return found
        places = head.places
        for name, back in (("self", 0), ("previous", 1)):
            cols = places - back
            inside = (cols >= 0) & (cols < head.K)
            found[name] = self._targets(rows[inside], cols[inside])
        if head.query_ids is not None and head.key_ids is not None:
            # Tokens that equal this one, earlier; and the ones that came after those.
            for name, shift in (("duplicate", 0), ("induction", 1)):
                # The token itself is no target, though it may have come after its like.
                *pairs, sampled = self._earlier(head.query_ids, places - shift, shift)
                found[name] = self._targets(*pairs, sampled=sampled)
        if self.next_ids is not None:
            *pairs, sampled = self._earlier(self.next_ids, places + 1, 0)
            found["retrieval"] = self._targets(*pairs, sampled=sampled)
        return found

    def inside(self, name: str, rows: range, cols: range) -> tuple[Array, Array]:
        """Which pairs of some targets lie in a tile, and where in it as it lies, (cols, rows)."""
        key = name, rows, cols
        if key not in self._inside:
            targets = self.targets[name]
            first, last = np.searchsorted(targets.rows, (rows.start, rows.stop))
            start, stop = np.searchsorted(targets.at, (first, last))
            near = targets.cols[start:stop]
            inside = start + np.flatnonzero((near >= cols.start) & (near < cols.stop))
            own = targets.rows[targets.at[inside]] - rows.start
            at = (targets.cols[inside] - cols.start) * len(rows) + own
            self._inside[key] = inside, at
        return self._inside[key]

    @cached_property
    def told_by_induction(self) -> Bool[Array, " Q"]:
        """Whether this token and its next one stood side by side before: induction can copy it."""
        head, after = self.head, self.next_ids
        found = np.zeros(head.Q, dtype=bool)
        if after is None or head.key_ids is None or head.query_ids is None or head.K < 2:
            return found
        size = int(max(head.key_ids.max(), head.query_ids.max())) + 1
        bigrams = head.key_ids[:-1].astype(np.int64) * size + head.key_ids[1:]
        seen, where = np.unique(bigrams, return_index=True)
        asked = head.query_ids.astype(np.int64) * size + after
        at = np.minimum(np.searchsorted(seen, asked), len(seen) - 1)
        found[:] = (seen[at] == asked) & (after >= 0) & (where[at] < head.places)
        return found

    def _earlier(
        self, ids: Int[Array, " Q"], before: Int[Array, " Q"], shift: int
    ) -> tuple[Array, Array, bool]:
        """Pairs of a query and a key `shift` after each place < `before` that holds its token.

        Returns:
            rows (rising) and columns of the pairs, and whether queries had to be left out.
        """
        head = self.head
        assert head.key_ids is not None
        tokens, kind = np.unique(head.key_ids, return_inverse=True)
        # One number for token and place, so that the places of one token are a run.
        runs = np.sort(kind * head.K + np.arange(head.K))
        mine = np.minimum(np.searchsorted(tokens, ids), len(tokens) - 1)
        start = np.searchsorted(runs, mine * head.K + np.maximum(self._starts - shift, 0))
        stop = np.searchsorted(runs, mine * head.K + np.clip(before, 0, head.K - shift))
        known = (tokens[mine] == ids) & (ids >= 0)
        sizes = np.where(known, np.maximum(stop - start, 0), 0)
        sampled = int(sizes.sum()) > MOST_PAIRS
        if sampled:
            order = np.random.default_rng(self.seed).permutation(np.flatnonzero(sizes))
            fitting = int((np.cumsum(sizes[order]) <= MOST_PAIRS).sum())
            sizes[order[max(1, fitting) :]] = 0
        rows = np.repeat(np.arange(head.Q), sizes)
        turn = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        cols = runs[np.repeat(start, sizes) + turn] % head.K + shift
        return rows, cols, sampled

    @cached_property
    def _starts(self) -> Int[Array, " Q"]:
        """A key before which the mask certainly lets no query look: a window cuts pairs short."""
        head = self.head
        starts = np.zeros(head.Q, dtype=np.int64)
        for first in range(0, head.Q, 64):
            rows = range(first, min(first + 64, head.Q))
            starts[first : rows.stop] = head.mask.span(rows, queries=head.Q, keys=head.K)[0]
        return starts

    def _targets(self, rows: Array, cols: Array, *, sampled: bool = False) -> Targets:
        allowed = allowed_pairs(self.head, rows, cols)
        rows, cols = rows[allowed], cols[allowed]
        sizes = np.bincount(rows, minlength=self.head.Q)
        eligible = (sizes > 0) & (sizes < self.counts)
        kept = eligible[rows]
        rows, cols = rows[kept], cols[kept]
        which = np.flatnonzero(eligible)
        at = np.cumsum(eligible)[rows] - 1
        first = np.zeros(len(which), dtype=bool)
        first[at[cols == 0]] = True
        return Targets(which, sizes[which] / self.counts[which], first, at, cols, sampled)


def _same(one: Array | None, other: Array | None) -> bool:
    if one is None or other is None:
        return one is other
    return one is other or np.array_equal(one, other)


@dataclass
class Layouts:
    """The layouts of the heads met so far, the last few of them: layers may take turns."""

    seed: int = 0
    most: int = 4
    kept: list[Layout] = field(default_factory=list)

    def of(self, head: Head) -> Layout:
        """The layout of a head, shared with an earlier one where it is the same."""
        for layout in self.kept:
            if layout.fits(head):
                return layout
        self.kept = [Layout(head, self.seed), *self.kept][: self.most]
        return self.kept[0]
