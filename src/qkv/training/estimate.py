"""What a run will need: parameters, memory, FLOPs, time."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import nn

from qkv.models import ModelConfig, TransformerConfig, build_model, count_parameters
from qkv.models.config import config_of
from qkv.training.config import TrainingConfig
from qkv.training.flops import run_flops
from qkv.training.loop import TrainingState, train
from qkv.training.precision import settle
from qkv.training.run import Data

PROBE_TOKENS = 4096
"""Tokens in a timed step, at most: a probe must not need the memory that it warns of."""

__all__ = ["estimate", "seconds_a_step"]


def seconds_a_step(
    model: nn.Module, training: TrainingConfig, data: Data, *, at_most: float = 1.0
) -> tuple[float, int]:
    """Return the median time of a training step here, and how many steps were timed.

    Steps of at most :data:`PROBE_TOKENS` are run until the time is up, and scaled to a whole one;
    the first counts only where there is no other. The model is trained by them.
    """
    if not any(p.requires_grad for p in model.parameters()):
        return 0.0, 0
    # A compiler would take longer than the steps that are timed.
    quick = settle(replace(training, compile="off"), config_of(model))
    context = config_of(model).context
    batch = max(1, min(training.batch, PROBE_TOKENS // context))
    # A budget of its own: the probe wants some steps, whatever the run's budget will be.
    probe = replace(quick, batch=batch, tokens=20 * batch * context)
    times: list[float] = []
    deadline = time.perf_counter() + at_most
    for report in train(TrainingState(model, probe), data.train, probe):
        times.append(report.seconds)
        if time.perf_counter() > deadline:
            break
    return median(times[1:] or times) * training.batch / batch, max(1, len(times) - 1)


def estimate(config: ModelConfig, training: TrainingConfig, data: Data) -> dict[str, Any]:
    """Return what a run of these configs needs, by counting and by timing some steps.

    Raises:
        TextError: text shorter than the context.
    """
    data.require(config.context)
    with torch.random.fork_rng(devices=[]):
        model = build_model(config)
    parameters = count_parameters(model)
    steps = training.steps(config.context)
    step_tokens = training.batch * config.context
    # AdamW keeps two numbers a weight, Muon one; the average is one more.
    states = (1 if training.optimizer == "muon" else 2) + bool(training.average)
    seconds, timed = seconds_a_step(model, training, data, at_most=3.0)
    precision = settle(training, config).precision
    return {
        "parameters": parameters,
        "tokens": training.tokens,
        "steps": steps,
        "memory_bytes": 4 * parameters * (2 + states) + _activation_bytes(config, step_tokens),
        "checkpoint_bytes": 4 * parameters * (1 + states),
        "flops": run_flops(config, training),
        "seconds": seconds * steps,
        "steps_timed": timed,
        "precision": precision,
    }


def _activation_bytes(config: ModelConfig, tokens: int) -> int:
    """Return roughly what the backward pass keeps, in bytes, for the tokens of a step."""
    if not isinstance(config, TransformerConfig):
        return 4 * tokens * (8 * config.width + 2 * config.vocab)
    # A block keeps its inputs, their norms, q, k, v, the mixed values, and the hidden layer twice.
    block = 8 * config.width + 2 * config.hidden_
    return 4 * tokens * (config.layers * block + 3 * config.vocab)
