"""What must hold of causal self-attention, shown on trained weights, with numbers.

Nothing here trusts a mask: the weights are read out of the very calls the model made, by handing
them columns of the identity as values. Since the mixed values are linear in the values, what comes
back is the matrix of weights itself, whatever kernel computed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from qkv.attention import Full, as_mask, attend
from qkv.lens import Site, Trace, capture

__all__ = ["Influence", "Proof", "measure_influence", "prove"]


@dataclass(frozen=True)
class Proof:
    """One law and how far the trained weights are from it.

    Args:
        name: of the law.
        claim: what is shown, in words.
        worst: the largest violation that was found.
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
def prove(
    model: nn.Module, ids: np.ndarray, *, sequences: int = 4, seed: int = 0
) -> list[Proof]:
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
    training = model.training
    model.eval()
    try:
        length = min(model.config.context, len(ids), 256)
        starts = rng.integers(0, len(ids) - length + 1, size=sequences)
        windows = torch.from_numpy(np.stack([ids[s : s + length] for s in starts]))
        with capture() as trace:
            model(windows)
        proofs = [_future_changes_nothing(model, windows, rng)]
        sites = trace.layers
        if sites:
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
        worst = max(worst, float(above.abs().max()) if above.numel() else 0.0)
        tried += above.numel()
    return Proof(
        "lower-triangular",
        "every attention matrix has no weight above its diagonal; the largest is",
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


def _future_changes_nothing(
    model: nn.Module, windows: Tensor, rng: np.random.Generator
) -> Proof:
    """Change each token in turn; look at every logit before it."""
    worst, tried = 0.0, 0
    T, V = windows.shape[1], model.config.vocab
    for window in windows:
        changed = window.repeat(T, 1)  # row 0 stays as it is, row j has token j changed
        places = torch.arange(1, T)
        shift = torch.from_numpy(rng.integers(1, max(V, 2), size=T - 1))
        changed[places, places] = (changed[places, places] + shift) % V
        logits = model(changed).double()  # (T, T, V)
        earlier = torch.tril(torch.ones(T, T, dtype=torch.bool), diagonal=-1)  # [j, i]: i < j
        difference = (logits - logits[:1]).abs().amax(dim=-1)[earlier]
        scale = float(logits.abs().max())
        if difference.numel():
            worst = max(worst, float(difference.max()) / max(scale, 1.0))
        tried += difference.numel()
    return Proof(
        "no future",
        "changing a token changes no earlier logit; the largest change (relative) is",
        worst,
        1e-5,
        tried,
    )


def _equal_scores_average(sites: Sequence[Site]) -> Proof:
    worst, tried = 0.0, 0
    for site in sites:
        mask = as_mask(site.mask) or Full()
        mixed = attend(torch.zeros_like(site.q), site.k, site.v, mask=mask).double()
        Q, K = site.q.shape[2], site.k.shape[2]
        seen = torch.as_tensor(
            mask.allowed(np.arange(Q), np.arange(K), queries=Q, keys=K)
        ).double()
        groups = site.q.shape[1] // site.v.shape[1]
        v = site.v.double().repeat_interleave(groups, dim=1)
        average = (seen @ v) / seen.sum(-1, keepdim=True).clamp(min=1)
        scale = float(v.abs().max())
        worst = max(worst, float((mixed - average).abs().max()) / max(scale, 1e-30))
        tried += Q * site.q.shape[1] * site.q.shape[0]
    return Proof(
        "equal scores",
        "with equal scores each head gives the uniform average of what it may see; "
        "the largest difference (relative) is",
        worst,
        1e-5,
        tried,
    )


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
    """
    rng = np.random.default_rng(seed)
    training = model.training
    model.eval()
    try:
        length = min(model.config.context, len(ids))
        starts = rng.integers(0, len(ids) - length + 1, size=sequences)
        windows = torch.from_numpy(np.stack([ids[s : s + length] for s in starts]))
        before = model(windows)[:, -1].double().softmax(-1)
        distances = _spread(length)
        effects, moved = [], [0]
        for distance in distances:
            place = length - 1 - distance
            changed = windows.clone()
            shift = torch.from_numpy(rng.integers(1, max(2, model.config.vocab), size=sequences))
            changed[:, place] = (changed[:, place] + shift) % model.config.vocab
            after = model(changed)[:, -1].double().softmax(-1)
            difference = (after - before).abs()
            effects.append(float(difference.sum(-1).mean() / 2))
            if float(difference.max()) > 1e-6:  # above fp32 rounding
                moved.append(distance + 1)
        return Influence(distances, effects, max(moved))
    finally:
        model.train(training)


def _spread(length: int) -> list[int]:
    """Return distances from 0 to ``length - 1``, each about 1.5 times the one before."""
    distances, distance = [0], 1
    while distance < length - 1:
        distances.append(distance)
        distance = max(distance + 1, round(distance * 1.5))
    return [*distances, length - 1] if length > 1 else distances


