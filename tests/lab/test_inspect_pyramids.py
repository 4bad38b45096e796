"""Pyramids of long heads: built once, while somebody waits; a few are kept."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import numpy as np
import pytest

from qkv.attention import Causal
from qkv.lab.pyramids import MOST_PYRAMIDS, Pyramids
from qkv.lens import AttentionMap
from qkv.lens.maps.pyramid import remembered


def long_head(tokens: int = 700, seed: int = 0) -> AttentionMap:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2, tokens, 5))
    return AttentionMap.of(x[0], x[1], mask=Causal(), name="L0H0")


async def inside(work: Any) -> Any:
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)


def test_a_pyramid_is_built_once_for_all_who_wait() -> None:
    head, built = long_head(), []

    async def counted(work: Any) -> Any:
        built.append(1)
        return await inside(work)

    async def main() -> None:
        pyramids = Pyramids()
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(pyramids.wait, ("t1", "L0H0"), head, counted)
        assert pyramids.progress(("t1", "L0H0")) is None

    anyio.run(main)
    assert built == [1]
    assert remembered(head) is not None


def test_few_pyramids_are_kept() -> None:
    heads = [long_head(300, seed) for seed in range(MOST_PYRAMIDS + 2)]

    async def main() -> None:
        pyramids = Pyramids()
        for at, head in enumerate(heads):
            await pyramids.wait(("t1", f"L0H{at}"), head, inside)

    anyio.run(main)
    assert [remembered(head) is not None for head in heads] == [False] * 2 + [True] * MOST_PYRAMIDS


def test_a_pyramid_of_a_text_that_was_closed_meanwhile_is_not_kept() -> None:
    head, other = long_head(), long_head(seed=1)

    async def main() -> None:
        pyramids = Pyramids()

        async def closing(work: Any) -> Any:
            threading.Thread(target=pyramids.forget, args=("t1",)).run()
            return await inside(work)

        await pyramids.wait(("t1", "L0H0"), head, closing)
        await pyramids.wait(("t2", "L0H0"), other, inside)
        built = []

        async def counted(work: Any) -> Any:
            built.append(1)
            return await inside(work)

        await pyramids.wait(("t2", "L0H0"), other, counted)
        assert built == []
        await pyramids.wait(("t1", "L0H0"), head, counted)
        assert built == [1]

    anyio.run(main)


def test_a_pyramid_that_nobody_waits_for_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qkv.lab.pyramids.PATIENCE_S", 0.0)
    head, begun, gone = long_head(1500), threading.Event(), threading.Event()

    async def slowly(work: Any) -> Any:
        def run() -> Any:
            begun.set()
            gone.wait(10)
            return work()

        return await inside(run)

    async def main() -> None:
        pyramids = Pyramids()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pyramids.wait, ("t1", "L0H0"), head, slowly)
                while not begun.is_set():
                    await anyio.sleep(0.005)
                scope.cancel()
        gone.set()
        while pyramids.progress(("t1", "L0H0")) is not None:
            await anyio.sleep(0.005)

    anyio.run(main)
    assert remembered(head) is None
