"""Both halves of a block with their backward by hand: what training runs where nothing is compiled.

Small models are not slowed by their products but by all that stands between them: each operation
costs microseconds to ask for, and reads and writes all activations. By hand a block takes fewer
operations than autograd's, because

* the gain of a norm and the weights of the convolution after it are one table, `taps`;
* the gain of QK-norm and the rotation are one table of cosines and sines;
* W_O and the second feed-forward product add to the stream themselves;
* what autograd would sum in passes of its own is summed where it is made.

RMSNorm here is x / length with length = sqrt(sum x² + D eps), a row of about unit length, and its
sqrt(D) is in the gain. With n = x / length and the gradient dn, dx = (dn − n (n · dn)) / length.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from qkv.models.blocks import Angles, Block
from qkv.models.config import TransformerConfig

__all__ = ["fits", "run_block"]


def fits(config: TransformerConfig) -> bool:
    """Return whether the blocks of a model are of the kind written out here."""
    return (
        config.norm == "rms"
        and config.activation == "relu2"
        and config.positions == "rotary"
        and config.qk_norm
        and not config.bias
        and not config.dropout
    )


def run_block(block: Block, x: Float[Tensor, "B T D"], angles: Angles | None) -> Tensor:
    """Return what ``block(x, angles)`` does, for a block that :func:`fits`.

    Args:
        block: its parameters get the gradients.
        x: fp32 or fp64.
        angles: cosines and sines, (T, 1, C/2) each.
    """
    attention, feed_forward = block.attention, block.feed_forward
    span = None if block.convolution is None else block.convolution.weight
    cosine, sine = cast("Angles", angles)
    turning = torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1)  # (T, 1, C)
    x, q, k, v = _Before.apply(  # type: ignore[no-untyped-call]
        x, block.attention_norm.weight, span, attention.project.weight, attention.gain,
        turning, attention.heads, attention.norm_eps,
    )  # fmt: skip
    mixed = attention.mix(*(heads.transpose(1, 2) for heads in (q, k, v)))
    stream: Tensor = _After.apply(  # type: ignore[no-untyped-call]
        x, mixed.transpose(1, 2), attention.output.weight, block.feed_forward_norm.weight,
        feed_forward.up.weight, feed_forward.down.weight, block.feed_forward_norm.eps,
    )  # fmt: skip
    return stream


class _Before(torch.autograd.Function):
    """Norm, convolution, projection, QK-norm and rotation: the stream, and its q, k and v."""

    @staticmethod
    def forward(  # noqa: PLR0917 (autograd passes them so)
        ctx: Any, x: Tensor, gain: Tensor, span: Tensor | None, project: Tensor,
        turn_gain: Tensor, turning: Angles, heads: int, eps: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        (B, T, _), C = x.shape, turn_gain.shape[-1]
        n, length = unit_rows(x, eps)
        taps = join_taps(gain, span)
        seen = convolve(n, taps)
        projected = _times(seen, project).view(B, T, -1, C)
        turned_heads = len(turn_gain)
        unit, lengths = unit_rows(projected[:, :, :turned_heads], eps)
        scaled = turn_gain[:, 0] * math.sqrt(C)  # (H + G, C)
        turned = turn(unit, turning[0] * scaled, turning[1] * scaled.roll(C // 2, -1))
        ctx.save_for_backward(
            n, length, taps, gain, span, seen, project, unit, lengths, scaled, *turning
        )
        return x, turned[:, :, :heads], turned[:, :, heads:], projected[:, :, turned_heads:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_x: Tensor, d_q: Tensor, d_k: Tensor, d_v: Tensor) -> Any:
        n, length, taps, gain, span, seen, project, unit, lengths, scaled, cosine, sine = (
            ctx.saved_tensors
        )
        turned_heads, C = scaled.shape
        # The rotation's transpose turns back: the same with the sines of the other half.
        back = turn(torch.cat([d_q, d_k], 2), cosine, sine.roll(C // 2, -1))
        product = unit * back
        d_turn_gain = product.sum((0, 1)).mul_(math.sqrt(C))[:, None]
        along = product.mul_(scaled).sum(-1, keepdim=True)
        d_projected = torch.empty(*d_v.shape[:2], turned_heads + d_v.shape[2], C, dtype=d_v.dtype)
        back.mul_(scaled).addcmul_(unit, along, value=-1)
        torch.div(back, lengths, out=d_projected[:, :, :turned_heads])
        d_projected[:, :, turned_heads:] = d_v
        d_project, d_seen = _product_backward(d_projected.flatten(2), seen, project)
        d_n, d_taps = convolve_backward(d_seen, n, taps)
        d_gain, d_span = split_taps(d_taps, gain, span)
        return (
            add_unit_rows_backward(d_x, d_n, n, length), d_gain, d_span, d_project, d_turn_gain,
            None, None, None,
        )  # fmt: skip


class _After(torch.autograd.Function):
    """W_O, then norm and the feed-forward layer, both added to the stream."""

    @staticmethod
    def forward(  # noqa: PLR0917 (autograd passes them so)
        ctx: Any, x: Tensor, mixed: Tensor, output: Tensor, gain: Tensor, up: Tensor,
        down: Tensor, eps: float,
    ) -> Tensor:  # fmt: skip
        ctx.heads = mixed.shape
        mixed = mixed.flatten(2)  # (B, T, H C)
        stream = _add_times(x, mixed, output)
        n, length = unit_rows(stream, eps)
        scaled = gain * math.sqrt(len(gain))
        seen = n * scaled
        hidden = _times(seen, up).relu_()
        squared = hidden * hidden
        ctx.save_for_backward(mixed, output, n, length, scaled, seen, up, hidden, squared, down)
        return _add_times(stream, squared, down)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_stream: Tensor) -> Any:
        mixed, output, n, length, scaled, seen, up, hidden, squared, down = ctx.saved_tensors
        d_down = _rows(d_stream).t() @ _rows(squared)
        d_hidden = _times(d_stream, 2 * down.t()).mul_(hidden)
        d_up, d_seen = _product_backward(d_hidden, seen, up)
        d_gain = (d_seen * n).sum((0, 1)).mul_(math.sqrt(len(scaled)))
        d_x = add_unit_rows_backward(d_stream, d_seen.mul_(scaled), n, length)
        d_output, d_mixed = _product_backward(d_x, mixed, output)
        return d_x, d_mixed.view(ctx.heads), d_output, d_gain, d_up, d_down, None


def unit_rows(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return x / length and length = sqrt(sum x² + D eps), (..., 1)."""
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    length.square_().add_(x.shape[-1] * eps).sqrt_()
    return x / length, length


