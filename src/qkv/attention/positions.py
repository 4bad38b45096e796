"""Where tokens stand: sinusoids, rotary embeddings, ALiBi; learned positions are a table lookup.

`rotate` works on NumPy arrays and torch tensors alike, with operators and slices only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float

from qkv.attention.masking import Positions, indices
from qkv.attention.shapes import join
from qkv.errors import ConfigError, ShapeError

__all__ = ["ALiBi", "alibi_slopes", "rotary_angles", "rotate", "sinusoidal", "unrotate"]

ArrayLike = TypeVar("ArrayLike", bound=Any)


def _check_even(width: int) -> None:
    if width < 2 or width % 2:
        raise ConfigError(f"width {width}", "an even number of 2 or more", "choose an even width")


def sinusoidal(T: int, width: int) -> Float[np.ndarray, "T width"]:
    """Sines (even columns) and cosines (odd) of positions 0..T-1, to be added to embeddings.

    Column pair i has wavelength 2 pi 10000^(2i/width) tokens (Vaswani et al. 2017, section 3.5).

    Raises:
        ConfigError: where width is odd.

    >>> sinusoidal(2, 2).round(3).tolist()
    [[0.0, 1.0], [0.841, 0.54]]
    """
    cos, sin = rotary_angles(range(T), width)
    return np.stack([sin, cos], axis=-1).reshape(T, width)


def rotary_angles(
    positions: range | Sequence[int] | np.ndarray[Any, Any], width: int, theta: float = 10000.0
) -> tuple[Float[np.ndarray, "T half"], Float[np.ndarray, "T half"]]:
    """Cosines and sines by which `rotate` turns each pair of a head's features (Su et al. 2021).

    Args:
        positions: absolute positions of the tokens, counted from 0.
        width: the head width C, in features; even.
        theta: pair i turns by theta^(-2i/width) radians per token.

    Returns:
        cos and sin, (T, width/2) each, in float64.

    Raises:
        ConfigError: where width is odd or theta is not positive.

    >>> cos, sin = rotary_angles([0, 1], 4)
    >>> sin.round(3).tolist()
    [[0.0, 0.0], [0.841, 0.01]]
    """
    _check_even(width)
    if not 0 < theta < math.inf:
        raise ConfigError(f"theta {theta}", "a positive number", "10000 is usual")
    pairs = np.arange(width // 2, dtype=np.float64)
    turns = theta ** (-2.0 * pairs / width)
    angles = np.asarray(positions, dtype=np.float64)[..., None] * turns
    return np.cos(angles), np.sin(angles)


def rotate(x: ArrayLike, cos: Any, sin: Any) -> ArrayLike:
    """Turns features i and i + C/2 of each token by its angle (the half-split layout of Llama).

    Args:
        x: queries or keys, (..., T, C); an array or a tensor.
        cos, sin: from `rotary_angles`, (T, C/2), of x's kind and, to keep its type, of x's type.

    Raises:
        ShapeError: where the angles are not C/2 wide.

    q·k after rotation depends on q, k and the distance of their positions only (Su et al. 2021).

    >>> cos, sin = rotary_angles([1], 2)
    >>> rotate(np.array([[1.0, 0.0]]), cos, sin).round(3).tolist()
    [[0.54, 0.841]]
    """
    half = x.shape[-1] // 2
    if x.shape[-1] != 2 * half or cos.shape[-1] != half or sin.shape[-1] != half:
        raise ShapeError(
            f"features {tuple(x.shape)} with angles {tuple(cos.shape)}",
            "half as many angles as features",
            "make the angles with rotary_angles(positions, C)",
        )
    first, second = x[..., :half], x[..., half:]
    turned: ArrayLike = join([first * cos - second * sin, second * cos + first * sin])
    return turned


def unrotate(x: ArrayLike, cos: Any, sin: Any) -> ArrayLike:
    """The inverse of `rotate`, and so its transpose: what its backward applies.

    >>> cos, sin = rotary_angles([5], 2)
    >>> unrotate(rotate(np.array([[3.0, 4.0]]), cos, sin), cos, sin).round(9).tolist()
    [[3.0, 4.0]]
    """
    return rotate(x, cos, -sin)


def alibi_slopes(H: int) -> tuple[float, ...]:
    """The standard slopes of H heads: a geometric sequence from 2^(-8/H) (Press et al. 2021).

    Where H is not a power of two, the slopes of the next lower power of two come first, then every
    other slope of the next higher one, as in the authors' code.

    Raises:
        ConfigError: where H is below 1.

    >>> alibi_slopes(4), len(alibi_slopes(6))
    ((0.25, 0.0625, 0.015625, 0.00390625), 6)
    """
    if H < 1:
        raise ConfigError(f"{H} heads", "1 or more", "give the number of query heads")
    lower = 2 ** (H.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (head + 1) / lower) for head in range(lower)]
    between = [2.0 ** (-4.0 * (head + 1) / lower) for head in range(0, 2 * lower, 2)]
    return tuple(slopes + between[: H - lower])


@dataclass(frozen=True)
class ALiBi:
    """A bias of -slope times the distance between query and key, in tokens (Press et al. 2021).

    Args:
        slopes: one for each query head, (H,); `alibi_slopes(H)` is the standard.

    Pass it as `bias`; it is asked for by the tile and never built whole. With fewer queries than
    keys the last query is the last token.

    Raises:
        ConfigError: where there is no slope.

    >>> ALiBi((0.5,)).tile(range(1, 2), range(3), queries=2, keys=3).tolist()
    [[[-1.0, -0.5, -0.0]]]
    """

    slopes: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "slopes", tuple(float(slope) for slope in self.slopes))
        if not self.slopes:
            raise ConfigError("no slope", "one for each query head", "use alibi_slopes(H)")

    @classmethod
    def standard(cls, H: int) -> ALiBi:
        """ALiBi with the standard slopes of H heads."""
        return cls(alibi_slopes(H))

    def tile(
        self, rows: Positions, cols: Positions, *, queries: int, keys: int
    ) -> Float[np.ndarray, "H rows cols"]:
        """The bias at some query rows and key columns."""
        here = indices(rows, queries)[:, None] + (keys - queries)
        distance = np.abs(here - indices(cols, keys)).astype(np.float64)
        bias: np.ndarray[Any, Any] = np.asarray(self.slopes)[:, None, None] * -distance
        return bias

    def dense(self, queries: int, keys: int) -> Float[np.ndarray, "H Q K"]:
        """The whole bias, for small sizes."""
        return self.tile(range(queries), range(keys), queries=queries, keys=keys)
