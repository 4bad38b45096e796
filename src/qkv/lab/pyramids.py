"""The pyramids of long heads: built one at a time, while somebody waits; a few stay.

Who waits for one takes no thread; who goes away stops it, unless others wait too.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from qkv.attention.threads import all_threads

if TYPE_CHECKING:
    from qkv.lens import AttentionMap

__all__ = ["Pyramids"]

Inside: TypeAlias = Callable[[Callable[[], object]], Awaitable[object]]

MOST_PYRAMIDS = 2
"""Up to 200 MB each."""
PATIENCE_S = 5.0
"""A page that pans lets go of its tiles before it asks for the next."""


@dataclass(eq=False)
class _Build:
    """A pyramid that is being built, and how many wait for it."""

    task: asyncio.Task[object] | None = None
    done: float = 0.0
    waiting: int = 0
    closed: bool = False
    left_at: float = field(default_factory=time.monotonic)

    def unwanted(self) -> bool:
        patience = 0.0 if self.closed else PATIENCE_S
        return self.waiting == 0 and time.monotonic() - self.left_at > patience

    def progress(self, done: float) -> None:
        self.done = done


def _pool(head: AttentionMap, build: _Build) -> None:
    with all_threads():
        head.pyramid(build.progress, build.unwanted)


class Pyramids:
    """Pyramids by the name of a trace and of a head."""

    def __init__(self) -> None:
        self._built: OrderedDict[tuple[str, str], AttentionMap] = OrderedDict()
        self._building: dict[tuple[str, str], _Build] = {}
        self._lock = threading.Lock()  # of both: a text is closed in a thread
        self._turn: asyncio.Lock | None = None

    async def wait(self, key: tuple[str, str], head: AttentionMap, inside: Inside) -> None:
        """Return when a head has its pyramid.

        Args:
            inside: runs what takes long in a thread.

        Raises:
            CancelledError: of `qkv.lens`, where everybody went away before it was built.
        """
        with self._lock:
            if key in self._built:
                self._built.move_to_end(key)
                return
            build = self._building.setdefault(key, _Build())
        if build.task is None:
            build.task = asyncio.ensure_future(self._build(key, head, build, inside))
            build.task.add_done_callback(lambda task: task.cancelled() or task.exception())
        build.waiting += 1
        try:
            assert build.task is not None
            await asyncio.shield(build.task)
        finally:
            build.waiting -= 1
            build.left_at = time.monotonic()

    def progress(self, key: tuple[str, str]) -> float | None:
        """Return the part that is done, from 0 to 1, of a pyramid that is being built."""
        build = self._building.get(key)
        return None if build is None else build.done

    def forget(self, name: str) -> None:
        """Let go of the pyramids of a trace that was closed, also of what is being built."""
        with self._lock:
            for key in [key for key in self._built if key[0] == name]:
                del self._built[key]
            for key, build in self._building.items():
                build.closed = build.closed or key[0] == name

    async def _build(
        self, key: tuple[str, str], head: AttentionMap, build: _Build, inside: Inside
    ) -> None:
        from qkv.lens.maps.pyramid import forget

        if self._turn is None:
            self._turn = asyncio.Lock()
        try:
            async with self._turn:
                await inside(partial(_pool, head, build))
            with self._lock:
                if not build.closed:
                    self._built[key] = head
                while len(self._built) > MOST_PYRAMIDS:
                    _, oldest = self._built.popitem(last=False)
                    forget(oldest)
        finally:
            with self._lock:
                del self._building[key]
