"""Threads for what takes long: so many, shared by equal questions, let go of by who leaves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from qkv.attention import Causal
from qkv.errors import ConfigError
from qkv.lab.rooms import Threads
from qkv.lens import AttentionMap
from qkv.lens.maps.pyramid import CancelledError

SECONDS = 20


class Gate:
    """Work that begins, is counted, and goes on when it is let."""

    def __init__(self) -> None:
        self.begun, self.now, self.most = list[object](), 0, 0
        self.open, self._lock = threading.Event(), threading.Lock()

    def work(self, name: object = None) -> object:
        with self._lock:
            self.begun.append(name)
            self.now += 1
            self.most = max(self.most, self.now)
        assert self.open.wait(SECONDS)
        with self._lock:
            self.now -= 1
        if name == "bad":
            raise ConfigError("bad", "good", "choose another")
        return name

    async def until(self, count: int) -> None:
        """Return when so many have begun, and those that could have begun too."""
        while len(self.begun) < count:
            await asyncio.sleep(0.002)
        await asyncio.sleep(0.03)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, SECONDS))


def ask(threads: Threads, *call: Any) -> asyncio.Task[Any]:
    return asyncio.get_running_loop().create_task(threads(*call))


async def leave(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_there_are_never_more_threads_at_once() -> None:
    gate, threads = Gate(), Threads(2)

    async def main() -> None:
        tasks = [ask(threads, gate.work, number) for number in range(6)]
        await gate.until(2)
        # Whoever leaves frees no thread: what began goes on to its end.
        for task in tasks[:2]:
            await leave(task)
        more = ask(threads, gate.work, 6)
        await gate.until(2)
        assert gate.begun == [0, 1]
        gate.open.set()
        assert await asyncio.gather(*tasks[2:], more) == [2, 3, 4, 5, 6]

    run(main())
    assert gate.most == 2


def test_what_nobody_waits_for_is_not_begun() -> None:
    gate, threads = Gate(), Threads(1)

    async def main() -> None:
        first, second, third = (ask(threads, gate.work, number) for number in range(3))
        await gate.until(1)
        await leave(second)
        gate.open.set()
        assert [await first, await third] == [0, 2]

    run(main())
    assert gate.begun == [0, 2]


def test_equal_questions_under_way_share_one_run() -> None:
    gate, threads = Gate(), Threads(4, shared=True)

    async def main() -> None:
        same = [ask(threads, gate.work, "same") for _ in range(3)]
        bad = [ask(threads, gate.work, "bad") for _ in range(2)]
        other = ask(threads, gate.work, "other")
        await gate.until(3)
        await leave(same[0])  # no other's
        gate.open.set()
        assert await asyncio.gather(*same[1:], other) == ["same", "same", "other"]
        for task in bad:
            with pytest.raises(ConfigError, match="bad"):
                await task
        # What has ended is no answer to a later question.
        assert await threads(gate.work, "same") == "same"

    run(main())
    assert sorted(map(str, gate.begun)) == ["bad", "other", "same", "same"]


def test_equal_messages_share_too_and_what_can_not_be_compared_does_not() -> None:
    gate, threads = Gate(), Threads(4, shared=True)

    async def main() -> None:
        for asked in ({"head": "L0H0", "rows": [0, 9]}, {"rows": [0, 9], "head": "L0H0"}, [1], [1]):
            asyncio.get_running_loop().create_task(threads(gate.work, asked))
        await gate.until(3)
        gate.open.set()

    run(main())
    assert len(gate.begun) == 3


def test_work_that_changes_something_is_done_as_often_as_it_is_asked_for() -> None:
    gate, threads = Gate(), Threads(4)
    gate.open.set()

    async def main() -> None:
        await asyncio.gather(*(threads(gate.work, "same") for _ in range(3)))

    run(main())
    assert gate.begun == ["same"] * 3


def test_a_sweep_over_a_head_ends_when_its_asker_leaves() -> None:
    x = np.random.default_rng(0).normal(size=(1200, 4))
    head = AttentionMap.of(x, x, mask=Causal(), name="L0H0")
    gate, threads = Gate(), Threads(1, shared=True)
    ends: list[object] = []

    def sweep() -> None:
        gate.work()
        try:
            ends.append(head.entropy())
        except CancelledError as error:
            ends.append(error)

    async def main() -> None:
        task = ask(threads, sweep)
        await gate.until(1)
        await leave(task)
        again = ask(threads, sweep)  # not the answer of the one that ends
        gate.open.set()
        await again

    run(main())
    stopped, whole = ends
    assert isinstance(stopped, CancelledError)
    assert isinstance(whole, np.ndarray)
    assert whole.shape == (1200,)
