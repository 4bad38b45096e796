"""Text from a model, token by token: with a key/value cache where the model has one.

Up to the context length a cached pass gives what recomputing the whole prefix gives. Beyond it the
model starts afresh on the last half of what it has seen, which costs one pass every half context
and works for every kind of position.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.errors import ConfigError, ShapeError
from qkv.models.config import config_of
from qkv.models.decode import Decoder
from qkv.models.transformer import Transformer

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
    if sampling.top_k is not None or sampling.top_p is not None:
        # Stable, so that equal logits cannot let more than k through.
        ordered, order = logits.sort(dim=-1, descending=True, stable=True)
        if sampling.top_k is not None:
            ordered[:, sampling.top_k :] = -torch.inf
        if sampling.top_p is not None and sampling.top_p < 1:
            probabilities = ordered.softmax(dim=-1)
            # A token goes where those before it already hold top_p; the first always stays.
            unneeded = probabilities.cumsum(dim=-1) - probabilities >= sampling.top_p
            unneeded[:, 0] = False
            ordered = ordered.masked_fill(unneeded, -torch.inf)
        logits = torch.empty_like(logits).scatter(-1, order, ordered)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)[:, 0]


def generate(
    model: nn.Module,
    prompt: Int[Tensor, "B T"],
    tokens: int,
    sampling: Sampling | None = None,
    *,
    cached: bool = True,
) -> Iterator[Int[Tensor, " B"]]:
    """Yield the next ``tokens`` token ids of each prompt, one step at a time.

    Args:
        model: anything with ``config.context`` that maps (B, T) ids to (B, T, V) logits.
        prompt: ids, at least one; only the last ``context`` of a longer prompt count.
        tokens: how many to draw; it may go beyond the context.
        sampling: temperature, top-k, top-p, seed.
        cached: ``False`` recomputes the whole prefix for every token, to compare with.

    Raises:
        ShapeError: an empty prompt.
    """
    if prompt.ndim != 2 or prompt.shape[1] == 0:
        raise ShapeError(
            f"a prompt of shape {tuple(prompt.shape)}",
            "(batch, tokens), tokens >= 1",
            "start from at least one token",
        )
    sampling = sampling or Sampling()
    generator = torch.Generator(device=prompt.device).manual_seed(sampling.seed)
    training = model.training
    model.eval()
    try:
        source = (
            _cached_logits(model, prompt)
            if cached and isinstance(model, Transformer)
            else _recomputed_logits(model, prompt)
        )
        logits = next(source)
        for step in range(tokens):
            with torch.inference_mode():
                drawn = choose(logits, sampling, generator)
            yield drawn
            if step + 1 < tokens:
                logits = source.send(drawn)
    finally:
        model.train(training)


def _recomputed_logits(
    model: nn.Module, prompt: Int[Tensor, "B T"]
) -> Generator[Float[Tensor, "B V"], Int[Tensor, " B"], None]:
    """Yield the logits after the prompt, then after each token sent; nothing is kept."""
    context = config_of(model).context
    seen = prompt[:, -context:]
    while True:
        with torch.inference_mode():
            logits = model(seen)[:, -1]
        drawn = yield logits
        seen = torch.cat([seen, drawn[:, None]], dim=1)
        if seen.shape[1] > context:
            seen = seen[:, -max(1, context // 2) :]


def _cached_logits(
    model: Transformer, prompt: Int[Tensor, "B T"]
) -> Generator[Float[Tensor, "B V"], Int[Tensor, " B"], None]:
    """The same logits from a cache: each token is computed once, until the context is full."""
    context = model.config.context
    seen = prompt[:, -context:]
    with torch.inference_mode():
        cache = model.new_cache(batch=len(prompt))
        logits = model(seen, cache, last=True)[:, -1]
        decoder = Decoder(model, cache)
    recent = list(seen.unbind(dim=1))
    while True:
        drawn = yield logits
        recent.append(drawn)
        with torch.inference_mode():
            if cache.tokens == context:
                cache.tokens = 0
                recent = recent[-max(1, context // 2) :]
                logits = model(torch.stack(recent, dim=1), cache, last=True)[:, -1]
            else:
                logits = decoder.step(drawn)
