"""What a model is, as data: frozen dataclasses, validated on creation, to and from JSON.

A checkpoint carries one of these beside its weights, so that weights can never be loaded into a
model of another shape.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from qkv.errors import ConfigError, ResourceError
from qkv.models.fields import build, require_positive, require_types

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "ATTENTION_KINDS",
    "ModelConfig",
    "RungConfig",
    "TransformerConfig",
    "config_of",
    "from_json",
    "to_json",
]


ATTENTION_RUNGS = ("one-head", "heads", "feed-forward", "residual", "norm")
"""Kinds of rungs that have attention, and a mask that could be left out."""


@dataclass(frozen=True)
class RungConfig:
    """The size of one rung of the ladder; ``kind`` says which.

    Args:
        kind: the rung's name, a key of :data:`qkv.models.RUNGS`.
        vocab: tokens in the vocabulary, V.
        context: tokens the model sees at most, T.
        width: D, the width of an embedding (ignored by rungs that have none).
        heads: H, attention heads (ignored by rungs that have none); D must be a multiple.
        masked: whether attention is causal. Without the mask a rung cheats: it is trained to say
            the next token while it looks at it, so its loss tells nothing of the text it writes.
        without: the part that is taken out of the rung ``norm``, the only one that has all three.

    Raises:
        ConfigError: a size below 1, heads that do not divide the width, or a mask or a part taken
            from a rung that has none.

    >>> RungConfig("one-head", vocab=65, masked=False).masked
    False
    """

    kind: str
    vocab: int
    context: int = 64
    width: int = 64
    heads: int = 1
    masked: bool = True
    without: Literal["residual", "normalisation", "feed-forward"] | None = None

    def __post_init__(self) -> None:
        require_types(self)
        require_positive(self, "vocab", "context", "width", "heads")
        require_divisible(self.width, self.heads)
        if not self.masked and self.kind not in ATTENTION_RUNGS:
            raise ConfigError(
                f"a {self.kind} without its mask",
                f"one of {', '.join(ATTENTION_RUNGS)}, which have one",
                "leave masked=true, or choose such a rung",
            )
        if self.without is not None and self.kind != "norm":
            raise ConfigError(
                f"a {self.kind} without its {self.without}",
                "the rung norm, which has residual, normalisation and feed-forward",
                "leave without=none, or choose norm",
            )

    @property
    def head_width(self) -> int:
        """C, the width of one head."""
        return self.width // self.heads


@dataclass(frozen=True)
class TransformerConfig:
    """A causal decoder, from GPT-2-like to Llama-like.

    The defaults are the modern recipe: rotary positions, RMSNorm before each sublayer, a norm on
    queries and keys, squared ReLU, no biases.

    Args:
        vocab: tokens in the vocabulary, V.
        context: tokens the model sees at most, T.
        layers: number of blocks.
        width: D, the width of the residual stream.
        heads: H, query heads.
        kv_heads: G, key/value heads, a divisor of H; ``None`` means H.
        head_width: C; ``None`` means D / H.
        hidden: width of the feed-forward layer; ``None`` means 4 D.
        positions: how order enters; ``rotary`` and ``alibi`` act inside attention.
        rotary_theta: base of the rotary wavelengths, in positions.
        norm: ``rms`` or ``layer``.
        norm_eps: added to the mean square (or variance) before its root.
        activation: ``gelu`` is exact, ``gelu_tanh`` GPT-2's approximation, ``relu2`` the square
            of ReLU, ``swiglu`` Llama's gated SiLU (it has a third matrix).
        bias: biases in linear layers, as GPT-2 has them.
        norm_bias: biases in LayerNorm; ``None`` follows ``bias``.
        qk_norm: RMS-normalise each head's queries and keys, with a learned gain.
        tied: the unembedding is the embedding's transpose.
        softcap: attention scores become ``softcap * tanh(score / softcap)``.
        logit_softcap: the same for the final logits.
        window: attend at most to this many last tokens, itself included.
        scale: factor on q·k; ``None`` means 1/sqrt(C).
        dropout: probability, on embeddings and on each sublayer's output, while training.
        zero_init: projections that write to the residual stream start at zero.
        convolution: tokens that a short convolution before attention sums; 1 for none.

    Raises:
        ConfigError: sizes that do not fit together, or a name that is unknown.

    >>> TransformerConfig(vocab=65, width=64, heads=4).kv_heads_
    4
    """

    kind: ClassVar[str] = "transformer"

    vocab: int
    context: int = 64
    layers: int = 4
    width: int = 128
    heads: int = 4
    kv_heads: int | None = None
    head_width: int | None = None
    hidden: int | None = None
    positions: Literal["rotary", "learned", "sinusoidal", "alibi", "none"] = "rotary"
    rotary_theta: float = 10_000.0
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-5
    activation: Literal["relu2", "gelu", "gelu_tanh", "swiglu"] = "relu2"
    bias: bool = False
    norm_bias: bool | None = None
    qk_norm: bool = True
    tied: bool = False
    softcap: float | None = None
    logit_softcap: float | None = None
    window: int | None = None
    scale: float | None = None
    dropout: float = 0.0
    zero_init: bool = True
    convolution: int = 1

    def __post_init__(self) -> None:
        require_types(self)
        require_positive(self, "vocab", "context", "layers", "width", "heads", "norm_eps")
        require_positive(self, "rotary_theta", "convolution")
        require_positive(self, "kv_heads", "head_width", "hidden", "window", optional=True)
        require_positive(self, "softcap", "logit_softcap", "scale", optional=True)
        if self.head_width is None:
            require_divisible(self.width, self.heads)
        if self.heads % self.kv_heads_:
            raise ConfigError(
                f"{self.kv_heads_} key/value heads for {self.heads} heads",
                "a number that divides the heads",
                f"set kv_heads to one of {divisors(self.heads)}",
            )
        if self.positions == "rotary" and self.head_width_ % 2:
            raise ConfigError(
                f"head width {self.head_width_} with rotary positions",
                "an even head width, since channels turn in pairs",
                "change width, heads or head_width",
            )
        if self.positions == "sinusoidal" and self.width % 2:
            raise ConfigError(
                f"width {self.width} with sinusoidal positions",
                "an even width, since sines and cosines come in pairs",
                "change width",
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout {self.dropout}", "a probability in [0, 1)", "set dropout=0")

    @property
    def kv_heads_(self) -> int:
        """G, with the default filled in."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def head_width_(self) -> int:
        """C, with the default filled in."""
        return self.width // self.heads if self.head_width is None else self.head_width

    @property
    def hidden_(self) -> int:
        """Feed-forward width, with the default filled in."""
        return 4 * self.width if self.hidden is None else self.hidden


