"""How many threads torch gives to one operation, here and now, and whether anybody waits for it.

The number that a thread sets holds for itself, and for threads yet to come: so it is said again
wherever it matters, and put back to what it was at first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

__all__ = ["all_threads", "is_unwanted", "one_thread", "while_wanted"]

_unwanted: ContextVar[Callable[[], bool]] = ContextVar("unwanted", default=lambda: False)


@cache
def _usual() -> int:
    import torch

    return torch.get_num_threads()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let one thread do what is small: torch splits each operation, and waits for the last part."""
    with _threads(1):
        yield


@contextmanager
def all_threads() -> Iterator[None]:
    """Let as many threads as torch has do what is large, whatever was set before."""
    with _threads(_usual()):
        yield


@contextmanager
def while_wanted(unwanted: Callable[[], bool]) -> Iterator[None]:
    """End sweeps over heads early, by `qkv.lens.maps.pyramid.CancelledError`, once nobody waits."""
    before = _unwanted.set(unwanted)
    try:
        yield
    finally:
        _unwanted.reset(before)


def is_unwanted() -> bool:
    """Return whether nobody waits any more for what is done here; False unless it is known.

    >>> with while_wanted(lambda: True):
    ...     is_unwanted()
    True
    """
    return _unwanted.get()()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    import torch

    usual = _usual()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
