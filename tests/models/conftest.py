"""What the tests of models share: weights that show every mistake, and random ids."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: these models are small, and waiting for a second costs more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed torch's global generator, from which models draw their weights."""
    torch.manual_seed(20240229)


@pytest.fixture
def transformers() -> Iterator[Any]:
    """The `transformers` package, silent; tests that need it skip where it is missing."""
    package = pytest.importorskip("transformers", reason="parity needs the extra `hf`")
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    package.utils.logging.disable_progress_bar()
    yield package
    package.utils.logging.enable_progress_bar()
    logger.setLevel(before)


@torch.no_grad()
def scramble(model: nn.Module, scale: float = 1.0) -> nn.Module:
    """Draw every parameter anew, norms and biases too, so that none of them can be missed.

    Matrices keep the size of what passes through them; gains lie around 1, biases around 0.
    """
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter)
        if parameter.ndim == 1:
            gain = "norm" in name or "ln_" in name
            parameter.copy_(0.3 * noise + (1.0 if gain and name.endswith("weight") else 0.0))
        else:
            parameter.copy_(scale * noise / max(parameter.shape) ** 0.5)
    return model.eval()


def tokens(batch: int, length: int, vocab: int, seed: int = 0) -> Tensor:
    """Random ids, (batch, length)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab, (batch, length), generator=generator)
