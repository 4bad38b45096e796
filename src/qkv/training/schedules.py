"""What changes over a run, rates and lengths of windows: pure functions of the step."""

from __future__ import annotations

from typing import NamedTuple

from qkv.errors import ConfigError
from qkv.training.config import TrainingConfig

__all__ = ["Windows", "rate_factor", "windows_at"]


class Windows(NamedTuple):
    """The windows of text that a step is trained on: a stage of the run."""

    first_step: int
    batch: int
    tokens: int


def windows_at(step: int, steps: int, config: TrainingConfig, context: int) -> Windows:
    """Return how long a step's windows are, and how many: always the same tokens in all.

    They start at ``shortest`` tokens and are doubled after half of the steps, after half of those
    that are left, and so on, up to the context. Short windows teach more a token at first: most of
    what can be learnt early lies near, and a step sees more places of the text.

    Raises:
        ConfigError: windows that the context is not a doubling of.

    >>> config = TrainingConfig(batch=4, shortest=64)
    >>> [windows_at(step, 100, config, 256)[1:] for step in (0, 49, 50, 75, 99)]
    [(16, 64), (16, 64), (8, 128), (4, 256), (4, 256)]
    """
    first, tokens = 0, min(config.shortest or context, context)
    times, rest = divmod(context, tokens)
    if rest or times.bit_count() != 1:  # no power of two
        raise ConfigError(
            f"windows of {tokens} tokens at first for a context of {context}",
            "the context halved so many times, or 0 for none",
            f"try --set shortest={context // 4 if context % 4 == 0 else 0}",
        )
    while tokens < context:
        after = first + (steps - first + 1) // 2
        if step < after:
            break
        first, tokens = after, min(2 * tokens, context)
    return Windows(first, config.batch * context // tokens, tokens)


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
