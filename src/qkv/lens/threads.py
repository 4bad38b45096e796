"""How many threads torch gives to one operation, here and now.

The number that a thread sets holds for itself, and for threads yet to come: so it is said again
wherever it matters, and put back to what it was at first.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

__all__ = ["all_threads", "one_thread"]


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
def _threads(count: int) -> Iterator[None]:
    import torch

    usual = _usual()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(usual)
