"""Maps of every kind, each with its pattern worked out densely here, without the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from qkv.attention import ALiBi, Causal, Padding, Prefix, Window
from qkv.lens import AttentionMap


class Known(NamedTuple):
    """A map, and its pattern (Q, K), lse (Q,) and allowed cells (Q, K) in float64."""

    head: AttentionMap
    pattern: np.ndarray[Any, Any]
    lse: np.ndarray[Any, Any]
    allowed: np.ndarray[Any, Any]


KINDS = (
    "full",
    "causal",
    "window",
    "prefix",
    "padding",
    "given",
    "nothing",
    "alibi",
    "bias",
    "key bias",
    "softcap",
    "score_mod",
    "sink",
    "chosen rows",
    "half",
    "unscaled",
)


def make(kind: str, Q: int, K: int, C: int = 7, seed: int = 5) -> Known:
    """One map of a kind, with Q queries and K keys."""
    rng = np.random.default_rng(seed)
    q, k = rng.normal(size=(Q, C)), rng.normal(size=(K, C))
    if kind == "half":
        q, k = q.astype(np.float16), k.astype(np.float16)
    if kind == "unscaled":
        q, k = q * 9, k * 9
    at = np.arange(K - Q, K)
    if kind == "chosen rows":
        at = np.sort(rng.choice(K, Q, replace=Q > K))
    here, there = at[:, None], np.arange(K)
    ones = np.ones((Q, K), dtype=bool)
    random = rng.random((Q, K)) < 0.4
    random[Q // 2] = False
    random[:, K // 3] = False
    shift = rng.normal(size=(Q, K))
    masks: dict[str, Any] = {
        "causal": (Causal(), there <= here),
        "window": (Window(23), (there <= here) & (there > here - 23)),
        "prefix": (Prefix(17), (there <= here) | (there < 17)),
        "padding": (Causal() & Padding((K - 5,)), (there <= here) & (there < K - 5)),
        "given": (random, random),
        "nothing": (~ones, ~ones),
        "sink": (random & (there <= here), random & (there <= here)),
        "chosen rows": (there <= here, there <= here),
    }
    mask, allowed = masks.get(kind, (None, ones))
    if kind in ("alibi", "softcap", "score_mod"):
        mask, allowed = masks["causal"]
    fields: dict[str, Any] = {
        "alibi": {"bias": ALiBi((0.05,))},
        "bias": {"bias": shift.astype(np.float32)},
        "key bias": {"bias": shift[0]},
        "softcap": {"softcap": 1.5, "bias": shift, "scale": 0.7},
        "score_mod": {"score_mod": lambda s, i, j: s * 0.5 + np.sin(i[:, None] + 2 * j)},
        "sink": {"sink": 0.7},
        "chosen rows": {"at": at},
        "unscaled": {"scale": 1.0},
    }.get(kind, {})
    scores = q.astype(np.float64) @ k.astype(np.float64).T * fields.get("scale", C**-0.5)
    if kind == "score_mod":
        scores = scores * 0.5 + np.sin(np.arange(Q)[:, None] + 2 * there)
    if kind == "softcap":
        scores = 1.5 * np.tanh(scores / 1.5) + shift
    if kind == "alibi":
        scores = scores - 0.05 * np.abs(here - there)
    if kind == "bias":
        scores = scores + fields["bias"]
    if kind == "key bias":
        scores = scores + shift[0]
    raised = np.where(allowed, np.exp(scores - (500 if kind == "unscaled" else 0)), 0.0)
    total = raised.sum(1) + np.exp(fields.get("sink", -np.inf))
    pattern = raised / np.where(total == 0, 1.0, total)[:, None]
    with np.errstate(divide="ignore"):
        lse = np.log(total) + (500 if kind == "unscaled" else 0)
    return Known(AttentionMap.of(q, k, mask=mask, **fields), pattern, lse, allowed)


@pytest.fixture
def known() -> Callable[..., Known]:
    """Makes a map of a kind: known("causal", Q, K)."""
    return make


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of map in turn."""
    return str(request.param)
