"""What the lab's rooms share: what may be opened, what is open, and threads for what takes long."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from qkv.attention.threads import while_wanted
from qkv.lab.inspecting import Inspector
from qkv.lab.security import Keys
from qkv.lab.shelf import Shelf

__all__ = ["Lab", "Threads"]

WORKERS = 4
IDLE_SECONDS = 10.0
"""A thread with nothing to do ends after so long."""
T = TypeVar("T")


@dataclass(eq=False)
class _Call:
    """Something to be run, and all who wait for it."""

    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    key: Hashable
    answers: list[Future[Any]]

    def unwanted(self) -> bool:
        """Whether all who asked have gone; then it stays so, for nobody joins any more."""
        return all(answer.cancelled() for answer in self.answers)


class Threads:
    """Runs what takes long off the event loop, in so many threads at most.

    Who is cancelled leaves: what nobody waits for isn't begun, and a sweep over a head ends early.
    A model's pass goes on to its end, and holds its thread so long.

    Args:
        most: threads at once; more calls wait for their turn.
        shared: whether equal calls under way are run once, for all who ask. Only for what changes
            nothing.
    """

    def __init__(self, most: int, *, shared: bool = False) -> None:
        self._most, self._shared = most, shared
        self._waiting: deque[_Call] = deque()
        self._flying: dict[Hashable, _Call] = {}
        self._turn = threading.Condition()
        self._count = self._idle = 0

    async def __call__(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run a function in a thread, and return what it returns."""
        answer: Future[T] = Future()
        key = _key(work, arguments) if self._shared else None
        with self._turn:
            self._ask(_Call(work, arguments, key, [answer]))
        # Where the task is cancelled, so is this asker's own future, and no other's.
        return await asyncio.wrap_future(answer)

    def _ask(self, call: _Call) -> None:
        flying = None if call.key is None else self._flying.get(call.key)
        if flying is not None and not flying.unwanted():
            flying.answers += call.answers
            return
        if call.key is not None:
            self._flying[call.key] = call
        self._waiting.append(call)
        if self._idle < len(self._waiting) and self._count < self._most:
            self._count += 1
            # Of a daemon: a long pass must not keep the lab from ending.
            threading.Thread(target=self._serve, name="lab", daemon=True).start()
        self._turn.notify()

    def _serve(self) -> None:
        while (call := self._next()) is not None:
            try:
                with while_wanted(call.unwanted):
                    found, error = call.work(*call.arguments), None
            except BaseException as raised:
                found, error = None, raised
            with self._turn:
                self._land(call)
            for answer in call.answers:
                _tell(answer, found, error)
            del call, found, error  # nothing is kept while it waits for more

    def _next(self) -> _Call | None:
        """The next call that somebody waits for; none where there is nothing to do for long."""
        with self._turn:
            while True:
                while self._waiting:
                    call = self._waiting.popleft()
                    if not call.unwanted():
                        return call
                    self._land(call)
                self._idle += 1
                called = self._turn.wait(IDLE_SECONDS)
                self._idle -= 1
                if not called and not self._waiting:
                    self._count -= 1
                    return None

    def _land(self, call: _Call) -> None:
        if self._flying.get(call.key) is call:
            del self._flying[call.key]


def _key(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Hashable:
    """What tells a question from others; none of what can't be compared."""
    try:
        plain = (
            json.dumps(argument, sort_keys=True) if isinstance(argument, dict) else argument
            for argument in arguments
        )
        key = (work, *plain)
        hash(key)
    except (TypeError, ValueError, RecursionError):
        return None
    return key


def _tell(answer: Future[Any], found: Any, error: BaseException | None) -> None:
    if not answer.set_running_or_notify_cancel():
        return
    if error is None:
        answer.set_result(found)
    else:
        answer.set_exception(error)


@dataclass(frozen=True)
class Lab:
    """What one server serves.

    Args:
        keys: the session's.
        places: files and folders that may be opened.
        hosts: names besides this machine's own by which it may be reached.
        root_path: the prefix under which a proxy shows it.
        runs: the folder in which new runs are made.

    `inside` runs what takes long and changes nothing; `aside` what nobody waits for, one at a time.
    `warm` is unset while the first model is loaded.
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
        object.__setattr__(self, "shelf", Shelf([*self.places, self.runs]))
        object.__setattr__(self, "inspector", Inspector(self.shelf))
        object.__setattr__(self, "inside", Threads(WORKERS, shared=True))
        object.__setattr__(self, "aside", Threads(1))
        object.__setattr__(self, "warm", threading.Event())
        self.warm.set()
