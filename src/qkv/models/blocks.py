"""The parts of a decoder: norm, attention, feed-forward layer, and the block they make.

The mathematics of attention is `qkv.attention`'s. Weights live in modules, nothing else does: the
cache and the rotary angles are arguments.

Axes: B batch, T tokens, D width, H query heads, G key/value heads, C head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.attention import (
    ALiBi,
    Causal,
    Window,
    alibi_slopes,
    rotate,
)
from qkv.attention.fused import attend
from qkv.models.config import TransformerConfig
from qkv.models.convolution import ShortConvolution
from qkv.models.norms import rms_norm

__all__ = [
    "Angles",
    "Attention",
    "Block",
    "BlockCall",
    "Cache",
    "FeedForward",
    "Norm",
    "Product",
    "apply",
]

Angles: TypeAlias = tuple[Tensor, Tensor]
"""Cosines and sines, to be broadcast to (*B, heads, C/2)."""

Places: TypeAlias = Int[Tensor, "N 1"]
"""Where each of N tokens stands in its text, from 0."""

Product: TypeAlias = Callable[[nn.Linear, Tensor], Tensor]
"""How a linear layer is applied: as it is, unless training has a faster way."""

BlockCall: TypeAlias = Callable[["Block", Tensor, "Angles | None"], Tensor]
"""How a block is run without a cache."""


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
        recent: what short convolutions saw last: one (B, span - 1, D) a layer; none while no
            position is filled.
    """

    keys: list[Tensor]
    values: list[Tensor]
    tokens: int = 0
    recent: dict[int, Tensor] = field(default_factory=dict)

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

    def convolve(
        self, layer: int, convolution: ShortConvolution, x: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T D"]:
        """Apply a layer's convolution to new tokens, and keep the last."""
        B, _, D = x.shape
        past = self.recent[layer] if self.tokens else x.new_zeros(B, convolution.span - 1, D)
        self.recent[layer] = torch.cat([past, x], dim=1)[:, x.shape[1] :]
        return convolution(x, past)  # type: ignore[no-any-return]


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
        span = config.convolution
        self.convolution = ShortConvolution(config.width, span) if span > 1 else None

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        angles: Angles | None,
        cache: Cache | None,
        layer: int,
    ) -> Float[Tensor, "B T D"]:
        seen = self.attention_norm(x)
        if self.convolution is not None:
            if cache is None:
                seen = self.convolution(seen)
            else:
                seen = cache.convolve(layer, self.convolution, seen)
        x = x + self.drop(self.attention(seen, angles, cache, layer))
        return x + self.drop(self.feed_forward(self.feed_forward_norm(x)))

    # The same in two halves, for training, on the tokens of all texts in one row: a compiler can
    # then fuse each half, whatever the lengths of the texts.

    def before(
        self, x: Float[Tensor, "N D"], places: Places, angles: Angles | None, product: Product
    ) -> tuple[Float[Tensor, "N H C"], Float[Tensor, "N G C"], Float[Tensor, "N G C"]]:
        """What comes before heads look at the past: each token's queries, keys and values."""
        seen = self.attention_norm(x)
        if self.convolution is not None:
            seen = self.convolution.flat(seen, places)
        return self.attention.heads_of(seen, angles, product)

    def after(
        self, x: Float[Tensor, "N D"], mixed: Float[Tensor, "N HC"], product: Product
    ) -> Float[Tensor, "N D"]:
        """What comes after it: W_O and the feed-forward layer, each added to the stream."""
        x = x + self.drop(product(self.attention.output, mixed))
        return x + self.drop(self.feed_forward.think(self.feed_forward_norm(x), product))

    def drop(self, x: Tensor) -> Tensor:
        """Apply dropout while training."""
        return F.dropout(x, self.dropout, self.training) if self.dropout else x
