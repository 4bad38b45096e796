"""qkv: build, train, watch and inspect causal self-attention.

>>> import numpy as np
>>> import qkv
>>> q = k = v = np.eye(3)[None, None]  # one batch, one head, three tokens, width three
>>> qkv.attend(q, k, v, mask=qkv.Causal())[0, 0].round(2).tolist()
[[1.0, 0.0, 0.0], [0.36, 0.64, 0.0], [0.26, 0.26, 0.47]]
"""

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

__all__ = [
    "ALiBi",
    "Causal",
    "Full",
    "Mask",
    "Padding",
    "Prefix",
    "QkvError",
    "Steps",
    "Window",
    "__version__",
    "attend",
    "steps",
]

__version__ = "0.1.0"
