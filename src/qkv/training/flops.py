"""How much work training is, counted."""

from __future__ import annotations

from qkv.models import ModelConfig, TransformerConfig, count_parameters
from qkv.models.assembly import outline
from qkv.training.config import TrainingConfig

__all__ = ["run_flops", "training_flops_per_token"]


def training_flops_per_token(config: ModelConfig, parameters: int) -> int:
    """Return the floating-point operations that one token of training costs.

    Six for each number in a matrix (2 forward, 4 backward; Kaplan et al., 2020), and for attention
    12 · layers · H · C for each of the tokens seen on average: (T + 1)/2, fewer with a window.

    >>> training_flops_per_token(TransformerConfig(vocab=65, layers=1, width=8, heads=1), 1000)
    6000
    """
    if not isinstance(config, TransformerConfig):
        return 6 * parameters
    looked_up = 0 if config.tied else config.vocab * config.width
    width = config.heads * config.head_width_
    T = config.context
    window = min(config.window or T, T)
    seen = window * (2 * T - window + 1) / (2 * T)
    return round(6 * (parameters - looked_up) + 12 * config.layers * width * seen)


def run_flops(config: ModelConfig, training: TrainingConfig) -> int:
    """Return the floating-point operations of a whole run, without building its model.

    >>> run_flops(TransformerConfig(vocab=65, context=16, layers=1, width=8, heads=1),
    ...           TrainingConfig(tokens=64, batch=2))
    562176
    """
    parameters = count_parameters(outline(config))
    tokens = training.steps(config.context) * training.batch * config.context
    return training_flops_per_token(config, parameters) * tokens
