"""Models that map token ids to logits for all positions: the rungs of the ladder, the Transformer.

Nothing here knows who trains or watches a model.
"""

from __future__ import annotations

from torch import nn

from qkv.errors import ConfigError
from qkv.models import blocks, rungs
from qkv.models.config import (
    ModelConfig,
    RungConfig,
    TransformerConfig,
    config_of,
    from_json,
    require_memory,
    to_json,
)
from qkv.models.generate import Sampling, generate
from qkv.models.transformer import Cache, Transformer

__all__ = [
    "RUNGS",
    "Cache",
    "ModelConfig",
    "RungConfig",
    "Sampling",
    "Transformer",
    "TransformerConfig",
    "build_model",
    "count_parameters",
    "from_json",
    "generate",
    "has_attention",
    "sight",
    "to_json",
]

RUNGS: dict[str, type[nn.Module]] = {
    "uniform": rungs.Uniform,
    "bigram-counts": rungs.BigramCounts,
    "bigram": rungs.Bigram,
    "average": rungs.Average,
    "rnn": rungs.RecurrentNetwork,
    "wavenet": rungs.WaveNet,
    "one-head": rungs.OneHead,
    "heads": rungs.ManyHeads,
    "feed-forward": rungs.FeedForward,
    "residual": rungs.Residual,
    "norm": rungs.Normalised,
}
"""Kinds of :class:`RungConfig`, from the lowest rung up."""


def build_model(config: ModelConfig) -> nn.Module:
    """Return an untrained model of this config, its weights from torch's global generator.

    Raises:
        ConfigError: an unknown kind.
        ResourceError: weights that this machine's memory does not hold.

    >>> count_parameters(build_model(RungConfig("bigram", vocab=65)))
    4225
    """
    require_memory(config)
    if isinstance(config, TransformerConfig):
        return Transformer(config)
    if config.kind not in RUNGS:
        raise ConfigError(
            f"a model of kind {config.kind!r}",
            f"one of {', '.join([*RUNGS, TransformerConfig.kind])}",
            "check its name",
        )
    return RUNGS[config.kind](config)


def count_parameters(model: nn.Module) -> int:
    """Return how many numbers the model has learnt (a tied matrix counts once)."""
    return sum(parameter.numel() for parameter in model.parameters())


def has_attention(model: nn.Module) -> bool:
    """Return whether one of our models has heads to look into.

    >>> [has_attention(build_model(RungConfig(kind, vocab=65))) for kind in ("rnn", "one-head")]
    [False, True]
    """
    return any(isinstance(part, blocks.Attention | rungs.Attention) for part in model.modules())


def sight(model: nn.Module) -> int:
    """Return how many tokens a model may look at, the last one included: its context, or fewer.

    >>> sight(build_model(RungConfig("bigram", vocab=65, context=64)))
    1
    """
    return int(getattr(model, "sight", config_of(model).context))
