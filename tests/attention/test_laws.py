"""Metamorphic laws that hold of any attention, of both versions, for any numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkv.attention import Causal, Window, attend

B, H, G, T, C, CV = 2, 6, 3, 11, 5, 7

Attend = Callable[..., np.ndarray]


def through_numpy(*arrays: np.ndarray, **options: object) -> np.ndarray:
    return attend(*arrays, **options)


def through_torch(*arrays: np.ndarray, **options: object) -> np.ndarray:
    if isinstance(options.get("bias"), np.ndarray):
        options["bias"] = torch.from_numpy(options["bias"])
    return attend(*(torch.from_numpy(array) for array in arrays), **options).numpy()


both = pytest.mark.parametrize("through", [through_numpy, through_torch])
laws = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def draw(seed: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        rng,
        rng.normal(size=(B, H, T, C)) * rng.uniform(0.1, 20),
        rng.normal(size=(B, G, T, C)),
        rng.normal(size=(B, G, T, CV)),
    )


@both
@laws
@given(seeds, st.integers(1, T - 1))
def test_a_changed_future_token_changes_no_earlier_output(
    through: Attend, seed: int, token: int
) -> None:
    rng, q, k, v = draw(seed)
    before = through(q, k, v, mask=Causal())
    for array in (q, k, v):
        array[:, :, token] = rng.normal(size=array.shape[-1]) * 9
    after = through(q, k, v, mask=Causal())
    np.testing.assert_array_equal(before[:, :, :token], after[:, :, :token])
    assert not np.allclose(before[:, :, token], after[:, :, token])


@both
@laws
@given(seeds)
def test_permuting_allowed_keys_with_their_values_changes_nothing(
    through: Attend, seed: int
) -> None:
    rng, q, k, v = draw(seed)
    allowed = rng.random((B, H, T, T)) < 0.6
    order = rng.permutation(T)
    before = through(q, k, v, mask=allowed)
    after = through(q, k[:, :, order], v[:, :, order], mask=allowed[..., order])
    np.testing.assert_allclose(before, after, atol=1e-12)


@both
@laws
@given(seeds)
def test_equal_scores_give_the_uniform_average_of_the_past(through: Attend, seed: int) -> None:
    _, q, k, v = draw(seed)
    mixed = through(np.broadcast_to(q[:, :, :1], q.shape).copy(), k * 0 + 1, v, mask=Causal())
    average = np.cumsum(v, axis=2) / np.arange(1, T + 1)[:, None]
    np.testing.assert_allclose(mixed, np.repeat(average, H // G, axis=1), atol=1e-12)


@both
@laws
@given(seeds, st.floats(-500, 500))
def test_adding_a_constant_to_a_row_changes_nothing(
    through: Attend, seed: int, constant: float
) -> None:
    _, q, k, v = draw(seed)
    row = np.zeros((T, 1))
    row[T // 2] = constant
    before, after = (through(q, k, v, mask=Window(4), bias=bias) for bias in (row * 0, row))
    np.testing.assert_allclose(before, after, atol=1e-10)


@both
@laws
@given(seeds)
def test_output_lies_in_the_convex_hull_of_the_values(through: Attend, seed: int) -> None:
    rng, q, k, v = draw(seed)
    mixed = through(q, k, v, mask=Causal())
    # A point lies in the hull only if along every direction it lies between the extremes.
    directions = rng.normal(size=(CV, 23))
    seen = np.repeat(v, H // G, axis=1) @ directions
    low = np.minimum.accumulate(seen, axis=2)
    high = np.maximum.accumulate(seen, axis=2)
    assert (mixed @ directions >= low - 1e-12).all()
    assert (mixed @ directions <= high + 1e-12).all()
