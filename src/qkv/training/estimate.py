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
from qkv.training.schedules import windows_at

PROBE_TOKENS = 4096
"""Tokens in a timed step, at most: a probe must not need the memory that it warns of."""
PROBE_STEPS = 20
"""Timed for each length of windows, at most."""

__all__ = ["estimate", "seconds_a_step"]


def seconds_a_step(
    model: nn.Module, training: TrainingConfig, data: Data, *, at_most: float = 1.0
) -> tuple[float, int]:
    """Return the mean time of a run's training steps here, and how many steps were timed.

    For each length of windows that the run has, steps of at most :data:`PROBE_TOKENS` are run
    until its share of the time is up. Their median, the first left out where there are others, is
    scaled to a whole step, and counts by how many steps of the run have such windows. None is
    compiled. The model is trained by them.

    Args:
        model: to train.
        training: the run's; ``auto`` is settled as for a run that isn't compiled.
        data: the text.
        at_most: seconds to go on for.
    """
    if not any(p.requires_grad for p in model.parameters()):
        return 0.0, 0
    quick = _uncompiled(training, config_of(model))
    context = config_of(model).context
    counts = _stages(training, context)
    seconds, timed = 0.0, 0
    for length, count in counts.items():
        times = _time_steps(model, quick, data, length, at_most / len(counts))
        seconds += count * median(times[1:] or times)
        timed += max(1, len(times) - 1)
    parts = training.batch / _probe_batch(training, context)
    return seconds * parts / sum(counts.values()), timed


def _uncompiled(training: TrainingConfig, config: ModelConfig) -> TrainingConfig:
    """Return the settings that steps are timed with: compiling takes longer than timing."""
    return settle(replace(training, compile="off"), config)


def _stages(training: TrainingConfig, context: int) -> dict[int, int]:
    """Return how many steps of a run have windows of which length."""
    counts: dict[int, int] = {}
    steps = after = training.steps(context)
    while after > 0:  # back from the last stage, since each tells its first step
        stage = windows_at(after - 1, steps, training, context)
        counts[stage.tokens] = after - stage.first_step
        after = stage.first_step
    return counts


def _probe_batch(training: TrainingConfig, context: int) -> int:
    return max(1, min(training.batch, PROBE_TOKENS // context))


def _time_steps(
    model: nn.Module, training: TrainingConfig, data: Data, length: int, at_most: float
) -> list[float]:
    """Return the seconds of some steps with windows of one length."""
    context = config_of(model).context
    batch = _probe_batch(training, context)
    # A budget of its own: the probe wants some steps, whatever the run's budget will be. Windows
    # grow after half of them.
    probe = replace(
        training, batch=batch, shortest=length, tokens=2 * PROBE_STEPS * batch * context
    )
    state = TrainingState(model, probe)  # the first optimizer is slow to build
    times: list[float] = []
    deadline = time.perf_counter() + at_most
    for report in train(state, data.train, probe):
        times.append(report.seconds)
        if len(times) == PROBE_STEPS or time.perf_counter() > deadline:
            break
    return times


def estimate(config: ModelConfig, training: TrainingConfig, data: Data) -> dict[str, Any]:
    """Return what a run of these configs needs, by counting and by timing some steps.

    ``seconds`` are of steps that aren't compiled, in ``precision``; where the run is ``compiled``,
    in ``run_precision``, it is faster, once the compiler is done.

    Raises:
        TextError: text shorter than the context.
        ConfigError: a precision or a compiler that this model cannot have here.
    """
    data.require(config.context)
    settled = settle(training, config)
    with torch.random.fork_rng(devices=[]):
        model = build_model(config)
    parameters = count_parameters(model)
    steps = training.steps(config.context)
    step_tokens = training.batch * config.context
    # AdamW keeps two numbers a weight, Muon one; the average is one more.
    states = (1 if training.optimizer == "muon" else 2) + bool(training.average)
    seconds, timed = seconds_a_step(model, training, data, at_most=3.0)
    return {
        "parameters": parameters,
        "tokens": training.tokens,
        "steps": steps,
        "memory_bytes": 4 * parameters * (2 + states) + _activation_bytes(config, step_tokens),
        "checkpoint_bytes": 4 * parameters * (1 + states),
        "flops": run_flops(config, training),
        "seconds": seconds * steps,
        "steps_timed": timed,
        "precision": _uncompiled(training, config).precision,
        "compiled": settled.compile == "on",
        "run_precision": settled.precision,
    }


def _activation_bytes(config: ModelConfig, tokens: int) -> int:
    """Return roughly what the backward pass keeps, in bytes, for the tokens of a step."""
    if not isinstance(config, TransformerConfig):
        return 4 * tokens * (8 * config.width + 2 * config.vocab)
    # A block keeps its inputs, their norms, q, k, v, the mixed values, and the hidden layer twice.
    block = 8 * config.width + 2 * config.hidden_
    return 4 * tokens * (config.layers * block + 3 * config.vocab)
