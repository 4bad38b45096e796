"""One cell of a map: its place and weight, its whole arithmetic, and how both are read aloud."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from qkv.lens.maps.head import Head

__all__ = ["Cell", "CellArithmetic", "brief", "visible"]

Array: TypeAlias = "np.ndarray[Any, Any]"

GLYPHS = {"\n": "⏎", "\r": "␍", "\t": "⇥", " ": "␣", "\u00a0": "␣"}


def visible(label: str) -> str:
    """A token's text with what cannot be seen made visible: a newline is ⏎, a space ␣.

    >>> visible("a b\\n")
    'a␣b⏎'
    """
    shown = (GLYPHS.get(c, c if c.isprintable() else "�") for c in label)
    return "".join(shown) or "∅"


def brief(weight: float) -> str:
    """A weight in two digits, as it is read aloud.

    >>> brief(0.621), brief(1.0), brief(0.998), brief(0.00042)
    ('.62', '1', 'over .99', '4.2e-4')
    """
    if 0 < abs(weight) < 0.005:
        return f"{weight:.1e}".replace("e-0", "e-")
    text = f"{weight:.2f}"
    if text == "1.00":
        return "1" if weight > 1 - 1e-6 else "over .99"
    return text.removeprefix("0")


class Cell(NamedTuple):
    """A query's place, a key's place (both from 0), and the weight that the one gives the other."""

    query: int
    key: int
    weight: float


@dataclass(frozen=True, eq=False)
class CellArithmetic:
    """How one weight comes about, step by step, in float64; `float(cell)` is the weight.

    `terms` are the products whose sum is `score`; `scaled` is score * scale; `capped` is bent by
    the softcap; `biased` has the bias added (or is what the map's score_mod made of `scaled`, and
    `bias` is then the difference); `weight` is exp(biased - lse), or 0 where not `allowed`.
    `value_norm` is ‖v_j‖ and `output_norm` ‖weight * v_j W_O‖, where v and W_O are known.
    """

    query: int
    key: int
    q: Float[Array, " C"]
    k: Float[Array, " C"]
    terms: Float[Array, " C"]
    score: float
    scale: float
    scaled: float
    softcap: float | None
    capped: float
    bias: float | None
    biased: float
    allowed: bool
    lse: float
    weight: float
    value_norm: float | None
    output_norm: float | None

    def __float__(self) -> float:
        return self.weight

    def sentence(self) -> str:
        """The arithmetic in one line.

        >>> from qkv.lens import AttentionMap
        >>> AttentionMap.of(np.ones((1, 4)), np.ones((2, 4))).cell(0, 1).sentence()
        'q·k = 4.00, times 0.50 = 2.00; exp(2.00 - 2.69) = .50'
        """
        steps = f"q·k = {self.score:z.2f}, times {self.scale:z.2f} = {self.scaled:z.2f}"
        if self.softcap is not None:
            steps += f", capped at {self.softcap:g} = {self.capped:z.2f}"
        if self.bias is not None:
            steps += f", plus bias {self.bias:z.2f} = {self.biased:z.2f}"
        if not self.allowed:
            return f"{steps}; the mask forbids it: 0"
        return f"{steps}; exp({self.biased:z.2f} - {self.lse:z.2f}) = {brief(self.weight)}"


def arithmetic(head: Head, query: int, key: int) -> CellArithmetic:
    """The arithmetic of one cell of a map."""
    tile = head.steps([query], [key])
    scores, scaled, capped, biased, masked = (float(step[0, 0]) for step in tile)
    q, k = (x.astype(np.float64) for x in (head.q[query], head.k[key]))
    lse = float(head.lse[query])
    weight = float(np.exp(masked - lse)) if np.isfinite(masked) else 0.0
    v = None if head.v is None else head.v[key].astype(np.float64)
    output = None if v is None or head.w_o is None else weight * float(np.linalg.norm(v @ head.w_o))
    return CellArithmetic(
        query=int(query),
        key=int(key),
        q=q,
        k=k,
        terms=q * k,
        score=scores,
        scale=len(q) ** -0.5 if head.scale is None else float(head.scale),
        scaled=scaled,
        softcap=head.softcap,
        capped=capped,
        bias=None if head.bias is None and head.score_mod is None else biased - capped,
        biased=biased,
        allowed=bool(head.allowed([query], [key])[0, 0]),
        lse=lse,
        weight=weight,
        value_norm=None if v is None else float(np.linalg.norm(v)),
        output_norm=output,
    )
