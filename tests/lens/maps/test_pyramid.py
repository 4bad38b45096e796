"""The pyramid's blocks are sums and maxima of exact cells, at every level, of every kind of map."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qkv.attention import Causal, Padding, Window
from qkv.errors import QkvError
from qkv.lens import AttentionMap
from qkv.lens.maps.pyramid import CancelledError, Pyramid, remembered, survey

# More than one band of 256 rows, and no whole blocks at the ends.
Q, K = 307, 521
Make = Callable[..., Any]


def pooled(cells: np.ndarray[Any, Any], block: int, how: Any) -> np.ndarray[Any, Any]:
    rows, cols = (range(0, size, block) for size in cells.shape)
    return np.array([[how(cells[r : r + block, c : c + block]) for c in cols] for r in rows])


def whole(pyramid: Pyramid, block: int, how: Any) -> np.ndarray[Any, Any]:
    return pyramid.read(range(pyramid.Q), range(pyramid.K), block, how)


@pytest.mark.parametrize("surveyed", [False, True])
def test_every_level_is_pooled_cells(kind: str, known: Make, surveyed: bool) -> None:
    head, pattern, lse, allowed = known(kind, Q, K)
    if surveyed:
        head = survey(replace(head, lse=np.full(Q, np.nan)))
        assert head.lse == pytest.approx(lse, abs=1e-6)
    pyramid = head.pyramid()
    assert pyramid.base == 16
    for block in (16, 32, 64, 128, 256, 512, 1024):
        assert whole(pyramid, block, "sum") == pytest.approx(pooled(pattern, block, np.sum), 1e-6)
        tops = whole(pyramid, block, "max")
        assert np.maximum(tops, 0) == pytest.approx(pooled(pattern, block, np.max), abs=1e-6)
        assert ((tops >= 0) == pooled(allowed, block, np.any)).all()
    assert pyramid.row_errors.shape == (Q,)
    assert pyramid.row_errors.max() < 1e-6


def test_levels_sum_to_the_number_of_rows(known: Make) -> None:
    pyramid = known("causal", Q, K).head.pyramid()
    for block in (16, 64, 256, 4096):
        assert whole(pyramid, block, "sum").sum() == pytest.approx(Q, abs=1e-4)


def test_fp32_is_near_enough(known: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qkv.lens.maps.sweep.EXACT_CELLS", 0)
    head, pattern, lse, _ = known("softcap", Q, K)
    for each in (head, survey(head)):
        assert each.lse == pytest.approx(lse, abs=2e-6)
        found = whole(each.pyramid(), 16, "sum")
        assert found == pytest.approx(pooled(pattern, 16, np.sum), abs=2e-6)
        assert 0 < each.pyramid().row_errors.max() < 3e-6


def test_any_part_can_be_read(known: Make, rng: np.random.Generator) -> None:
    pyramid = known("window", Q, K).head.pyramid()
    for block in (16, 32, 256, 512):
        for how in ("sum", "max"):
            every = whole(pyramid, block, how)
            for _ in range(9):
                top, left = rng.integers(0, (Q, K))
                bottom, right = rng.integers((top, left), (Q, K)) + 1
                part = pyramid.read(range(top, bottom), range(left, right), block, how)
                rows, cols = (
                    slice(a // block, math.ceil(b / block))
                    for a, b in ((top, bottom), (left, right))
                )
                assert (part == every[rows, cols]).all()


def test_a_band_keeps_only_what_its_mask_can_reach() -> None:
    x = np.zeros((2048, 1))
    masks = (None, Causal(), Window(9))
    full, causal, window = (AttentionMap.survey(x, x, mask=m).pyramid().nbytes for m in masks)
    rows = 8 * len(x)
    assert causal - rows == pytest.approx((full - rows) * 9 / 16)
    assert window - rows < 0.25 * (full - rows)


def test_the_base_is_as_fine_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.zeros((1024, 1))
    for most, base in ((35_000, 16), (34_900, 32), (8700, 64), (10, 256)):
        monkeypatch.setattr("qkv.lens.maps.pyramid.BYTES", most)
        pyramid = AttentionMap.survey(x, x).pyramid()
        assert pyramid.base == base
        assert pyramid.nbytes - pyramid.row_errors.nbytes <= max(most, 200)


def test_progress_rises_to_1() -> None:
    x = np.zeros((1024, 1))
    seen: list[float] = []
    AttentionMap.of(x, x, mask=Causal()).pyramid(progress=seen.append)
    assert len(seen) == 4
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert seen[0] == pytest.approx(0.1, abs=0.01)  # a causal map's first quarter has few cells


def test_what_is_cancelled_leaves_nothing() -> None:
    x = np.zeros((1024, 1))
    head = AttentionMap.of(x, x)
    asked: list[bool] = []

    def cancel() -> bool:
        asked.append(True)
        return len(asked) == 3

    with pytest.raises(CancelledError, match="75%"):
        head.pyramid(cancel=cancel)
    assert remembered(head) is None
    assert isinstance(head.pyramid(), Pyramid)
    with pytest.raises(CancelledError):
        AttentionMap.survey(x, x, cancel=lambda: True)


def test_it_is_built_once_and_belongs_to_its_map(known: Make) -> None:
    head = known("causal", 5, 7).head
    pyramid = head.pyramid(progress=None)
    assert head.pyramid() is pyramid
    assert remembered(replace(head, name="L0H1")) is None
    assert copy.copy(head).pyramid() is pyramid


def test_pooled_maps_come_from_it(known: Make) -> None:
    head, pattern, *_ = known("given", Q, K)
    before = {how: head.pool(32, how) for how in ("sum", "max")}
    pyramid = head.pyramid()
    for how, gather in (("sum", np.sum), ("max", np.max)):
        assert before[how] == pytest.approx(pooled(pattern, 32, gather), abs=1e-12)
        assert head.pool(32, how) == pytest.approx(before[how], abs=1e-6)
        assert head.pool(32, how).dtype == np.float32
        assert head.pool(33, how) == pytest.approx(pooled(pattern, 33, gather), abs=1e-12)
    assert pyramid.has(32)
    assert not pyramid.has(48)


def test_errors_say_what_to_do(known: Make) -> None:
    pyramid = known("full", 5, 7).head.pyramid()
    for block in (8, 48):
        with pytest.raises(QkvError, match="16 or a larger power of two"):
            pyramid.read(range(5), range(7), block)
    with pytest.raises(QkvError, match='"sum" or "max"'):
        pyramid.read(range(5), range(7), 16, "mean")  # type: ignore[arg-type]


def test_bands_that_can_see_nothing() -> None:
    x = np.zeros((300, 1))
    pyramid = AttentionMap.of(x, x, mask=Padding((0,))).pyramid()
    for block in (16, 64, 256, 1024):
        assert (whole(pyramid, block, "sum") == 0).all()
        assert (whole(pyramid, block, "max") == -1).all()
    assert pyramid.row_errors.max() == 0
