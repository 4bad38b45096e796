"""The operators of the `flash_attn` package, read as calls; they return lse themselves.

Source: its interface of version 2.7, `flash_attn_func` and `flash_attn_varlen_func`, whose
operators take tokens before heads, (B, T, H, C), or all sequences in one row, (tokens, H, C).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from qkv.attention import ALiBi, Full, Mask
from qkv.attention.masking import Positions, indices
from qkv.lens.seeing.calls import Call
from qkv.lens.seeing.masks import Seen

__all__ = ["Packed", "read_flash"]


@dataclass(frozen=True, eq=False)
class Packed(Seen):
    """Sequences one after another in one row, each seeing itself alone, within a window.

    Args:
        query_ends, key_ends: where each sequence begins, and the end of the last, (n + 1,).
        left, right: how far a token sees back and ahead; -1 is no bound.

    >>> ends = np.array([0, 2, 3])
    >>> Packed(ends, ends, -1, 0).dense(3, 3).astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    """

    query_ends: Int[np.ndarray, " n"]
    key_ends: Int[np.ndarray, " n"]
    left: int
    right: int

    def allowed(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Any:
        at_rows, at_cols = indices(rows, queries)[:, None], indices(cols, keys)[None]
        of_row = np.searchsorted(self.query_ends, at_rows, side="right") - 1
        of_col = np.searchsorted(self.key_ends, at_cols, side="right") - 1
        # In each sequence the last query is the last key.
        stands = at_rows - self.query_ends[of_row + 1] + self.key_ends[of_row + 1]
        seen = of_row == of_col
        if self.left >= 0:
            seen = seen & (at_cols >= stands - self.left)
        if self.right >= 0:
            seen = seen & (at_cols <= stands + self.right)
        return seen


def read_flash(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
    """The call that one of the two operators makes."""
    given = _by_name(func, args, kwargs)
    starts, key_starts = given.get("cu_seqlens_q"), given.get("cu_seqlens_k")
    q, k, v = (
        x.transpose(1, 2) if x.dim() == 4 else x.transpose(0, 1)[None]
        for x in (given["q"], given["k"], given["v"])
    )
    left = int(given.get("window_size_left", -1))
    right = 0 if given.get("causal") else int(given.get("window_size_right", -1))
    mask: Mask = Full()
    if starts is not None and key_starts is not None:
        mask = Packed(starts.cpu().numpy(), key_starts.cpu().numpy(), left, right)
    elif left >= 0 or right >= 0:
        mask = Packed(np.array([0, q.shape[2]]), np.array([0, k.shape[2]]), left, right)
    slopes = given.get("alibi_slopes")

    def with_lse() -> tuple[Any, Tensor]:
        result = func(*args, **kwargs)
        lse = result[1].detach()
        return result, lse if lse.dim() == 3 else lse[None]

    def finish(mixed: Tensor) -> Any:
        tokens_first = mixed.transpose(1, 2)
        # What else it returns; modes further out must not take it for a second call.
        with torch._C.DisableTorchFunction():
            others = func(*args, **kwargs)[1:]
        return (tokens_first if starts is None else tokens_first[0], *others)

    return Call(
        q=q,
        k=k,
        v=v,
        run=lambda: func(*args, **kwargs),
        finish=finish,
        mask=mask,
        bias=None if slopes is None else ALiBi(tuple(slopes.flatten()[: q.shape[1]].tolist())),
        scale=float(given.get("softmax_scale") or q.shape[-1] ** -0.5),
        softcap=float(given["softcap"]) if given.get("softcap") else None,
        run_with_lse=with_lse,
        heads_first=False,
    )


def _by_name(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The arguments by the names of the operator's own schema."""
    overload: Any = getattr(func, "default", func)
    names = [argument.name for argument in overload._schema.arguments]
    return {**dict(zip(names, args, strict=False)), **kwargs}
