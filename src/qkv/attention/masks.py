"""What each query is allowed to look at: causal, sliding window, prefix, padding, and conjunctions.

Each is a small frozen object that answers by the tile (see `masking`) and combines with `&`. With
fewer queries than keys, query i stands at position i + K - Q: the last query sees all keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from jaxtyping import Bool

from qkv.attention.masking import (
    Both,
    Bounds,
    Extent,
    Full,
    Given,
    Mask,
    MaskLike,
    Positions,
    as_mask,
    fit,
    indices,
)
from qkv.errors import ConfigError, ShapeError

__all__ = [
    "Both",
    "Causal",
    "Extent",
    "Full",
    "Given",
    "Mask",
    "MaskLike",
    "Padding",
    "Positions",
    "Prefix",
    "Window",
    "as_mask",
    "fit",
]


def whole_number(what: str, value: Any) -> None:
    """Raise a ConfigError for what is no whole number: 1.5 tokens mean nothing."""
    if not isinstance(value, Integral):
        raise ConfigError(f"{what} {value!r}", "a whole number of tokens", "give one")


@dataclass(frozen=True)
class Causal(Mask):
    """A token sees itself and what came before (Vaswani et al. 2017, section 3.2.3).

    >>> Causal().dense(2, 3).astype(int).tolist()
    [[1, 1, 0], [1, 1, 1]]
    """

    def allowed(
        self, rows: Positions, cols: Positions, *, queries: int, keys: int
    ) -> Bool[np.ndarray, "rows cols"]:
        here = indices(rows, queries)[:, None] + (keys - queries)
        return np.asarray(indices(cols, keys) <= here)

    def _reach(self, at: Bounds) -> tuple[int, int]:
        return 0, at.last + 1

    def _whole(self, at: Bounds) -> bool:
        return at.right <= at.first


@dataclass(frozen=True)
class Window(Mask):
    """A token sees the last `size` tokens, itself among them (Beltagy et al. 2020, Longformer).

    Raises:
        ConfigError: where size is below 1.

    >>> Window(2).dense(3, 3).astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    """

    size: int

    def __post_init__(self) -> None:
        whole_number("a window of", self.size)
        if self.size < 1:
            raise ConfigError(f"a window of {self.size} tokens", "at least 1", "give a larger one")
        # Positions are 64-bit: a wider window than any text is as wide as it needs to be.
        object.__setattr__(self, "size", min(int(self.size), 2**62))

    def allowed(
        self, rows: Positions, cols: Positions, *, queries: int, keys: int
    ) -> Bool[np.ndarray, "rows cols"]:
        here = indices(rows, queries)[:, None] + (keys - queries)
        there = indices(cols, keys)
        return np.asarray((there <= here) & (there > here - self.size))

    def _reach(self, at: Bounds) -> tuple[int, int]:
        return at.first - self.size + 1, at.last + 1

    def _whole(self, at: Bounds) -> bool:
        return at.right <= at.first and at.left > at.last - self.size


@dataclass(frozen=True)
class Prefix(Mask):
    """Keys below `length` are seen by all; beyond, causal (Raffel et al. 2020, "prefix LM").

    Raises:
        ConfigError: where length is negative.

    >>> Prefix(2).dense(3, 3).astype(int).tolist()
    [[1, 1, 0], [1, 1, 0], [1, 1, 1]]
    """

    length: int

    def __post_init__(self) -> None:
        whole_number("a prefix of", self.length)
        if self.length < 0:
            raise ConfigError(f"a prefix of {self.length} tokens", "0 or more", "give 0 for none")

    def allowed(
        self, rows: Positions, cols: Positions, *, queries: int, keys: int
    ) -> Bool[np.ndarray, "rows cols"]:
        here = indices(rows, queries)[:, None] + (keys - queries)
        there = indices(cols, keys)
        return np.asarray((there <= here) | (there < self.length))

    def _reach(self, at: Bounds) -> tuple[int, int]:
        return 0, max(at.last + 1, self.length)

    def _whole(self, at: Bounds) -> bool:
        return at.right <= at.first or at.right < self.length


@dataclass(frozen=True)
class Padding(Mask):
    """Batch element b has `lengths[b]` real keys, at the front; the rest is padding.

    Every query, itself padding or not, may look at the real keys only.

    Raises:
        ConfigError: where a length is negative.

    >>> (Causal() & Padding((1, 2))).dense(2, 2).astype(int).tolist()
    [[[[1, 0], [1, 0]]], [[[1, 0], [1, 1]]]]
    """

    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        given: Any = self.lengths
        if not isinstance(given, Iterable):
            raise ConfigError(f"lengths {self.lengths!r}", "one for each sequence", "give a tuple")
        for length in self.lengths:
            whole_number("a length of", length)
        object.__setattr__(self, "lengths", tuple(int(length) for length in self.lengths))
        if not self.lengths or min(self.lengths) < 0:
            raise ConfigError(f"lengths {self.lengths}", "one of 0 or more each", "correct them")

    def allowed(
        self, rows: Positions, cols: Positions, *, queries: int, keys: int
    ) -> Bool[np.ndarray, "B 1 rows cols"]:
        real = indices(cols, keys) < np.asarray(self.lengths)[:, None, None, None]
        shape = (len(self.lengths), 1, len(indices(rows, queries)), real.shape[-1])
        return np.broadcast_to(real, shape)

    def check(self, shape: tuple[int, ...]) -> None:
        batch = shape[0] if len(shape) >= 4 else 1
        if len(self.lengths) not in (1, batch) or max(self.lengths) > shape[-1]:
            raise ShapeError(
                f"Padding{self.lengths} for {batch} sequences of {shape[-1]} keys",
                "one length for each sequence, none above the number of keys",
                "give one length for each batch element, counting cached keys too",
            )

    def _reach(self, at: Bounds) -> tuple[int, int]:  # noqa: ARG002 (asked of all masks)
        return 0, max(self.lengths)

    def _whole(self, at: Bounds) -> bool:
        return at.right < min(self.lengths)
