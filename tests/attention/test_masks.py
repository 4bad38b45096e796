"""Masks: tiles against tables written out by loops, spans and extents against the tiles."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkv.attention import Causal, Full, Given, Mask, Padding, Prefix, Window, as_mask, attend
from qkv.errors import ConfigError, ShapeError

QUERIES, KEYS = 11, 13
RULES = {
    "full": (Full(), lambda token, key: True),
    "causal": (Causal(), lambda token, key: key <= token),
    "window": (Window(5), lambda token, key: token - 5 < key <= token),
    "prefix": (Prefix(7), lambda token, key: key <= token or key < 7),
    "both": (Causal() & Window(3), lambda token, key: token - 3 < key <= token),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("queries", "keys"), [(11, 13), (13, 13), (1, 13), (13, 11), (2, 1)])
def test_dense_follows_the_rule_aligned_at_the_bottom_right(
    name: str, queries: int, keys: int
) -> None:
    mask, rule = RULES[name]
    expected = [[rule(row + keys - queries, key) for key in range(keys)] for row in range(queries)]
    assert mask.dense(queries, keys).tolist() == expected


def test_padding_allows_each_sequence_its_real_keys() -> None:
    table = Padding((2, 0, 5)).dense(3, 5)
    assert table.shape == (3, 1, 3, 5)
    assert table[:, 0, 1].sum(-1).tolist() == [2, 0, 5]
    assert table[0, 0, 0].tolist() == [True, True, False, False, False]


def _masks() -> st.SearchStrategy[Mask]:
    table = np.random.default_rng(3).random((2, 1, QUERIES, KEYS)) < 0.3
    single = st.one_of(
        st.just(Full()),
        st.just(Causal()),
        st.integers(1, 15).map(Window),
        st.integers(0, 15).map(Prefix),
        st.tuples(st.integers(0, KEYS), st.integers(0, KEYS)).map(Padding),
        st.just(Given(table)),
        st.just(Given(table[:1, :, :1])),
        st.just(Given(table[:, :, :, :1])),
    )
    return st.one_of(single, st.tuples(single, single).map(lambda pair: pair[0] & pair[1]))


@settings(max_examples=200, deadline=None)
@given(_masks(), st.data())
def test_tiles_spans_and_extents_agree_with_the_whole_table(
    mask: Mask, data: st.DataObject
) -> None:
    queries = QUERIES
    first, last = sorted(data.draw(st.tuples(st.integers(0, queries), st.integers(0, queries))))
    left, right = sorted(data.draw(st.tuples(st.integers(0, KEYS), st.integers(0, KEYS))))
    size = {"queries": queries, "keys": KEYS}
    whole = np.broadcast_to(mask.dense(queries, KEYS), (2, 1, queries, KEYS))
    rows, cols = range(first, last), range(left, right)
    tile = whole[..., first:last, left:right]
    for kind in (lambda part: part, list, lambda part: slice(part.start, part.stop), np.array):
        asked = mask.allowed(kind(rows), kind(cols), **size)
        assert (np.broadcast_to(asked, tile.shape) == tile).all()
    start, stop = mask.span(rows, **size)
    outside = whole[..., first:last, :].copy()
    outside[..., start:stop] = False
    assert 0 <= start <= stop <= KEYS
    assert not outside.any()
    extent = mask.extent(rows, cols, **size)
    if extent == "none":
        assert not tile.any()
    if extent == "all":
        assert tile.all()


EXACT = [
    *(Full(), Causal()),
    *(Window(size) for size in (1, 2, 4, 20)),
    *(Prefix(length) for length in (0, 2, 5, 20)),
    *(Padding(lengths) for lengths in ((0,), (3, 5), (9, 9))),
]


@pytest.mark.parametrize("mask", EXACT, ids=str)
@pytest.mark.parametrize("queries", [7, 9])
def test_extents_of_all_tiles_are_exact_and_spans_tight(mask: Mask, queries: int) -> None:
    keys = 9
    size = {"queries": queries, "keys": keys}
    whole = np.broadcast_to(mask.dense(queries, keys), (2, 1, queries, keys))
    for first, last in combinations(range(queries + 1), 2):
        rows = whole[..., first:last, :]
        seen = np.flatnonzero(rows.any((0, 1, 2)))
        expected = (int(seen[0]), int(seen[-1]) + 1) if seen.size else (0, 0)
        assert mask.span(range(first, last), **size) == expected
        for left, right in combinations(range(keys + 1), 2):
            tile = rows[..., left:right]
            extent = "all" if tile.all() else "some" if tile.any() else "none"
            found = mask.extent(range(first, last), range(left, right), **size)
            assert found == extent, (first, last, left, right)


def test_the_simple_masks_skip_all_that_can_be_skipped() -> None:
    size = {"queries": 64, "keys": 64}
    assert Causal().span(range(16, 32), **size) == (0, 32)
    assert Window(8).span(range(16, 32), **size) == (9, 32)
    assert (Causal() & Window(8)).span(range(16, 32), **size) == (9, 32)
    assert (Window(8) & Causal()).span(range(16, 32), **size) == (9, 32)
    assert (Causal() & Padding((3, 20))).span(range(16, 32), **size) == (0, 20)
    assert Causal().extent(range(16, 32), range(16), **size) == "all"
    assert Causal().extent(range(16, 32), range(16, 32), **size) == "some"
    assert Window(8).extent(range(16, 32), range(8), **size) == "none"
    assert Prefix(8).extent(range(4), range(8), **size) == "all"
    assert Causal().span(range(2), queries=5, keys=3) == (0, 0)


def test_an_array_may_stand_for_a_mask_and_combine_with_one() -> None:
    table = np.ones((3, 3), dtype=bool)
    table[:, 0] = False
    for both in (table & Causal(), Causal() & table):
        assert (both.dense(3, 3) == (np.tri(3, dtype=bool) & table)).all()
    assert as_mask(None) == Full()


def test_masks_are_values() -> None:
    assert Causal() & Window(3) == Causal() & Window(3)
    assert len({Causal(), Causal(), Window(3), Window(3)}) == 2


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ConfigError, match="a window of 0 tokens"):
        Window(0)
    with pytest.raises(ConfigError, match="a prefix of -1"):
        Prefix(-1)
    with pytest.raises(ConfigError, match="lengths"):
        Padding((3, -1))
    with pytest.raises(ShapeError, match="booleans"):
        as_mask(np.ones((3, 3)))
    with pytest.raises(ShapeError, match="type str"):
        as_mask("causal")
    with pytest.raises(ShapeError, match="one length for each"):
        Padding((1, 2)).check((3, 1, 5, 5))
    with pytest.raises(ShapeError, match="broadcasts"):
        Given(np.ones((2, 5), dtype=bool)).check((3, 1, 5, 5))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Window(1.5),  # type: ignore[arg-type]
        lambda: Window(float("nan")),  # type: ignore[arg-type]
        lambda: Prefix("a"),  # type: ignore[arg-type]
        lambda: Padding((2.7,)),  # type: ignore[arg-type]
        lambda: Padding(3),  # type: ignore[arg-type]
    ],
)
def test_sizes_are_whole_numbers(make: Callable[[], Mask]) -> None:
    with pytest.raises(ConfigError):
        make()


def test_a_window_wider_than_any_text_is_causal() -> None:
    np.testing.assert_array_equal(Window(10**30).dense(5, 7), Causal().dense(5, 7))


def test_a_bias_of_booleans_is_a_mask_by_mistake() -> None:
    allowed = np.tri(3, dtype=bool)
    x = np.ones((1, 1, 3, 2))
    for kind in (np.asarray, torch.from_numpy):
        with pytest.raises(ShapeError, match="mask="):
            attend(kind(x), kind(x), kind(x), bias=kind(allowed))