def add_unit_rows_backward(d_x: Tensor, d_n: Tensor, n: Tensor, length: Tensor) -> Tensor:
    """Return d_x plus what x gets through n = x / length."""
    along = (d_n * n).sum(-1, keepdim=True).div_(length)
    return torch.addcdiv(d_x, d_n, length).addcmul_(n, along, value=-1)


def join_taps(gain: Float[Tensor, " D"], span: Float[Tensor, "D 1 K"] | None) -> Tensor:
    """Return the gain of a norm of width D, and the convolution after it, as one: (K, D)."""
    scaled = gain * math.sqrt(len(gain))
    if span is None:
        return scaled[None]
    taps = span.new_empty(span.shape[2], len(gain))
    return torch.mul(span[:, 0].t(), scaled, out=taps)


def split_taps(
    d_taps: Float[Tensor, "K D"], gain: Float[Tensor, " D"], span: Float[Tensor, "D 1 K"] | None
) -> tuple[Tensor, Tensor | None]:
    """Return the gradients of gain and span, from that of what :func:`join_taps` made of them."""
    d_taps = d_taps * math.sqrt(len(gain))
    if span is None:
        return d_taps[0], None
    return (d_taps * span[:, 0].t()).sum(0), (d_taps * gain).t()[:, None]


def convolve(n: Float[Tensor, "B T D"], taps: Float[Tensor, "K D"]) -> Float[Tensor, "B T D"]:
    """Return y[t] = sum over s of taps[s] n[t − s]."""
    y, T = n * taps[0], n.shape[1]
    for s in range(1, min(len(taps), T)):
        y[:, s:].addcmul_(n[:, : T - s], taps[s])
    return y


def convolve_backward(
    d_y: Float[Tensor, "B T D"], n: Float[Tensor, "B T D"], taps: Float[Tensor, "K D"]
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "K D"]]:
    """Return the gradients of n and of the taps."""
    d_n, d_taps, T = d_y * taps[0], torch.zeros_like(taps), n.shape[1]
    torch.sum(d_y * n, (0, 1), out=d_taps[0])
    for s in range(1, min(len(taps), T)):
        later, earlier = d_y[:, s:], n[:, : T - s]
        d_n[:, : T - s].addcmul_(later, taps[s])
        torch.sum(later * earlier, (0, 1), out=d_taps[s])
    return d_n, d_taps


def turn(x: Float[Tensor, "B T H C"], cosine: Tensor, sine: Tensor) -> Float[Tensor, "B T H C"]:
    """Return x · cosine + (x with its halves swapped) · sine, the tables (T, H or 1, C)."""
    half = x.shape[-1] // 2
    turned = x * cosine
    turned[..., :half].addcmul_(x[..., half:], sine[..., :half])
    turned[..., half:].addcmul_(x[..., :half], sine[..., half:])
    return turned


def _rows(x: Tensor) -> Tensor:
    return x.view(-1, x.shape[-1])


def _times(x: Float[Tensor, "B T D"], weight: Float[Tensor, "out D"]) -> Float[Tensor, "B T out"]:
    return torch.mm(_rows(x), weight.t()).view(*x.shape[:-1], -1)


def _add_times(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    return torch.addmm(_rows(x), _rows(y), weight.t()).view_as(x)


def _product_backward(d_y: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the weight and of x, where y = x Wᵀ."""
    return _rows(d_y).t() @ _rows(x), _times(d_y, weight.t())
