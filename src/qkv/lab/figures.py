"""Numbers of the guide's figures: computed when asked for, by the very engine they explain.

What a figure shows of a head is read from a model that truly read the reader's text; what it shows
of a training is measured on the run that the reader started.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from qkv.attention import Causal, steps
from qkv.errors import CheckpointError, ConfigError
from qkv.lab.loading import few_threads, token_texts
from qkv.lab.rooms import Lab
from qkv.lab.shelf import OWN

if TYPE_CHECKING:
    from qkv.lens import Site
    from qkv.models.foreign import AnyModel

__all__ = ["Spread", "influence", "next_token", "roles", "spread_of_scores"]

Array: TypeAlias = "np.ndarray[Any, Any]"

WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
GROUPS, QUERIES, KEYS = 24, 16, 16
MOST_SHOWN = 24
"""Tokens of which all of q, k and v are drawn."""
MOST_WRITTEN = 64
MOST_DRAWN = 8
"""Likeliest tokens among which the next is drawn."""


@dataclass(frozen=True)
class Spread:
    """What becomes of scores as heads get wider; each list has an entry for each width.

    Args:
        widths: C.
        keys: how many each query shares its weight among.
        variance: of the scores.
        entropy: of a row after the softmax, in nats, the mean over queries.
        gradient: Frobenius norm of the softmax's Jacobian diag(p) - p pᵀ, the mean over queries.
        row: one query's weights.
    """

    widths: tuple[int, ...]
    keys: int
    variance: list[float] = field(default_factory=list)
    entropy: list[float] = field(default_factory=list)
    gradient: list[float] = field(default_factory=list)
    row: list[list[float]] = field(default_factory=list)

    def add(self, q: Array, k: Array, scale: float) -> None:
        """Take in another width: q (groups, Q, C) and k (groups, K, C)."""
        done = steps(q[:, None], k[:, None], k[:, None, :, :1], scale=scale)
        p = done.pattern
        self.variance.append(float(done.scaled.var()))
        logs = np.log(np.where(p > 0, p, 1.0))
        self.entropy.append(float(np.abs((p * logs).sum(-1)).mean()))
        # ‖diag p − p pᵀ‖² = Σ p² − 2 Σ p³ + (Σ p²)²
        squares = (p**2).sum(-1)
        norms = np.sqrt(np.maximum(squares - 2 * (p**3).sum(-1) + squares**2, 0.0))
        self.gradient.append(float(norms.mean()))
        self.row.append(p[0, 0, 0].tolist())


def spread_of_scores(seed: int) -> tuple[Spread, Spread]:
    """Return how scores and their softmax spread where q and k are drawn from N(0, 1).

    Args:
        seed: of the draw.

    Returns:
        with scores multiplied by 1/sqrt(C), and as they are; of the same q and k.

    Raises:
        ConfigError: a seed below 0, or beyond 32 bits.

    >>> scaled, raw = spread_of_scores(1)
    >>> round(scaled.variance[-1], 1), round(raw.variance[-1] / 512, 1)
    (1.0, 1.0)
    >>> raw.entropy[-1] < 0.5 < scaled.entropy[-1]
    True
    """
    if not 0 <= seed < 2**32:
        raise ConfigError(f"the seed {seed}", "a whole number from 0 to 4,294,967,295", "take one")
    rng = np.random.default_rng(seed)
    with_scale, without = Spread(WIDTHS, KEYS), Spread(WIDTHS, KEYS)
    for width in WIDTHS:
        q, k = rng.normal(size=(GROUPS, QUERIES, width)), rng.normal(size=(GROUPS, KEYS, width))
        with_scale.add(q, k, scale=width**-0.5)
        without.add(q, k, scale=1.0)
    return with_scale, without


def roles(lab: Lab, text: str, head: str) -> dict[str, Any]:
    """Return q, k and v of a text in a head of the model that comes with qkv, (T, C) each.

    And the head's weights, as they are, and where keys and values change places: what matches is
    then compared with values, and what is taken in are keys.

    Args:
        lab: has the model.
        text: its first characters are taken, 24 at most.
        head: by name; the one that comes first in the list unless it is one.

    Raises:
        QkvError: no text, or one with characters that the model doesn't know.
    """
    read = _read(lab, text[:MOST_SHOWN])
    names = read.heads()
    name = head if head in names else names[0]
    q, k, v, scale = read.parts(name)
    as_is = steps(q, k, v, mask=Causal(), scale=scale)
    swapped = steps(q, v, k, mask=Causal(), scale=scale)
    moved = 0.5 * np.abs(as_is.pattern - swapped.pattern).sum(-1)  # (T,)
    return {
        "head": name,
        "heads": names,
        "tokens": read.tokens,
        "scale": scale,
        "q": q.round(3).tolist(),
        "k": k.round(3).tolist(),
        "v": v.round(3).tolist(),
        "pattern": as_is.pattern.tolist(),
        "swapped": swapped.pattern.tolist(),
        "moved": moved.tolist(),
    }


def next_token(lab: Lab, text: str, head: str, seed: int) -> dict[str, Any]:
    """Return a token drawn after a text, what it was drawn from, and the rows of a head so far.

    Drawn from the eight likeliest, in proportion to their probabilities.

    Args:
        lab: has the model that comes with qkv.
        text: 64 characters at most.
        head: of which each token's weights are told.
        seed: of the draw; the same one and the same text give the same token.

    Raises:
        QkvError: an empty or too long text, characters unknown to the model, or no such head.
    """
    if len(text) > MOST_WRITTEN:
        raise ConfigError(f"{len(text)} characters", f"at most {MOST_WRITTEN}", "start again")
    read = _read(lab, text)
    if head not in read.heads():
        raise ConfigError(f"head {head[:40]!r}", "one of the model's", "choose another")
    likeliest = np.argsort(-read.following, kind="stable")[:MOST_DRAWN]
    shares = read.following[likeliest]
    rng = np.random.default_rng([seed, len(text)])
    drawn = rng.choice(likeliest, p=shares / shares.sum())
    texts = token_texts(read.model, [int(drawn), *likeliest.tolist()])
    q, k, v, scale = read.parts(head)
    pattern = steps(q, k, v, mask=Causal(), scale=scale).pattern
    return {
        "token": texts[0],
        "next": [
            {"token": token, "probability": float(share)}
            for token, share in zip(texts[1:], shares, strict=True)
        ],
        "head": head,
        "tokens": read.tokens,
        "rows": [row[: at + 1].round(5).tolist() for at, row in enumerate(pattern)],
    }


@dataclass(frozen=True, eq=False)
class _Read:
    """A text that the model that comes with qkv read: nothing of it is scored or kept.

    `following` has the probabilities of what comes next, (V,).
    """

    model: AnyModel
    sites: Sequence[Site]
    tokens: list[str]
    following: Array

    def heads(self) -> list[str]:
        return [f"L{at}H{head}" for at, site in enumerate(self.sites) for head in range(site.H)]

    def parts(self, name: str) -> tuple[Array, Array, Array, float]:
        """A head's q, k and v as they were compared and mixed, (T, C) each, and its scale."""
        layer, head = (int(part) for part in name[1:].split("H"))
        site = self.sites[layer]
        group = head // (site.H // site.G)
        assert site.v is not None, "recorded with its values"
        q, k, v = site.q[0, head], site.k[0, group], site.v[0, group]
        return q.double().numpy(), k.double().numpy(), v.double().numpy(), site.scale


