"""What the lab's rooms share: what may be opened, what is open, and threads for what takes long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio

from qkv.lab.inspecting import Inspector
from qkv.lab.security import Keys
from qkv.lab.shelf import Shelf

__all__ = ["Lab"]

WORKERS = 4
T = TypeVar("T")


@dataclass(frozen=True)
class Lab:
    """What one server serves.

    Args:
        keys: the session's.
        places: files and folders that may be opened.
        hosts: names besides this machine's own by which it may be reached.
        root_path: the prefix under which a proxy shows it.
        runs: the folder in which new runs are made.
    """

    keys: Keys
    places: Sequence[Path] = ()
    hosts: Sequence[str] = ()
    root_path: str = ""
    runs: Path = Path("runs")
    shelf: Shelf = field(init=False)
    inspector: Inspector = field(init=False)
    limiter: anyio.CapacityLimiter = field(init=False)

    def __post_init__(self) -> None:
        places = [*self.places, *([] if self.runs in self.places else [self.runs])]
        object.__setattr__(self, "shelf", Shelf(places))
        object.__setattr__(self, "inspector", Inspector(self.shelf))
        object.__setattr__(self, "limiter", anyio.CapacityLimiter(WORKERS))

    async def inside(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run what takes long in a thread, and return what it returns."""
        return await anyio.to_thread.run_sync(
            partial(work, *arguments), limiter=self.limiter, abandon_on_cancel=True
        )
