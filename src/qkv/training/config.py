"""How a model is trained, as data: one frozen dataclass, validated on creation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qkv.errors import ConfigError
from qkv.models.fields import require_positive
from qkv.training.budgets import MOST_TOKENS

__all__ = ["TrainingConfig"]


@dataclass(frozen=True)
class TrainingConfig:
    """One training run's settings.

    Args:
        tokens: the budget: how many tokens the model is trained on in all.
        batch: sequences in a step, over all processes; each is one context long.
        shortest: tokens in the windows that a run starts with; they are doubled up to the context,
            first after half of the steps. 0 for windows of the whole context throughout.
        optimizer: ``adamw``, or ``muon`` for the matrices inside the blocks and AdamW for the rest.
        learning_rate: AdamW's, at its peak.
        muon_learning_rate: Muon's, at its peak; a matrix moves by about this much in every
            direction, so that its entries move by about this over the root of its columns.
        weight_decay: decoupled, on matrices only; per unit of learning rate.
        beta1: AdamW's decay of the mean gradient.
        beta2: AdamW's decay of the squared gradient.
        momentum: Muon's.
        iterations: of Newton–Schulz, in Muon: fewer suffice for small batches, which are noisy.
        warmup: fraction of the steps over which the rate rises from 0.
        decay: fraction of the steps, at the end, over which it falls linearly.
        final_rate: the rate at the end, as a fraction of the peak.
        clip: gradients are scaled down to this norm; 0 leaves them.
        average: decay of the running average of the weights that is saved; 0 saves the last.
        precision: of matrix products; ``auto`` times them and takes int8 or bf16 where faster.
        compile: whether torch's compiler fuses what lies between products; ``auto`` for long runs.
        seed: of the weights, the order of the text and dropout.
        save_every: steps between checkpoints.
        evaluate_every: steps between losses on validation text; 0 for none but the last.
        sample_every: steps between sample texts; 0 for none but the last.
        keep: how many checkpoints stay on disk.
        probes: at how many steps a passage is read and what its heads look at is kept, at most;
            2 or more, or 0 for none.
        probe_share: of the time of training, what probes may take; a tenth of a second if that is
            more, and the first and the last are made whatever they take.

    Raises:
        ConfigError: a number out of its range.
    """

    tokens: int = 1_000_000
    batch: int = 32
    shortest: int = 0
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 3e-3
    muon_learning_rate: float = 0.02
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.99
    momentum: float = 0.95
    iterations: int = 5
    warmup: float = 0.02
    decay: float = 0.6
    final_rate: float = 0.0
    clip: float = 1.0
    average: float = 0.0
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    seed: int = 0
    save_every: int = 500
    evaluate_every: int = 0
    sample_every: int = 0
    keep: int = 2
    probes: int = 40
    probe_share: float = 0.02

    def __post_init__(self) -> None:
        if self.tokens <= 0:
            raise ConfigError(
                f"a budget of {self.tokens} tokens", "1 or more", "try --budget 1000000"
            )
        if self.tokens > MOST_TOKENS:
            raise ConfigError(
                f"a budget of {self.tokens:.3g} tokens"
                if self.tokens < 1e300
                else "a budget of more than 1e300 tokens",
                f"at most {MOST_TOKENS:.0e}",
                "try --budget 1000000",
            )
        require_positive(self, "batch", "iterations", "save_every", "keep")
        for name in ("learning_rate", "muon_learning_rate", "weight_decay"):
            self._require(name, 0, 1e30)  # above it, products overflow fp32
        self._require("clip", 0, float("inf"))
        for name in ("evaluate_every", "sample_every", "shortest", "probes", "probe_share"):
            self._require(name, 0, float("inf"))
        if self.probes == 1:
            raise ConfigError("probes=1", "2 or more, or 0 for none", "change probes")
        for name in ("beta1", "beta2", "momentum", "average"):
            self._require(name, 0, 1, open_end=True)
        for name in ("warmup", "decay", "final_rate"):
            self._require(name, 0, 1)
        self._require("seed", 0, 2**63 - 1)

    def _require(self, name: str, low: float, high: float, *, open_end: bool = False) -> None:
        value = getattr(self, name)
        if not low <= value <= high or (open_end and value == high):
            bound = f"from {low} up" if high == float("inf") else f"between {low} and {high}"
            raise ConfigError(f"{name}={value}", f"a value {bound}", f"change {name}")

    def steps(self, context: int) -> int:
        """Return how many steps the budget gives (at least one).

        >>> TrainingConfig(tokens=1_000_000, batch=32).steps(context=64)
        488
        """
        return max(1, round(self.tokens / (self.batch * context)))
