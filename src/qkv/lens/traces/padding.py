"""Tables of what is allowed, read once: the rule they follow, and which tokens are padding.

A key that no query may see, before or after all others, is padding, and so is the query that
stands there. Models pass the same table to every layer, so what was read of one is remembered.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from qkv.attention import Both, Causal, Full, Given, Mask, Padding, Prefix, Window
from qkv.lens.seeing.masks import Cut, TopLeft, recognise
from qkv.lens.seeing.reckoning import whole_mask
from qkv.lens.traces.sites import Kept
from qkv.lens.traces.stitching import Part

__all__ = ["Tables"]

Array = np.ndarray[Any, Any]
# Tables that a new one is compared with: of layers that see all and of layers with a window, and
# of two texts.
RECENT = 6


class Tables:
    """Remembers tables for as long as a capture lasts: copies of them, and what they say."""

    def __init__(self) -> None:
        self._copies: list[Tensor] = []
        self._read: dict[Any, list[tuple[Mask, Kept]]] = {}

    def shared(self, table: Tensor) -> Tensor:
        """A copy of a table, since it may be changed later; the same one for equal tables.

        Models pass the same table to every layer, or build an equal one for each.
        """
        table = table.detach().cpu()
        for copy in reversed(self._copies[-RECENT:]):
            if copy.shape == table.shape and copy.dtype == table.dtype and torch.equal(copy, table):
                return copy
        self._copies.append(table.clone())
        return self._copies[-1]

    def whole(self, part: Part) -> Mask:
        """What a call allows, of all queries and keys."""
        return whole_mask(part.mask, part.allowed)

    def read(
        self, part: Part, cross: bool, sequences: int, *, whole: bool
    ) -> list[tuple[Mask, Kept]]:
        """For each sequence the mask without padding, and what isn't padding.

        `whole` says that the call is all of its layer: else steps follow, and only padding before
        the text is left out, since what stands after it stands in the midst of the whole.
        """
        if part.allowed is None:
            rest, lengths = _without_padding(part.mask)
            if (
                lengths is not None
                and whole
                and (isinstance(rest, Full) or part.queries == part.size)
            ):
                return [_cut_off(rest, lengths, b, part, cross) for b in range(sequences)]
            kept = Kept(range(part.queries), range(part.size))
            return [(_of_sequence(part.mask, b, part), kept) for b in range(sequences)]
        key = (id(part.allowed), part.mask, part.queries, part.size, cross, sequences, whole)
        if key not in self._read:
            mask = self.whole(part)
            self._read[key] = [_read(mask, b, part, cross, whole) for b in range(sequences)]
        return self._read[key]


def _of_sequence(mask: Mask, sequence: int, part: Part) -> Mask:
    """One sequence of a mask that may tell sequences apart."""
    tile = mask.allowed(range(1), range(1), queries=part.queries, keys=part.size)
    if tile.ndim < 3 or (tile.ndim == 3 and tile.shape[0] == 1):
        return mask
    tile = tile.reshape((1,) * (4 - tile.ndim) + tile.shape)
    rows, cols = np.arange(part.queries), np.arange(part.size)
    return Cut(mask, sequence, tuple(range(tile.shape[1])), rows, cols, part.queries, part.size)


def _read(mask: Mask, sequence: int, part: Part, cross: bool, whole: bool) -> tuple[Mask, Kept]:
    queries, keys = part.queries, part.size
    table = mask.allowed(range(queries), range(keys), queries=queries, keys=keys)
    table = table.reshape((1,) * (4 - table.ndim) + table.shape)
    own = table[sequence if table.shape[0] > 1 else 0]
    own = np.broadcast_to(own, (own.shape[0], queries, keys))
    seen = np.flatnonzero(own.any((0, 1)))
    everything = Kept(range(queries), range(keys))
    if not seen.size:
        return Given(own), everything
    # Before the keys of a step there may be what its window left behind: that is no padding.
    before = int(seen[0]) if cross or queries == keys else 0
    cols = range(before, int(seen[-1]) + 1 if whole else keys)
    ahead = 0 if isinstance(part.mask, TopLeft) else keys - queries
    rows = range(queries)
    if not cross:
        rows = range(
            min(queries, max(0, cols.start - ahead)), min(queries, max(0, cols.stop - ahead))
        )
    kept = Kept(rows, cols)
    inner = own[:, rows.start : rows.stop]
    # A token that sees nothing, or not itself, tells of a table that means something else.
    plain = bool(rows) and (not whole or bool(inner.any(-1).all()))
    if plain and whole and not cross and queries == keys:
        plain = bool(own[:, rows, rows].all())
    if not plain:
        kept, inner = everything, own
    part_of = inner[:, :, kept.cols.start : kept.cols.stop]
    if len({head.tobytes() for head in part_of}) == 1:
        return recognise(part_of[0]), kept
    return Given(np.ascontiguousarray(part_of)), kept


def _without_padding(mask: Mask) -> tuple[Mask, tuple[int, ...] | None]:
    """A rule, and the lengths of sequences that stand beside it; None where none do."""
    if isinstance(mask, Padding):
        return Full(), mask.lengths
    if isinstance(mask, Both):
        for one, other in ((mask.left, mask.right), (mask.right, mask.left)):
            if isinstance(one, Padding) and isinstance(other, (Full, Causal, Window, Prefix)):
                return other, one.lengths
    return mask, None


def _cut_off(
    rest: Mask, lengths: tuple[int, ...], sequence: int, part: Part, cross: bool
) -> tuple[Mask, Kept]:
    """A rule for the tokens before padding; it says the same of them without what follows."""
    cols = range(lengths[sequence if len(lengths) > 1 else 0])
    everything = Kept(range(part.queries), range(part.size))
    if not cols:
        return _of_sequence(part.mask, sequence, part), everything
    same = part.queries == part.size and not cross
    return rest, Kept(cols if same else everything.rows, cols)
