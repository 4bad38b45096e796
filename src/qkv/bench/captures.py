"""What capturing costs: time beside the plain pass, memory beside `output_attentions`.

The model is GPT-2-small's shape from `transformers` (extra hf), of random weights, unmodified: a
capture is for models that aren't ours.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

from qkv.bench.measure import Measurement, compare, ratio
from qkv.errors import ConfigError

__all__ = ["captures"]

SCRIPT = """
import json, sys
import torch
from qkv.bench.captures import gpt2_small
from qkv.bench.measure import peak_bytes as peak
from qkv.lens import capture

way, T, layers = sys.argv[1], *map(int, sys.argv[2:])
model = gpt2_small(T, "eager" if way == "output_attentions" else "sdpa", layers)
ids = torch.arange(T)[None] * 7919 % 50257
before = peak()
with torch.no_grad():
    if way == "captured":
        with capture() as trace:
            kept = model(ids)
        assert sum(site.H for site in trace.layers) == 12 * layers
    else:
        kept = model(ids, output_attentions=way == "output_attentions")
print(json.dumps([peak() / 2**20, (peak() - before) / 2**20]))
"""


def gpt2_small(context: int, attention: str, layers: int = 12) -> Any:
    """GPT-2-small's shape with random weights, for so many tokens."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_positions=context, n_layer=layers)
    build: Any = GPT2LMHeadModel._from_config
    return build(config, attn_implementation=attention).eval()


def captures(rounds: int = 5, *, T: int = 4096, layers: int = 12) -> list[Measurement]:
    """Time a pass with and without capture, in turn; measure the peaks in fresh processes.

    Raises:
        ConfigError: without `transformers`.
    """
    import torch

    from qkv.lens import capture

    if importlib.util.find_spec("transformers") is None:
        raise ConfigError("no transformers", "the extra hf", "pip install 'qkv[hf]'")
    peaks = {way: _peak(way, T, layers) for way in ("plain", "captured", "output_attentions")}
    model = gpt2_small(T, "sdpa", layers)
    ids = torch.arange(T)[None] * 7919 % model.config.vocab_size
    sums: list[float] = []

    def plain() -> None:
        with torch.no_grad():
            model(ids)

    def captured() -> None:
        with torch.no_grad(), capture() as trace:
            model(ids)
        # Every lse is finished now; that rows sum to 1 shows that it is right.
        head = trace[len(trace) - 1, 0]
        sums.append(abs(float(head.row(T - 1).sum()) - 1))

    times = compare({"plain": plain, "captured": captured}, rounds)
    shape = {"layers": layers, "heads": 12 * layers, "T": T, "C": 64}
    return [
        Measurement(
            "a pass of GPT-2-small's shape with all heads captured, fp32",
            shape,
            {
                **{name: timing.to_json() for name, timing in times.items()},
                "times_as_long_captured": ratio(times["captured"], times["plain"]),
                "largest_row_sum_error": max(sums),
            },
            rounds,
        ),
        Measurement(
            "peak resident memory of that pass, in fresh processes",
            shape,
            {
                **{f"{way}_mib": whole for way, (whole, _) in peaks.items()},
                **{f"{way}_growth_mib": grown for way, (_, grown) in peaks.items()},
                "share_of_output_attentions": peaks["captured"][0] / peaks["output_attentions"][0],
            },
            1,
        ),
    ]


def _peak(way: str, T: int, layers: int) -> tuple[float, float]:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, way, str(T), str(layers)],
        capture_output=True,
        text=True,
        check=True,
    )
    whole, grown = json.loads(run.stdout)
    return float(whole), float(grown)
