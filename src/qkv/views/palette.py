"""The colours every view shares: q blue, k vermilion, v green, and one plum ramp for weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["DARK", "LIGHT", "LOWEST", "Palette", "level", "mixed"]

# On a logarithmic scale this weight and all below it have the ramp's first colour.
LOWEST = 0.001


@dataclass(frozen=True)
class Palette:
    """Colours as "#RRGGBB", on paper or on dark.

    `ramp` goes from weight 0 to weight 1 in steps of equal lightness (CIE L*), and `fall`, for what
    became less, from 0 to -1 in the same steps. q, k and v have hues that nothing else has.

    >>> DARK.q, LIGHT.q
    ('#56B4E9', '#0067A5')
    """

    q: str
    k: str
    v: str
    paper: str
    ink: str
    soft: str
    hatch: str
    ramp: tuple[str, ...]
    fall: tuple[str, ...]

    def shade(self, at: float) -> str:
        """The ramp's colour at a place from 0 to 1.

        >>> DARK.shade(0.0), DARK.shade(1.0), DARK.shade(0.0625)
        ('#15171C', '#FAE8FC', '#261E30')
        """
        place = min(max(at, 0.0), 1.0) * (len(self.ramp) - 1)
        lower = min(int(place), len(self.ramp) - 2)
        ends = (self.ramp[lower], self.ramp[lower + 1])
        channels = (
            round(_channel(ends[0], c) + (_channel(ends[1], c) - _channel(ends[0], c)) * part)
            for c, part in ((c, place - lower) for c in range(3))
        )
        return "#" + "".join(f"{value:02X}" for value in channels)


def _channel(colour: str, index: int) -> int:
    return int(colour[1 + 2 * index : 3 + 2 * index], 16)


def level(weight: float, *, log: bool = True) -> float:
    """How far up the ramp a weight stands, 0 to 1: by its logarithm from .001 on, or as it is.

    >>> level(1.0), round(level(0.1), 3), level(0.0001), level(0.25, log=False)
    (1.0, 0.667, 0.0, 0.25)
    """
    if not log:
        return min(max(weight, 0.0), 1.0)
    if weight <= LOWEST:
        return 0.0
    return min(1.0, 1.0 - math.log10(weight) / math.log10(LOWEST))


def mixed(color: str, other: str, share: float) -> str:
    """A share of one colour, the rest of another.

    >>> mixed("#FF0000", "#0000FF", 0.25)
    '#4000BF'
    """
    parts = (round(_channel(color, c) * share + _channel(other, c) * (1 - share)) for c in range(3))
    return "#" + "".join(f"{part:02X}" for part in parts)


DARK = Palette(
    q="#56B4E9",
    k="#E69F00",
    v="#2BC48A",
    paper="#15171C",
    ink="#E8E6E1",
    soft="#96958F",
    hatch="#3A3E48",
    ramp=(
        "#15171C",
        "#382643",
        "#593869",
        "#7A4C8D",
        "#9A65AC",
        "#B881C8",
        "#D39FE0",
        "#E7C4EE",
        "#FAE8FC",
    ),
    fall=(
        "#15171C",
        "#2E2F0E",
        "#46480E",
        "#5F621E",
        "#7C7D39",
        "#999953",
        "#B6B56D",
        "#D4D2A1",
        "#F1EFD7",
    ),
)
LIGHT = Palette(
    q="#0067A5",
    k="#B34700",
    v="#00734F",
    paper="#FBFAF7",
    ink="#1C1D22",
    soft="#6B6A66",
    hatch="#C9C5BA",
    ramp=(
        "#FBFAF7",
        "#E7D5E6",
        "#D2B1D4",
        "#BC8EC2",
        "#A56BAF",
        "#874E95",
        "#69337C",
        "#471F57",
        "#261030",
    ),
    fall=(
        "#FBFAF7",
        "#DDDBC6",
        "#C0BE94",
        "#A2A164",
        "#83843F",
        "#666824",
        "#4A4D08",
        "#313300",
        "#1C1A00",
    ),
)
