"""Mask, softmax and mixing from affinities that are given: the hand-worked step of an exercise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from qkv.attention.masking import MaskLike, as_mask, fit
from qkv.attention.steps import Array, as_float64, softmax
from qkv.errors import ShapeError

__all__ = ["AffinitySteps", "steps_from_affinities"]


@dataclass(frozen=True)
class AffinitySteps:
    """The steps from given affinities on; `exponentials` and `total` are as done by hand.

    `masked` is -inf where not allowed, `exponentials` exp(masked) without a maximum taken off (so
    they may overflow to inf), `total` their sum along the row.
    """

    affinities: Float[Array, "*B Q K"]
    values: Float[Array, "*B K Cv"]
    allowed: Bool[Array, "*B Q K"]
    masked: Float[Array, "*B Q K"]
    exponentials: Float[Array, "*B Q K"]
    total: Float[Array, "*B Q"]
    pattern: Float[Array, "*B Q K"]
    lse: Float[Array, "*B Q"]
    mixed: Float[Array, "*B Q Cv"]


def steps_from_affinities(
    affinities: Float[Array, "*B Q K"] | Sequence[Any],
    values: Float[Array, "*B K Cv"] | Sequence[Any],
    *,
    mask: MaskLike = None,
    row: int | None = None,
) -> AffinitySteps:
    """Mask, softmax and mixing for affinities that are already there, such as those of an exercise.

    Args:
        affinities: one row (K,), or rows (*B, Q, K), as they go into the mask.
        values: (K,) numbers or (K, Cv) vectors, or (*B, K, Cv). None or NaN says that a token's
            value is not known, which is no matter where nobody is allowed to look at it.
        mask: a mask object or booleans of what is allowed.
        row: for a single row of affinities, which token's it is, counted from 0, for a mask object
            over all K tokens; the last one unless given.

    Returns:
        the steps; axes that the arguments lack (rows, or the width of values) are absent there too.

    Raises:
        ShapeError: where shapes do not fit, or an allowed token has no value.

    >>> from qkv.attention.masks import Causal
    >>> done = steps_from_affinities([1, 1, 1, 8], [3, 6, 0, None], mask=Causal(), row=2)
    >>> done.pattern.round(3).tolist(), float(done.mixed), float(done.total.round(3))
    ([0.333, 0.333, 0.333, 0.0], 3.0, 8.155)
    """
    given, known = as_float64("affinities", affinities), as_float64("values", values)
    if given.ndim < 1 or known.ndim < 1 or (row is not None and given.ndim != 1):
        raise ShapeError(
            f"affinities {given.shape} and values {known.shape}, row {row}",
            "affinities (K,) or (Q, K), values (K,) or (K, Cv), and a row only for one of (K,)",
            "correct the number of axes",
        )
    single, scalar = given.ndim == 1, known.ndim == 1
    rows = given[None] if single else given
    columns = known[:, None] if scalar else known
    keys = rows.shape[-1]
    if columns.shape[-2] != keys or columns.shape[:-2] not in ((), rows.shape[:-2]):
        raise ShapeError(
            f"{keys} affinities a row, values {known.shape}",
            "one value for each affinity",
            "put None where a value is not given",
        )
    asked = as_mask(mask)
    if row is None:
        asked.check(rows.shape)
        allowed = fit(asked.dense(rows.shape[-2], keys), rows.shape)
    else:
        tile = asked.allowed([range(keys)[row]], range(keys), queries=keys, keys=keys)
        allowed = fit(tile, rows.shape)
    masked = np.where(allowed, rows, -np.inf)
    pattern, lse = softmax(masked)
    mixed = pattern @ _present(columns, np.broadcast_to(allowed, rows.shape))
    with np.errstate(over="ignore"):
        exponentials = np.exp(masked)
    row_of = 0 if single else slice(None)
    return AffinitySteps(
        affinities=given,
        values=known,
        allowed=np.broadcast_to(allowed, rows.shape)[row_of],
        masked=masked[row_of],
        exponentials=exponentials[row_of],
        total=exponentials.sum(axis=-1)[row_of],
        pattern=pattern[row_of],
        lse=lse[row_of],
        mixed=(mixed[..., 0] if scalar else mixed)[row_of],
    )


def _present(values: Float[Array, "*B K Cv"], used: Bool[Array, "*B Q K"]) -> Array:
    """The values with 0 for missing ones, once no row is seen to use a missing one."""
    missing = np.isnan(values)
    wanting = used.any(axis=-2) & missing.any(axis=-1)
    if wanting.any():
        token = int(np.argwhere(wanting)[0][-1])
        raise ShapeError(
            f"no value for token {token + 1}, which a row is allowed to look at",
            "a value for every allowed token",
            "give the value, or mask the token",
        )
    return np.where(missing, 0.0, values)
