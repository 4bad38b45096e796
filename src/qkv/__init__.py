"""qkv: build, train, watch and inspect causal self-attention.

>>> import numpy as np
>>> import qkv
>>> q = k = v = np.eye(3)[None, None]  # one batch, one head, three tokens, width three
>>> qkv.attend(q, k, v, mask=qkv.Causal())[0, 0].round(2).tolist()
[[1.0, 0.0, 0.0], [0.36, 0.64, 0.0], [0.26, 0.26, 0.47]]

The inspector loads torch, so it is loaded when it is first asked for:

>>> import torch
>>> with qkv.capture() as trace:
...     mixed = torch.nn.functional.scaled_dot_product_attention(*torch.zeros(3, 1, 1, 2, 4))
>>> trace[0, 0].row(0).round(6).tolist()
[0.5, 0.5]
"""

from typing import TYPE_CHECKING, Any

from qkv.attention import (
    ALiBi,
    Causal,
    Full,
    Mask,
    Padding,
    Prefix,
    Steps,
    Window,
    attend,
    steps,
)
from qkv.errors import QkvError

if TYPE_CHECKING:
    from qkv.lens import AttentionMap, Trace, capture, edit, load, record
    from qkv.views.notebook import show

__all__ = [
    "ALiBi",
    "AttentionMap",
    "Causal",
    "Full",
    "Mask",
    "Padding",
    "Prefix",
    "QkvError",
    "Steps",
    "Trace",
    "Window",
    "__version__",
    "attend",
    "capture",
    "edit",
    "load",
    "record",
    "show",
    "steps",
]

__version__ = "0.1.0"

_LENS = frozenset({"AttentionMap", "Trace", "capture", "edit", "load", "record"})


def __getattr__(name: str) -> Any:
    """What needs torch or draws pictures, loaded at first use."""
    if name in _LENS:
        from qkv import lens
        from qkv.lens.display import display_with

        # Pictures stand a floor above what they show, so they are handed in here.
        display_with(_bundle)
        globals()[name] = getattr(lens, name)
    elif name == "show":
        from qkv.views.notebook import show

        globals()[name] = show
    else:
        raise AttributeError(f"module 'qkv' has no attribute {name!r}")
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _bundle(thing: Any, include: Any, exclude: Any) -> Any:
    from qkv.views.notebook import mimebundle

    return mimebundle(thing, include, exclude)
