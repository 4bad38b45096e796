"""Pictures of what the lens sees: terminal, figure, page and notebook, in the same colours."""

from qkv.views.atlas import draw_atlas
from qkv.views.figure import draw_head
from qkv.views.palette import DARK, LIGHT, Palette
from qkv.views.sheet import encode_figure, save_figure
from qkv.views.terminal import Heatmap, Thumbnails, heatmap, sparkline, thumbnails

__all__ = [
    "DARK",
    "LIGHT",
    "Heatmap",
    "Palette",
    "Thumbnails",
    "draw_atlas",
    "draw_head",
    "encode_figure",
    "heatmap",
    "save_figure",
    "sparkline",
    "thumbnails",
]
