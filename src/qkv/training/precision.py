"""Which precision is fast here: measured, since the CPU's flags do not tell.

bf16 products are 4 to 5 times as fast as fp32 on some processors with AVX512_BF16, and half as
fast on others that have it too.
"""

from __future__ import annotations

import time
from functools import cache
from statistics import median
from typing import Literal

import torch

__all__ = ["choose_precision", "measure_precisions"]

WORTH = 1.3  # bf16 loses some accuracy and some time to conversions: below this it isn't worth it


@cache
def measure_precisions(rows: int = 1024, width: int = 384) -> dict[str, float]:
    """Return GFLOP/s of a matrix product on the CPU in fp32 and bf16, in about a tenth of a second.

    Args:
        rows: of the left matrix, as tokens in a batch.
        width: of both, as a model's.

    >>> sorted(measure_precisions(64, 64))
    ['bf16', 'fp32']
    """
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    operands = {
        name: (torch.ones(rows, width, dtype=kind), torch.ones(width, width, dtype=kind))
        for name, kind in kinds.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(11):  # interleaved, so that a slow moment strikes both
        for name, (left, right) in operands.items():
            started = time.perf_counter()
            torch.nn.functional.linear(left, right)
            seconds[name].append(time.perf_counter() - started)
    work = 2 * rows * width * width
    return {name: work / median(times[1:]) / 1e9 for name, times in seconds.items()}


def choose_precision(device: torch.device | str = "cpu") -> Literal["fp32", "bf16"]:
    """Return ``bf16`` where matrix products are clearly faster in it, else ``fp32``."""
    kind = torch.device(device).type
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if kind != "cpu":
        return "fp32"
    speeds = measure_precisions()
    return "bf16" if speeds["bf16"] > WORTH * speeds["fp32"] else "fp32"
