"""What `qkv bench` can measure."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from qkv.attention import Causal, attend
from qkv.bench.captures import captures
from qkv.bench.generations import generation
from qkv.bench.labs import lab_pages
from qkv.bench.maps import maps
from qkv.bench.measure import Measurement, compare, ratio
from qkv.bench.training_runs import training

__all__ = ["SUITES", "attention", "memory"]

SHAPES = [(16, 6, 256, 64), (1, 12, 4096, 64), (64, 8, 64, 8)]


def attention(rounds: int = 7) -> list[Measurement]:
    """Time `attend` against torch's SDPA, causal, forward and backward, fp32."""
    found = []
    for B, H, T, C in SHAPES:
        q, k, v = (torch.randn(B, H, T, C, requires_grad=True) for _ in range(3))
        upstream = torch.randn(B, H, T, C)

        def ours(q: Any = q, k: Any = k, v: Any = v, upstream: Any = upstream) -> None:
            attend(q, k, v, mask=Causal()).backward(upstream)

        def torchs(q: Any = q, k: Any = k, v: Any = v, upstream: Any = upstream) -> None:
            scaled_dot_product_attention(q, k, v, is_causal=True).backward(upstream)  # type: ignore[no-untyped-call]

        times = compare({"attend": ours, "sdpa": torchs}, rounds)
        found.append(
            Measurement(
                "attention, causal, forward and backward, fp32",
                {"B": B, "H": H, "T": T, "C": C},
                {
                    **{name: timing.to_json() for name, timing in times.items()},
                    "times_as_fast_as_sdpa": ratio(times["sdpa"], times["attend"]),
                },
                rounds,
            )
        )
    return found


MEMORY_SCRIPT = """
import json, sys
import torch
from qkv.attention import Causal, attend
from qkv.bench.measure import peak_bytes as peak

T, H, C = map(int, sys.argv[1:])
small = torch.randn(1, H, 64, C, requires_grad=True)
attend(small, small, small, mask=Causal()).sum().backward()
before = peak()
q, k, v = (torch.randn(1, H, T, C, requires_grad=True) for _ in range(3))
attend(q, k, v, mask=Causal()).sum().backward()
print(json.dumps((peak() - before) / 2**20))
"""


def memory(rounds: int = 3) -> list[Measurement]:
    """Measure by how much the peak memory of a fresh process grows, forward and backward."""
    found = []
    H, C = 4, 64
    for T in (4096, 8192, 16_384):
        grown = []
        for _ in range(rounds):
            run = subprocess.run(
                [sys.executable, "-c", MEMORY_SCRIPT, str(T), str(H), str(C)],
                capture_output=True,
                text=True,
                check=True,
            )
            grown.append(float(json.loads(run.stdout)))
        found.append(
            Measurement(
                "peak resident memory of attend, causal, forward and backward, fp32",
                {"B": 1, "H": H, "T": T, "C": C},
                {"growth_mib_max": max(grown), "growth_mib_min": min(grown)},
                rounds,
            )
        )
    return found


SUITES: dict[str, Callable[..., list[Measurement]]] = {
    "attention": attention,
    "capture": captures,
    "generate": generation,
    "lab": lab_pages,
    "map": maps,
    "memory": memory,
    "train": training,
}
