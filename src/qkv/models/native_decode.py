"""A decoder's step run by the kernels in C++: for one text, with int8 matrices, on the CPU.

What the kernels do stands in `qkv/native/decode.cpp`; here is what they are handed. They read and
write the decoder's own buffers, so a prompt is taken in as without them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from ctypes import byref
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.errors import ShapeError
from qkv.native import Kernels, layout

if TYPE_CHECKING:
    from qkv.models.blocks import Block, Norm
    from qkv.models.decode import Decoder

__all__ = ["prepare_step", "round_rows"]

SMALL_HEAD = 2**20
"""Numbers in W_unembed: with more of them torch's product, on all cores, is faster."""


def round_rows(
    weight: Float[Tensor, "N K"],
) -> tuple[Float[Tensor, "N K"], Float[Tensor, " N"]]:
    """Return a matrix as int8 and each row's step: W is about steps times what is returned.

    >>> rows, steps = round_rows(torch.tensor([[254.0, -3.0], [0.0, 0.0]]))
    >>> rows.tolist(), steps.tolist()
    ([[127, -2], [0, 0]], [2.0, 1.0])
    """
    weight = weight.detach().float()
    steps = weight.abs().amax(1) / 127
    steps = torch.where(steps > 0, steps, 1.0)
    return (weight / steps[:, None]).round_().to(torch.int8), steps


def prepare_step(decoder: Decoder, kernels: Kernels) -> Callable[[Tensor, int], Tensor]:
    """Return what takes in a token, (1,), and gives logits, (V,): (token, at) -> logits."""
    return _Step(decoder, kernels).run


def room(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return room for some numbers, whatever type and device tensors have by default."""
    return torch.empty(count, dtype=dtype, device="cpu")


class _Step:
    """Keeps alive what the kernels point to."""

    def __init__(self, decoder: Decoder, kernels: Kernels) -> None:
        model, config = decoder.model, decoder.model.config
        self.decode, self.unembed = kernels.decode, decoder.unembed
        self.kept: list[object] = [decoder.past, decoder.inputs]
        D, T, H, G = config.width, config.context, config.heads, config.kv_heads_
        C, V = config.head_width_, config.vocab
        blocks = cast("list[Block]", list(model.blocks))
        attention = blocks[0].attention
        made = [self._block(decoder, block, layer) for layer, block in enumerate(blocks)]
        between = 2 * D + (2 * H + 2 * G) * C + 2 * config.hidden_ + T
        weight = model.tokens if model.unembed is None else model.unembed.weight
        cosine, sine = decoder.rotation or (None, None)
        self.stream, self.logits = decoder.stream, room(V)
        self.context, self.vocab = T, V
        self.small = V * D <= SMALL_HEAD
        self.model = layout.Model(
            blocks=(layout.Block * len(made))(*made),
            norm=self._norm(model.norm),
            tokens=self._address(model.tokens),
            positions=self._address(decoder.positions),
            unembed=self._address(weight) if self.small else None,
            cosine=self._address(cosine),
            sine=self._address(sine),
            vocab=V,
            layers=len(made),
            width=D,
            hidden=config.hidden_,
            context=T,
            window=min(config.window or T, T),
            taps=config.convolution,
            heads=H,
            groups=G,
            channels=C,
            activation=layout.ACTIVATIONS.index(config.activation),
            gain_eps=attention.norm_eps,
            scale=1 / math.sqrt(C) if attention.scale is None else attention.scale,
            softcap=attention.softcap or 0.0,
            scratch=self._address(room(between)),
            digits=self._address(room(max(D, H * C, config.hidden_), torch.int16)),
        )
        self.arguments = byref(self.model)
        self.ends = self.stream.data_ptr(), self.logits.data_ptr()

    def run(self, token: Int[Tensor, " 1"], at: int) -> Float[Tensor, " V"]:
        """Take in a token that stands at a position; return the logits of the next.

        Raises:
            ShapeError: a token or a position that there isn't: the kernel would read beyond.
        """
        number = int(token)
        if not (0 <= number < self.vocab and 0 <= at < self.context):
            raise ShapeError(
                f"token {number} at position {at}",
                f"one of {self.vocab} tokens, before position {self.context}",
                "read a new prompt where the context is full",
            )
        self.decode(self.arguments, number, at, *self.ends)
        return self.logits.clone() if self.small else self.unembed(self.stream)

    def _block(self, decoder: Decoder, block: Block, layer: int) -> layout.Block:
        attention, feed_forward = block.attention, block.feed_forward
        past, taps, inputs, penalties = decoder.past[layer], None, None, None
        if block.convolution is not None:
            inputs = decoder.inputs[layer]
            taps = block.convolution.weight[:, 0].flip(-1).t()  # the latest at the end
        if attention.bias is not None:  # of the last T keys, for the query that is the last of them
            penalties = torch.as_tensor(attention.bias.dense(1, decoder.model.config.context))
        return layout.Block(
            attention_norm=self._norm(block.attention_norm),
            feed_forward_norm=self._norm(block.feed_forward_norm),
            project=self._product(attention.project),
            output=self._product(attention.output),
            up=self._product(feed_forward.up),
            gate=self._product(feed_forward.gate),
            down=self._product(feed_forward.down),
            taps=self._address(taps),
            inputs=self._address(inputs),
            gain=self._address(attention.gain),
            penalties=self._address(penalties),
            keys=self._address(past[0]),
            values=self._address(past[1]),
        )

    def _norm(self, norm: Norm) -> layout.Norm:
        weight, bias = self._address(norm.weight), self._address(norm.bias)
        return layout.Norm(weight=weight, bias=bias, eps=norm.eps, rms=norm.rms)

    def _product(self, linear: nn.Linear | None) -> layout.Product:
        if linear is None:
            return layout.Product()
        rows, steps = round_rows(linear.weight)
        return layout.Product(
            weight=self._address(rows),
            steps=self._address(steps),
            bias=self._address(cast("Tensor | None", linear.bias)),
            rows=rows.shape[0],
            columns=rows.shape[1],
        )

    def _address(self, tensor: Tensor | None) -> int | None:
        """Return where a tensor's numbers lie, and keep them there; fractions as fp32."""
        if tensor is None:
            return None
        tensor = tensor.detach().contiguous()
        if tensor.is_floating_point():
            tensor = tensor.to("cpu", torch.float32)
        self.kept.append(tensor)
        return tensor.data_ptr()
