"""One WebSocket for what is live: runs as they grow, told to all who watch.

One thread looks at the run directories, some times a second, for all clients together. A client has
no queue: what it gets is made when it can be sent, from what it was told last. So one that reads
slowly skips what came between, and one that reads nothing holds nothing up and is closed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from qkv.errors import QkvError
from qkv.lab.curves import number
from qkv.lab.following import Following
from qkv.lab.runs import Line, Run

__all__ = ["MOST_CLIENTS", "Live"]

MOST_CLIENTS = 32
"""At once; one more, and the one that reads worst goes. Pages come back by themselves."""
MOST_WATCHED = 40
LOOK_SECONDS, LIST_SECONDS = 0.25, 2.0
SEND_SECONDS = 20.0
"""A client that takes none of a message for so long is closed."""
MOST_MESSAGES, MESSAGES_SECONDS = 40, 10.0
LARGEST_MESSAGE = 2**14
REFUSED, CROWDED = 1008, 1013
"""Codes with which a socket is closed."""
Inside = Callable[..., Awaitable[Any]]
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Told:
    """What a client asked for, and what it was told of that: replaced, never changed.

    Args:
        watched: ids of runs.
        listed: the list of runs.
        heads: how each run stands.
        seen: how much of each run's lists.
    """

    watched: tuple[str, ...] = ()
    listed: list[Line] | None = None
    heads: dict[str, Line] = field(default_factory=dict)
    seen: dict[str, Line] = field(default_factory=dict)

    def watch(self, names: Iterable[str]) -> Told:
        """Return the same for other runs.

        What is watched anew is told from its beginning: a page that was away has nothing of it.
        """
        watched = tuple(dict.fromkeys(names))
        heads, seen = (
            {name: known[name] for name in watched if name in known}
            for known in (self.heads, self.seen)
        )
        return replace(self, watched=watched, heads=heads, seen=seen)


class Client:
    """Who watches."""

    def __init__(self, socket: WebSocket) -> None:
        self.socket = socket
        self.told = Told()
        self.since = time.monotonic()
        self.sending: float | None = None
        self.wake = asyncio.Event()
        self.ended = asyncio.Event()
        self.code = REFUSED
        self._times: list[float] = []

    def take(self, message: Any) -> None:
        """Do what a client says.

        Raises:
            ValueError: it says something that no page would, or too much.
        """
        now = time.monotonic()
        self._times = [one for one in self._times if now - one < MESSAGES_SECONDS] + [now]
        text = message.get("text")
        if len(self._times) > MOST_MESSAGES or text is None or len(text) > LARGEST_MESSAGE:
            raise ValueError("too much, or no text")
        told = json.loads(text)
        watched = told.get("watch") if isinstance(told, dict) else None
        if not isinstance(watched, list) or len(watched) > MOST_WATCHED:
            raise ValueError("no list of runs")
        if not all(isinstance(name, str) for name in watched):
            raise ValueError("no list of runs")
        self.told = self.told.watch(watched)
        self.wake.set()

    @property
    def badness(self) -> tuple[bool, bool, float]:
        """Who goes first where there are too many: who reads nothing, who asks nothing, the old."""
        stalled = self.sending is not None and time.monotonic() - self.sending > 1.0
        return stalled, not self.told.watched, time.monotonic() - self.since


class Live:
    """Tells clients what is new.

    Args:
        following: the runs.
        inside: runs what takes long in a thread.
    """

    def __init__(self, following: Following, inside: Inside) -> None:
        self.following, self._inside = following, inside
        self.clients: set[Client] = set()
        self._read: dict[str, tuple[Run | None, Line]] = {}
        self._listed: list[Line] | None = None
        self._listed_at = 0.0
        self._looking: asyncio.Task[None] | None = None

    async def serve(self, socket: WebSocket) -> None:
        """Serve one client until it goes, or must."""
        await socket.accept()
        client = Client(socket)
        if len(self.clients) >= MOST_CLIENTS:
            self._drop(max(self.clients, key=lambda one: one.badness))
        self.clients.add(client)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        try:
            async with anyio.create_task_group() as group:

                async def until_end(work: Callable[[Client], Awaitable[int]]) -> None:
                    client.code = await work(client)
                    group.cancel_scope.cancel()

                for work in (self._hear, self._tell, _wait):
                    group.start_soon(until_end, work)
        finally:
            self.clients.discard(client)
        if socket.client_state is WebSocketState.CONNECTED and client.sending is None:
            with suppress(RuntimeError, OSError), anyio.move_on_after(1.0):
                await socket.close(client.code)

    def _drop(self, client: Client) -> None:
        self.clients.discard(client)
        client.ended.set()

    async def _hear(self, client: Client) -> int:
        """Take what a client says; return when it must go."""
        while True:
            try:
                message = await client.socket.receive()
                if message["type"] != "websocket.receive":
                    return REFUSED
                client.take(message)
            except (ValueError, RecursionError, WebSocketDisconnect, RuntimeError):
                return REFUSED

    async def _tell(self, client: Client) -> int:
        """Send what is new whenever there is some; return when the client reads no more."""
        while True:
            await client.wake.wait()
            client.wake.clear()
            before = client.told
            if not before.watched:
                continue
            texts, told = await self._inside(self._news, before)
            if client.told is not before:
                continue  # it asked for something else meanwhile, and is told of that
            client.told = told
            for text in texts:
                client.sending = time.monotonic()
                try:
                    with anyio.fail_after(SEND_SECONDS):
                        await client.socket.send_text(text)
                except (TimeoutError, OSError, WebSocketDisconnect, RuntimeError):
                    return CROWDED
                client.sending = None

    async def _look(self) -> None:
        """Look at what is watched, and wake who watches; ends with the last client."""
        while self.clients:
            started = time.monotonic()
            watched = {name for client in self.clients for name in client.told.watched}
            if watched:
                try:
                    await self._inside(self._follow, watched)
                except Exception:
                    LOG.exception("looking at %d runs failed", len(watched))
                    await asyncio.sleep(1.0)
            for client in self.clients:
                if client.told.watched and client.sending is None:
                    client.wake.set()
            # Looking takes a tenth of the time at most, until it takes a fifth of a second; then
            # there is a look every two seconds, however long it takes.
            spent = time.monotonic() - started
            await asyncio.sleep(max(LOOK_SECONDS, min(9 * spent, LIST_SECONDS)))

    def _follow(self, watched: set[str]) -> None:
        """Read what is new of each run, and now and then what runs there are."""
        self._read = {name: self._read_one(name) for name in watched}
        if time.monotonic() - self._listed_at > LIST_SECONDS:
            self._listed = self.following.listing()
            self._listed_at = time.monotonic()

    def _read_one(self, name: str) -> tuple[Run | None, Line]:
        try:
            return self.following.read(name)
        except QkvError as error:
            reason = str(error)
        except Exception as error:  # what one run holds must not keep the others from being told
            LOG.exception("reading %s failed", name[:80])
            reason = f"the lab failed on it ({type(error).__name__})"
        return None, {"id": name, "state": "unreadable", "reason": reason, "can": []}

    def _news(self, told: Told) -> tuple[list[str], Told]:
        """Return the messages with what a client doesn't know yet, and what it is told then."""
        texts, listed = [], self._listed
        heads, seen = dict(told.heads), dict(told.seen)
        if listed is not None and told.listed != listed:
            texts.append(_text({"kind": "runs", "runs": listed}))
        for name in told.watched:
            run, head = self._read.get(name) or self._read_one(name)
            lists: Line = {}
            if run is not None:
                with run.lock:
                    lists, seen[name] = run.lists(seen.get(name))
            if lists or heads.get(name) != head:
                heads[name] = head
                texts.append(_text({"kind": "run", "head": head, "lists": lists}))
        return texts, Told(told.watched, listed, heads, seen)


def _text(told: Line) -> str:
    """A message, with nothing in place of numbers that JSON has none of."""
    try:
        return json.dumps(told, allow_nan=False)
    except ValueError:
        return json.dumps(_plain(told))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return number(value) if isinstance(value, float) else value


async def _wait(client: Client) -> int:
    await client.ended.wait()
    return CROWDED
