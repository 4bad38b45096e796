"""What must hold of causal self-attention, shown on trained weights, with numbers.

Nothing here trusts a mask: the weights are read out of the very calls the model made, by handing
them columns of the identity as values. Since the mixed values are linear in the values, what comes
back is the matrix of weights itself, whatever kernel computed it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from qkv.attention import attend
from qkv.errors import TextError
from qkv.lens import Site, capture
from qkv.models.config import config_of
from qkv.training.evaluation import LOGITS

__all__ = ["Influence", "Proof", "measure_influence", "prove"]


@dataclass(frozen=True)
class Proof:
    """One law and how far the trained weights are from it.

    Args:
        name: of the law.
        claim: what is shown, in words.
        worst: the largest violation that was found, relative to the largest value there.
        bound: what rounding may cause.
        tried: how many pairs were looked at.
    """

    name: str
    claim: str
    worst: float
    bound: float
    tried: int

    @property
    def holds(self) -> bool:
        """Whether the largest violation is within rounding."""
        return self.worst <= self.bound


@torch.no_grad()
def prove(model: nn.Module, ids: np.ndarray, *, sequences: int = 4, seed: int = 0) -> list[Proof]:
    """Return the proofs for a model on windows of a text.

    Args:
        model: any causal model of ours; without attention only the second law applies.
        ids: tokens to take windows from, (N,).
        sequences: how many windows.
        seed: chooses the windows and the changed tokens.

    Raises:
        TextError: fewer than two tokens.
    """
    rng = np.random.default_rng(seed)
    windows = _draw_windows(model, ids, sequences, rng, longest=256)
    training = model.training
    model.eval()
    try:
        with capture() as trace:
            for window in torch.split(windows, _rows(model, windows.shape[1])):
                model(window)
        proofs = [_future_changes_nothing(model, windows, rng)]
        if trace:
            sites = trace.layers
            proofs = [_lower_triangular(sites), *proofs, _equal_scores_average(sites)]
        return proofs
    finally:
        model.train(training)


def _lower_triangular(sites: Sequence[Site]) -> Proof:
    worst, tried = 0.0, 0
    for site in sites:
        weights = read_weights(site)  # (B, H, Q, K)
        future = torch.triu(torch.ones(weights.shape[-2:], dtype=torch.bool), diagonal=1)
        above = weights[..., future]
        worst = max(worst, _largest(above))
        tried += above.numel()
    return Proof(
        "lower-triangular",
        "no weight above the diagonal of any attention matrix",
        worst,
        0.0,
        tried,
    )


def read_weights(site: Site) -> Tensor:
    """Return the weights of a captured call, (B, H, Q, K), as its own kernel applies them."""
    K, C = site.k.shape[2], site.v.shape[3]
    identity = torch.eye(K, dtype=site.v.dtype)
    columns = []
    for first in range(0, K, C):
        part = identity[:, first : first + C]
        # Kernels may want values as wide as keys: the last strip is filled with zeros.
        part = torch.nn.functional.pad(part, (0, C - part.shape[1]))
        columns.append(site.mix(part.expand(*site.v.shape[:2], K, C).contiguous()))
    return torch.cat(columns, dim=-1)[..., :K]


def _future_changes_nothing(model: nn.Module, windows: Tensor, rng: np.random.Generator) -> Proof:
    """Change each token in turn; look at every logit before it."""
    worst, tried = 0.0, 0
    T, V = windows.shape[1], config_of(model).vocab
    for window in windows:
        changed = window.repeat(T, 1)  # row 0 stays as it is, row j has token j changed
        places = torch.arange(1, T)
        shift = torch.from_numpy(rng.integers(1, max(V, 2), size=T - 1))
        changed[places, places] = (changed[places, places] + shift) % V
        before = model(changed[:1])  # (1, T, V)
        scale = max(1.0, _largest(before))
        for rows in torch.split(torch.arange(T), _rows(model, T)):
            difference = (model(changed[rows]) - before).abs().amax(dim=-1)  # (rows, T)
            earlier = difference[torch.arange(T) < rows[:, None]]
            worst = max(worst, _relative(earlier, scale))
            tried += earlier.numel()
    return Proof(
        "no future",
        "no earlier logit changes when a token is changed",
        worst,
        1e-5,
        tried,
    )


def _equal_scores_average(sites: Sequence[Site]) -> Proof:
    worst, tried = 0.0, 0
    for site in sites:
        mask = site.mask
        mixed = attend(torch.zeros_like(site.q), site.k, site.v, mask=mask).double()
        Q, K = site.q.shape[2], site.k.shape[2]
        seen = torch.as_tensor(mask.allowed(np.arange(Q), np.arange(K), queries=Q, keys=K)).double()
        groups = site.q.shape[1] // site.v.shape[1]
        v = site.v.double().repeat_interleave(groups, dim=1)
        average = (seen @ v) / seen.sum(-1, keepdim=True).clamp(min=1)
        scale = _largest(v)
        worst = max(worst, _relative(mixed - average, max(scale, 1e-30)))
        tried += Q * site.q.shape[1] * site.q.shape[0]
    return Proof(
        "equal scores",
        "equal scores give the uniform average of the past",
        worst,
        1e-5,
        tried,
    )


def _largest(numbers: Tensor) -> float:
    """Return the largest magnitude; infinity where one is not a number, which proves nothing."""
    if not numbers.numel():
        return 0.0
    largest = float(numbers.abs().max())
    return largest if largest < math.inf else math.inf


def _relative(difference: Tensor, scale: float) -> float:
    return _largest(difference) / scale if scale < math.inf else math.inf


def _rows(model: nn.Module, length: int) -> int:
    """Return how many windows at once keep their logits below 256 MiB."""
    return max(1, LOGITS // (length * config_of(model).vocab))


def _draw_windows(
    model: nn.Module, ids: np.ndarray, sequences: int, rng: np.random.Generator, longest: int
) -> Tensor:
    if len(ids) < 2:
        raise TextError(
            f"{len(ids)} tokens", "at least 2, one to follow the other", "give more text"
        )
    length = min(config_of(model).context, len(ids), longest)
    starts = rng.integers(0, len(ids) - length + 1, size=sequences)
    return torch.from_numpy(np.stack([ids[s : s + length] for s in starts]))


@dataclass(frozen=True)
class Influence:
    """How much a token moves the prediction, by its distance back from the last token.

    Args:
        distances: 0 is the last token itself.
        effects: mean total variation between predictions before and after the change, 0 to 1.
        reach: tokens from the farthest one that moves the prediction at all to the last, both
            counted; 0 for a model that looks at nothing.
    """

    distances: list[int]
    effects: list[float]
    reach: int


@torch.no_grad()
def measure_influence(
    model: nn.Module, ids: np.ndarray, *, sequences: int = 24, seed: int = 0
) -> Influence:
    """Change one token at a time and see how far back that still moves the last prediction.

    Args:
        model: any model of ours.
        ids: tokens to take windows from, (N,).
        sequences: windows; the effect is their mean.
        seed: chooses windows and changes.

    Raises:
        TextError: fewer than two tokens.
    """
    rng = np.random.default_rng(seed)
    windows = _draw_windows(model, ids, sequences, rng, longest=len(ids))
    length = windows.shape[1]
    training = model.training
    model.eval()
    try:
        before = _last_prediction(model, windows)
        distances = _spread(length)
        effects, moved = [], [0]
        for distance in distances:
            place = length - 1 - distance
            changed = windows.clone()
            shift = torch.from_numpy(
                rng.integers(1, max(2, config_of(model).vocab), size=sequences)
            )
            changed[:, place] = (changed[:, place] + shift) % config_of(model).vocab
            difference = (_last_prediction(model, changed) - before).abs()
            effects.append(float(difference.sum(-1).mean() / 2))
            if float(difference.max()) > 1e-6:  # above fp32 rounding
                moved.append(distance + 1)
        return Influence(distances, effects, max(moved))
    finally:
        model.train(training)


def _last_prediction(model: nn.Module, windows: Tensor) -> Tensor:
    """Return the probabilities after each window, (B, V)."""
    strips = torch.split(windows, _rows(model, windows.shape[1]))
    return torch.cat([model(strip)[:, -1].double().softmax(-1) for strip in strips])


def _spread(length: int) -> list[int]:
    """Return distances from 0 to ``length - 1``, each about 1.5 times the one before."""
    distances, distance = [0], 1
    while distance < length - 1:
        distances.append(distance)
        distance = max(distance + 1, round(distance * 1.5))
    return [*distances, length - 1] if length > 1 else distances
