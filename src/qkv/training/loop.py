"""The training loop: a generator that yields a report a step and does nothing else.

It prints nothing, writes nothing and evaluates nothing: who drives it decides between two yields
whether to save, to stop, or to look. Here alone do NumPy batches become tensors on a device.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkv.errors import CheckpointError, TrainingError
from qkv.models.config import config_of
from qkv.text import batch
from qkv.training.config import TrainingConfig
from qkv.training.fusing import training_forward
from qkv.training.interrupts import uninterrupted
from qkv.training.optimizers import build_optimizers
from qkv.training.schedules import rate_factor, windows_at

__all__ = ["StepReport", "TrainingState", "train"]


@dataclass(frozen=True)
class StepReport:
    """What one step did.

    Args:
        step: steps done, this one included.
        steps: of the whole run.
        loss: mean cross-entropy on the step's batch, in nats a token.
        gradient_norm: before clipping.
        learning_rate: AdamW's, this step.
        tokens: trained on so far.
        seconds: this step took.
    """

    step: int
    steps: int
    loss: float
    gradient_norm: float
    learning_rate: float
    tokens: int
    seconds: float


class TrainingState:
    """A model in training: its weights, their running average, the optimizers, the step.

    Args:
        model: trained in place.
        config: its optimizer, rates and averaging are used.
        step: steps already done.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, step: int = 0) -> None:
        self.model = model
        self.step = step
        self.report: StepReport | None = None  # of the last update, even if nobody received it
        self.optimizers = build_optimizers(model, config)
        self.average = (
            {name: p.detach().clone() for name, p in model.named_parameters()}
            if config.average
            else None
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return everything but the saved weights that resuming needs, by name."""
        names: dict[Tensor, str] = {p: name for name, p in self.model.named_parameters()}
        held = {
            f"{type(optimizer).__name__}.{key}.{names[p]}": value
            for optimizer in self.optimizers
            for p, entries in optimizer.state.items()
            for key, value in entries.items()
        }
        if self.average is not None:
            held |= {f"last.{name}": p.detach() for name, p in self.model.named_parameters()}
        return held

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up what :meth:`tensors` gave; the model has its saved weights already.

        Raises:
            CheckpointError: tensors of another model or optimizer.
        """
        parameters = dict(self.model.named_parameters())
        optimizers = {type(optimizer).__name__: optimizer for optimizer in self.optimizers}
        if self.average is not None:
            self.average = {name: p.detach().clone() for name, p in parameters.items()}
        for label, tensor in tensors.items():
            owner, _, rest = label.partition(".")
            key, name = ("", rest) if owner == "last" else rest.split(".", 1)
            known = name in parameters and (owner == "last" or owner in optimizers)
            if not known or tensor.shape not in (parameters[name].shape, torch.Size([])):
                raise CheckpointError(
                    f"training state {label!r} of shape {tuple(tensor.shape)}",
                    "the state of this model and optimizer",
                    "resume with the settings the run was started with",
                )
            if owner == "last":
                parameters[name].data.copy_(tensor)
            else:
                here = tensor.to(parameters[name].device, copy=True)
                optimizers[owner].state[parameters[name]][key] = here

    def weights(self) -> dict[str, Tensor]:
        """Return the weights to use: the averaged ones where there are such."""
        state = {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        return state if self.average is None else {**state, **self.average}

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Lend the model with the weights that would be saved; then put the last ones back."""
        if self.average is None:
            yield self.model
            return
        last = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        try:
            self._take(self.average)
            yield self.model
        finally:
            self._take(last)

    def _take(self, weights: dict[str, Tensor]) -> None:
        """Copy weights into the model, all of them: half of two sets is neither."""
        with uninterrupted():
            for name, p in self.model.named_parameters():
                p.data.copy_(weights[name])


def train(
    state: TrainingState,
    ids: np.ndarray,
    config: TrainingConfig,
    *,
    device: torch.device | str = "cpu",
) -> Iterator[StepReport]:
    """Train from the state's step to the end of the budget, yielding after each step.

    Args:
        state: what is trained, in place; between two yields it is whole and may be saved.
        ids: all training tokens, (N,).
        config: budget, rates, seed.
        device: where the model is.

    Raises:
        TrainingError: a loss that is not a number; the state is that of the step before.
        TextError: fewer tokens than one context.
    """
    model, context = state.model, config_of(state.model).context
    steps = config.steps(context)
    parameters = [p for p in model.parameters() if p.requires_grad]
    autocast = torch.autocast(
        torch.device(device).type, torch.bfloat16, enabled=config.precision == "bf16"
    )
    forward = training_forward(model, config)
    model.train()
    while state.step < steps:
        started = time.perf_counter()
        model.zero_grad(set_to_none=True)  # an interrupted step may have left some
        first, rows, length = windows_at(state.step, steps, config, context)
        arrays = batch(ids, state.step - first, seed=config.seed, batch_size=rows, context=length)
        inputs, targets = (torch.from_numpy(array).to(device) for array in arrays)  # (B, T)
        if getattr(model.config, "dropout", 0):
            # Drawn from (seed, step) alone, so that resuming needs only the step.
            torch.manual_seed((config.seed * 1_000_003 + state.step) % 2**63)
        with autocast:
            logits = forward(inputs)  # (B, T, V)
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
        torch.autograd.backward(loss)
        # Without clipping the norm is still measured: it is the first sign of trouble.
        norm = float(nn.utils.clip_grad_norm_(parameters, config.clip or math.inf, foreach=True))
        value = float(loss.detach())
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise TrainingError(
                f"a loss of {value} and a gradient norm of {norm} at step {state.step + 1}",
                "finite numbers",
                "lower the learning rate, or train in fp32; the last checkpoint is kept",
            )
        factor = rate_factor(state.step, steps, config)
        with uninterrupted():
            _update(state, config, factor)
            state.report = StepReport(
                step=state.step,
                steps=steps,
                loss=value,
                gradient_norm=norm,
                learning_rate=config.learning_rate * factor,
                tokens=state.step * config.batch * context,
                seconds=time.perf_counter() - started,
            )
        yield state.report
        model.train()


def _update(state: TrainingState, config: TrainingConfig, factor: float) -> None:
    """Apply the gradients, move the average, count the step: all of it or none."""
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        optimizer.step()
    state.step += 1
    if state.average is not None:
        # Early on the average follows the weights closely, so that it never lags by long.
        decay = min(config.average, state.step / (state.step + 10))
        torch._foreach_lerp_(
            list(state.average.values()), [p.detach() for p in state.model.parameters()], 1 - decay
        )
