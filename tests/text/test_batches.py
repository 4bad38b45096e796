from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkv.errors import ConfigError, TextError
from qkv.text import batch, evaluation_batches, sample_starts, windows_per_epoch

sizes = st.tuples(st.integers(1, 13), st.integers(1, 200)).map(lambda pair: (pair[0], sum(pair)))


def epoch_starts(tokens: int, context: int, seed: int, epoch: int) -> np.ndarray:
    """One epoch through the public face: batches of one window."""
    windows = windows_per_epoch(tokens, context)
    steps = range(epoch * windows, (epoch + 1) * windows)
    return np.concatenate(
        [sample_starts(tokens, step, seed=seed, batch_size=1, context=context) for step in steps]
    )


@settings(deadline=None)
@given(sizes, st.integers(0, 5), st.integers(0, 4))
def test_an_epoch_visits_each_window_once(size: tuple[int, int], seed: int, epoch: int) -> None:
    context, tokens = size
    starts = np.sort(epoch_starts(tokens, context, seed, epoch))
    offset = starts[0]
    assert 0 <= offset < context
    assert starts.tolist() == list(range(offset, offset + context * len(starts), context))
    assert starts[-1] + context < tokens, "the last window has its last target"
    assert len(starts) == max(1, (tokens - context) // context)


@settings(deadline=None)
@given(sizes, st.integers(1, 40), st.integers(0, 30))
def test_batches_straddle_epochs_without_a_seam(
    size: tuple[int, int], batch_size: int, step: int
) -> None:
    context, tokens = size
    whole = sample_starts(tokens, step, seed=1, batch_size=batch_size, context=context)
    single = [
        int(sample_starts(tokens, step * batch_size + at, seed=1, batch_size=1, context=context)[0])
        for at in range(batch_size)
    ]
    assert whole.tolist() == single


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_ranks_partition_the_global_batch(world: int) -> None:
    ids = np.arange(1009) % 251
    inputs, targets = batch(ids, 4, seed=3, batch_size=6, context=17)
    parts = [
        batch(ids, 4, seed=3, batch_size=6, context=17, rank=rank, world=world)
        for rank in range(world)
    ]
    assert {part[0].shape for part in parts} == {(6 // world, 17)}
    assert np.array_equal(np.concatenate([part[0] for part in parts]), inputs)
    assert np.array_equal(np.concatenate([part[1] for part in parts]), targets)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64])
def test_a_batch_is_a_function_of_seed_and_step(dtype: type) -> None:
    ids = (np.arange(997) % 251).astype(dtype)
    inputs, targets = batch(ids, 7, seed=5, batch_size=4, context=11)
    assert inputs.dtype == targets.dtype == np.int64
    assert inputs.shape == targets.shape == (4, 11)
    assert inputs.flags.c_contiguous
    assert np.array_equal(inputs[:, 1:], targets[:, :-1])
    starts = sample_starts(997, 7, seed=5, batch_size=4, context=11)
    assert np.array_equal(inputs[:, 0], ids[starts])
    # Other steps and seeds in between, more than the cache holds, leave no trace.
    for step in range(200, 900, 7):
        batch(ids, step, seed=step % 3, batch_size=4, context=11)
    again, _ = batch(ids, 7, seed=5, batch_size=4, context=11)
    assert np.array_equal(inputs, again)
    other, _ = batch(ids, 7, seed=6, batch_size=4, context=11)
    assert not np.array_equal(inputs, other)


def test_epochs_differ_in_order_and_offset() -> None:
    epochs = [epoch_starts(1009, 8, 0, epoch) for epoch in range(6)]
    assert len({tuple(starts) for starts in epochs}) == 6
    assert len({starts.min() for starts in epochs}) > 1
    assert len({tuple(starts - starts.min()) for starts in epochs}) == 6


def test_the_samples_of_a_step_are_pinned() -> None:
    # A change here means that runs made before can't be resumed exactly.
    starts = sample_starts(1009, 3, seed=1337, batch_size=5, context=8)
    assert starts.tolist() == [916, 796, 20, 436, 164]


@settings(deadline=None)
@given(st.integers(2, 300), st.integers(1, 40), st.integers(1, 9))
def test_evaluation_covers_every_target_once(tokens: int, context: int, batch_size: int) -> None:
    ids = np.arange(tokens, dtype=np.uint16)
    targets = []
    shapes = []
    for inputs, wanted in evaluation_batches(ids, context, batch_size):
        assert inputs.dtype == wanted.dtype == np.int64
        assert np.array_equal(inputs + 1, wanted)
        assert inputs.shape[0] <= batch_size
        shapes.append(inputs.shape)
        targets += wanted.ravel().tolist()
    assert targets == list(range(1, tokens))
    assert all(length == context for _, length in shapes[:-1])
    assert shapes[-1][1] == context or shapes[-1] == (1, (tokens - 1) % context)


def test_texts_that_are_too_short() -> None:
    with pytest.raises(TextError) as error:
        batch(np.arange(8), 0, seed=1, batch_size=1, context=8)
    assert str(error.value) == (
        "got a text of 8 tokens for a context of 8; expected at least 9 tokens; "
        "choose a longer text or a shorter context"
    )
    assert batch(np.arange(9), 5, seed=1, batch_size=1, context=8)[1].tolist() == [[*range(1, 9)]]
    with pytest.raises(TextError, match="got a text of 1 tokens to evaluate"):
        evaluation_batches(np.arange(1), 8, 2)


@pytest.mark.parametrize(
    "settings",
    [
        {"world": 3},
        {"world": 0},
        {"world": 2, "rank": 2},
        {"rank": -1},
        {"context": 0},
        {"batch_size": 0},
        {"seed": -1},
        {"step": -1},
    ],
    ids=str,
)
def test_wrong_settings(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        batch(np.arange(99), **{"step": 0, "seed": 0, "batch_size": 4, "context": 8} | settings)


@pytest.mark.parametrize(("context", "batch_size"), [(0, 1), (1, 0)])
def test_wrong_evaluation_settings(context: int, batch_size: int) -> None:
    with pytest.raises(ConfigError):
        evaluation_batches(np.arange(99), context, batch_size)
