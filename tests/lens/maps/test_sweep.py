"""Strips are worked on by threads, and nobody else's threads notice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from qkv.lens.maps.sweep import Sweep, cut, expected_sums, precision

Q, K = 37, 53
Make = Callable[..., Any]


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two threads, however small the map and the machine."""
    monkeypatch.setattr("qkv.lens.maps.sweep.THREADED_CELLS", 0)
    monkeypatch.setattr("qkv.lens.maps.sweep.TILE_ROWS", 5)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_strips_come_in_order_from_threads_of_one(known: Make, threads: None) -> None:
    sweep = Sweep.over(known("causal", Q, K).head)
    seen = []

    def work(rows: range) -> tuple[int, int, bool]:
        outside = threading.current_thread() is not threading.main_thread()
        assert outside
        return rows.start, torch.get_num_threads(), torch.is_grad_enabled()

    for rows, (start, count, learns) in sweep.each(work):
        assert (start, count, learns) == (rows.start, 1, False)
        seen += list(rows)
    assert seen == list(range(Q))
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as pool:  # a thread that is yet to come
        assert pool.submit(torch.get_num_threads).result() == 2


def test_a_sweep_that_is_left_ends_its_threads(known: Make, threads: None) -> None:
    sweep = Sweep.over(known("causal", Q, K).head)
    before, started = threading.active_count(), []

    def work(rows: range) -> range:
        started.append(rows)
        return rows

    strips = sweep.each(work)
    assert next(strips)[1] == range(5)
    strips.close()
    assert threading.active_count() == before
    assert len(started) <= 5  # of 8


def test_what_goes_wrong_in_a_thread_is_raised(known: Make, threads: None) -> None:
    def work(rows: range) -> None:
        raise ValueError(f"at {rows.start}")

    with pytest.raises(ValueError, match="at 0"):
        list(Sweep.over(known("full", Q, K).head).each(work))
    assert torch.get_num_threads() == 2


def test_autocast_of_the_caller_changes_nothing(known: Make) -> None:
    head = known("causal", Q, K).head
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head.proof().largest_row_error < 1e-12


@pytest.mark.parametrize("block", [1, 2, 7, 64])
@pytest.mark.parametrize("step", [1, 5, 16, 200])
def test_pieces_are_whole_blocks_or_parts_of_one(block: int, step: int) -> None:
    pieces = list(cut(range(11, 130), step, block))
    assert [cell for piece in pieces for cell in piece] == list(range(11, 130))
    for piece in pieces:
        assert len(piece) <= step
        whole = piece.start % block == 0 and len(piece) % block == 0
        assert whole or piece.start // block == (piece.stop - 1) // block


def test_large_scores_are_taken_in_float64(
    rng: np.random.Generator, known: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, large = known("causal", Q, K).head, known("unscaled", Q, K).head
    rows, cols = range(Q), range(K)
    assert precision(plain, rows, cols) == torch.float64
    monkeypatch.setattr("qkv.lens.maps.sweep.EXACT_CELLS", 0)
    assert precision(plain, rows, cols) == torch.float32
    assert precision(large, rows, cols) == torch.float64


def test_what_rows_must_sum_to(kind: str, known: Make) -> None:
    head, pattern, *_ = known(kind, Q, K)
    assert expected_sums(head, head.lse) == pytest.approx(pattern.sum(1), abs=1e-12)
