"""One causal decoder for GPT-2-like and Llama-like models: how blocks are joined.

Axes: B batch, T tokens, D width, H query heads, G key/value heads, C head width, V vocabulary.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.attention import rotary_angles, sinusoidal
from qkv.errors import ShapeError
from qkv.models.blocks import Block, BlockCall, Cache, Norm
from qkv.models.config import TransformerConfig

__all__ = ["Cache", "Transformer", "position_table"]

WRITERS = (".attention.output", ".feed_forward.down")
"""The layers that write to the residual stream."""


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
