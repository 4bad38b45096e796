"""Capture and maps: see any PyTorch model's attention, and ask (q, k, lse) for what it shows.

Importing it imports torch, for `capture` is at once a function and the module that holds it, and
only an early import lets the function have the name.
"""

from qkv.lens.capture import Site, Trace
from qkv.lens.capture import capture as capture
from qkv.lens.maps import AttentionMap, Cell, brief, visible

__all__ = ["AttentionMap", "Cell", "Site", "Trace", "brief", "capture", "visible"]
