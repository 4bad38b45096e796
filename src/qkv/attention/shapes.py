"""What fits together: the one place where shapes, kinds and options are checked.

NumPy (`steps`) and torch (`fused`) share it. It imports no torch: a tensor is recognised only where
torch has been imported already, for otherwise there can be none. The checks that pass cost a
microsecond, since `attend` runs once per layer and token while generating.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

from qkv.errors import ConfigError, ShapeError

__all__ = [
    "broadcasts",
    "check_bias",
    "check_heads",
    "check_options",
    "is_tensor",
    "join",
    "numbers",
]


def is_tensor(value: object) -> bool:
    """Whether `value` is a torch tensor, told without importing torch.

    >>> is_tensor(3.0)
    False
    """
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def join(parts: Sequence[Any]) -> Any:
    """Arrays or tensors one after the other along their last axis.

    >>> import numpy as np
    >>> join([np.ones(2), np.zeros(1)]).tolist()
    [1.0, 1.0, 0.0]
    """
    if is_tensor(parts[0]):
        return sys.modules["torch"].cat(list(parts), -1)
    import numpy as np

    return np.concatenate(parts, axis=-1)


def broadcasts(shape: Sequence[int], target: Sequence[int]) -> bool:
    """Whether `shape` broadcasts to `target` without enlarging it.

    >>> broadcasts((5, 1, 7), (2, 5, 3, 7)), broadcasts((5, 2, 7), (2, 5, 3, 7))
    (True, False)
    """
    if len(shape) > len(target):
        return False
    tail = target[len(target) - len(shape) :]
    return all(size in (1, wanted) for size, wanted in zip(shape, tail, strict=True))


def check_heads(q: Sequence[int], k: Sequence[int], v: Sequence[int]) -> None:
    """Checks the shapes (*B, H, Q, C), (*B, G, K, C) and (*B, G, K, Cv) against each other.

    Without head axes, (Q, C), (K, C) and (K, Cv). H must be a multiple of G.

    Raises:
        ShapeError: where they do not fit.

    >>> check_heads((2, 6, 5, 8), (2, 3, 7, 8), (2, 3, 7, 4))
    """
    axes = len(q)
    if (
        axes >= 2
        and len(k) == axes
        and k[:-1] == v[:-1]
        and q[-1] == k[-1]
        and q[-1] > 0
        and q[:-3] == k[:-3]
        and (axes == 2 or (k[-3] > 0 and q[-3] % k[-3] == 0))
    ):
        return
    raise ShapeError(*_what_is_wrong(tuple(q), tuple(k), tuple(v)))


def _what_is_wrong(
    q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...]
) -> tuple[str, str, str]:
    got = f"q {q}, k {k}, v {v}"
    if min(len(q), len(k), len(v)) < 2 or not len(q) == len(k) == len(v):
        return (
            got,
            "as many axes in each: (B, H, Q, C), (B, G, K, C), (B, G, K, Cv)",
            "add or drop the leading axes",
        )
    if q[-1] != k[-1] or q[-1] == 0:
        return (
            f"{got}: width {q[-1]} of q, {k[-1]} of k",
            "one head width C for q and k",
            "give q and k the same last axis, or transpose the one that is (C, K)",
        )
    if k[-2] != v[-2]:
        return (
            f"{got}: {k[-2]} keys, {v[-2]} values",
            "one value for each key",
            "give k and v the same number of tokens",
        )
    if q[:-3] != k[:-3] or k[:-3] != v[:-3]:
        return got, "the same leading (batch) axes in q, k and v", "make the batches equal"
    return (
        f"{got}: {q[-3]} heads, {k[-3]} key heads, {v[-3]} value heads",
        "as many value heads as key heads, and query heads H a multiple of them (G)",
        "put the head axis before the token axis: (B, H, T, C)",
    )


def check_bias(bias: Any, target: Sequence[int]) -> None:
    """Checks that an array or tensor can be added to scores of shape `target` (*B, H, Q, K).

    Raises:
        ShapeError: where it cannot.
    """
    if not broadcasts(numbers(bias).shape, target):
        raise ShapeError(
            f"a bias of shape {tuple(bias.shape)} for scores {tuple(target)}",
            "a shape that broadcasts to (B, H, Q, K)",
            "give each axis of the bias its full size or 1",
        )


def numbers(bias: Any) -> Any:
    """Return a bias that is not of booleans: those are meant as a mask.

    Raises:
        ShapeError: booleans.
    """
    if str(getattr(bias, "dtype", "")) in ("bool", "torch.bool"):
        raise ShapeError("a bias of booleans", "numbers to add to scores", "pass it as mask=")
    return bias


def check_options(scale: float | None, softcap: float | None) -> None:
    """Checks the numbers given with the arrays.

    Raises:
        ConfigError: where scale is not finite or softcap is not above 0.
    """
    if scale is not None and not math.isfinite(scale):
        raise ConfigError(f"scale {scale}", "a finite number", "leave it out for 1/sqrt(C)")
    if softcap is not None and not 0 < softcap < math.inf:
        raise ConfigError(
            f"softcap {softcap}", "a finite number above 0", "leave it out for no cap"
        )
