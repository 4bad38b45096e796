"""The capture suite gives every figure that was promised; its times are nobody's business here."""

from __future__ import annotations

import json

import pytest

from qkv.bench.captures import captures


def test_every_figure_is_there_and_every_row_is_whole() -> None:
    pytest.importorskip("transformers", reason="needs the extra hf")
    time, memory = captures(rounds=1, T=61, layers=1)
    assert time.shape == memory.shape == {"layers": 1, "heads": 12, "T": 61, "C": 64}
    told = json.loads(json.dumps(time.to_json()))["figures"]
    for name in ("plain", "captured"):
        assert set(told[name]) == {"median_ms", "min_ms", "max_ms"}
    assert set(told["times_as_long_captured"]) == {"median", "min", "max"}
    assert told["largest_row_sum_error"] < 1e-5
    figures = memory.figures
    assert 0 < figures["share_of_output_attentions"] <= 1.1
    # So small a pass may stay below what building the model took.
    assert figures["captured_mib"] > figures["captured_growth_mib"] >= 0
