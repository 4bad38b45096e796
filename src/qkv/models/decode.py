"""One token at a time, with the same weights in fewer and larger operations.

Generating for one prompt, a step is over before Python has finished asking for it: reading the
weights of a 10 M model takes 1 ms, and 80 small operations a layer take longer. A :class:`Decoder`
does what `Transformer.forward` does for a single position, and is tested to equal it, with

* everything that is the same for each token prepared once: rotary tables, constants;
* RMSNorm as x / hypot(|x|, sqrt(D eps)) · (gain · sqrt(D)), the same number in four operations;
* the residual sum inside the matrix product, by ``addmm``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from qkv.attention import Causal
from qkv.attention.fused import attend

if TYPE_CHECKING:
    from qkv.models.transformer import Attention, Block, Cache, FeedForward, Norm, Transformer

__all__ = ["Decoder"]

Rows = Float[Tensor, "B D"]


class Decoder:
    """A Transformer made ready to take in one token after another.

    Args:
        model: its weights are used as they are now.
        cache: filled by a forward pass over the prompt; the decoder goes on writing to it.

    Call it without gradients; in training use the model itself.
    """

    def __init__(self, model: Transformer, cache: Cache) -> None:
        self.model, self.cache = model, cache
        self.rotation = rotation(model)
        self.blocks = [
            (
                prepare_norm(block.attention_norm),
                self._prepare_attention(block.attention, layer),
                prepare_norm(block.feed_forward_norm),
                prepare_feed_forward(block.feed_forward),
            )
            for layer, block in enumerate(cast("list[Block]", list(model.blocks)))
        ]

    def step(self, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """Take in one token of each sequence; return the logits of the next."""
        model, at = self.model, self.cache.tokens
        x = F.embedding(tokens, model.tokens)  # (B, D)
        if model.positions is not None:
            x = x + model.positions[at]
        elif model.config.positions == "sinusoidal":
            x = x + model.angles[at]
        for attention_norm, attention, feed_forward_norm, feed_forward in self.blocks:
            x = attention(x, attention_norm(x), at)
            x = feed_forward(x, feed_forward_norm(x))
        self.cache.tokens = at + 1
        return model.logits(x)

    def _prepare_attention(
        self, attention: Attention, layer: int
    ) -> Callable[[Rows, Rows, int], Rows]:
        H, G, C = attention.heads, attention.groups, attention.head_width
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        weight, bias = attention.project.weight, attention.project.bias
        add_output = adding(attention.output)
        # One query is the last token, and the past is all that a causal mask leaves it.
        mask = None if isinstance(attention.mask, Causal) else attention.mask
        normalise = None
        if attention.gain is not None:
            normalise = rms(C, attention.norm_eps, attention.gain[:, 0])

        def attention_step(x: Rows, normalised: Rows, at: int) -> Rows:
            heads = F.linear(normalised, weight, bias).view(-1, H + 2 * G, C)
            turning = heads[:, : H + G]
            if normalise is not None:
                turning = normalise(turning)
            if self.rotation is not None:
                # Each half-channel and its partner change places: (a, b) -> (a c − b s, b c + a s).
                cosine, sine = self.rotation
                swapped = torch.roll(turning, C // 2, -1)
                turning = torch.addcmul(turning * cosine[at], swapped, sine[at])
            keys.select(2, at).copy_(turning[:, H:])
            values.select(2, at).copy_(heads[:, H + G :])
            mixed = attend(
                turning[:, :H].unsqueeze(2),
                keys.narrow(2, 0, at + 1),
                values.narrow(2, 0, at + 1),
                mask=mask,
                bias=attention.bias,
                scale=attention.scale,
                softcap=attention.softcap,
            )
            return add_output(x, mixed.reshape(-1, H * C))

        return attention_step


def rotation(model: Transformer) -> tuple[Tensor, Tensor] | None:
    """Return cosines and signed sines for all C channels, (T, C) each, or ``None``."""
    if model.config.positions != "rotary":
        return None
    cosine, sine = model.angles.to(model.tokens.dtype)  # (T, C/2)
    return torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1)


def rms(width: int, eps: float, gain: Tensor) -> Callable[[Tensor], Tensor]:
    """Return RMSNorm over the last axis with everything constant worked out."""
    floor = torch.full((), math.sqrt(width * eps), dtype=gain.dtype, device=gain.device)
    scaled = gain * math.sqrt(width)

    def normalise(x: Tensor) -> Tensor:
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor) * scaled

    return normalise


def prepare_norm(norm: Norm) -> Callable[[Rows], Rows]:
    """Return a block's norm for single rows."""
    weight, bias, eps = norm.weight, norm.bias, norm.eps
    if norm.rms:
        return rms(weight.shape[0], eps, weight)
    return lambda x: F.layer_norm(x, weight.shape, weight, bias, eps)


def prepare_feed_forward(layer: FeedForward) -> Callable[[Rows, Rows], Rows]:
    """Return x and its normalised copy -> x + feed_forward(copy)."""
    add_down = adding(layer.down)
    weight, bias = layer.up.weight, layer.up.bias

    def step(x: Rows, normalised: Rows) -> Rows:
        hidden = F.linear(normalised, weight, bias)
        return add_down(x, layer.activate(hidden, normalised))

    return step


def adding(linear: torch.nn.Linear) -> Callable[[Rows, Rows], Rows]:
    """Return x, y -> x + linear(y), in one operation where there is no bias."""
    bias: Tensor | None = linear.bias
    if bias is not None:
        return lambda x, y: x + linear(y)
    transposed = linear.weight.t()
    return lambda x, y: torch.addmm(x, y, transposed)
