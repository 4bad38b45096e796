"""Generation, alone and beside a stand-in for nanoGPT's sampler: every figure, the same tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from qkv.bench import generations
from qkv.bench.generations import beside_nanogpt, generation
from qkv.models import TransformerConfig, generate

SHAPE = {
    "n_layer": 2, "n_head": 2, "n_embd": 14, "block_size": 13, "vocab_size": 11, "bias": False,
    "dropout": 0.0,
}  # fmt: skip
TINY = TransformerConfig(vocab=11, context=35, layers=1, width=12, heads=2)
TIMES = {"median_ms", "min_ms", "max_ms"}


@pytest.mark.parametrize("capability", ["AVX512", "DEFAULT"])
def test_every_figure_is_there(
    checkout: Path, capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("no int8 weights in this build of torch")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setenv("QKV_NATIVE", "off")
    told = json.loads(json.dumps(beside_nanogpt(checkout, 2, shape=SHAPE).to_json()))
    assert told["rounds"] == 2
    assert (told["shape"]["T"], told["shape"]["tokens"]) == (13, 13)
    figures = told["figures"]
    for name in ("generate", "generate_fp32", "nanogpt"):
        assert set(figures[name]) == TIMES
    for name in ("times_as_fast", "times_as_fast_fp32"):
        assert set(figures[name]) == {"median", "min", "max"}
    assert figures["tokens_per_second"] > 0
    assert figures["nanogpt_tokens_per_second"] > 0
    assert figures["same_likeliest_tokens"] is True
    if capability == "AVX512":
        assert told["what"].endswith(": narrow weights (int8) and as they are (fp32)")
        assert figures["precision"] == "int8"
        assert 0 < figures["nats_from_fp32"] < 0.1
    else:
        assert told["what"].endswith(": weights as they are (fp32)")
        assert (figures["precision"], figures["nats_from_fp32"]) == ("fp32", 0)


def test_both_ways_draw_the_same_tokens_of_a_model_that_tells_them_apart() -> None:
    late, whole = (found.to_json() for found in generation(1, config=TINY))
    assert [found["shape"]["prompt_tokens"] for found in (late, whole)] == [3, 1]
    assert [found["shape"]["tokens"] for found in (late, whole)] == [32, 34]
    for found in (late, whole):
        assert set(found["figures"]["cached"]) == set(found["figures"]["recomputed"]) == TIMES
        assert found["figures"]["same_tokens"] is True


def test_a_cache_that_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(
        model: Any, prompt: torch.Tensor, *rest: Any, cached: bool
    ) -> Iterator[torch.Tensor]:
        prompt = torch.zeros_like(prompt) if cached else prompt
        return generate(model, prompt, *rest, cached=cached)

    monkeypatch.setattr(generations, "generate", forgetful)
    late, _ = generation(1, config=TINY)
    assert late.figures["same_tokens"] is False
