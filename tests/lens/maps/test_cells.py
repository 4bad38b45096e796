"""A cell's arithmetic: each step follows from the one before, and ends in the map's weight."""

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

Q, K = 11, 13
Make = Callable[..., Any]


def test_each_step_follows_from_the_one_before(kind: str, known: Make) -> None:
    head, pattern, lse, allowed = known(kind, Q, K)
    for query, key in ((0, 0), (4, 2), (10, 12), (5, 7), (3, 12)):
        cell = head.cell(query, key)
        assert (cell.query, cell.key) == (query, key)
        assert cell.q.dtype == cell.k.dtype == np.float64
        assert cell.terms == pytest.approx(head.q[query] * head.k[key].astype(float), abs=1e-12)
        assert cell.score == pytest.approx(math.fsum(cell.terms), abs=1e-12)
        assert cell.scaled == pytest.approx(cell.score * cell.scale, abs=1e-12)
        capped = cell.scaled
        if cell.softcap is not None:
            capped = cell.softcap * math.tanh(cell.scaled / cell.softcap)
        assert cell.capped == pytest.approx(capped, abs=1e-12)
        assert cell.biased == pytest.approx(cell.capped + (cell.bias or 0.0), abs=1e-12)
        assert cell.allowed == allowed[query, key]
        assert cell.lse == pytest.approx(lse[query], abs=1e-11)
        weight = math.exp(cell.biased - cell.lse) if cell.allowed else 0.0
        assert cell.weight == pytest.approx(weight, abs=1e-12)
        assert float(cell) == pytest.approx(pattern[query, key], abs=1e-12)
        assert (cell.value_norm, cell.output_norm) == (None, None)


def test_what_a_cell_moves(rng: np.random.Generator) -> None:
    q, k, v, w_o = (rng.normal(size=shape) for shape in ((Q, 7), (K, 7), (K, 3), (3, 5)))
    head = AttentionMap.of(q, k, mask=Causal(), v=v, w_o=w_o)
    cell = head.cell(8, 4)
    assert cell.value_norm == pytest.approx(np.linalg.norm(v[4]))
    assert cell.output_norm == pytest.approx(np.linalg.norm(head.pattern()[8, 4] * v[4] @ w_o))
    assert replace(head, w_o=None).cell(8, 4).output_norm is None
    assert head.cell(0, 12).output_norm == 0.0


def test_it_is_read_aloud() -> None:
    ones = np.ones((2, 4))
    options = {"scale": 0.25, "softcap": 50.0, "bias": np.array([[1.0, -1.0]])}
    head = AttentionMap.of(ones, ones, mask=Causal(), **options)
    told = head.cell(1, 1).sentence()
    assert told == (
        "q·k = 4.00, times 0.25 = 1.00, capped at 50 = 1.00, plus bias -1.00 = 0.00; "
        "exp(0.00 - 2.13) = .12"
    )
    assert head.cell(0, 1).sentence().endswith("the mask forbids it: 0")


def test_a_cell_outside_is_an_error() -> None:
    head = AttentionMap.of(np.ones((2, 4)), np.ones((3, 4)))
    for query, key in ((2, 0), (0, 3), (-1, 0)):
        with pytest.raises(QkvError, match="count tokens from 0"):
            head.cell(query, key)
