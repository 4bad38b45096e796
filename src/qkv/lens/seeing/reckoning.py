"""Scores and lse of a call in the one form: what a kernel doesn't tell is reckoned here."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from qkv.attention import Full, Given, Mask
from qkv.attention.fused import attend
from qkv.lens.seeing.calls import Call

__all__ = ["STRIP", "lse_of", "some_scores", "some_weights", "whole_mask"]

# Scores of one strip: 32 MB in fp32.
STRIP = 2**23


def whole_mask(mask: Mask, allowed: Tensor | None) -> Mask:
    """What both the rule and the table of a call allow."""
    if allowed is None:
        return mask
    table = Given(np.asarray(allowed.cpu().numpy()))
    return table if isinstance(mask, Full) else mask & table


def lse_of(call: Call) -> Float[Tensor, "B H Q"]:
    """Each row's log-sum-exp, in fp32 at least, of the q and k that a call has."""
    kind = torch.promote_types(call.q.dtype, torch.float32)
    queries = call.q.shape[2]
    if call.score_mod is not None:
        step = max(1, STRIP // max(1, call.q.shape[0] * call.q.shape[1] * call.k.shape[2]))
        strips = [
            some_scores(call, np.arange(first, min(first + step, queries))).logsumexp(-1)
            for first in range(0, queries, step)
        ]
        lse = torch.cat(strips, 2)
    else:
        q, k = call.q.to(kind), call.k.to(kind)
        bias = call.bias.to(kind) if isinstance(call.bias, Tensor) else call.bias
        # Keys as values: torch's kernel takes only values as wide as keys.
        options: dict[str, Any] = {"scale": call.scale, "softcap": call.softcap}
        mask = whole_mask(call.mask, call.allowed)
        with torch.autocast(q.device.type, enabled=False):
            lse = attend(q, k, k, mask=mask, bias=bias, **options, return_lse=True)[1]
    if call.sink is not None:
        lse = torch.logaddexp(lse, call.sink.to(lse)[:, None])
    return lse


def some_scores(call: Call, rows: Int[np.ndarray, " rows"]) -> Float[Tensor, "B H rows K"]:
    """What goes into the softmax at some rows: -inf where it is forbidden."""
    kind = torch.promote_types(call.q.dtype, torch.float32)
    (B, H, queries), keys = call.q.shape[:3], call.k.shape[2]
    at = torch.from_numpy(rows).to(call.q.device)
    k = call.k.to(kind).repeat_interleave(H // call.k.shape[1], 1)
    scores = call.q[:, :, at].to(kind) @ k.mT * call.scale
    if call.score_mod is not None:
        cols = torch.arange(keys, device=call.q.device)
        bent = [
            torch.stack([call.score_mod(scores[b, h], b, h, at, cols) for h in range(H)])
            for b in range(B)
        ]
        scores = torch.stack(bent)
    if call.softcap is not None:
        scores = torch.tanh(scores / call.softcap) * call.softcap
    if isinstance(call.bias, Tensor):
        scores = scores + (call.bias[..., at, :] if call.bias.shape[-2] > 1 else call.bias)
    elif call.bias is not None:
        tile = call.bias.tile(rows, range(keys), queries=queries, keys=keys)
        scores = scores + torch.from_numpy(np.ascontiguousarray(tile)).to(scores)
    mask = whole_mask(call.mask, call.allowed)
    allowed = mask.allowed(rows, range(keys), queries=queries, keys=keys)
    return scores.masked_fill(torch.from_numpy(~allowed).to(scores.device), -torch.inf)


def some_weights(call: Call, lse: Tensor, rows: Int[np.ndarray, " rows"]) -> Tensor:
    """The weights (B, H, rows, K) of some rows."""
    at = torch.from_numpy(rows).to(call.q.device)
    level = lse[:, :, at, None]
    return (some_scores(call, rows) - level.masked_fill(level == -torch.inf, 0.0)).exp()
