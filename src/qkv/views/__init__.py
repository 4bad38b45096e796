"""Pictures of what the lens sees: for the terminal, in the colours that every view shares."""

from qkv.views.palette import DARK, LIGHT, Palette
from qkv.views.terminal import Heatmap, heatmap, sparkline

__all__ = ["DARK", "LIGHT", "Heatmap", "Palette", "heatmap", "sparkline"]
