"""What is stored of a head tells the truth about every cell: its level, or its weight."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkv.attention import Causal, Full, Mask, Prefix, Window
from qkv.errors import QkvError
from qkv.lens import AttentionMap
from qkv.views.palette import level
from qkv.views.payload import Layer
from qkv.views.stored import BOUNDS, LEVELS, TOP, Seen, StoredHead, levels_of


def keep(head: AttentionMap) -> StoredHead:
    """A head stored, packed and unpacked again."""
    seen = Seen.of(head)
    unpacked = Seen.unpack(seen.pack(), head.Q, head.K, holes=seen.holes is not None)
    return StoredHead.unpack(StoredHead.of(head, seen).pack(), unpacked)


def check(head: AttentionMap) -> None:
    """Every cell of a stored head against the map's own weights."""
    stored, weights = keep(head), head.pattern()
    allowed = head.allowed(range(head.Q), range(head.K))
    for query, key in np.ndindex(head.Q, head.K):
        reading, weight = stored.read(query, key), weights[query, key]
        assert (reading is not None) == allowed[query, key]
        if reading is None:
            continue
        assert reading.low <= weight < reading.high or (weight >= 1 - 1e-12 and reading.high == 1)
        if reading.weight is not None:
            assert reading.weight == pytest.approx(weight, rel=2**-10, abs=2**-24)
    exact = (stored.keys >= 0).sum(1)
    assert exact.tolist() == np.minimum(allowed.sum(1), TOP).tolist()
    assert stored.entropy == pytest.approx(head.entropy(), abs=1e-5)
    assert stored.received == pytest.approx(head.received(), abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 19),
    st.integers(1, 23),
    st.sampled_from([Full(), Causal(), Window(3), Prefix(4), Causal() & Window(5)]),
    st.sampled_from([0.0, 0.5, 4.0, 30.0]),
    st.integers(0, 2**31),
)
def test_every_cell_lies_within_its_level(
    queries: int, keys: int, mask: Mask, sharpness: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    q, k = rng.normal(size=(queries, 5)), rng.normal(size=(keys, 5))
    check(AttentionMap.of(q, k, mask=mask, scale=sharpness))


def test_masks_with_holes_sinks_and_two_texts(heads: list[Layer]) -> None:
    for layer in heads:
        for head in layer.maps:
            check(head)


def test_levels_are_fifths_of_a_decade_that_meet_at_the_ticks() -> None:
    assert len(BOUNDS) == LEVELS + 1
    assert {0.0, 0.001, 0.01, 0.1, 1.0} <= set(BOUNDS)
    places = [level(bound) for bound in BOUNDS[1:]]
    assert places == pytest.approx(np.linspace(0, 1, LEVELS))
    assert levels_of(np.array(BOUNDS[:-1])).tolist() == list(range(LEVELS))


def test_the_eight_are_the_largest(rng: np.random.Generator) -> None:
    head = AttentionMap.of(rng.normal(size=(31, 5)), rng.normal(size=(31, 5)), mask=Causal())
    stored = keep(head)
    for query, weights in enumerate(head.pattern()):
        best = {int(key) for key in np.argsort(-weights)[: min(query + 1, TOP)]}
        assert {int(key) for key in stored.keys[query] if key >= 0} == best


def test_the_strongest_cell_is_the_maps_own(heads: list[Layer]) -> None:
    for head in (head for layer in heads for head in layer.maps):
        expected, found = head.strongest(), StoredHead.of(head, Seen.of(head)).strongest
        assert expected is not None
        assert found is not None
        assert found[:2] == expected[:2]
        assert found[2] == pytest.approx(expected.weight)
    nothing = AttentionMap.of(np.ones((2, 3)), np.ones((2, 3)), mask=np.zeros((2, 2), dtype=bool))
    assert StoredHead.of(nothing, Seen.of(nothing)).strongest is None


def test_what_even_attention_would_give(heads: list[Layer]) -> None:
    for head in (head for layer in heads for head in layer.maps):
        allowed = head.allowed(range(head.Q), range(head.K))
        rows = np.maximum(allowed.sum(1), 1)
        seen = Seen.of(head)
        assert seen.count.tolist() == allowed.sum(1).tolist()
        assert seen.even == pytest.approx((allowed / rows[:, None]).sum(0))


def test_a_thumbnail_is_the_pattern_of_a_text_in_pieces(rng: np.random.Generator) -> None:
    size, block = 101, 3
    head = AttentionMap.of(rng.normal(size=(size, 5)), rng.normal(size=(size, 5)), mask=Causal())
    thumbnail = StoredHead.of(head, Seen.of(head)).thumbnail
    assert thumbnail is not None
    pieces = -(-size // block)
    assert thumbnail.shape == (pieces, pieces)
    pattern = head.pattern()
    for row, col in np.ndindex(pieces, pieces):
        cells = pattern[row * block : (row + 1) * block, col * block : (col + 1) * block]
        share = levels_of(cells.sum(1).mean())
        assert thumbnail[row, col] == (0 if col > row else share + 1)


def test_the_error_of_the_worst_row(rng: np.random.Generator) -> None:
    q, k = rng.normal(size=(2, 13, 5))
    head = AttentionMap.of(q, k, mask=Causal())
    assert StoredHead.of(head, Seen.of(head)).error < 1e-12
    off = AttentionMap(q=q, k=k, lse=head.lse + np.log(2), mask=head.mask)
    assert StoredHead.of(off, Seen.of(off)).error == pytest.approx(0.5)


def test_weights_that_are_not_numbers_are_an_error() -> None:
    q = np.full((3, 2), np.nan)
    head = AttentionMap(q=q, k=q, lse=np.zeros(3), name="L1H2")
    with pytest.raises(QkvError, match="L1H2 with weights that are not numbers"):
        StoredHead.of(head, Seen.of(head))
