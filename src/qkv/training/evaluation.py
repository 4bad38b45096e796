"""Loss on all of a text, and texts from a model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from qkv.models import Sampling, generate
from qkv.models.config import config_of
from qkv.models.products import Precision
from qkv.text import Tokenizer, decode_stream, evaluation_batches

__all__ = ["Evaluation", "evaluate", "sample_text", "stream_text"]


LOGITS = 2**26
"""How many logits are held at once: a vocabulary of 50,000 makes whole batches too large."""


@dataclass(frozen=True)
class Evaluation:
    """Loss over every token of a text but the first, in non-overlapping windows.

    Args:
        loss: mean cross-entropy, nats a token.
        tokens: how many were predicted.
        context: tokens in a window; each starts with nothing before it.
        characters: of the text; ``None`` where not known.
    """

    loss: float
    tokens: int
    context: int
    characters: int | None = None

    @property
    def per_character(self) -> float | None:
        """Nats a character: what compares tokenizers."""
        if self.characters is None or self.characters < 2:
            return None
        # The first is not predicted; with one token a character both losses are then the same.
        return self.loss * self.tokens / (self.characters - 1)

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700))


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    ids: np.ndarray,
    *,
    batch: int | None = None,
    characters: int | None = None,
    device: torch.device | str = "cpu",
) -> Evaluation:
    """Return the loss on all of ``ids``, in windows of the model's context, in fp32.

    Args:
        model: left in the mode it was in.
        ids: (N,) tokens.
        batch: windows at once; unless given, as many as keep their logits below 256 MiB, to 64.
        characters: of the text they came from.
        device: where the model is.

    Raises:
        TextError: fewer than two tokens.
    """
    context, vocab = config_of(model).context, config_of(model).vocab
    batch = batch or max(1, min(64, LOGITS // (context * vocab)))
    total, count, training = 0.0, 0, model.training
    model.eval()
    try:
        for inputs, targets in evaluation_batches(ids, context, batch):
            logits = model(torch.from_numpy(inputs).to(device))
            losses = F.cross_entropy(
                logits.float().flatten(0, 1),
                torch.from_numpy(targets).to(device).flatten(),
                reduction="none",
            )
            total += float(losses.double().sum())
            count += targets.size
    finally:
        model.train(training)
    return Evaluation(total / count, count, context, characters)


def stream_text(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompt: str,
    tokens: int,
    sampling: Sampling | None = None,
    *,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
) -> Iterator[str]:
    """Yield pieces of the text that the model writes after the prompt.

    ``precision`` is :func:`qkv.models.generate`'s.

    Raises:
        TextError: characters in the prompt that the tokenizer does not know.
    """
    ids = tokenizer.encode(prompt) if prompt else np.zeros(1, dtype=np.int64)
    start = torch.from_numpy(ids)[None].to(device)
    drawn = generate(model, start, tokens, sampling, precision=precision)
    return decode_stream(tokenizer, (int(step[0]) for step in drawn))


def sample_text(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompt: str,
    tokens: int,
    sampling: Sampling | None = None,
    *,
    device: torch.device | str = "cpu",
) -> str:
    """Return the text that the model writes after the prompt, the prompt left out."""
    return "".join(stream_text(model, tokenizer, prompt, tokens, sampling, device=device))
