"""Queries and keys as whole numbers of one byte, with one scale for each row."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int8
from torch import Tensor

from qkv.errors import QkvError
from qkv.lens.seeing.calls import Call
from qkv.lens.seeing.reckoning import lse_of, some_weights
from qkv.lens.traces.parts import bias_of, mask_of, tensors_of
from qkv.lens.traces.sites import Site

__all__ = ["LARGEST", "code", "decode", "round_site"]

LARGEST = 127
# Rows of which the change of weights is measured, of each sequence.
TRIED = 16


def code(
    x: Float[Tensor, "*rows C"], largest: int = LARGEST
) -> tuple[Int8[Tensor, "*rows C"], Float[Tensor, " *rows"]]:
    """Rows as whole numbers from -127 to 127, and what each row is to be multiplied by.

    A smaller `largest` makes them coarser, and files of them smaller once they are compressed.
    Scales are fp16, or fp32 where one of them would lose digits in fp16.

    Raises:
        QkvError: for numbers that aren't finite.

    >>> numbers, scales = code(torch.tensor([[1.0, -0.5], [0.0, 0.0]]))
    >>> numbers.tolist(), scales.dtype
    ([[127, -64], [0, 0]], torch.float16)
    """
    wide = x.detach().cpu().to(torch.float32)
    if not bool(wide.isfinite().all()):
        raise QkvError(
            "queries or keys that are not finite",
            "finite numbers, to be stored as int8",
            "save without dtype='int8'",
        )
    scales = wide.abs().amax(-1) / largest
    half = torch.finfo(torch.float16)
    fits = (scales == 0) | ((scales >= half.tiny) & (scales <= half.max))
    if bool(fits.all()):
        scales = scales.half()
    whole = scales.float()[..., None]
    numbers = torch.where(whole > 0, wide / whole, 0.0).round_().clamp_(-largest, largest)
    return numbers.to(torch.int8), scales


def decode(
    numbers: Int8[Tensor, "*rows C"], scales: Float[Tensor, " *rows"]
) -> Float[Tensor, "*rows C"]:
    """The rows that `code` stands for, in fp32.

    >>> decode(torch.tensor([[127, -64]], dtype=torch.int8), torch.tensor([0.5])).tolist()
    [[63.5, -32.0]]
    """
    return numbers.float() * scales.float()[..., None]


def round_site(site: Site, largest: int = LARGEST) -> tuple[Site, dict[str, Tensor]]:
    """A site of the rounded q and k with an lse of its own, and the numbers and scales of both.

    Its `error` is the largest change of a weight in some rows.

    Raises:
        QkvError: for numbers that aren't finite, or scores that a function bends.
    """
    if site.score_mod is not None:
        raise QkvError(
            f"layer {site.index} with a score_mod, which is a function",
            "layers that numbers describe",
            "capture other layers",
        )
    coded: dict[str, Tensor] = {}
    coded["q"], coded["q_scale"] = code(site.q, largest)
    coded["k"], coded["k_scale"] = code(site.k, largest)
    q, k = decode(coded["q"], coded["q_scale"]), decode(coded["k"], coded["k_scale"])
    rounded = site.only(q=q, k=k, lse=site.lse.float().clone(), again=None)
    error = site.error
    for sequence in range(site.B):
        held = np.flatnonzero(site.kept[sequence].held(site.rows))
        if not held.size:
            continue
        before, after = _call(site, sequence), _call(rounded, sequence)
        lse = lse_of(after)
        rounded.lse[sequence][:, torch.from_numpy(held)] = lse[0]
        rows = np.unique(np.linspace(0, len(held) - 1, TRIED).astype(np.int64))
        old = tensors_of(site, sequence)[2]
        change = some_weights(before, old, rows) - some_weights(after, lse, rows)
        error = max(error, float(change.abs().max()))
    return rounded.only(error=error), coded


def _call(site: Site, sequence: int) -> Call:
    """What is stored of one sequence, as one call of all stored heads."""
    q, k, _ = tensors_of(site, sequence)
    return Call(
        q=q,
        k=k,
        v=k,
        run=_nothing,
        finish=_nothing,
        mask=mask_of(site, sequence),
        bias=bias_of(site, sequence),
        scale=site.scale,
        softcap=site.softcap,
        sink=site.sink,
    )


def _nothing(*_: Any) -> Any:
    raise AssertionError("a call that is stored isn't made again")
