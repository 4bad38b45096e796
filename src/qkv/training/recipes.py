"""Presets: what `qkv train --preset` and the ladder train, and why.

The rungs share one width, one context, one batch and one optimizer, so that a step from one rung
to the next shows what that one change gives. The Transformer alone has the modern recipe.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from qkv.errors import ConfigError, TextError
from qkv.models.config import ModelConfig, RungConfig, TransformerConfig
from qkv.models.fields import build, parse_setting
from qkv.training.config import TrainingConfig
from qkv.training.data import Data

__all__ = ["LADDER", "PRESETS", "Preset", "configure", "find_preset", "require_enough"]


@dataclass(frozen=True)
class Preset:
    """A named recipe.

    Args:
        name: as typed on the command line.
        title: as shown in the table.
        about: one line.
        kind: ``transformer`` or a rung's kind.
        model: its fields but for the vocabulary.
        training: its fields that differ from the defaults.
    """

    name: str
    title: str
    about: str
    kind: str
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


MOST_EPOCHS = 10
"""How often a recipe may read a text; Shakespeare's, read twice, is as good as it gets."""

RUNG = {"context": 64, "width": 64, "heads": 8}
ADAMW = {"learning_rate": 0.01}
MUON = {"optimizer": "muon", "momentum": 0.9, "learning_rate": 0.01}

LADDER = [
    Preset("uniform", "uniform guess", "every token alike: ln V", "uniform", {"context": 64}),
    Preset("bigram-counts", "bigram, counted", "which token follows which", "bigram-counts",
           {"context": 64}),
    Preset("bigram", "bigram, learnt", "the same table by gradient descent", "bigram",
           {"context": 64}, {"learning_rate": 0.1}),
    Preset("average", "average of the past", "attention with equal weights", "average", RUNG,
           ADAMW),
    Preset("rnn", "RNN", "one state of fixed size", "rnn", {**RUNG, "width": 128}, ADAMW),
    Preset("wavenet", "WaveNet", "a fixed tree of pairs", "wavenet", RUNG, ADAMW),
    Preset("one-head", "one head", "each token asks one question", "one-head", RUNG, ADAMW),
    Preset("heads", "several heads", "several questions at once, and W_O", "heads", RUNG, ADAMW),
    Preset("feed-forward", "+ feed-forward", "then each token thinks alone", "feed-forward", RUNG,
           ADAMW),
    Preset("residual", "+ residual", "each sublayer adds to what it got", "residual", RUNG, ADAMW),
    Preset("norm", "+ normalisation", "each sum is normalised", "norm", RUNG, ADAMW),
    Preset("transformer", "Transformer", "several blocks and the modern recipe", "transformer",
           {"context": 64, "layers": 3, "width": 96, "heads": 3}, MUON),
]  # fmt: skip
"""The rungs, from the lowest up."""

PRESETS = [
    *LADDER,
    Preset("tiny", "tiny Transformer", "0.1 M parameters, context 64: seconds",
           "transformer",
           {"context": 64, "layers": 2, "width": 64, "heads": 2, "convolution": 3},
           {**MUON, "learning_rate": 0.03, "muon_learning_rate": 0.04, "iterations": 3,
            "batch": 24, "tokens": 350_000}),
    Preset("small", "small Transformer", "2.7 M parameters, context 256: minutes",
           "transformer",
           {"context": 256, "layers": 6, "width": 192, "heads": 3, "convolution": 3},
           {**MUON, "learning_rate": 0.008, "batch": 8, "shortest": 64, "tokens": 2_000_000,
            "evaluate_every": 500, "sample_every": 500, "save_every": 500}),
    Preset("gpt2", "GPT-2 small's shape", "124 M parameters with a vocabulary of 50,257: for a GPU",
           "transformer",
           {"context": 1024, "layers": 12, "width": 768, "heads": 12, "positions": "learned",
            "norm": "layer", "activation": "gelu_tanh", "bias": True, "qk_norm": False,
            "tied": True, "zero_init": False},
           {"learning_rate": 6e-4, "weight_decay": 0.1, "beta2": 0.95, "batch": 32,
            "tokens": 2_500_000_000, "evaluate_every": 500, "sample_every": 500}),
]  # fmt: skip


def find_preset(name: str) -> Preset:
    """Return a preset by name.

    Raises:
        ConfigError: no such preset.
    """
    for preset in PRESETS:
        if preset.name == name:
            return preset
    raise ConfigError(
        f"the preset {name!r}",
        f"one of {', '.join(preset.name for preset in PRESETS)}",
        "check its name",
    )


def require_enough(preset: Preset, tokens: int, data: Data) -> None:
    """Raise a TextError for a text that the recipe would learn by heart.

    The rungs are spared: what they show, they show on any text.

    Args:
        preset: the recipe.
        tokens: its budget.
        data: what it would be trained on.
    """
    there = len(data.train)
    if preset in LADDER or tokens <= MOST_EPOCHS * there:
        return
    others = [
        other
        for other in PRESETS
        if other not in LADDER and other.training["tokens"] <= MOST_EPOCHS * there
    ]
    advice = f"try --preset {others[-1].name}" if others else "take a longer text"
    raise TextError(
        f"{there:,} tokens to train on, which the preset {preset.name} would read "
        f"{tokens / there:,.0f} times and learn by heart",
        f"{math.ceil(tokens / MOST_EPOCHS):,} or more",
        f"{advice}, or --budget {MOST_EPOCHS * there}",
    )


def configure(
    preset: Preset,
    vocab: int,
    settings: dict[str, str] | None = None,
    **training: Any,
) -> tuple[ModelConfig, TrainingConfig]:
    """Return the configs of a preset for a vocabulary, with settings written as text laid over.

    Args:
        preset: the recipe.
        vocab: V.
        settings: ``name -> value`` of any field of the model or of training.
        training: fields of training, laid over the preset's and under the settings.

    Raises:
        ConfigError: an unknown field, or a value out of place.

    >>> model, training = configure(find_preset("transformer"), 65, {"layers": "2", "seed": "7"})
    >>> model.layers, training.seed
    (2, 7)
    """
    cls: type[Any] = TransformerConfig if preset.kind == TransformerConfig.kind else RungConfig
    model: dict[str, Any] = {**preset.model, "vocab": vocab}
    if cls is RungConfig:
        model["kind"] = preset.kind
    trained: dict[str, Any] = {**preset.training, **training}
    fixed = {"vocab", "kind"}
    model_fields = set(cls.__dataclass_fields__) - fixed
    training_fields = set(TrainingConfig.__dataclass_fields__)
    for name, text in (settings or {}).items():
        if name in model_fields:
            model[name] = parse_setting(cls, name, text)
        elif name in training_fields:
            trained[name] = parse_setting(TrainingConfig, name, text)
        else:
            raise ConfigError(
                f"the setting {name!r}",
                f"one of {', '.join(sorted(model_fields | training_fields))}",
                "check its spelling"
                if name not in fixed
                else f"{name} comes from the text or preset",
            )
    return build(cls, model), build(TrainingConfig, trained)
