"""Rollout is the product of the layers' mixtures, dense in float64, whole or one row of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from qkv.attention import Causal, Window
from qkv.errors import ConfigError, QkvError
from qkv.lens import Trace, capture, record
from qkv.lens.heads import rollout as rollout_module

H, T, C = 3, 17, 5


def seen(*masks: Any, **how: Any) -> Trace:
    make = torch.Generator().manual_seed(9)
    with capture(**how) as trace:
        for mask in masks:
            q, k = torch.randn(2, 1, H, T, C, generator=make, dtype=torch.float64)
            record(q * 2, k, mask=mask)
    return trace


def dense(trace: Trace, residual: float) -> np.ndarray:
    held = np.eye(T)
    for maps in trace.maps():
        mixture = residual * np.eye(T) + (1 - residual) * sum(m.pattern() for m in maps) / len(maps)
        # A row that sees nothing, and keeps nothing, holds nothing.
        sums = mixture.sum(1, keepdims=True)
        held = mixture / np.where(sums == 0, 1.0, sums) @ held
    return held


def with_sink(trace: Trace) -> Trace:
    site, sink = trace.layers[0], torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64)
    one = Trace()
    changed = site.only(sink=sink, lse=torch.logaddexp(site.lse, sink[:, None]))
    one.end({0: (changed,), 1: (trace.layers[1],)}, {})
    return one


TABLE = torch.rand(H, T, T, generator=torch.Generator().manual_seed(1)) > 0.3
TABLE[:, 3] = False


@pytest.mark.parametrize("residual", [0.5, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("masks", [(Causal(),) * 3, (Causal(), Window(4)), (None, None), (TABLE,)])
def test_it_is_the_product_of_dense_mixtures(masks: Any, residual: float) -> None:
    trace = seen(*masks)
    expected = dense(trace, residual)
    found = trace.rollout(residual=residual)
    assert found == pytest.approx(expected, abs=1e-12)
    kept = expected.sum(1) > 0
    assert kept.all() or residual == 0
    assert found.sum(1)[kept] == pytest.approx(1, abs=1e-12)
    for query in (0, 3, 11, T - 1):
        row = trace.rollout(residual=residual, query=query)
        assert row == pytest.approx(expected[query], abs=1e-12)


def test_a_sink_leaves_rows_that_sum_to_one() -> None:
    trace = with_sink(seen(Causal(), Causal()))
    found = trace.rollout()
    assert found == pytest.approx(dense(trace, 0.5), abs=1e-12)
    assert found.sum(1) == pytest.approx(1, abs=1e-12)
    assert trace.rollout(query=9) == pytest.approx(found[9], abs=1e-12)


def test_uniform_attention_flows_to_the_first_token() -> None:
    x = torch.zeros(1, 1, T, C, dtype=torch.float64)
    with capture() as trace:
        for _ in range(4):
            record(x, x, mask=Causal())
    found = trace.rollout()
    assert (np.diff(found[-1, :-1]) < 0).all()
    assert np.triu(found, 1).max() == 0


def test_long_texts_are_asked_for_a_row_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = seen(Causal())
    monkeypatch.setattr(rollout_module, "MOST_TOKENS", 16)
    with pytest.raises(QkvError, match=r"17 tokens; expected at most 16; .*query=i"):
        trace.rollout()
    assert trace.rollout(query=16).sum() == pytest.approx(1)


def test_what_is_wrong_is_said() -> None:
    trace = seen(Causal())
    with pytest.raises(ConfigError, match=r"residual 1\.5"):
        trace.rollout(residual=1.5)
    with pytest.raises(QkvError, match="query 17; expected 0 to 16"):
        trace.rollout(query=17)
    with pytest.raises(QkvError, match="trace of chosen rows"):
        seen(Causal(), rows=range(5)).rollout()
    across = Trace()
    across.end({0: (trace.layers[0].only(at=None),)}, {})
    with pytest.raises(QkvError, match="layer 0, which looks at another text"):
        across.rollout()
