"""The ladder, each rung a screenful: ways to gather the past, then attention part by part.

Every rung maps token ids to logits for all positions, (B, T) -> (B, T, V); the loss lives
outside. Names of axes: B batch, T tokens, D width, H heads, C head width, V vocabulary.
Embeddings are looked up by ``F.embedding``: its backward is repeatable, that of ``table[ids]``
is not.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.attention import Causal, Full, Mask, attend
from qkv.errors import ShapeError
from qkv.models.config import RungConfig

__all__ = [
    "Average",
    "Bigram",
    "BigramCounts",
    "FeedForward",
    "ManyHeads",
    "Normalised",
    "OneHead",
    "RecurrentNetwork",
    "Residual",
    "Uniform",
    "WaveNet",
]

Tokens = Int[Tensor, "B T"]
Logits = Float[Tensor, "B T V"]


def require_context(tokens: Tokens, config: RungConfig) -> None:
    """Raise a ShapeError where there are more tokens than the model sees at most."""
    if tokens.shape[1] > config.context:
        raise ShapeError(
            f"{tokens.shape[1]} tokens",
            f"at most the context of {config.context}",
            "give the last tokens only",
        )


class Uniform(nn.Module):
    """Guess every token alike: nothing is learned, and the loss is ln V."""

    sight = 0

    def __init__(self, config: RungConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, tokens: Tokens) -> Logits:
        require_context(tokens, self.config)
        return torch.zeros(*tokens.shape, self.config.vocab, device=tokens.device)


class BigramCounts(nn.Module):
    """Count which token follows which, over all of the training text, with one added to each."""

    sight = 1

    def __init__(self, config: RungConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Parameter(torch.zeros(config.vocab, config.vocab), requires_grad=False)

    def fit(self, ids: Int[Tensor, " N"], pseudo_count: float = 1.0) -> None:
        """Set the table to the log-probabilities of the counted pairs.

        ``pseudo_count`` is added to every pair (Laplace), so that a pair never seen is unlikely,
        not impossible.
        """
        V = self.config.vocab
        pairs = torch.bincount(ids[:-1] * V + ids[1:], minlength=V * V).view(V, V)
        counts = pairs.double() + pseudo_count
        self.table.data.copy_((counts / counts.sum(dim=1, keepdim=True)).log())

    def forward(self, tokens: Tokens) -> Logits:
        require_context(tokens, self.config)
        return F.embedding(tokens, self.table)


class Bigram(nn.Module):
    """The same table, found by gradient descent instead of counting."""

    sight = 1

    def __init__(self, config: RungConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Parameter(torch.zeros(config.vocab, config.vocab))

    def forward(self, tokens: Tokens) -> Logits:
        require_context(tokens, self.config)
        return F.embedding(tokens, self.table)


class Embedded(nn.Module):
    """What the rungs below share: tokens and positions in, logits out.

    The unembedding starts at zero, so that an untrained rung guesses uniformly: loss ln V.
    """

    def __init__(self, config: RungConfig, positions: bool = True) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Parameter(
            torch.randn(config.vocab, config.width) / math.sqrt(config.width)
        )
        self.positions = (
            nn.Parameter(torch.randn(config.context, config.width) / math.sqrt(config.width))
            if positions
            else None
        )
        self.unembed = nn.Linear(config.width, config.vocab)
        nn.init.zeros_(self.unembed.weight)
        nn.init.zeros_(self.unembed.bias)

    def embed(self, tokens: Tokens) -> Float[Tensor, "B T D"]:
        """Return the sum of token and position embeddings.

        Raises:
            ShapeError: more tokens than the context holds.
        """
        require_context(tokens, self.config)
        embedded = F.embedding(tokens, self.tokens)
        if self.positions is None:
            return embedded
        return embedded + self.positions[: tokens.shape[1]]

    def forward(self, tokens: Tokens) -> Logits:
        logits: Tensor = self.unembed(self.mix(self.embed(tokens)))
        return logits

    def mix(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Let each position gather from its past: what one rung does otherwise than another."""
        raise NotImplementedError


class Average(Embedded):
    """Every token of the past has the same say: attention without queries and keys."""

    def __init__(self, config: RungConfig) -> None:
        super().__init__(config)
        self.value = nn.Linear(config.width, config.width, bias=False)

    def mix(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        seen = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)
        values: Tensor = self.value(x)
        return values.cumsum(dim=1) / seen[:, None]


