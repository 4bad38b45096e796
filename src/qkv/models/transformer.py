"""One causal decoder for GPT-2-like and Llama-like models.

The mathematics of attention is `qkv.attention`'s; what stands here is how blocks are joined.
Weights live in modules, nothing else does: the cache and the rotary angles are arguments.

Axes: B batch, T tokens, D width, H query heads, G key/value heads, C head width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.attention import (
    ALiBi,
    Causal,
    Window,
    alibi_slopes,
    rotary_angles,
    rotate,
    sinusoidal,
)
from qkv.attention.fused import attend
from qkv.errors import ShapeError
from qkv.models.config import TransformerConfig
from qkv.models.norms import rms_norm

__all__ = ["Cache", "Transformer"]

Angles: TypeAlias = tuple[Tensor, Tensor]
"""Cosines and sines, to be broadcast to (*B, heads, C/2)."""

Product: TypeAlias = Callable[[nn.Linear, Tensor], Tensor]
"""How a linear layer is applied: as it is, unless training has a faster way."""

BlockCall: TypeAlias = Callable[["Block", Tensor, "Angles | None"], Tensor]
"""How a block is run without a cache."""

WRITERS = (".attention.output", ".feed_forward.down")
"""The layers that write to the residual stream."""


def apply(linear: nn.Linear, x: Tensor) -> Tensor:
    """Apply a layer as it is."""
    applied: Tensor = linear(x)
    return applied


@dataclass
class Cache:
    """Keys and values of the tokens seen so far, in buffers of the full length.

    Args:
        keys: one (B, G, length, C) buffer a layer; rotary positions are already applied.
        values: likewise.
        tokens: how many positions are filled.
    """

    keys: list[Tensor]
    values: list[Tensor]
    tokens: int = 0

    @property
    def capacity(self) -> int:
        """How many positions fit."""
        return self.keys[0].shape[2]

    def append(
        self, layer: int, k: Float[Tensor, "B G T C"], v: Float[Tensor, "B G T C"]
    ) -> tuple[Float[Tensor, "B G K C"], Float[Tensor, "B G K C"]]:
        """Write T new keys and values of a layer; return all that are filled, the new included.

        ``tokens`` moves on once a forward pass, not once a layer.
        """
        end = self.tokens + k.shape[2]
        keys, values = self.keys[layer], self.values[layer]
        keys.narrow(2, self.tokens, k.shape[2]).copy_(k)
        values.narrow(2, self.tokens, v.shape[2]).copy_(v)
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)


class Norm(nn.Module):
    """RMSNorm (Zhang and Sennrich, 2019) or LayerNorm (Ba et al., 2016), over the last axis."""

    def __init__(self, width: int, config: TransformerConfig) -> None:
        super().__init__()
        bias = config.bias if config.norm_bias is None else config.norm_bias
        self.rms = config.norm == "rms"
        self.eps = config.norm_eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias and not self.rms else None

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        if self.rms:
            return rms_norm(x, self.weight, self.eps)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Attention(nn.Module):
    """Grouped-query causal attention with optional rotary positions, QK-norm, window, softcap."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        C, H, G = config.head_width_, config.heads, config.kv_heads_
        self.heads, self.groups = H, G
        self.head_width, self.scale, self.softcap = C, config.scale, config.softcap
        self.mask = Causal() if config.window is None else Window(config.window)
        self.bias = ALiBi(tuple(alibi_slopes(H))) if config.positions == "alibi" else None
        # One matrix for q, k and v: one larger product is faster than three.
        self.project = nn.Linear(config.width, (H + 2 * G) * C, bias=config.bias)
        self.output = nn.Linear(H * C, config.width, bias=config.bias)
        # A gain for each head and channel, the query heads first.
        self.gain = nn.Parameter(torch.ones(H + G, 1, C)) if config.qk_norm else None
        self.norm_eps = config.norm_eps

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        angles: Angles | None,
        cache: Cache | None,
        layer: int,
    ) -> Float[Tensor, "B T D"]:
        q, k, v = (heads.transpose(1, 2) for heads in self.heads_of(x, angles, apply))
        if cache is not None:
            k, v = cache.append(layer, k, v)
        output: Tensor = self.output(self.mix(q, k, v).transpose(1, 2).flatten(2))
        return output

    def heads_of(
        self, x: Float[Tensor, "*B D"], angles: Angles | None, product: Product
    ) -> tuple[Float[Tensor, "*B H C"], Float[Tensor, "*B G C"], Float[Tensor, "*B G C"]]:
        """Return each token's queries, keys and values, normalised and turned where they are."""
        heads = product(self.project, x).view(*x.shape[:-1], -1, self.head_width)
        # Queries and keys stay together while the same is done to both.
        turning, v = heads.tensor_split((self.heads + self.groups,), dim=-2)
        if self.gain is not None:
            turning = rms_norm(turning, None, self.norm_eps) * self.gain[:, 0]
        if angles is not None:
            turning = rotate(turning, *angles)
        # Under autocast gains and angles are fp32 still, and attention wants one type.
        q, k = turning.to(v.dtype).tensor_split((self.heads,), dim=-2)
        return q, k, v

    def mix(
        self, q: Float[Tensor, "B H Q C"], k: Float[Tensor, "B G K C"], v: Float[Tensor, "B G K C"]
    ) -> Float[Tensor, "B H Q C"]:
        """Return what each head reads from the values."""
        return attend(
            q, k, v, mask=self.mask, bias=self.bias, scale=self.scale, softcap=self.softcap
        )


