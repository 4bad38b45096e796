"""RMSNorm with its backward by hand: torch's own is three times as slow on a CPU.

With x of width D, r = 1/sqrt(mean(x²) + eps), n = r x and y = w n, the gradient g of y gives

    dL/dw = sum over rows of g n
    dL/dx = r (w g − n mean(w g n))

The mean is a matrix-vector product of (g n) with w, so no row-wise sum is taken twice.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["rms_norm"]


def rms_norm(
    x: Float[Tensor, "*rows D"], weight: Float[Tensor, " D"] | None, eps: float
) -> Float[Tensor, "*rows D"]:
    """Divide each row by its root mean square and multiply by a gain (Zhang and Sennrich, 2019).

    Args:
        x: computed in its own precision, but at least fp32.
        weight: the gain of each channel; ``None`` for none.
        eps: added to the mean square.

    >>> rms_norm(torch.tensor([[3.0, 4.0]]), None, 0.0).mul(12.5**0.5)
    tensor([[3., 4.]])
    """
    if x.dtype in (torch.bfloat16, torch.float16):
        gain = None if weight is None else weight.float()
        return rms_norm(x.float(), gain, eps).to(x.dtype)
    if torch.compiler.is_compiling():  # which fuses and differentiates the formula itself
        normalised = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
        return normalised if weight is None else normalised * weight
    if torch.is_grad_enabled():
        return cast("Tensor", _RMSNorm.apply(x, weight, eps))  # type: ignore[no-untyped-call]
    return F.rms_norm(x, x.shape[-1:], weight, eps)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
        # A norm is one reduction without a temporary; the rest happens in place on a column.
        norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        normalised = x * inverse
        ctx.save_for_backward(normalised, inverse, weight)
        return normalised if weight is None else normalised * weight

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        normalised, inverse, weight = ctx.saved_tensors
        product = gradient * normalised
        if weight is None:
            mean, d_weight = product.mean(-1, keepdim=True), None
        else:
            mean = (product @ weight).div_(weight.shape[0]).unsqueeze(-1)
            d_weight = product.flatten(0, -2).sum(0)
            gradient = gradient * weight
        return torch.addcmul(gradient, normalised, mean, value=-1).mul_(inverse), d_weight, None
