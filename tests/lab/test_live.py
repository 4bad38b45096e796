"""What is live, over the one WebSocket: to those who read, whatever others do."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from starlette.websockets import WebSocketDisconnect

from qkv.lab.live import LARGEST_MESSAGE, MOST_CLIENTS, MOST_WATCHED
from qkv.lab.rooms import Lab
from qkv.lab.security import Keys
from qkv.lab.server import create_app
from qkv.lab.serving import bind

URL = "ws://127.0.0.1:8742/api/live"
STEPS = 100


def make_run(path: Path) -> Path:
    """A run that says it trains on another machine."""
    from qkv.models.config import RungConfig
    from qkv.text import corpus_from_text
    from qkv.training.config import TrainingConfig
    from qkv.training.run import Data, start
    from qkv.training.rundir import RunDirectory

    data = Data.prepare(corpus_from_text("to be, or not to be\n" * 20), "char")
    model = RungConfig(kind="bigram", vocab=data.tokenizer.size, context=8)
    start(RunDirectory(path), model, TrainingConfig(tokens=32 * STEPS, batch=4), data)
    status = {"state": "running", "step": 0, "steps": STEPS, "host": "elsewhere"}
    (path / "status.json").write_text(json.dumps(status))
    return path


def add_step(path: Path, step: int) -> None:
    line = {"step": step, "steps": STEPS, "loss": 3.0, "tokens": 32 * step, "seconds": 0.01}
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def next_of(session: Any, item: str) -> dict[str, Any]:
    """The next message about a run."""
    while True:
        message = json.loads(session.receive_text())
        if message["kind"] == "run" and message["head"]["id"] == item:
            return dict(message)


def test_a_run_is_told_as_it_grows(client: Any, tmp_path: Path) -> None:
    path = make_run(tmp_path / "runs" / "one")
    add_step(path, 1)
    with client.websocket_connect(URL) as session:
        session.send_json({"watch": ["1/one"]})
        message = next_of(session, "1/one")
        assert (message["head"]["state"], message["head"]["step"]) == ("running", 1)
        assert message["lists"]["losses"] == {"from": 0, "items": [[1, 3.0, 3.0]]}
        for step in range(2, 5):
            add_step(path, step)
        message = next_of(session, "1/one")
        seen = [point[0] for point in message["lists"]["losses"]["items"]]
        while seen[-1] < 4:
            message = next_of(session, "1/one")
            seen += [point[0] for point in message["lists"]["losses"]["items"]]
        assert sorted(set(seen)) == [1, 2, 3, 4]
        assert set(message["lists"]) == {"losses"}


def test_new_runs_are_told_of(client: Any, tmp_path: Path) -> None:
    with client.websocket_connect(URL) as session:
        session.send_json({"watch": ["own"]})
        assert next_of(session, "own")["lists"]["probes"]["items"]
        make_run(tmp_path / "runs" / "new")
        while True:
            message = json.loads(session.receive_text())
            if message["kind"] == "runs" and message["runs"]:
                assert [run["id"] for run in message["runs"]] == ["1/new"]
                break


def test_what_can_not_be_read_is_told_and_hurts_nothing(client: Any, tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "good")
    with client.websocket_connect(URL) as session:
        wrong = ("1/none", "9/9", "1/../../etc", "1/" + "a" * 5000)
        session.send_json({"watch": [*wrong, "1/good"]})
        for item in wrong:
            assert next_of(session, item)["head"]["state"] == "unreadable"
        assert next_of(session, "1/good")["head"]["state"] == "running"


@pytest.mark.parametrize(
    "rude",
    [
        "no JSON",
        "[]",
        "{}",
        '{"watch": 1}',
        '{"watch": [1]}',
        json.dumps({"watch": ["own"] * (MOST_WATCHED + 1)}),
        '{"watch": ["' + "a" * LARGEST_MESSAGE + '"]}',
        "[" * 10_000,
        b"\x00\x01",
    ],
)
def test_who_is_rude_is_closed_alone(client: Any, rude: str | bytes) -> None:
    with client.websocket_connect(URL) as good:
        good.send_json({"watch": ["own"]})
        with client.websocket_connect(URL) as bad:
            bad.send_text(rude) if isinstance(rude, str) else bad.send_bytes(rude)
            with pytest.raises(WebSocketDisconnect) as closed:
                bad.receive_text()
            assert closed.value.code == 1008
        assert next_of(good, "own")["head"]["state"] == "finished"


def test_who_says_too_much_is_closed(client: Any) -> None:
    with client.websocket_connect(URL) as session:
        for _ in range(100):
            session.send_json({"watch": []})
        with pytest.raises(WebSocketDisconnect):
            session.receive_text()


def make_large_runs(folder: Path, count: int) -> list[str]:
    """Runs of which each takes some 400 kB to tell, more than buffers of sockets hold together."""
    path = make_run(folder / "large-0")
    for step in range(1, STEPS):
        add_step(path, step)
    samples = [{"step": step, "prompt": "to", "text": "be " * 650} for step in range(60)]
    (path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in samples))
    (path / "probes").mkdir()
    probes = [{"step": step, "sample": "or " * 650, "heads": {}} for step in range(119)]
    (path / "probes" / "index.jsonl").write_text("".join(json.dumps(x) + "\n" for x in probes))
    for number in range(1, count):
        shutil.copytree(path, folder / f"large-{number}")
    return [f"0/large-{number}" for number in range(count)]


class Raw:
    """A client that does only what it is told to, and takes little at a time."""

    def __init__(self, url: str, cookie: str, buffer: int | None = None) -> None:
        place = urlsplit(url)
        assert place.port is not None
        self.socket = socket.socket()
        self.socket.settimeout(60)
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.socket.connect(("127.0.0.1", place.port))
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            "GET /api/live HTTP/1.1", f"Host: {place.netloc}", f"Origin: http://{place.netloc}",
            "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13", f"Cookie: {cookie}", "", "",
        ]  # fmt: skip
        self.socket.sendall("\r\n".join(lines).encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.socket.recv(1)
        assert head.startswith(b"HTTP/1.1 101"), head

    def send(self, text: str) -> None:
        self.send_frame(1, text.encode())

    def send_frame(self, opcode: int, data: bytes) -> None:
        size = (
            bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
        )
        self.socket.sendall(bytes([0x80 | opcode]) + size + bytes(4) + data)

    def messages(self) -> Iterator[dict[str, Any]]:
        file = self.socket.makefile("rb")
        while True:
            first, size = file.read(2)
            length = {126: ">H", 127: ">Q"}.get(size)
            if length is not None:
                size = struct.unpack(length, file.read(struct.calcsize(length)))[0]
            data = file.read(size)
            if first & 15 == 9:  # a ping
                self.send_frame(10, data)
            elif first & 15 == 1:
                yield json.loads(data)


def drain(clients: list[Raw]) -> tuple[list[int], int]:
    """What all are sent until nobody is sent more: bytes of each, and how many are closed."""
    waiting, found = {client.socket: bytearray() for client in clients}, {}
    ended = 0
    while waiting:
        ready, _, _ = select.select(list(waiting), [], [], 1.0)
        if not ready:
            break
        for one in ready:
            try:
                part = one.recv(2**20)
            except ConnectionError:
                part = b""
            waiting[one] += part
            if not part or has_end(waiting[one]):
                found[one], ended = len(waiting.pop(one)), ended + 1
    found |= {one: len(data) for one, data in waiting.items()}
    return [found[client.socket] for client in clients], ended


def has_end(data: bytearray) -> bool:
    """Whether a frame that closes is among whole ones."""
    at = 0
    while at + 2 <= len(data):
        first, size = data[at], data[at + 1]
        at += 2
        if size >= 126:
            wide = {126: 2, 127: 8}[size]
            size, at = int.from_bytes(data[at : at + wide], "big"), at + wide
        if first & 15 == 8:
            return True
        at += size
    return False


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, str]]:
    """A lab in a thread of this process: its address, and its cookie."""
    listening = bind("127.0.0.1", 0)
    keys = Keys(listening.getsockname()[1])
    app = create_app(Lab(keys, runs=folder))
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        ws="websockets-sansio",
        lifespan="off",
        log_level="critical",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{keys.cookie.rpartition('-')[2]}/", f"{keys.cookie}={keys.session}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def test_who_takes_nothing_for_long_is_closed_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qkv.lab.live.SEND_SECONDS", 0.5)
    names = make_large_runs(tmp_path, 20)
    path = make_run(tmp_path / "one")
    with serving(tmp_path) as (url, cookie), ExitStack() as sockets:
        clients = [Raw(url, cookie, buffer=2**12) for _ in range(3)]
        good = Raw(url, cookie)
        for client in (*clients, good):
            sockets.callback(client.socket.close)
        for client in clients:
            client.send(json.dumps({"watch": names}))
        good.send(json.dumps({"watch": ["0/one", *names]}))
        messages, told = good.messages(), 0
        for step in range(1, 7):
            add_step(path, step)
            while (message := next(messages)).get("head", {}).get("step", -1) != step:
                told += len(json.dumps(message))
        assert told > 5_000_000
        # It is told all the while, and longer than the others have time.
        time.sleep(0.6)
        got, ended = drain(clients)
        assert ended == len(clients)
        assert max(got) < told / 2
        add_step(path, 7)
        while next(messages).get("head", {}).get("step", -1) != 7:
            pass


def test_a_hundred_stalled_and_rude_clients_change_nothing(
    start_lab: Callable[..., Any], tmp_path: Path
) -> None:
    import httpx

    with start_lab(tmp_path) as server, ExitStack() as sockets:
        path = make_run(tmp_path / "runs" / "one")
        names = make_large_runs(tmp_path / "runs", 10)
        reply = httpx.get(server.url, params={"token": server.token})
        cookie = "; ".join(f"{name}={value}" for name, value in reply.cookies.items())
        crowd: list[Raw] = []
        for number in range(100):
            crowd.append(Raw(server.url, cookie, buffer=2**12))
            sockets.callback(crowd[-1].socket.close)
            if number % 4 == 3:
                crowd[-1].send("rude")
            elif number % 20 == 0:
                crowd[-1].send(json.dumps({"watch": names}))
            elif number % 4:
                crowd[-1].send(json.dumps({"watch": ["own", "0/one"]}))
        good = Raw(server.url, cookie)
        sockets.callback(good.socket.close)
        good.send(json.dumps({"watch": ["0/one"]}))
        messages = good.messages()
        for step in range(1, 8):
            add_step(path, step)
            while next(messages).get("head", {}).get("step", -1) < step:
                pass  # what it was told before
        assert server.process.poll() is None
        assert httpx.get(f"{server.url}api/runs", headers={"cookie": cookie}).status_code == 200
        _, ended = drain(crowd)
        assert len(crowd) - ended < MOST_CLIENTS