def _read(lab: Lab, text: str) -> _Read:
    import torch

    from qkv.lens import capture

    item = lab.shelf.find(OWN)
    model = lab.inspector.models.get(item)
    ids, _ = lab.inspector.models.ids(item, text, cut=False)
    with (
        lab.inspector.running,
        few_threads(model, len(ids)),
        torch.inference_mode(),
        capture(model.model, values=True) as trace,
    ):
        logits = model.model(torch.from_numpy(ids)[None])[0, -1]  # (V,)
    following = logits.double().softmax(-1).numpy()
    return _Read(model, trace.layers, token_texts(model, ids.tolist()), following)


def influence(lab: Lab, name: str, *, seed: int = 0) -> dict[str, Any]:
    """Return how far back a token moves what a run predicts, measured on its validation text.

    Args:
        lab: has the run.
        name: the run, as pages call it.
        seed: of the windows and of what is changed in them.

    Raises:
        QkvError: no such run, or no checkpoint yet, or its text is gone.
    """
    from qkv.training.proofs import measure_influence

    item = lab.inspector.catalogue.find(name)
    if item.kind != "run" or item.path is None:
        raise ConfigError(f"{item.title}, which is no run", "a run", "train one")
    model = lab.inspector.models.get(item)
    found = measure_influence(model.model, _validation_ids(item.path, model), seed=seed)
    return asdict(found)


def _validation_ids(path: Any, model: AnyModel) -> Array:
    from qkv.text import load_corpus
    from qkv.training.rundir import RunDirectory

    described = RunDirectory(path).read_config()[2]
    corpus = load_corpus(str(described.get("source")))
    if corpus.sha256 != described.get("sha256") or model.tokenizer is None:
        raise CheckpointError(
            f"another text than {path.name} was trained on", "the same", "train it again"
        )
    return np.asarray(model.tokenizer.encode(corpus.split()[1]))