ATTENTION_KINDS = (*ATTENTION_RUNGS, TransformerConfig.kind)
"""Kinds of models that have heads to look at."""

ModelConfig = RungConfig | TransformerConfig


def config_of(model: nn.Module) -> ModelConfig:
    """Return a model's config; torch's types say of no attribute what it is."""
    return cast("ModelConfig", model.config)


def to_json(config: ModelConfig) -> dict[str, Any]:
    """Return the config as a JSON-able dictionary that names its kind.

    >>> to_json(RungConfig("bigram", vocab=65))["kind"]
    'bigram'
    """
    return {"kind": config.kind, **dataclasses.asdict(config)}


def from_json(data: dict[str, Any]) -> ModelConfig:
    """Return the config that :func:`to_json` wrote.

    Raises:
        ConfigError: unknown fields, missing fields, or values of the wrong type.

    >>> from_json(to_json(TransformerConfig(vocab=65))) == TransformerConfig(vocab=65)
    True
    """
    fields = dict(data)
    kind = fields.get("kind")
    if kind == TransformerConfig.kind:
        del fields["kind"]
        return build(TransformerConfig, fields)
    return build(RungConfig, fields)


def require_memory(config: ModelConfig) -> None:
    """Raise a ResourceError for weights beyond this machine's memory, before any is taken."""
    if isinstance(config, TransformerConfig):
        C, H, G = config.head_width_, config.heads, config.kv_heads_
        block = config.width * ((2 * H + 2 * G) * C + 2 * config.hidden_)
        numbers = config.layers * block + (2 * config.vocab + config.context) * config.width
    else:
        # The bigrams are tables of V²; the others have at most a few matrices a level.
        width, vocab = config.width, config.vocab
        numbers = vocab**2 if "bigram" in config.kind else 3 * width**2 + vocab * width
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # not told on this system
        return
    if 4 * numbers > memory:
        raise ResourceError(
            f"a model of about {numbers:.2g} numbers",
            f"at most {memory / 4:.2g}, which is what {memory / 2**30:.0f} GiB of memory hold",
            "lower layers, width, heads or vocab",
        )


def require_divisible(width: int, heads: int) -> None:
    """Raise a ConfigError where the heads do not divide the width."""
    if width % heads:
        near = divisors(width, 2 * heads)[-3:]
        raise ConfigError(
            f"{heads} heads for width {width}",
            "a number of heads that divides the width",
            f"choose {' or '.join(map(str, near))} heads, or another width",
        )


def divisors(number: int, at_most: int = 1000) -> list[int]:
    """Return the divisors of a number up to a bound, ascending.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    return [count for count in range(1, min(number, at_most, 1000) + 1) if number % count == 0]
