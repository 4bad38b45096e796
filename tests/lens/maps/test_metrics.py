"""Entropy, distance, received and confidence are what their dense definitions say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from qkv.attention import Causal
from qkv.attention.fused import attend
from qkv.errors import QkvError
from qkv.lens import AttentionMap

Q, K = 37, 53
Make = Callable[..., Any]


@pytest.fixture(params=["one tile", "tiles", "fp32", "fp32 in threads"])
def tolerance(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Takes a map as one tile or as many, in float64 or in fp32; what may be missed."""
    if request.param != "one tile":
        monkeypatch.setattr("qkv.lens.maps.sweep.TILE_ROWS", 5)
        monkeypatch.setattr("qkv.lens.maps.sweep.TILE_CELLS", 40)
    if request.param == "fp32 in threads":
        monkeypatch.setattr("qkv.lens.maps.sweep.THREADED_CELLS", 0)
    if "fp32" not in request.param:
        return 1e-12
    monkeypatch.setattr("qkv.lens.maps.sweep.EXACT_CELLS", 0)
    return 3e-5


def test_metrics_equal_their_definitions(kind: str, known: Make, tolerance: float) -> None:
    head, pattern, lse, _ = known(kind, Q, K)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.where(pattern > 0, pattern * np.log(pattern), 0.0).sum(1)
    away = np.abs(head.places[:, None] - np.arange(K))
    assert head.lse == pytest.approx(lse, abs=1e-11)
    assert head.entropy() == pytest.approx(entropy, abs=4 * tolerance)
    assert head.distance() == pytest.approx((pattern * away).sum(1), abs=K * tolerance)
    assert head.received() == pytest.approx(pattern.sum(0), abs=tolerance)
    assert head.confidence() == pytest.approx(pattern.max(1), abs=tolerance)


def test_laws(kind: str, known: Make, tolerance: float) -> None:
    head, _, lse, allowed = known(kind, Q, K)
    entropy, confidence = head.entropy(), head.confidence()
    sums = np.where(np.isneginf(lse), 0.0, 1.0)
    if head.sink is not None:
        sums = 1 - np.exp(head.sink - lse)
    assert head.received().sum() == pytest.approx(sums.sum(), abs=K * tolerance)
    assert (entropy >= 0).all()
    if head.sink is None:  # with one, a row is no distribution over keys
        assert (entropy <= np.log(np.maximum(allowed.sum(1), 1)) + tolerance).all()
        assert (confidence * allowed.sum(1) >= sums - 10 * tolerance).all()
    # No weight is above the largest, so none is less of a surprise.
    assert (entropy >= -sums * np.log(np.where(confidence > 0, confidence, 1)) - 1e-4).all()


def test_entropy_is_that_of_the_fused_kernel_with_keys_as_values(
    rng: np.random.Generator,
) -> None:
    q, k = rng.normal(size=(2, 1, 1, K, 7))
    head = AttentionMap.of(q[0, 0], k[0, 0], mask=Causal())
    mixed = attend(*map(torch.from_numpy, (q, k, k)), mask=Causal())[0, 0].numpy()
    expected = head.lse - (q[0, 0] * mixed).sum(-1) * 7**-0.5
    assert head.entropy() == pytest.approx(expected, abs=1e-12)


def test_renaming_keys_moves_what_they_receive_and_nothing_else(rng: np.random.Generator) -> None:
    q, k = rng.normal(size=(Q, 7)), rng.normal(size=(K, 7))
    order = rng.permutation(K)
    head, moved = AttentionMap.of(q, k), AttentionMap.of(q, k[order])
    assert moved.received() == pytest.approx(head.received()[order], abs=1e-12)
    assert moved.entropy() == pytest.approx(head.entropy(), abs=1e-12)
    assert moved.confidence() == pytest.approx(head.confidence(), abs=1e-12)


def test_extremes_are_exact() -> None:
    zeros, far = np.zeros((5, 3)), np.eye(5) * 1000
    uniform = AttentionMap.of(zeros, zeros, mask=Causal())
    assert uniform.entropy() == pytest.approx(np.log(np.arange(1, 6)))
    assert uniform.distance() == pytest.approx(np.arange(5) / 2)
    alone = AttentionMap.of(far, np.eye(5), scale=1.0, mask=Causal())
    assert alone.entropy().tolist() == [0.0] * 5
    assert alone.distance().tolist() == [0.0] * 5
    assert alone.confidence().tolist() == [1.0] * 5


def test_cross_attention_has_no_distance(rng: np.random.Generator) -> None:
    q, k = rng.normal(size=(Q, 7)), rng.normal(size=(K, 7))
    head = AttentionMap.of(q, k, cross=True, name="L1H2")
    for ask in (head.distance, lambda: head.places):
        with pytest.raises(QkvError, match="L1H2 of cross-attention"):
            ask()
    assert head.entropy() == pytest.approx(AttentionMap.of(q, k).entropy())


@pytest.mark.parametrize("cross", [False, True])
def test_strongest_is_the_largest_but_for_the_own_and_the_first_key(
    kind: str, known: Make, tolerance: float, cross: bool
) -> None:
    head, pattern, *_ = known(kind, Q, K)
    if cross:
        head = AttentionMap(**{
            name: getattr(head, name) for name in ("q", "k", "lse", "mask", "bias", "scale",
            "softcap", "sink", "score_mod")}, cross=True)  # fmt: skip
    others = pattern.copy()
    if not cross:
        own = head.places
        others[np.arange(Q)[(own >= 0) & (own < K)], own[(own >= 0) & (own < K)]] = 0
    others[:, 0] = 0
    cell = head.strongest()
    if kind == "nothing":
        assert cell is None
        return
    assert cell is not None
    assert cell.weight == pytest.approx(others.max(), abs=tolerance)
    assert pattern[cell.query, cell.key] == pytest.approx(cell.weight, abs=1e-12)
