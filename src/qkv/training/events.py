"""What a run tells of itself besides its steps and probes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Evaluated", "Sampled", "Saved"]


@dataclass(frozen=True)
class Evaluated:
    """The loss on all of the validation text, nats a token."""

    step: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Sampled:
    """A text the model wrote after the prompt."""

    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    step: int
    path: str
    seconds: float
