"""The map suite gives every figure that was promised; its times are nobody's business here."""

from __future__ import annotations

import json

from qkv.bench.maps import maps


def test_every_figure_is_there_and_the_map_is_exact() -> None:
    (found,) = maps(rounds=1, T=2500, C=5, viewports=4)
    told = json.loads(json.dumps(found.to_json()))
    assert told["shape"] == {"T": 2500, "C": 5, "viewports": 4}
    assert told["rounds"] == 1
    figures = told["figures"]
    for name in ("lse_and_pyramid", "viewport"):
        assert set(figures[name]) == {"median_ms", "min_ms", "max_ms"}
    levels = [name for name in figures if name.startswith("viewport_at_")]
    assert levels
    assert set(levels) <= {f"viewport_at_{level}_cells_a_pixel" for level in (1, 2, 4)}
    assert figures["pyramid_base_cells"] == 16
    assert 0 < figures["pyramid_mb"] < figures["peak_resident_mb"]
    assert 0 < figures["largest_row_sum_error"] < 1e-5
    assert figures["largest_value_error"] < 1e-4
