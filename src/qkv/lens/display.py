"""How a notebook shows a trace or a map: pictures stand a floor above, so they are handed in."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

__all__ = ["display_with", "mimebundle"]

_BUNDLE: list[Callable[..., Any]] = []


def display_with(bundle: Callable[..., Any]) -> None:
    """Says what makes the MIME bundle of a thing: (thing, include, exclude) -> dict."""
    _BUNDLE[:] = [bundle]


def mimebundle(thing: Any, include: Any = None, exclude: Any = None) -> Any:
    """The MIME bundle by which a notebook shows a trace or a map."""
    if not _BUNDLE:
        # The root of the package hands pictures in when it is first asked for anything of ours.
        _ = sys.modules[__name__.partition(".")[0]].Trace
    return _BUNDLE[0](thing, include, exclude)
