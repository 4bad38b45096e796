"""What must hold of causal self-attention, shown on trained weights, with numbers.

Nothing here trusts a mask: the weights are read out of the very calls the model made, by handing
them columns of the identity as values. Since the mixed values are linear in the values, what comes
back is the matrix of weights itself, whatever kernel computed it. With queries of zeros besides,
the same calls show what the model makes of equal scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from qkv.errors import TextError
from qkv.lens import Site, capture
from qkv.models import sight
from qkv.models.config import config_of
from qkv.training.evaluation import LOGITS

__all__ = ["Influence", "Proof", "measure_influence", "prove"]

NOTHING_MOVES = "shows nothing: no logit depends on any token"
MOVES = 1e-6
"""A larger change of a probability is more than fp32 rounding."""


@dataclass(frozen=True)
class Proof:
    """One law and how far the trained weights are from it.

    Args:
        name: of the law.
        claim: what is shown, in words.
        worst: the largest violation that was found, relative to the largest value there.
        bound: what rounding may cause.
        tried: how many pairs were looked at.
        shown: whether a violation could have been seen; a law that nothing could break is not
            shown to hold.
        note: what must be known of this verdict, in words; mostly nothing.
    """

    name: str
    claim: str
    worst: float
    bound: float
    tried: int
    shown: bool = True
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether a violation could have been seen, and the largest is within rounding."""
        return self.shown and self.worst <= self.bound


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


def read_weights(site: Site, q: Tensor | None = None, *, biased: bool = True) -> Tensor:
    """Return the weights of a captured call, (B, H, Q, K), as its own kernel applies them.

    ``q`` and ``biased`` are those of `Site.rerun`: other queries, and scores without their bias.
    """
    # Values as wide as keys: torch may take another kernel for another width.
    K, C = site.K, site.C
    identity = torch.eye(K, dtype=site.k.dtype)
    columns = []
    for first in range(0, K, C):
        part = identity[:, first : first + C]
        # The last strip is filled up with zeros.
        part = torch.nn.functional.pad(part, (0, C - part.shape[1]))
        values = part.expand(*site.k.shape[:2], K, C).contiguous()
        columns.append(site.rerun(values, q, biased=biased))
    return torch.cat(columns, dim=-1)[..., :K]


def _future_changes_nothing(model: nn.Module, windows: Tensor, rng: np.random.Generator) -> Proof:
    """Change each token in turn; look at every logit before it.

    Logits that depend on no token at all can't be moved by a later one either. So some change must
    move a logit at its own place or after, by more than passes for rounding.
    """
    bound = 1e-5
    worst, tried, moved = 0.0, 0, False
    T, V = windows.shape[1], config_of(model).vocab
    places = torch.arange(T)
    for window in windows:
        changed = window.repeat(T, 1)  # row j has token j changed
        shift = torch.from_numpy(rng.integers(1, max(V, 2), size=T))
        changed[places, places] = (window + shift) % V
        before = model(window[None])  # (1, T, V)
        scale = max(1.0, _largest(before))
        for rows in torch.split(places, _rows(model, T)):
            difference = (model(changed[rows]) - before).abs().amax(dim=-1)  # (rows, T)
            earlier = places < rows[:, None]
            worst = max(worst, _relative(difference[earlier], scale))
            tried += int(earlier.sum())
            moved = moved or bool((difference[~earlier] > bound * scale).any())
    blind = sight(model) == 0
    note = ""
    if not moved and worst <= bound:
        note = "holds by itself: this model looks at no token" if blind else NOTHING_MOVES
    return Proof(
        "no future",
        "no earlier logit changes when a token is changed",
        worst,
        bound,
        tried,
        shown=moved or blind,
        note=note,
    )


def _equal_scores_average(sites: Sequence[Site]) -> Proof:
    """Make all scores equal in the model's own calls: queries of zeros, and no bias.

    The mask says one thing only, how far back the last query looks; the average that the weights
    must be is built without it.
    """
    worst, tried = 0.0, 0
    windows: set[int] = set()
    for site in sites:
        weights = read_weights(site, torch.zeros_like(site.q), biased=False).double()
        window = _window(site)  # broadcastable to (B, H, 1, 1)
        back = (torch.arange(site.Q) + site.K - site.Q)[:, None] - torch.arange(site.K)
        seen = (back >= 0) & (back < window)  # (..., Q, K)
        count = seen.sum(-1, keepdim=True).clamp(min=1)
        # Each row relative to 1/count, the weight of each token that it averages over.
        worst = max(worst, _largest(weights * count - seen.double()))
        tried += site.B * site.H * site.Q
        windows.update(int(size) if size < site.K else 0 for size in window.flatten())
    return Proof("equal scores", _average_claim(windows), worst, 1e-5, tried)


def _window(site: Site) -> Tensor:
    """Return how many tokens back the last query may look, itself among them, (..., 1, 1)."""
    Q, K = site.Q, site.K
    allowed = site.mask.allowed(range(Q - 1, Q), range(K), queries=Q, keys=K)  # (..., 1, K)
    return K - torch.from_numpy(np.argmax(allowed, axis=-1, keepdims=True))


def _average_claim(windows: set[int]) -> str:
    """Return the claim for the windows that were found, 0 being the whole past."""
    if windows <= {0}:
        return "equal scores give the uniform average of the past"
    sizes = sorted(windows - {0})
    last = f"the last {sizes[0]}" + (f" to {sizes[-1]}" if len(sizes) > 1 else "")
    if 0 in windows:
        return f"equal scores average {last} or all tokens"
    return f"equal scores average {last} token" + ("s" if sizes != [1] else "")


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
            counted: changing all before it at once moves nothing. 0 for a model that looks at
            nothing.
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
        V = config_of(model).vocab
        shift = torch.from_numpy(rng.integers(1, max(2, V), size=windows.shape))
        other = (windows + shift) % V

        def change(places: slice) -> Tensor:
            """Return how each prediction differs, (B, V), with these tokens changed."""
            changed = windows.clone()
            changed[:, places] = other[:, places]
            return (_last_prediction(model, changed) - before).abs()

        distances = _spread(length)
        effects, farthest = [], -1
        for distance in distances:
            place = length - 1 - distance
            difference = change(slice(place, place + 1))
            effects.append(float(difference.sum(-1).mean() / 2))
            if float(difference.max()) > MOVES:
                farthest = distance

        def reaches(distance: int) -> bool:
            """Whether tokens as far as that, or farther, move it, all of them changed at once."""
            return float(change(slice(0, length - distance)).max()) > MOVES

        farthest = _farthest(reaches, farthest, length)
        return Influence(distances, effects, farthest + 1)
    finally:
        model.train(training)


def _farthest(reaches: Callable[[int], bool], known: int, length: int) -> int:
    """Return the farthest distance that reaches, from ``known`` (which does) to below ``length``.

    The answer turns from yes to no just once, whatever single distances do: what is changed from
    one distance on is part of what is changed from any nearer one on.
    """
    beyond = length
    distance = known + 1  # mostly nothing is beyond what is known
    while known + 1 < beyond:
        if reaches(distance):
            known = distance
        else:
            beyond = distance
        distance = (known + beyond) // 2
    return known


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
