"""A call in the one form, computed: by `attend` where it can, else by strips of queries.

`mix` hands itself over to modes further out, as torch's own kernels do, so a capture around an edit
sees the call that was computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from qkv.attention.fused import attend
from qkv.attention.tiles import stack_heads
from qkv.lens.seeing.calls import Call
from qkv.lens.seeing.reckoning import STRIP, some_scores, whole_mask

__all__ = ["mix", "strongest"]


def mix(call: Call) -> Float[Tensor, "B H Q Cv"]:
    """The mixed values of a call, as its form says; differentiable, in the type of q.

    Memory grows linearly with T but for a score_mod, whose strips autograd keeps, as the kernel it
    comes from does uncompiled. There is no dropout.

    >>> from qkv.attention import Causal
    >>> x = torch.eye(2)[None, None]  # B 1, H 1, T 2, C 2
    >>> call = Call(q=x * 0, k=x, v=x, run=float, finish=float, mask=Causal(), scale=1.0)
    >>> mix(call)[0, 0].tolist()
    [[1.0, 0.0], [0.5, 0.5]]
    """
    tensors = (call.q, call.k, call.v)
    if has_torch_function(tensors):
        # Whoever sees it runs the call as it stands here.
        alone = replace(call, run=partial(mix, call), finish=_itself, run_with_lse=None, again=None)
        kernel = cast("Callable[..., Any]", mix)
        return cast("Tensor", handle_torch_function(kernel, tensors, alone))
    with torch.autocast(call.q.device.type, enabled=False):
        if call.score_mod is not None:
            return _by_strips(call)
        options: dict[str, Any] = {
            "mask": whole_mask(call.mask, call.allowed),
            "bias": call.bias,
            "scale": call.scale,
            "softcap": call.softcap,
        }
        if call.sink is None:
            mixed: Tensor = attend(*tensors, **options)
            return mixed
        mixed, lse = attend(*tensors, **options, return_lse=True)
        return mixed * _beside_sink(lse, call.sink).to(mixed)[..., None]


def strongest(call: Call) -> Int[Tensor, "B H Q"]:
    """The key with the greatest score of each query, the first of equals; -1 where it may see none.

    >>> from qkv.attention import Causal
    >>> x = torch.eye(3)[None, None]  # B 1, H 1, T 3, C 3
    >>> call = Call(q=x.flip(2), k=x, v=x, run=float, finish=float, mask=Causal(), scale=1.0)
    >>> strongest(call)[0, 0].tolist()
    [0, 1, 0]
    """
    with torch.no_grad(), torch.autocast(call.q.device.type, enabled=False):
        found = call.q.new_full(call.q.shape[:3], -1, dtype=torch.int64)
        for rows, scores in _strips(call.detached()) if call.k.shape[2] else ():
            best, at = scores.max(-1)
            found[:, :, rows] = at.masked_fill(best == -math.inf, -1)
        return found


def _itself(mixed: Tensor) -> Tensor:
    return mixed


def _beside_sink(lse: Tensor, sink: Tensor) -> Tensor:
    """What a sink leaves of each row: exp(lse) / (exp(lse) + exp(sink)), all of it for -inf."""
    absent = sink == -math.inf
    # In place of -inf, from which -inf can't be taken, for gradients' sake too.
    against = sink.masked_fill(absent, 0.0).to(lse)[:, None]
    return torch.sigmoid(lse - against).masked_fill(absent[:, None], 1.0)


def _strips(call: Call) -> Iterator[tuple[slice, Tensor]]:
    """Scores (B, H, rows, K) of some queries at a time, as they enter softmax; at least fp32."""
    batch, heads, queries = call.q.shape[:3]
    step = max(1, STRIP // max(1, batch * heads * call.k.shape[2]))
    for start in range(0, queries, step):
        rows = np.arange(start, min(start + step, queries))
        yield slice(start, start + len(rows)), some_scores(call, rows)


def _by_strips(call: Call) -> Tensor:
    groups, mixed = call.v.shape[1], []
    for _, scores in _strips(call):
        empty = (scores == -math.inf).all(-1, keepdim=True)
        lse = scores.masked_fill(empty, 0.0).logsumexp(-1, keepdim=True)
        pattern = (scores - lse).exp()  # a row that is allowed nothing gives zeros
        if call.sink is not None:
            pattern = pattern * _beside_sink(lse[..., 0], call.sink)[..., None]
        values = stack_heads(pattern, groups) @ call.v.to(pattern)
        mixed.append(values.view(*pattern.shape[:3], -1))
    if not mixed:
        return call.q.new_zeros(*call.q.shape[:3], call.v.shape[3])
    return torch.cat(mixed, 2).to(call.q.dtype)