class FeedForward(nn.Module):
    """Two layers with a nonlinearity between; SwiGLU (Shazeer, 2020) has a third, as a gate."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.up = nn.Linear(config.width, config.hidden_, bias=config.bias)
        self.gate = (
            nn.Linear(config.width, config.hidden_, bias=config.bias)
            if config.activation == "swiglu"
            else None
        )
        self.down = nn.Linear(config.hidden_, config.width, bias=config.bias)

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        return self.think(x, apply)

    def think(self, x: Float[Tensor, "*B D"], product: Product) -> Float[Tensor, "*B D"]:
        """Return what the layer adds to the stream."""
        gate = None if self.gate is None else product(self.gate, x)
        return product(self.down, self.activate(product(self.up, x), gate))

    def activate(
        self, hidden: Float[Tensor, "*B hidden"], gate: Float[Tensor, "*B hidden"] | None
    ) -> Float[Tensor, "*B hidden"]:
        """Apply the nonlinearity, to the gate where there is one."""
        if gate is not None:
            return F.silu(gate) * hidden
        if self.activation == "relu2":
            return F.relu(hidden).square()
        return F.gelu(hidden, approximate="tanh" if self.activation == "gelu_tanh" else "none")


class Block(nn.Module):
    """Attention, then the feed-forward layer, each on a normalised copy and added back."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = Norm(config.width, config)
        self.attention = Attention(config)
        self.feed_forward_norm = Norm(config.width, config)
        self.feed_forward = FeedForward(config)
        self.dropout = config.dropout

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        angles: Angles | None,
        cache: Cache | None,
        layer: int,
    ) -> Float[Tensor, "B T D"]:
        x = x + self.drop(self.attention(self.attention_norm(x), angles, cache, layer))
        return x + self.drop(self.feed_forward(self.feed_forward_norm(x)))

    # The same in two halves of which each treats every token alone, for training: a compiler can
    # then fuse each half, whatever the lengths of the texts.

    def before(
        self, x: Float[Tensor, "N D"], angles: Angles | None, product: Product
    ) -> tuple[Float[Tensor, "N H C"], Float[Tensor, "N G C"], Float[Tensor, "N G C"]]:
        """What comes before tokens look at one another: their queries, keys and values."""
        return self.attention.heads_of(self.attention_norm(x), angles, product)

    def after(
        self, x: Float[Tensor, "N D"], mixed: Float[Tensor, "N HC"], product: Product
    ) -> Float[Tensor, "N D"]:
        """What comes after it: W_O and the feed-forward layer, each added to the stream."""
        x = x + self.drop(product(self.attention.output, mixed))
        return x + self.drop(self.feed_forward.think(self.feed_forward_norm(x), product))

    def drop(self, x: Tensor) -> Tensor:
        """Apply dropout while training."""
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Transformer(nn.Module):
    """A causal Transformer decoder: token ids in, logits for every position out.

    Args:
        config: what to build; weights are drawn from torch's global generator.

    >>> from qkv.models.config import TransformerConfig
    >>> model = Transformer(TransformerConfig(vocab=65, context=16, layers=2, width=24, heads=3))
    >>> model(torch.zeros(1, 5, dtype=torch.long)).shape
    torch.Size([1, 5, 65])
    """

    angles: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Parameter(torch.empty(config.vocab, config.width))
        self.positions = (
            nn.Parameter(torch.empty(config.context, config.width))
            if config.positions == "learned"
            else None
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = Norm(config.width, config)
        self.unembed = None if config.tied else nn.Linear(config.width, config.vocab, bias=False)
        self.register_buffer("angles", position_table(config), persistent=False)
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw the weights anew: GPT-2's 0.02 where tied, else scaled by width.

        With ``zero_init`` whatever writes to the residual stream, and the unembedding, starts at
        zero: every block is the identity, and the loss of the untrained model is ln V.
        """
        config = self.config
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.tokens, std=0.02 if config.tied else 1.0)
        if self.positions is not None:
            nn.init.normal_(self.positions, std=0.02)
        for name, writer in self.named_modules():
            if not isinstance(writer, nn.Linear) or not name.endswith(WRITERS):
                continue
            if config.zero_init:
                nn.init.zeros_(writer.weight)
            else:
                writer.weight.div_(math.sqrt(2 * config.layers))
        if self.unembed is not None and config.zero_init:
            nn.init.zeros_(self.unembed.weight)

    def new_cache(self, batch: int, length: int | None = None) -> Cache:
        """Return an empty cache for ``batch`` sequences of ``length`` tokens (the context)."""
        config = self.config
        shape = (batch, config.kv_heads_, length or config.context, config.head_width_)
        buffers = [[self.tokens.new_empty(shape) for _ in range(config.layers)] for _ in range(2)]
        return Cache(keys=buffers[0], values=buffers[1])

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        cache: Cache | None = None,
        last: bool = False,
        call: BlockCall | None = None,
    ) -> Float[Tensor, "B read V"]:
        """Return logits for every position; with a cache, for the positions after its tokens.

        ``last`` keeps only the final position, (B, 1, V): all that generation needs. ``call`` runs
        each block in another way that gives the same, as training does (no cache then).

        Raises:
            ShapeError: more tokens than the context holds.
        """
        start = 0 if cache is None else cache.tokens
        end = start + tokens.shape[1]
        limit = self.config.context if cache is None else min(self.config.context, cache.capacity)
        if end > limit:
            raise ShapeError(
                f"{end} tokens", f"at most the context of {limit}", "give the last tokens only"
            )
        x = F.embedding(tokens, self.tokens)  # (B, T, D)
        angles = None
        if self.positions is not None:
            x = x + self.positions[start:end]
        elif self.config.positions == "sinusoidal":
            x = x + self.angles[start:end]
        elif self.config.positions == "rotary":
            cosine, sine = self.angles[:, start:end, None].to(x.dtype)  # (T, 1, C/2)
            angles = (cosine, sine)
        if self.config.dropout:
            x = F.dropout(x, self.config.dropout, self.training)
        for layer, block in enumerate(self.blocks):
            if call is None:
                x = block(x, angles, cache, layer)
            else:
                x = call(cast("Block", block), x, angles)
        if cache is not None:
            cache.tokens = end
        return self.logits(x[:, -1:] if last else x)

    def logits(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
        """Normalise the stream and read off each vocabulary entry's logit."""
        weight = self.tokens if self.unembed is None else self.unembed.weight
        logits = F.linear(self.norm(x), weight)
        cap = self.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)


def position_table(config: TransformerConfig) -> Tensor:
    """Return what the model's positions need, computed once: (2, T, C/2) angles or (T, D) waves."""
    if config.positions == "rotary":
        cosine, sine = rotary_angles(
            range(config.context), config.head_width_, theta=config.rotary_theta
        )
        return torch.stack([torch.as_tensor(cosine), torch.as_tensor(sine)]).float()
    if config.positions == "sinusoidal":
        return torch.as_tensor(sinusoidal(config.context, config.width)).float()
    return torch.empty(0)
