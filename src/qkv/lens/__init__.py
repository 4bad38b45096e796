"""Capture and maps: see any PyTorch model's attention, and ask (q, k, lse) for what it shows.

Its rooms: `seeing` shows calls in one form, `traces` keep them, `maps` answer for one head, `heads`
score and question all of them, `edits` change what runs. Importing it imports torch.
"""

from qkv.lens.edits.edits import Edits, edit
from qkv.lens.edits.effects import effect, effects
from qkv.lens.heads import HeadScores, HeadTable
from qkv.lens.maps.attention_map import AttentionMap, Cell, CellArithmetic, brief, visible
from qkv.lens.maps.pyramid import CancelledError, Pyramid
from qkv.lens.traces.capturing import capture, record
from qkv.lens.traces.sites import Site
from qkv.lens.traces.storing import load
from qkv.lens.traces.trace import Trace

__all__ = [
    "AttentionMap",
    "CancelledError",
    "Cell",
    "CellArithmetic",
    "Edits",
    "HeadScores",
    "HeadTable",
    "Pyramid",
    "Site",
    "Trace",
    "brief",
    "capture",
    "edit",
    "effect",
    "effects",
    "load",
    "record",
    "visible",
]
