"""Causal self-attention: the one mathematics that every other part of qkv uses.

Axes have one letter each, the same everywhere::

    B  batch                    Q  query positions     D  model width
    H  heads                    K  key positions       C  head width (Cv: of values)
    G  key/value heads          T  tokens              V  vocabulary

H is a multiple of G; query head h reads key head h // (H/G). The order is: score q·k, scale
(1/sqrt(C) unless given), softcap, bias, mask, softmax, mix the values. A mask says what is
*allowed*; a row that allows nothing gives zeros and lse = -inf, never NaN. With fewer queries than
keys the last query is the last token.

It is written twice: `steps` and `gradients` in NumPy float64 with every intermediate named, `fused`
in torch at speed; `attend` serves both. Importing this package imports no torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qkv.attention.affinities import AffinitySteps, steps_from_affinities
from qkv.attention.gradients import (
    Gradients,
    MultiHeadGradients,
    attend_gradients,
    multi_head_gradients,
)
from qkv.attention.masks import (
    Both,
    Causal,
    Extent,
    Full,
    Given,
    Mask,
    MaskLike,
    Padding,
    Prefix,
    Window,
    as_mask,
)
from qkv.attention.multihead import Cache, MultiHeadSteps, multi_head_steps
from qkv.attention.positions import (
    ALiBi,
    alibi_slopes,
    rotary_angles,
    rotate,
    sinusoidal,
    unrotate,
)
from qkv.attention.shapes import is_tensor
from qkv.attention.steps import BiasLike, Steps, softmax
from qkv.attention.steps import steps as steps
from qkv.errors import ShapeError

__all__ = [
    "ALiBi",
    "AffinitySteps",
    "BiasLike",
    "Both",
    "Cache",
    "Causal",
    "Extent",
    "Full",
    "Given",
    "Gradients",
    "Mask",
    "MaskLike",
    "MultiHeadGradients",
    "MultiHeadSteps",
    "Padding",
    "Prefix",
    "Steps",
    "Window",
    "alibi_slopes",
    "as_mask",
    "attend",
    "attend_gradients",
    "multi_head_gradients",
    "multi_head_steps",
    "rotary_angles",
    "rotate",
    "sinusoidal",
    "softmax",
    "steps",
    "steps_from_affinities",
    "unrotate",
]


def attend(
    q: Any,
    k: Any,
    v: Any,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    return_lse: bool = False,
) -> Any:
    """Mixes values by softmax(mask(bias + softcap(scale q·k))), for NumPy arrays and torch tensors.

    Args:
        q, k, v: queries (B, H, Q, C), keys (B, G, K, C) and values (B, G, K, Cv); all arrays or all
            tensors.
        mask: a mask object, or booleans of what is allowed, broadcastable to (B, H, Q, K).
        bias: added after the cap, broadcastable likewise; or an `ALiBi`.
        scale: 1/sqrt(C) unless given.
        softcap: scores are bent to softcap * tanh(score / softcap).
        return_lse: whether each row's log-sum-exp (natural logarithm) is wanted too.

    Returns:
        The mixed values (B, H, Q, Cv), or (mixed, lse) with lse (B, H, Q). Tensors go to
        `fused.attend` (memory linear in T); arrays through `steps` in float64 (all of Q times K),
        and come back in q's type, lse in float64.

    Raises:
        ShapeError: where shapes or types do not fit together, or arrays are mixed with tensors.
        ConfigError: where scale or softcap is out of range.

    Source: Vaswani et al. 2017, section 3.2.1.

    >>> same = np.zeros((1, 1, 3, 2))  # equal scores: the average of the past
    >>> attend(same, same, np.eye(3)[None, None], mask=Causal())[0, 0].round(3).tolist()
    [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.333, 0.333, 0.333]]
    """
    tensors = is_tensor(q)
    if tensors != is_tensor(k) or tensors != is_tensor(v) or (not tensors and is_tensor(bias)):
        raise ShapeError(
            ", ".join(
                f"{name} a {type(value).__module__}.{type(value).__name__}"
                for name, value in (("q", q), ("k", k), ("v", v), ("bias", bias))
                if value is not None
            ),
            "all NumPy arrays or all torch tensors",
            "convert them to one kind with torch.from_numpy or .numpy()",
        )
    if tensors:
        from qkv.attention.fused import attend as attend_tensors

        return attend_tensors(
            q, k, v, mask=mask, bias=bias, scale=scale, softcap=softcap, return_lse=return_lse
        )
    done = steps(q, k, v, mask=mask, bias=bias, scale=scale, softcap=softcap)
    given = getattr(q, "dtype", None)
    kind = given if given is not None and np.issubdtype(given, np.floating) else np.float64
    mixed = done.mixed.astype(kind)
    return (mixed, done.lse) if return_lse else mixed
