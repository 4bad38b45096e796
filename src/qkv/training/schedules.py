"""Learning rates over a run: a pure function of the step."""

from __future__ import annotations

from qkv.training.config import TrainingConfig

__all__ = ["rate_factor"]


def rate_factor(step: int, steps: int, config: TrainingConfig) -> float:
    """Return the factor on the peak learning rate at a step: up, flat, down (a trapezoid).

    Args:
        step: from 0 to ``steps`` - 1.
        steps: of the whole run.
        config: its ``warmup``, ``decay`` and ``final_rate`` are used.

    >>> config = TrainingConfig(warmup=0.2, decay=0.4, final_rate=0.0)
    >>> [round(rate_factor(step, 10, config), 2) for step in range(10)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    warm = config.warmup * steps
    falling = config.decay * steps
    rise = (step + 1) / warm if step + 1 < warm else 1.0
    left = steps - step
    fall = left / falling if left < falling else 1.0
    return min(rise, config.final_rate + (1 - config.final_rate) * fall)
