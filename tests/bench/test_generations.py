"""Generation beside a stand-in for nanoGPT's sampler: every figure, and the same tokens."""

from __future__ import annotations

import json
from pathlib import Path

from qkv.bench.generations import beside_nanogpt

SHAPE = {
    "n_layer": 2, "n_head": 2, "n_embd": 14, "block_size": 13, "vocab_size": 11, "bias": False,
    "dropout": 0.0,
}  # fmt: skip


def test_every_figure_is_there(checkout: Path) -> None:
    told = json.loads(json.dumps(beside_nanogpt(checkout, 2, shape=SHAPE).to_json()))
    assert told["rounds"] == 2
    assert (told["shape"]["T"], told["shape"]["tokens"]) == (13, 13)
    figures = told["figures"]
    for name in ("generate", "nanogpt"):
        assert set(figures[name]) == {"median_ms", "min_ms", "max_ms"}
    assert set(figures["times_as_fast"]) == {"median", "min", "max"}
    assert figures["tokens_per_second"] > 0
    assert figures["nanogpt_tokens_per_second"] > 0
    assert figures["same_likeliest_tokens"] is True
