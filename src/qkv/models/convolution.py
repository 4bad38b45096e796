"""A short convolution over tokens: each channel becomes a sum of its last few values.

What lies next to a token is most of what a small model learns first. Without it, heads must find
the token before by its position; with it, the two tokens of a pair are in one place, and heads are
free for what is further away. Each block may have one, on the normalised input of attention:

    y[t] = w[0] x[t] + w[1] x[t − 1] + ... + w[K − 1] x[t − K + 1]

channel by channel, with nothing before the first token. It starts as the identity. The feed-forward
layer has none: with one there too, blocks read the text without attention, which the losses of
`docs/recipe.md` show. Source: the depthwise convolutions of Primer (So et al., 2021), there after
the projections.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

__all__ = ["ShortConvolution"]


class ShortConvolution(nn.Module):
    """One weight for each channel and distance, (D, 1, K), as in ``nn.Conv1d``; K is the span.

    Args:
        width: D.
        span: K, tokens that are summed, the last included.

    >>> ShortConvolution(5, 3)(torch.ones(2, 4, 5)).shape
    torch.Size([2, 4, 5])
    """

    def __init__(self, width: int, span: int) -> None:
        super().__init__()
        self.span = span
        self.weight = nn.Parameter(torch.zeros(width, 1, span))
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Start as the identity."""
        self.weight.zero_()
        self.weight[..., 0] = 1

    def forward(
        self, x: Float[Tensor, "B T D"], past: Float[Tensor, "B K-1 D"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """Return y for every token; ``past`` are the K − 1 inputs before the first."""
        T, before = x.shape[1], self.span - 1
        padded = F.pad(x, (0, 0, before, 0)) if past is None else torch.cat([past, x], dim=1)
        y = x * self.weight[:, 0, 0]
        for distance in range(1, self.span):
            y = torch.addcmul(
                y, padded.narrow(1, before - distance, T), self.weight[:, 0, distance]
            )
        return y

    def flat(self, x: Float[Tensor, "N D"], places: Int[Tensor, "N 1"]) -> Float[Tensor, "N D"]:
        """Return y for texts one after another, given the place of each token in its text."""
        y = x * self.weight[:, 0, 0]
        for distance in range(1, self.span):
            earlier = F.pad(x, (0, 0, distance, 0))[: x.shape[0]]
            y = y + torch.where(places >= distance, earlier * self.weight[:, 0, distance], 0.0)
        return y
