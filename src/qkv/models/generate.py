"""Text from a model, token by token: with a key/value cache where the model has one.

Up to the context length a cached pass gives what recomputing the whole prefix gives. Beyond it the
model starts afresh on the last half of what it has seen, which costs one pass every half context
and works for every kind of position.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.overrides import has_torch_function

from qkv.errors import ConfigError, ShapeError
from qkv.models.config import config_of
from qkv.models.decode import Decoder
from qkv.models.products import Precision
from qkv.models.transformer import Cache, Transformer

__all__ = ["Sampling", "generate"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from the logits.

    Args:
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: keep only this many of the likeliest tokens.
        top_p: keep the likeliest tokens that together hold this much probability
            (Holtzman et al., 2020).
        seed: of the draws, so that the same call gives the same text.

    Raises:
        ConfigError: a negative temperature, ``top_k`` below 1, ``top_p`` outside (0, 1].
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature >= 0 or self.temperature == float("inf"):
            raise ConfigError(
                f"temperature {self.temperature}", "0 or more", "try 0.8, or 0 for the likeliest"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top-k {self.top_k}", "1 or more", "leave it out to keep all")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(f"top-p {self.top_p}", "above 0, at most 1", "try 0.95")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed {self.seed}", "a number from 0 to 2^63 - 1", "choose another")


def choose(
    logits: Float[Tensor, "B V"], sampling: Sampling, generator: torch.Generator
) -> Int[Tensor, " B"]:
    """Draw one token for each row of logits; of equal ones the lower id counts as likelier.

    >>> choose(torch.tensor([[0.0, 9.0, 1.0]]), Sampling(temperature=0), torch.Generator())
    tensor([1])
    """
    if sampling.temperature == 0:
        return logits.argmax(dim=-1)
    # In fp64, so that no temperature is small enough for an infinity.
    logits = logits.double() / sampling.temperature
    top_k, top_p = sampling.top_k or logits.shape[1], sampling.top_p or 1.0
    if top_k < logits.shape[1] or top_p < 1:
        # Stable, so that equal logits cannot let more than k through.
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        ordered[:, top_k:] = -torch.inf
        if top_p < 1:
            probabilities = ordered.softmax(dim=-1)
            # A token goes where those before it already hold top_p; the first always stays.
            unneeded = probabilities.cumsum(dim=-1) - probabilities >= top_p
            unneeded[:, 0] = False
            ordered = ordered.masked_fill(unneeded, -torch.inf)
        logits = torch.empty_like(logits).scatter(-1, order, ordered)
    # A race of exponential clocks: token i rings first with probability p_i. It is how
    # torch.multinomial draws, which takes twice as long over checks.
    clocks = torch.empty_like(logits).exponential_(generator=generator)
    return logits.softmax(dim=-1).div_(clocks).argmax(dim=-1)


def generate(
    model: nn.Module,
    prompt: Int[Tensor, "B T"],
    tokens: int,
    sampling: Sampling | None = None,
    *,
    cached: bool = True,
    precision: Precision = "fp32",
) -> Iterator[Int[Tensor, " B"]]:
    """Yield the next ``tokens`` token ids of each prompt, one step at a time.

    Args:
        model: anything with ``config.context`` that maps (B, T) ids to (B, T, V) logits.
        prompt: ids, at least one; only the last ``context`` of a longer prompt count.
        tokens: how many to draw; it may go beyond the context.
        sampling: temperature, top-k, top-p, seed.
        cached: ``False`` recomputes the whole prefix for every token, to compare with.
        precision: of the matrices in a Transformer's blocks when single tokens are taken in.
            ``fp32`` is the model as it is; ``int8`` and ``bf16`` are faster, being less to read,
            and change log-probabilities a little (see `qkv.models.products`); ``auto`` is int8
            where that is known to be faster.

    Raises:
        ShapeError: an empty prompt.
        ConfigError: narrow weights of a model that is not fp32 on the CPU.
    """
    if prompt.ndim != 2 or prompt.shape[1] == 0:
        raise ShapeError(
            f"a prompt of shape {tuple(prompt.shape)}",
            "(batch, tokens), tokens >= 1",
            "start from at least one token",
        )
    sampling = sampling or Sampling()
    generator = torch.Generator(device=prompt.device).manual_seed(sampling.seed)
    context = config_of(model).context
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            seen = list(prompt[:, -context:].unbind(dim=1))
            reader = _reader(model, len(prompt), cached, precision)
        for count in range(tokens):
            with torch.inference_mode():
                if count and len(seen) <= context:
                    logits = reader.step(seen[-1])
                else:
                    seen = seen if count == 0 else seen[-max(1, context // 2) :]
                    logits = reader.read(torch.stack(seen, dim=1))
                seen.append(choose(logits, sampling, generator))
            yield seen[-1]
    finally:
        model.train(training)


@runtime_checkable
class Reader(Protocol):
    """What takes in a prompt, then token after token, and says what may follow."""

    def read(self, prompt: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        """Forget what was seen, take in a prompt; return the logits of the next token."""

    def step(self, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """Take in one token of each sequence; return the logits of the next."""


class Recomputing:
    """The whole prefix anew for each token; nothing is kept but the ids."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def read(self, prompt: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        """See `Reader`."""
        self.seen = prompt
        logits: Tensor = self.model(prompt)[:, -1]
        return logits

    def step(self, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """See `Reader`."""
        return self.read(torch.cat([self.seen, tokens[:, None]], dim=1))


class Watched:
    """The model's own forward pass with its cache: for those who watch the calls it makes."""

    def __init__(self, model: Transformer) -> None:
        self.model = model

    def read(self, prompt: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        """See `Reader`."""
        self.cache: Cache = self.model.new_cache(batch=len(prompt))
        return self._advance(prompt)

    def step(self, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """See `Reader`."""
        return self._advance(tokens[:, None])

    def _advance(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B V"]:
        logits: Tensor = self.model(tokens, self.cache, last=True)[:, -1]
        return logits


def _reader(model: nn.Module, batch: int, cached: bool, precision: Precision) -> Reader:
    """What is fastest of what may be used."""
    if not cached or not isinstance(model, Transformer):
        return Recomputing(model)
    if has_torch_function((model.tokens,)):
        return Watched(model)
    return Decoder(model, batch, precision)
