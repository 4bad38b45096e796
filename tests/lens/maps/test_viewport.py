"""A viewport shows exact blocks of exact cells, and says how exact."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qkv.attention import Causal
from qkv.errors import QkvError
from qkv.lens import AttentionMap
from qkv.lens.maps.pyramid import remembered

Q, K = 307, 521
Make = Callable[..., Any]


def expect(
    cells: np.ndarray[Any, Any], rows: range, cols: range, block: int, how: Any
) -> np.ndarray[Any, Any]:
    down, along = range(rows.start, rows.stop, block), range(cols.start, cols.stop, block)
    return np.array([[how(cells[r : r + block, c : c + block]) for c in along] for r in down])


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("how", ["sum", "max"])
def test_viewports_show_pooled_cells(
    kind: str, known: Make, how: str, built: bool, rng: np.random.Generator
) -> None:
    head, pattern, _, allowed = known(kind, Q, K)
    if built:
        head.pyramid()
    for pixels in (1, 3, 11, 29, 127, 521):
        top, left = rng.integers(0, (Q, K))
        bottom, right = rng.integers((top, left), (Q, K)) + 1
        rows, cols = range(top, bottom), range(left, right)
        view = head.viewport(rows, cols, (pixels, pixels + 2), how)  # type: ignore[arg-type]
        level = view.level
        assert level & (level - 1) == 0
        assert math.ceil(len(rows) / level) <= pixels
        assert math.ceil(len(cols) / level) <= pixels + 2
        assert level == 1 or len(rows) > pixels * level / 2 or len(cols) > (pixels + 2) * level / 2
        for cover, asked, size in ((view.rows, rows, Q), (view.cols, cols, K)):
            assert cover.start % level == 0
            assert cover.stop == size or cover.stop % level == 0
            assert asked.start - level < cover.start <= asked.start
            assert asked.stop <= cover.stop < asked.stop + level
        gather = np.sum if how == "sum" else np.max
        cells = expect(pattern, view.rows, view.cols, level, gather)
        assert view.values == pytest.approx(cells, rel=1e-6, abs=1e-6)
        assert (view.allowed == expect(allowed, view.rows, view.cols, level, np.any)).all()
        assert view.row_sum_error < 1e-6
        assert view.cell_error <= np.abs(view.values - cells).max() + 1e-12


def test_cells_one_to_one_are_exact(known: Make) -> None:
    head, pattern, *_ = known("causal", Q, K)
    view = head.viewport(range(100, 200), range(200, 400), (100, 200))
    assert view.level == 1
    assert view.values == pytest.approx(pattern[100:200, 200:400], abs=1e-14)
    assert view.cell_error < 1e-14
    assert remembered(head) is None


def test_a_large_view_builds_the_pyramid_and_a_small_one_does_not(
    known: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qkv.lens.maps.viewport.DIRECT_CELLS", 1000)
    head = known("causal", Q, K).head
    head.viewport(range(Q), range(K), (Q, K))
    assert remembered(head) is None
    view = head.viewport(range(Q), range(K), (20, 33))
    assert remembered(head) is not None
    assert view.level == 16


def test_a_wrong_lse_is_told(known: Make) -> None:
    head = known("causal", Q, K).head
    lse = head.lse.copy()
    lse[250] -= np.log(1.25)
    wrong = replace(head, lse=lse)
    assert wrong.proof().largest_row_error == pytest.approx(0.25)
    assert wrong.proof(range(250)).largest_row_error < 1e-12
    assert wrong.proof(range(250, 251)).largest_row_error == pytest.approx(0.25)
    assert wrong.viewport(range(250, 257), range(9), (9, 9)).row_sum_error == pytest.approx(0.25)
    wrong.pyramid()
    assert wrong.viewport(range(240, 257), range(9), (9, 9)).row_sum_error == pytest.approx(0.25)
    assert wrong.viewport(range(9), range(9), (9, 9)).row_sum_error < 1e-6


def test_every_kind_of_map_is_proved(
    kind: str, known: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = known(kind, Q, K).head
    proof = head.proof()
    assert proof.rows == range(Q)
    assert proof.largest_row_error < 1e-11
    assert proof.largest_cell_error < 1e-11
    monkeypatch.setattr("qkv.lens.maps.sweep.EXACT_CELLS", 0)
    proof = head.proof(range(3, 290))
    assert proof.rows == range(3, 290)
    assert proof.largest_row_error < 2e-5
    assert proof.largest_cell_error < 2e-5
    if kind in ("full", "causal"):
        assert proof.largest_cell_error > 1e-12  # fp32's, and told


def test_fp32_views_tell_their_error(known: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qkv.lens.maps.sweep.EXACT_CELLS", 0)
    head, pattern, *_ = known("full", Q, K)
    view = head.viewport(range(Q), range(K), (Q, K))
    assert 1e-12 < view.cell_error < 1e-6
    assert np.abs(view.values - pattern).max() < 1e-6


def test_errors_say_what_to_do() -> None:
    x = np.zeros((5, 2))
    head = AttentionMap.of(x, x, mask=Causal())
    for rows in (range(0), range(6), range(-1, 3), range(0, 4, 2)):
        with pytest.raises(QkvError, match="count tokens from 0"):
            head.viewport(rows, range(5), (4, 4))
    with pytest.raises(QkvError, match="at least 1"):
        head.viewport(range(5), range(5), (0, 4))
    with pytest.raises(QkvError, match='"sum" or "max"'):
        head.viewport(range(5), range(5), (4, 4), "mean")  # type: ignore[arg-type]
    with pytest.raises(QkvError, match="count tokens from 0"):
        head.proof(range(2, 9))
