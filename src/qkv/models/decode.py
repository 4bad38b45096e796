"""One token at a time, with the same weights in fewer and faster operations.

Generating for one prompt, a step takes as long as it takes to read the weights, which is half a
millisecond for 10 M of them, and to ask for 80 operations. A :class:`Decoder` does what
`Transformer.forward` does for a single position, and is tested to equal it, with

* all that is the same for each token prepared once: rotary tables, constants, buffers, and views
  of the buffers, since a view costs as much as a sum;
* a single sequence as plain vectors, for which torch has faster products (`qkv.models.products`);
* keys that lie transposed, (C, T), so that the scores of one query are a product of rows;
* RMSNorm as x / hypot(|x|, sqrt(D eps)) · (gain · sqrt(D)), the same number in four operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.attention import Window
from qkv.models.products import Precision, exact_product, prepare_product, resolve_precision

if TYPE_CHECKING:
    from qkv.models.blocks import Attention, Block, FeedForward, Norm
    from qkv.models.convolution import ShortConvolution
    from qkv.models.transformer import Transformer

__all__ = ["Decoder"]

Rows = Float[Tensor, "*B D"]
"""(D,) where there is one sequence, else (B, D)."""
Step = Callable[[Tensor], Tensor]


class Decoder:
    """A Transformer made ready to take in one token after another.

    Args:
        model: its weights are used as they are now.
        batch: B, how many sequences.
        precision: of the matrices in the blocks, see `qkv.models.products`; all else, the prompt's
            pass and the logits included, is in the model's own.

    Call it in inference mode; in training use the model itself.
    """

    def __init__(self, model: Transformer, batch: int, precision: Precision = "fp32") -> None:
        config = model.config
        self.model, self.batch = model, batch
        self.precision = resolve_precision(precision, model.tokens)
        self.at = 0
        G, C, T = config.kv_heads_, config.head_width_, config.context
        # Layers first. Keys are transposed.
        self.keys = model.tokens.new_empty(config.layers, batch, G, C, T)
        self.values = model.tokens.new_empty(config.layers, batch, G, T, C)
        self.recent: list[Tensor] = []  # what each convolution saw last, the latest at the end
        self.rotation = rotation(model)
        self.turn: tuple[Tensor, Tensor] | None = None
        self.sublayers: list[Step] = []
        for layer, block in enumerate(cast("list[Block]", list(model.blocks))):
            attend = self._prepare_attention(block.attention, layer)
            think = self._prepare_feed_forward(block.feed_forward)
            for sublayer, (norm, act) in enumerate(
                [(block.attention_norm, attend), (block.feed_forward_norm, think)]
            ):
                prepared = prepare_norm(norm)
                if block.convolutions:
                    convolution = cast("ShortConvolution", block.convolutions[sublayer])
                    prepared = after(prepared, self._prepare_convolution(convolution))
                self.sublayers.append(after(prepared, act))
        weight = model.tokens if model.unembed is None else model.unembed.weight
        self.unembed = after(prepare_norm(model.norm), exact_product(weight, None, batch, None))

    def read(self, prompt: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        """Forget what was seen and take in a prompt; return the logits of the next token."""
        cache = self.model.new_cache(self.batch, length=prompt.shape[1])
        logits: Tensor = self.model(prompt, cache, last=True)[:, -1]
        self.at = cache.tokens
        for layer, (keys, values) in enumerate(zip(cache.keys, cache.values, strict=True)):
            self.keys[layer, ..., : self.at] = keys.mT
            self.values[layer, :, :, : self.at] = values
        for recent, seen in zip(self.recent, cache.recent.values(), strict=True):
            recent.copy_(seen.transpose(0, 1).reshape(recent.shape))
        return logits

    def step(self, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """Take in one token of each sequence; return the logits of the next."""
        model, at = self.model, self.at
        x = model.tokens.index_select(0, tokens)  # (B, D)
        if self.batch == 1:
            x = x.view(-1)
        if model.positions is not None:
            x += model.positions[at]
        elif model.config.positions == "sinusoidal":
            x += model.angles[at]
        if self.rotation is not None:
            self.turn = self.rotation[0][at], self.rotation[1][at]
        for sublayer in self.sublayers:
            x += sublayer(x)
        self.at = at + 1
        logits = self.unembed(x).view(self.batch, -1)
        cap = model.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _prepare_attention(self, attention: Attention, layer: int) -> Step:
        H, G, C = attention.heads, attention.groups, attention.head_width
        B, T = self.batch, self.model.config.context
        heads = self.keys.new_empty(B, H + 2 * G, C)
        project = self._prepare_product(attention.project, out=heads)
        turned, turn = self._prepare_turning(attention, heads[:, : H + G])
        q, k, v = turned[:, :H], turned[:, H:], heads[:, H + G :]
        scaled = torch.empty_like(q, memory_format=torch.contiguous_format)
        queries = scaled.view(B * G, H // G, C)
        scale = 1 / math.sqrt(C) if attention.scale is None else attention.scale
        keys, values = self.keys[layer], self.values[layer]
        all_keys, all_values = keys.flatten(0, 1), values.flatten(0, 1)
        window = attention.mask.size if isinstance(attention.mask, Window) else T
        penalties = None
        if attention.bias is not None:  # of the last T keys, for the query that is the last of them
            table = torch.as_tensor(attention.bias.dense(1, T)).to(keys)  # (H, 1, T)
            penalties = table.view(G, H // G, T).repeat(B, 1, 1)
        softcap = attention.softcap
        output = self._prepare_product(attention.output)
        shape = (H * C,) if B == 1 else (B, H * C)

        def step(normalised: Rows) -> Rows:
            project(normalised)
            turn()
            torch.mul(q, scale, out=scaled)
            keys.select(3, self.at).copy_(k)
            values.select(2, self.at).copy_(v)
            # The last token sees all before it, as far back as a window allows.
            seen = min(self.at + 1, window)
            first = self.at + 1 - seen
            scores = torch.bmm(queries, all_keys.narrow(2, first, seen))
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            if penalties is not None:
                scores += penalties[..., T - seen :]
            mixed = torch.bmm(scores.softmax(-1), all_values.narrow(1, first, seen))
            return output(mixed.view(shape))

        return step

    def _prepare_turning(
        self, attention: Attention, heads: Float[Tensor, "B heads C"]
    ) -> tuple[Float[Tensor, "B heads C"], Callable[[], None]]:
        """Return where QK-norm and rotation leave queries and keys, and what brings them there."""
        C, gain = attention.head_width, attention.gain
        if gain is None and self.rotation is None:
            return heads, lambda: None
        normalise = unchanged if gain is None else rms(C, attention.norm_eps, gain[:, 0])
        turned = torch.empty_like(heads, memory_format=torch.contiguous_format)
        # With the first half once more at the end, (a, b, a): both (a, b) and (b, a) are views.
        twice = heads.new_empty(*heads.shape[:2], C + C // 2)
        plain, swapped = twice[..., :C], twice[..., C // 2 :]
        beginning, end = twice[..., : C // 2], twice[..., C:]

        def turn() -> None:
            if self.turn is None:
                turned.copy_(normalise(heads))
                return
            plain.copy_(normalise(heads))
            end.copy_(beginning)
            cosine, sine = self.turn  # (a, b) -> (a c − b s, b c + a s)
            torch.mul(plain, cosine, out=turned).addcmul_(swapped, sine)

        return turned, turn

    def _prepare_convolution(self, convolution: ShortConvolution) -> Step:
        weight = convolution.weight[:, 0].flip(-1).t().contiguous()  # (K, D), the latest at the end
        rows = (weight.shape[1],) if self.batch == 1 else (self.batch, weight.shape[1])
        window = weight.new_zeros(len(weight), *rows)
        self.recent.append(window[1:])
        weights = weight.view(len(weight), *[1] * (len(rows) - 1), -1)

        def step(x: Rows) -> Rows:
            window[:-1] = window[1:].clone()
            window[-1] = x
            return (window * weights).sum(0)

        return step

    def _prepare_feed_forward(self, layer: FeedForward) -> Step:
        up, down = self._prepare_product(layer.up), self._prepare_product(layer.down)
        if layer.gate is None:
            return lambda x: down(layer.activate(up(x), None))
        gate = self._prepare_product(layer.gate)
        return lambda x: down(layer.activate(up(x), gate(x)))

    def _prepare_product(self, linear: nn.Linear, out: Tensor | None = None) -> Step:
        if out is not None:
            out = out.view(-1) if self.batch == 1 else out.view(self.batch, -1)
        return prepare_product(linear, self.batch, self.precision, out)


def rotation(model: Transformer) -> tuple[Tensor, Tensor] | None:
    """Return cosines and signed sines for all C channels, (T, C) each, or ``None``."""
    if model.config.positions != "rotary":
        return None
    cosine, sine = model.angles.to(model.tokens.dtype)  # (T, C/2)
    return torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1)


def rms(width: int, eps: float, gain: Tensor) -> Step:
    """Return RMSNorm over the last axis with everything constant worked out."""
    floor = torch.full((), math.sqrt(width * eps), dtype=gain.dtype, device=gain.device)
    scaled = gain * math.sqrt(width)

    def normalise(x: Tensor) -> Tensor:
        return x / torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor) * scaled

    return normalise


def prepare_norm(norm: Norm) -> Step:
    """Return a block's norm."""
    weight, bias, eps = norm.weight, norm.bias, norm.eps
    if norm.rms:
        return rms(weight.shape[0], eps, weight)
    shape = tuple(weight.shape)
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps)


def after(norm: Step, sublayer: Step) -> Step:
    """Return x -> sublayer(norm(x))."""
    return lambda x: sublayer(norm(x))


def unchanged(x: Tensor) -> Tensor:
    """Return x."""
    return x
