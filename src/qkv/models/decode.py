"""One token at a time, with the same weights in fewer and faster operations.

Generating for one prompt, a step takes as long as it takes to read the weights, which is half a
millisecond for 10 M of them, and to ask for 140 operations of 1 to 5 µs. For one text in int8 a
kernel in C++ does it all in one call, where there is one (`qkv.models.native_decode`). Otherwise a
:class:`Decoder` does what `Transformer.forward` does for a single position, and is tested to equal
it, with

* all that is the same for each token prepared once: rotary tables, constants, buffers, and views
  of the buffers, since a view costs as much as a sum;
* what depends on the position cut out for all layers at once;
* a single sequence as plain vectors, for which torch has faster products (`qkv.models.products`),
  and each product written or added to where it belongs;
* RMSNorm as x / hypot(|x|, sqrt(D eps)) · (gain · sqrt(D)), the same number in four operations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.models.native_decode import prepare_step
from qkv.models.products import Precision, exact_product, prepare_product, resolve_precision
from qkv.native import load_kernels

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
        config, new = model.config, model.tokens.new_empty
        self.model, self.batch = model, batch
        self.precision = resolve_precision(precision, model.tokens, batch)
        self.at = 0
        D, G, C, T = config.width, config.kv_heads_, config.head_width_, config.context
        # Layers first, then keys and values.
        self.past = new(config.layers, 2, batch, G, T, C)
        # What convolutions see, layers first: K - 1 inputs before the first token.
        layers = config.layers if config.convolution > 1 else 0
        self.inputs = new(layers, T + config.convolution - 1, *self._rows(D))
        self.rotation = rotation(model)
        self.positions = model.angles if config.positions == "sinusoidal" else model.positions
        self.stream = new(*self._rows(D))  # to which every sublayer adds
        weight = model.tokens if model.unembed is None else model.unembed.weight
        self.unembed = after(prepare_norm(model.norm), exact_product(weight, None, batch))
        kernels = load_kernels() if self.precision == "int8" and batch == 1 else None
        if kernels is not None:
            self.take_in = prepare_step(self, kernels)
        else:
            self.take_in = self._prepare_step()

    def read(self, prompt: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        """Forget what was seen and take in a prompt; return the logits of the next token."""
        cache = self.model.new_cache(self.batch, length=prompt.shape[1])
        logits: Tensor = self.model(prompt, cache, last=True)[:, -1]
        self.at = at = cache.tokens
        for layer, (keys, values) in enumerate(zip(cache.keys, cache.values, strict=True)):
            self.past[layer, 0, ..., :at, :] = keys
            self.past[layer, 1, ..., :at, :] = values
        for inputs, seen in zip(self.inputs, cache.recent.values(), strict=True):
            recent = inputs[at : at + seen.shape[1]]
            recent.copy_(seen.transpose(0, 1).reshape(recent.shape))
        return logits

    def step(self, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """Take in one token of each sequence; return the logits of the next."""
        logits = self.take_in(tokens, self.at).view(self.batch, -1)
        self.at += 1
        cap = self.model.config.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _rows(self, width: int) -> tuple[int, ...]:
        """Return the shape of one vector for each sequence."""
        return (width,) if self.batch == 1 else (self.batch, width)

    def _prepare_step(self) -> Callable[[Tensor, int], Tensor]:
        """Return what takes in each sequence's token, (B,), at a position and gives logits."""
        model, x, positions = self.model, self.stream, self.positions
        rows = x.view(self.batch, -1)
        sublayers: list[Step] = []
        for layer, block in enumerate(cast("list[Block]", list(self.model.blocks))):
            attend = self._prepare_attention(block.attention, layer)
            if block.convolution is not None:
                attend = after(self._prepare_convolution(block.convolution, layer), attend)
            think = self._prepare_feed_forward(block.feed_forward)
            sublayers += [
                after(prepare_norm(block.attention_norm), attend),
                after(prepare_norm(block.feed_forward_norm), think),
            ]

        def step(tokens: Tensor, at: int) -> Tensor:
            torch.index_select(model.tokens, 0, tokens, out=rows)
            if positions is not None:
                x.add_(positions[at])
            self.place = Place(self, at)
            for sublayer in sublayers:
                sublayer(x)
            return self.unembed(x)

        return step

    def _prepare_attention(self, attention: Attention, layer: int) -> Step:
        H, G, C = attention.heads, attention.groups, attention.head_width
        B, T = self.batch, self.model.config.context
        heads = self.past.new_empty(B, H + 2 * G, C)
        project = self._prepare_product(attention.project, heads)
        turn = self._prepare_turning(attention, heads[:, : H + G])
        q = heads[:, :H].view(B, G, H // G, C)
        k_and_v = heads[:, H:].view(B, 2, G, C).transpose(0, 1)
        scale = 1 / math.sqrt(C) if attention.scale is None else attention.scale
        scales = torch.full_like(q, scale)  # a number would be made a tensor in each step
        queries = heads.new_empty(B * G, H // G, C)
        scaled = queries.view(q.shape)
        penalties = None
        if attention.bias is not None:  # of the last T keys, for the query that is the last of them
            table = torch.as_tensor(attention.bias.dense(1, T)).to(heads)  # (H, 1, T)
            penalties = table.view(G, H // G, T).repeat(B, 1, 1)
        softcap = attention.softcap
        output = self._prepare_product(attention.output, self.stream, add=True)
        mixed = heads.new_empty(B * G, H // G, C)
        mixed_rows = mixed.view(self._rows(H * C))

        def step(normalised: Rows) -> Rows:
            place = self.place
            project(normalised)
            turn()
            torch.mul(q, scales, out=scaled)
            place.new[layer].copy_(k_and_v)
            scores = torch.bmm(queries, place.keys[layer])
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            if penalties is not None:
                scores += penalties[..., -place.seen :]
            torch.bmm(scores.softmax(-1), place.values[layer], out=mixed)
            return output(mixed_rows)

        return step

    def _prepare_turning(
        self, attention: Attention, heads: Float[Tensor, "B heads C"]
    ) -> Callable[[], None]:
        """Return what normalises and rotates queries and keys where they are."""
        C, gain = attention.head_width, attention.gain
        if gain is None and self.rotation is None:
            return lambda: None
        normalise = copy if gain is None else rms(C, attention.norm_eps, gain[:, 0])
        # With the first half once more at the end, (a, b, a): both (a, b) and (b, a) are views.
        twice = heads.new_empty(*heads.shape[:2], C + C // 2)
        plain, swapped = twice[..., :C], twice[..., C // 2 :]
        beginning, end = twice[..., : C // 2], twice[..., C:]

        def turn() -> None:
            if self.rotation is None:
                normalise(heads, heads)
                return
            normalise(heads, plain)
            end.copy_(beginning)
            cosine, sine = self.place.turn  # (a, b) -> (a c − b s, b c + a s)
            torch.mul(plain, cosine, out=heads).addcmul_(swapped, sine)

        return turn

    def _prepare_convolution(self, convolution: ShortConvolution, layer: int) -> Step:
        weight = convolution.weight[:, 0].flip(-1).t().contiguous()  # (K, D), the latest at the end
        weights = weight.view(len(weight), *[1] * (self.inputs.ndim - 3), -1)

        def step(x: Rows) -> Rows:
            self.place.input[layer].copy_(x)
            return (self.place.inputs[layer] * weights).sum(0)

        return step

    def _prepare_feed_forward(self, layer: FeedForward) -> Step:
        rows = self._rows(layer.up.out_features)
        hidden = self.stream.new_empty(rows)
        up = self._prepare_product(layer.up, hidden)
        down = self._prepare_product(layer.down, self.stream, add=True)
        if layer.gate is None:
            # Halves side by side: what isn't contiguous is spared oneDNN's GELU, which takes four
            # times as long for so few numbers.
            sides = hidden.view(math.gcd(2, hidden.numel()), -1).mT

            def step(x: Rows) -> Rows:
                up(x)
                return down(layer.activate(sides, None).mT.reshape(rows))

            return step
        gate = self._prepare_product(layer.gate)
        return lambda x: down(layer.activate(up(x), gate(x)))

    def _prepare_product(
        self, linear: nn.Linear, out: Tensor | None = None, *, add: bool = False
    ) -> Step:
        if out is not None:
            out = out.view(self._rows(linear.out_features))
        return prepare_product(linear, self.batch, self.precision, out, add=add)


class Place:
    """Where a token stands: the parts of a decoder's buffers that its step writes and reads.

    Cut out for all layers at once, which takes as long as for one.
    """

    def __init__(self, decoder: Decoder, at: int) -> None:
        config = decoder.model.config
        # The last token sees all before it, as far back as a window allows.
        self.seen = min(at + 1, config.window or at + 1)
        first = at + 1 - self.seen
        self.new = decoder.past.select(4, at).unbind()
        seen = decoder.past.narrow(4, first, self.seen).flatten(2, 3)
        self.keys = seen.select(1, 0).mT.unbind()
        self.values = seen.select(1, 1).unbind()
        if config.convolution > 1:
            self.input = decoder.inputs.select(1, at + config.convolution - 1).unbind()
            self.inputs = decoder.inputs.narrow(1, at, config.convolution).unbind()
        if decoder.rotation is not None:
            self.turn = decoder.rotation[0][at], decoder.rotation[1][at]


def rotation(model: Transformer) -> tuple[Tensor, Tensor] | None:
    """Return cosines and signed sines for all C channels, (T, C) each, or ``None``."""
    if model.config.positions != "rotary":
        return None
    cosine, sine = model.angles.to(model.tokens.dtype)  # (T, C/2)
    return torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1)


def rms(width: int, eps: float, gain: Tensor) -> Callable[..., Tensor]:
    """Return RMSNorm over the last axis with everything constant worked out."""
    floor = torch.full((), math.sqrt(width * eps), dtype=gain.dtype, device=gain.device)
    scaled = gain * math.sqrt(width)

    def normalise(x: Tensor, out: Tensor | None = None) -> Tensor:
        norm = torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), floor)
        return torch.mul(x / norm, scaled, out=out)

    return normalise


def prepare_norm(norm: Norm) -> Step:
    """Return a block's norm."""
    weight, bias, eps = norm.weight, norm.bias, norm.eps
    if norm.rms:
        return rms(weight.shape[0], eps, weight)
    shape = tuple(weight.shape)
    return lambda x: torch.layer_norm(x, shape, weight, bias, eps)


def after(first: Step, second: Step) -> Step:
    """Return x -> second(first(x))."""
    return lambda x: second(first(x))


def copy(x: Tensor, out: Tensor) -> Tensor:
    """Write x to ``out``."""
    return out.copy_(x)
