"""AdamW for vectors and tables, Muon for matrices; both step many parameters at once."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.training.config import TrainingConfig

__all__ = ["Muon", "build_optimizers", "orthogonalise"]

# Coefficients of the quintic that drives singular values towards 1 (Jordan et al., 2024).
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Return each matrix with its singular values brought near 1, by Newton–Schulz iteration.

    Args:
        matrices: (N, rows, columns); all N are done at once.
        steps: iterations, at least 1; 5 bring singular values that are not far below the largest
            to between about 0.7 and 1.2, and leave those that are nearly 0 small.

    Source: Jordan et al., 2024, "Muon: an optimizer for hidden layers in neural networks".

    >>> matrices = torch.randn(1, 24, 40, generator=torch.Generator().manual_seed(0))
    >>> values = torch.linalg.svdvals(orthogonalise(matrices))
    >>> bool((values > 0.5).all() and (values < 1.3).all())
    True
    """
    return _orthogonalise_all([matrices], steps)[0]


def _orthogonalise_all(stacks: list[Tensor], steps: int) -> list[Tensor]:
    """Return each stack as :func:`orthogonalise` does; what has one short side is done together.

    An iteration is x <- p x with p = a + b g + c g², g = x xᵀ. All of them are polynomials of the
    first g, and commute: the short side's products do, and x itself is multiplied only once.
    """
    wide = [stack.mT if stack.shape[-2] > stack.shape[-1] else stack for stack in stacks]
    grams = [x @ x.mT for x in wide]
    factors: list[Tensor] = [*grams]
    for side in {gram.shape[-1] for gram in grams}:
        those = [i for i, gram in enumerate(grams) if gram.shape[-1] == side]
        joined = _newton_schulz(torch.cat([grams[i] for i in those]), steps)
        for i, factor in zip(
            those, torch.split(joined, [len(grams[i]) for i in those]), strict=True
        ):
            factors[i] = factor
    updates = [factor @ x for factor, x in zip(factors, wide, strict=True)]
    return [
        update if update.shape == stack.shape else update.mT
        for update, stack in zip(updates, stacks, strict=True)
    ]


def _newton_schulz(gram: Float[Tensor, "N side side"], steps: int) -> Float[Tensor, "N side side"]:
    """Return what x is multiplied by in so many iterations, given x xᵀ."""
    a, b, c = QUINTIC
    # Singular values must start at 1 or below: x is divided by its norm, whose square is the trace.
    norm = gram.diagonal(dim1=-2, dim2=-1).sum(-1).sqrt_().add_(1e-7)[:, None, None]
    gram = gram / norm.square()
    whole: Tensor | None = None
    for step in range(steps):
        p: Tensor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        p.diagonal(dim1=-2, dim2=-1).add_(a)
        whole = p if whole is None else p @ whole
        if step + 1 < steps:
            gram = p @ gram @ p
    assert whole is not None  # at least one iteration
    return whole.div_(norm)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised, so that every direction moves alike.

    Equal shapes are stacked and orthogonalised together: fewer, larger products. The update is
    lr · sqrt(max(1, rows / columns)) times a matrix whose singular values are near 1 (Jordan et
    al., 2024). The matrix that projects to q, k and v is taken as one.

    Args:
        matrices: two-dimensional parameters.
        lr: learning rate.
        momentum: of the gradient, with Nesterov's look-ahead.
        weight_decay: decoupled; the weights shrink by ``lr * weight_decay`` a step.
        iterations: of :func:`orthogonalise`.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        iterations: int = 5,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(matrices, {**defaults, "iterations": iterations})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        del closure
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    by_shape[matrix.shape].append(matrix)
            stacks = [self._momentum(same, group["momentum"]) for same in by_shape.values()]
            updates = _orthogonalise_all(stacks, group["iterations"])
            for (shape, matrices), update in zip(by_shape.items(), updates, strict=True):
                scale = group["lr"] * math.sqrt(max(1.0, shape[0] / shape[1]))
                if group["weight_decay"]:
                    torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, list(update.unbind()), alpha=-scale)

    def _momentum(self, matrices: list[Tensor], momentum: float) -> Tensor:
        """Return the gradients with momentum applied, stacked: (N, rows, columns)."""
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        for matrix in matrices:
            if "momentum" not in self.state[matrix]:
                self.state[matrix]["momentum"] = torch.zeros_like(matrix)
        buffers = [self.state[matrix]["momentum"] for matrix in matrices]
        torch._foreach_lerp_(buffers, gradients, 1 - momentum)
        return torch.stack(torch._foreach_lerp(gradients, buffers, momentum))


def build_optimizers(model: nn.Module, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Return the optimizers of a model: AdamW, and Muon for the blocks' matrices where chosen.

    Each group keeps its peak rate as ``peak``, which the loop scales by the schedule.
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    inside = {
        name
        for name, p in trainable
        if config.optimizer == "muon" and p.ndim == 2 and "blocks." in name
    }
    # Biases and gains (which may have an axis for heads) are never pulled towards zero.
    decayed = [p for name, p in trainable if name not in inside and p.ndim == 2]
    plain = [p for name, p in trainable if name not in inside and p.ndim != 2]
    optimizers: list[torch.optim.Optimizer] = []
    if decayed or plain:
        groups = [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        optimizers.append(
            torch.optim.AdamW(
                [group for group in groups if group["params"]],
                lr=config.learning_rate,
                betas=(config.beta1, config.beta2),
                fused=True,
            )
        )
    if inside:
        optimizers.append(
            Muon(
                [p for name, p in trainable if name in inside],
                lr=config.muon_learning_rate,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                iterations=config.iterations,
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers
