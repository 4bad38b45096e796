"""Which precision is fast here: measured, since the CPU's flags do not tell.

bf16 products are 4 to 5 times as fast as fp32 on some processors with AVX512_BF16, and half as
fast on others that have it too. int8 products are 4 times as fast where there is VNNI; they pay
where the compiler fuses the rounding with what is around it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Literal

import torch

from qkv.errors import ConfigError
from qkv.models import ModelConfig, TransformerConfig
from qkv.training.config import TrainingConfig
from qkv.training.flops import run_flops
from qkv.training.fusing import compiler_found

__all__ = ["choose_precision", "measure_precisions", "require_fast_steps", "settle"]

Precision = Literal["fp32", "bf16", "int8"]

WORTH = 1.3  # bf16 loses some accuracy and some time to conversions: below this it isn't worth it
WORTH_ROUNDING = 1.5  # int8 more so
LONG_FLOPS = 15e12
"""From so many on a run is long enough for the compiler: about a minute of products in fp32."""


@cache
def measure_precisions(
    rows: int = 2048, width: int = 512, *, int8: bool = True
) -> dict[str, float]:
    """Return GFLOP/s of a matrix product on the CPU in fp32, bf16 and int8, in a tenth of a second.

    Args:
        rows: of the left matrix, as tokens in a batch.
        width: of both, as a model's.
        int8: whether to time it too: without a compiler it isn't taken.

    >>> sorted(measure_precisions(64, 64)), sorted(measure_precisions(64, 64, int8=False))
    (['bf16', 'fp32', 'int8'], ['bf16', 'fp32'])
    """
    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if int8:
        kinds["int8"] = torch.int8
    operands = {
        name: (torch.ones(rows, width, dtype=kind), torch.ones(width, width, dtype=kind))
        for name, kind in kinds.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(11):  # interleaved, so that a slow moment strikes all
        for name, (left, right) in operands.items():
            product = torch._int_mm if name == "int8" else torch.mm
            started = time.perf_counter()
            product(left, right)
            seconds[name].append(time.perf_counter() - started)
    work = 2 * rows * width * width
    # The least: other programs only ever add to a time.
    return {name: work / min(times[1:]) / 1e9 for name, times in seconds.items()}


def choose_precision(
    device: torch.device | str = "cpu",
    *,
    fused: bool = False,
    speeds: Mapping[str, float] | None = None,
) -> Precision:
    """Return the precision in which training is fastest, where it is clearly faster than fp32.

    Args:
        device: where the model is.
        fused: whether the compiler fuses rounding with what is around it; int8 is slow without.
        speeds: of products on the CPU; unless given, they are measured.

    >>> speeds = {"fp32": 100.0, "bf16": 30.0, "int8": 400.0}
    >>> choose_precision(speeds=speeds), choose_precision(fused=True, speeds=speeds)
    ('fp32', 'int8')
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if kind != "cpu":
        return "fp32"
    speeds = speeds or measure_precisions(int8=fused)
    if fused and speeds["int8"] > WORTH_ROUNDING * max(speeds["fp32"], speeds["bf16"]):
        return "int8"
    return "bf16" if speeds["bf16"] > WORTH * speeds["fp32"] else "fp32"


def settle(training: TrainingConfig, model: ModelConfig, device: str = "cpu") -> TrainingConfig:
    """Return the config with what was ``auto`` chosen for this machine, so that a run repeats it.

    Args:
        training: as asked for.
        model: what is trained.
        device: where.

    Raises:
        ConfigError: see :func:`require_fast_steps`.
    """
    require_fast_steps(training, model, device)
    here = (
        isinstance(model, TransformerConfig)
        and not model.dropout
        and torch.device(device).type == "cpu"
    )
    if training.compile == "auto":
        long = here and run_flops(model, training) > LONG_FLOPS and compiler_found()
        training = replace(training, compile="on" if long else "off")
    if training.precision == "auto":
        fused = here and training.compile == "on"
        training = replace(training, precision=choose_precision(device, fused=fused))
    return training


def require_fast_steps(training: TrainingConfig, model: ModelConfig, device: str = "cpu") -> None:
    """Raise a ConfigError for int8 or a compiler where there is neither.

    Only a Transformer's blocks on the CPU are written for them.

    >>> from qkv.models import RungConfig
    >>> require_fast_steps(TrainingConfig(precision="int8"), RungConfig("heads", vocab=65))
    Traceback (most recent call last):
    qkv.errors.ConfigError: got precision=int8 for heads; expected a transformer on the CPU; leave \
precision at auto
    """
    for name, fast in (("precision", "int8"), ("compile", "on")):
        if getattr(training, name) != fast:
            continue
        if not isinstance(model, TransformerConfig):
            place = f"for {model.kind}"
        elif torch.device(device).type != "cpu":
            place = f"on {device}"
        else:
            continue
        raise ConfigError(
            f"{name}={fast} {place}", "a transformer on the CPU", f"leave {name} at auto"
        )
    if training.compile == "on" and not compiler_found():
        raise ConfigError(
            "compile=on, but nothing that torch can compile with",
            "a C++ compiler and Python's header files",
            "install them (`qkv doctor` looks for them), or leave compile at auto",
        )
