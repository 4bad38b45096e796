"""Kernels in C++, where they could be compiled: loaded through pointers, built against nothing.

Whoever uses them does the same without them. The variable ``QKV_NATIVE`` chooses: ``off``, or one
of the processors' kernels (``portable``, ``avx2``, ``avx512``) in place of the best that runs here.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from qkv.errors import ConfigError
from qkv.native.build import HERE, LIBRARY, TARGETS, source_hash

__all__ = ["VARIABLE", "Kernels", "load_kernels", "missing"]

VARIABLE = "QKV_NATIVE"


@dataclass(frozen=True)
class Kernels:
    """The kernels for one kind of processor.

    Args:
        target: that kind: ``portable``, ``avx2`` or ``avx512``.
        decode: (model, token, at, x, logits): takes in a token, see `decode.cpp`.
    """

    target: str
    decode: Callable[[Any, int, int, int, int], None]


def load_kernels() -> Kernels | None:
    """Return the best kernels for this processor, or ``None`` where there are none.

    Raises:
        ConfigError: ``QKV_NATIVE`` names what doesn't exist or this processor can't run.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked and asked not in ("off", *TARGETS):
        raise ConfigError(
            f"{VARIABLE}={asked}", f"one of off, {', '.join(TARGETS)}", f"unset {VARIABLE}"
        )
    if asked == "off":
        return None
    found = _open()
    if isinstance(found, str):
        return None
    library, best = found
    runs = list(TARGETS)[: list(TARGETS).index(best) + 1]  # from the plainest to the best
    if asked and asked not in runs:
        raise ConfigError(
            f"{VARIABLE}={asked}",
            f"one of {', '.join(['off', *runs])} on this processor",
            f"unset {VARIABLE}",
        )
    target = asked or best
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    decode = getattr(library, f"decode_{target}")
    decode.argtypes, decode.restype = (pointer, number, number, pointer, pointer), None
    return Kernels(target, decode)


def missing() -> str:
    """Return why there are no kernels, or nothing where there are some."""
    if os.environ.get(VARIABLE) == "off":
        return f"{VARIABLE}=off"
    found = _open()
    return found if isinstance(found, str) else ""


@cache
def _open() -> tuple[ctypes.CDLL, str] | str:
    """Return the library and the kind of processor that this one is, or why there is none."""
    path = HERE / LIBRARY
    if not path.is_file():
        return "not compiled: no C++ compiler was found when qkv was installed"
    try:
        library = ctypes.CDLL(str(path))
        library.qkv_source.restype = library.qkv_target.restype = ctypes.c_char_p
        made_from, best = library.qkv_source().decode(), library.qkv_target().decode()
        source = source_hash()
    except (OSError, AttributeError) as error:
        return f"{path} can't be loaded: {error}"
    if made_from != source:
        return "compiled from another version of the source: install qkv again"
    return library, best
