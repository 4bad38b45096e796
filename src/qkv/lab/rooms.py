"""What the lab's rooms share: what may be opened, what is open, and threads for what takes long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import anyio

from qkv.lab.inspecting import Inspector
from qkv.lab.security import Keys
from qkv.lab.shelf import Shelf

__all__ = ["Lab", "Threads"]

WORKERS = 4
T = TypeVar("T")


class Threads:
    """Runs what takes long off the event loop, in so many threads at most."""

    def __init__(self, most: int) -> None:
        self._limiter = anyio.CapacityLimiter(most)

    async def __call__(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run a function in a thread, and return what it returns."""
        return await anyio.to_thread.run_sync(
            work, *arguments, limiter=self._limiter, abandon_on_cancel=True
        )


@dataclass(frozen=True)
class Lab:
    """What one server serves.

    Args:
        keys: the session's.
        places: files and folders that may be opened.
        hosts: names besides this machine's own by which it may be reached.
        root_path: the prefix under which a proxy shows it.
        runs: the folder in which new runs are made.

    `inside` runs what takes long; `aside` what nobody waits for, one at a time. `warm` is unset
    while the first model is loaded.
    """

    keys: Keys
    places: Sequence[Path] = ()
    hosts: Sequence[str] = ()
    root_path: str = ""
    runs: Path = Path("runs")
    shelf: Shelf = field(init=False)
    inspector: Inspector = field(init=False)
    inside: Threads = field(init=False)
    aside: Threads = field(init=False)
    warm: threading.Event = field(init=False)

    def __post_init__(self) -> None:
        places = [*self.places, *([] if self.runs in self.places else [self.runs])]
        object.__setattr__(self, "shelf", Shelf(places))
        object.__setattr__(self, "inspector", Inspector(self.shelf))
        object.__setattr__(self, "inside", Threads(WORKERS))
        object.__setattr__(self, "aside", Threads(1))
        object.__setattr__(self, "warm", threading.Event())
        self.warm.set()
