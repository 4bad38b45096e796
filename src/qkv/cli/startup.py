"""How a command starts: torch, most of what its user waits for, loaded without a search in it."""

from __future__ import annotations

import gc
import sys

__all__ = ["load_torch"]


def load_torch() -> None:
    """Load torch, unless it is there, and exempt it from garbage collection.

    What a module is made of stays until the process ends. Searching it for garbage, again and again
    while it is loaded and once more at the end, takes a quarter of the time of `import torch`. What
    is made later is collected as ever.

    It is for a process that is ours, from its start to its end: for a command, not for a library.
    """
    if "torch" in sys.modules:
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        import torch  # noqa: F401
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
