"""What of a layer belongs to one sequence, and to one head or all: mask, bias, q, k and lse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from qkv.attention import Causal, Full, Given, Mask, Window
from qkv.attention.fused import attend
from qkv.lens.seeing.masks import Cut, CutBias, TopLeft, pick

if TYPE_CHECKING:
    from qkv.lens.traces.sites import Site

__all__ = ["array", "bias_of", "mask_of", "mix_of", "rows_of", "score_mod_of", "tensors_of"]

Array = np.ndarray[Any, Any]
STRIP_CELLS = 2**20


def array(x: Tensor) -> Array:
    """A tensor as NumPy has it: without bfloat16; fp16 stays as it is stored."""
    kind = torch.float32 if x.dtype is torch.bfloat16 else x.dtype
    return np.asarray(x.detach().to(kind).cpu().numpy())


def rows_of(site: Site, sequence: int) -> Array:
    """The stored queries that aren't padding, as places among those that aren't."""
    kept = site.kept[sequence]
    return site.rows[kept.held(site.rows)] - kept.rows.start


def mask_of(site: Site, sequence: int, place: int | None = None) -> Mask:
    """The mask of one sequence over what is stored, of one stored head or of all."""
    mask, kept, rows = site.masks[sequence], site.kept[sequence], rows_of(site, sequence)
    whole = len(rows) == len(kept.rows)
    if whole and isinstance(mask, (Full, Causal, TopLeft, Window)):
        return mask
    head = site.heads if place is None else site.heads[place]
    if whole and isinstance(mask, Given):
        return Given(pick(mask.table, 0, head))
    return Cut(mask, 0, head, rows, np.arange(len(kept.cols)), len(kept.rows), len(kept.cols))


def bias_of(site: Site, sequence: int, place: int | None = None) -> Any:
    """The bias likewise: a tensor for all heads, an array for one, or by the tile."""
    if site.bias is None:
        return None
    kept, head = site.kept[sequence], site.heads if place is None else site.heads[place]
    stored = site.rows[kept.held(site.rows)]
    if not isinstance(site.bias, Tensor):
        cols = np.array(kept.cols)
        return CutBias(site.bias, sequence, head, stored, cols, site.queries, site.K)
    table = pick(site.bias, sequence, head)
    if table.shape[-2] > 1:
        table = table[..., torch.from_numpy(stored), :]
    if table.shape[-1] > 1:
        table = table[..., kept.cols.start : kept.cols.stop]
    return table if place is None else array(table)


def score_mod_of(site: Site, sequence: int, place: int) -> Any:
    """What bends the scores of one head, over tiles in NumPy."""
    if site.score_mod is None:
        return None
    mod, kept, head = site.score_mod, site.kept[sequence], site.heads[place]
    rows = rows_of(site, sequence) + kept.rows.start

    def bend(scores: Array, at_rows: Array, at_cols: Array) -> Array:
        bent = mod(
            torch.from_numpy(np.ascontiguousarray(scores)),
            sequence,
            head,
            torch.from_numpy(rows[np.asarray(at_rows)]),
            torch.from_numpy(np.asarray(at_cols) + kept.cols.start),
        )
        return np.asarray(bent.numpy())

    return bend


def tensors_of(site: Site, sequence: int) -> tuple[Tensor, Tensor, Tensor]:
    """q (1, H, Q, C), k (1, G, K, C) and lse (1, H, Q) of one sequence, in fp32 at least.

    Keys stand once for each head where the stored heads don't share them evenly.
    """
    kept = site.kept[sequence]
    rows = torch.from_numpy(np.flatnonzero(kept.held(site.rows)))
    q, lse = site.q[sequence], site.lse[sequence]
    if len(rows) != site.Q:
        q, lse = q[:, rows], lse[:, rows]
    k = site.k[sequence][:, kept.cols.start : kept.cols.stop]
    even = site.H % site.G == 0
    if not even or site.groups != tuple(place * site.G // site.H for place in range(site.H)):
        k = k[torch.tensor(site.groups)]
    return _wide(q)[None], _wide(k)[None], lse[None]


def mix_of(site: Site, v: Tensor, sequence: int) -> Float[Tensor, "H Q n"]:
    """The weights of all stored heads times values (K, n) or (G, K, n), by fused passes."""
    if site.score_mod is not None:
        return _mix_by_strips(site, v, sequence)
    q, k, lse = tensors_of(site, sequence)
    bias = bias_of(site, sequence)
    how: dict[str, Any] = {
        "mask": mask_of(site, sequence),
        "bias": bias.to(q.dtype) if isinstance(bias, Tensor) else bias,
        "scale": site.scale,
        "softcap": site.softcap,
        "return_lse": True,
    }
    values = v.to(q.dtype)
    if values.dim() == 3 and len(values) != k.shape[1]:
        values = values[torch.tensor(site.groups)]
    values = values.expand(k.shape[1], *values.shape[-2:])[None]
    mixed, C = [], site.C
    for part in torch.split(values, C, -1):
        # Torch's kernel takes values as wide as keys alone; it is ten times as fast as tiles.
        filled = torch.nn.functional.pad(part, (0, C - part.shape[-1])).contiguous()
        one, sums = attend(q, k, filled, **how)
        mixed.append(one[0, :, :, : part.shape[-1]])
    whole = torch.cat(mixed, -1)
    if site.sink is not None:
        # The sink takes its share of each row.
        whole = whole * (sums - lse).exp().nan_to_num(0.0)[0, ..., None]
    return whole


def _mix_by_strips(site: Site, v: Tensor, sequence: int) -> Tensor:
    values = v.double().expand(site.G, *v.shape[-2:]).numpy()
    heads = []
    for place, head in enumerate(site.heads):
        one, own = site.map(sequence, head), values[site.groups[place]]
        step = max(1, STRIP_CELLS // one.K)
        strips = [
            one.tile(range(first, min(first + step, one.Q)), range(one.K)) @ own
            for first in range(0, one.Q, step)
        ]
        heads.append(torch.from_numpy(np.concatenate(strips)).to(torch.float32))
    return torch.stack(heads)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32)).cpu()
