"""One head as (q, k, lse): exact cells, rows, tiles, pyramids and metrics, at any length."""

from qkv.lens.maps.attention_map import AttentionMap
from qkv.lens.maps.cells import Cell, CellArithmetic, brief, visible
from qkv.lens.maps.pyramid import CancelledError, Pyramid
from qkv.lens.maps.viewport import RowProof, Viewport

__all__ = [
    "AttentionMap",
    "CancelledError",
    "Cell",
    "CellArithmetic",
    "Pyramid",
    "RowProof",
    "Viewport",
    "brief",
    "visible",
]