class RecurrentNetwork(Embedded):
    """One state of fixed size carries all of the past, and each step overwrites some of it."""

    def __init__(self, config: RungConfig) -> None:
        super().__init__(config, positions=False)
        self.read = nn.Linear(config.width, config.width)
        self.carry = nn.Linear(config.width, config.width, bias=False)
        nn.init.orthogonal_(self.carry.weight)

    def mix(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        state = x.new_zeros(x.shape[0], x.shape[2])  # (B, D)
        states = []
        for entering in self.read(x).unbind(dim=1):
            state = torch.tanh(entering + F.linear(state, self.carry.weight))
            states.append(state)
        return torch.stack(states, dim=1)


class WaveNet(Embedded):
    """A fixed tree joins tokens in pairs, then pairs of pairs: van den Oord et al., 2016.

    Layer l sees its own position and the one 2**l back, so log2(T) layers reach T tokens.
    """

    def __init__(self, config: RungConfig) -> None:
        super().__init__(config, positions=False)
        depth = max(1, math.ceil(math.log2(config.context)))
        self.now = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(depth))
        self.past = nn.ModuleList(
            nn.Linear(config.width, config.width, bias=False) for _ in range(depth)
        )

    def mix(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        for level, (now, past) in enumerate(zip(self.now, self.past, strict=True)):
            back = 2**level
            earlier = F.pad(x, (0, 0, back, 0))[:, : x.shape[1]]
            x = x + torch.tanh(now(x) + past(earlier))
        return x


class Attention(nn.Module):
    """Causal self-attention: queries, keys, values of H heads, then W_O.

    Without its mask (``masked=False``) it looks ahead too, at the very tokens to be predicted.
    """

    def __init__(self, width: int, heads: int, masked: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.mask: Mask = Causal() if masked else Full()
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, width, bias=False)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, T, C)
            for projection in (self.query, self.key, self.value)
        )
        mixed = attend(q, k, v, mask=self.mask)  # (B, H, T, C)
        output: Tensor = self.output(mixed.transpose(1, 2).flatten(2))  # (B, T, D)
        return output


class OneHead(Embedded):
    """One head as wide as the model: each token asks its own question of the past.

    With a single head W_O could be folded into the values; it is kept so that this rung and the
    next have the same parameters, and what several heads give is seen alone.
    """

    def __init__(self, config: RungConfig) -> None:
        super().__init__(config)
        self.attention = Attention(config.width, 1, config.masked)

    def mix(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        mixed: Tensor = self.attention(x)
        return mixed


class ManyHeads(Embedded):
    """Several narrower heads, several questions at once; W_O joins what they found."""

    def __init__(self, config: RungConfig) -> None:
        super().__init__(config)
        self.attention = Attention(config.width, config.heads, config.masked)

    def mix(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        mixed: Tensor = self.attention(x)
        return mixed


class FeedForward(ManyHeads):
    """After gathering, each token thinks alone: two layers with a ReLU between."""

    def __init__(self, config: RungConfig) -> None:
        super().__init__(config)
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)

    def think(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Apply the feed-forward layer to each position alone."""
        thought: Tensor = self.down(F.relu(self.up(x)))
        return thought

    def mix(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.think(self.attention(x))


class Residual(FeedForward):
    """Each sublayer adds to what it was given, so that nothing has to be carried through it."""

    def mix(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        x = x + self.attention(x)
        return x + self.think(x)


class Normalised(FeedForward):
    """Each sum is normalised, as in the first Transformer: Vaswani et al., 2017; Ba et al., 2016.

    The Transformer at the top of the ladder normalises before each sublayer instead, which many
    blocks need to train well; with the one block here it is worse by .13 nats or more.

    ``config.without`` takes one part out, to see what it was good for.
    """

    def __init__(self, config: RungConfig) -> None:
        super().__init__(config)
        norm = nn.Identity if config.without == "normalisation" else nn.LayerNorm
        self.after_attention = norm(config.width)
        self.after_thinking = norm(config.width)
        if config.without == "feed-forward":
            # What is left out isn't learnt, counted or saved either.
            del self.up, self.down, self.after_thinking

    def add(
        self, x: Float[Tensor, "B T D"], brought: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T D"]:
        """Return what a sublayer brought with what it was given; alone without the residual."""
        return brought if self.config.without == "residual" else x + brought

    def mix(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        x = self.after_attention(self.add(x, self.attention(x)))
        if self.config.without == "feed-forward":
            return x
        normalised: Tensor = self.after_thinking(self.add(x, self.think(x)))
        return normalised
