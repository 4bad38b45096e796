"""Batches as a pure function of (ids, seed, step): to resume, a run needs only its step.

An epoch cuts the ids into windows of ``context`` tokens that don't overlap, from an offset that
differs each epoch, and visits them in a shuffled order, each once. Sample ``k`` of a run is
``step * batch_size + i``; its epoch is ``k // windows_per_epoch``. Nothing is remembered between
calls but a cache of permutations.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkv.errors import ConfigError, TextError

__all__ = ["batch", "evaluation_batches", "sample_starts", "windows_per_epoch"]

Ids = NDArray[np.integer[Any]]
Pair = tuple[NDArray[np.int64], NDArray[np.int64]]


def windows_per_epoch(tokens: int, context: int) -> int:
    """How many windows an epoch visits, in a text of ``tokens`` ids.

    Raises TextError if there is no room for one window and the token after it.

    >>> windows_per_epoch(1003854, 256)
    3920
    """
    if context < 1:
        raise ConfigError(f"a context of {context} tokens", "at least 1", "choose a longer context")
    if tokens <= context:
        raise TextError(
            f"a text of {tokens} tokens for a context of {context}",
            f"at least {context + 1} tokens",
            "choose a longer text or a shorter context",
        )
    # Whatever the offset, at most context - 1, this many windows and one last target fit.
    return max(1, (tokens - 1 - (context - 1)) // context)


def sample_starts(
    tokens: int, step: int, *, seed: int, batch_size: int, context: int
) -> NDArray[np.int64]:
    """Where each window of the global batch of a step begins, shape (batch_size,), in tokens.

    Raises TextError if the text is too short, ConfigError if a number is out of range.

    >>> sample_starts(21, 0, seed=1, batch_size=4, context=5).shape
    (4,)
    """
    if step < 0 or seed < 0 or batch_size < 1:
        raise ConfigError(
            f"step {step}, seed {seed}, batch_size {batch_size}",
            "a step and seed of at least 0, a batch of at least 1",
            "correct the number that is out of range",
        )
    windows = windows_per_epoch(tokens, context)
    samples = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = np.divmod(samples, windows)
    starts = np.empty(batch_size, np.int64)
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        here = epochs == epoch
        starts[here] = _epoch_starts(tokens, context, seed, epoch)[places[here]]
    return starts


@lru_cache(maxsize=4)
def _epoch_starts(tokens: int, context: int, seed: int, epoch: int) -> NDArray[np.int64]:
    rng = np.random.default_rng([seed, epoch])
    windows = windows_per_epoch(tokens, context)
    # A text of less than two contexts has one window and less room to move it.
    offset = int(rng.integers(min(context, tokens - windows * context)))
    starts = offset + context * rng.permutation(windows)
    starts.flags.writeable = False
    return starts


def batch(
    ids: Ids, step: int, *, seed: int, batch_size: int, context: int, rank: int = 0, world: int = 1
) -> Pair:
    """Inputs and targets of one step, int64, each (batch_size // world, context).

    ``batch_size`` is that of the whole world: ranks divide it in order, so that a step sees the
    same samples however many processes share it. Raises ConfigError if ``world`` doesn't divide
    ``batch_size``, TextError if the ids don't exceed the context.

    >>> inputs, targets = batch(np.arange(100), 3, seed=1, batch_size=4, context=8)
    >>> inputs.shape, bool((targets == inputs + 1).all())
    ((4, 8), True)
    """
    if world < 1 or batch_size % world or not 0 <= rank < world:
        raise ConfigError(
            f"batch_size {batch_size} for rank {rank} of {world}",
            "a batch that the number of processes divides, and ranks below it",
            f"choose a batch_size that is a multiple of {max(world, 1)}",
        )
    starts = sample_starts(len(ids), step, seed=seed, batch_size=batch_size, context=context)
    share = batch_size // world
    mine = starts[rank * share : (rank + 1) * share]
    windows = np.asarray(ids[mine[:, None] + np.arange(context + 1)], np.int64)
    return np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])


def evaluation_batches(ids: Ids, context: int, batch_size: int) -> Iterator[Pair]:
    """Windows in order, in which every token but the first is a target exactly once.

    Yields inputs and targets, int64, each (up to batch_size, context), then the shorter window at
    the end, if there is one, as a batch of its own. Raises TextError for fewer than 2 ids.

    >>> [inputs.shape for inputs, _ in evaluation_batches(np.arange(24), 5, 3)]
    [(3, 5), (1, 5), (1, 3)]
    """
    if context < 1 or batch_size < 1:
        raise ConfigError(
            f"context {context} and batch_size {batch_size}",
            "at least 1 each",
            "choose larger ones",
        )
    if len(ids) < 2:
        raise TextError(
            f"a text of {len(ids)} tokens to evaluate", "at least 2 tokens", "choose a longer text"
        )
    return _evaluation_batches(ids, context, batch_size)


def _evaluation_batches(ids: Ids, context: int, batch_size: int) -> Iterator[Pair]:
    whole = (len(ids) - 1) // context * context
    stride = batch_size * context
    for start in range(0, whole, stride):
        stop = min(start + stride, whole)
        window = np.asarray(ids[start : stop + 1], np.int64)
        yield window[:-1].reshape(-1, context), window[1:].reshape(-1, context)
    if whole < len(ids) - 1:
        window = np.asarray(ids[whole:], np.int64)
        yield window[None, :-1], window[None, 1:]
