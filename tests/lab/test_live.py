"""What is live, over the one WebSocket: to those who read, whatever others do."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.websockets import WebSocketDisconnect

from qkv.lab.live import LARGEST_MESSAGE, MOST_CLIENTS, MOST_WATCHED

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
        session.send_json({"watch": ["1/none", "9/9", "1/../../etc", "1/good"]})
        for item in ("1/none", "9/9", "1/../../etc"):
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
        json.dumps({"watch": ["a" * 2000]}),
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


class Raw:
    """A client that does only what it is told to."""

    def __init__(self, url: str, cookie: str) -> None:
        place = urlsplit(url)
        assert place.port is not None
        self.socket = socket.create_connection(("127.0.0.1", place.port), timeout=60)
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


def test_a_hundred_stalled_and_rude_clients_change_nothing(
    start_lab: Callable[..., Any], tmp_path: Path
) -> None:
    import httpx

    with start_lab(tmp_path) as server, ExitStack() as sockets:
        path = make_run(tmp_path / "runs" / "one")
        reply = httpx.get(server.url, params={"token": server.token})
        cookie = "; ".join(f"{name}={value}" for name, value in reply.cookies.items())
        crowd: list[Raw] = []
        for number in range(100):
            crowd.append(Raw(server.url, cookie))
            sockets.callback(crowd[-1].socket.close)
            if number % 4 == 3:
                crowd[-1].send("rude")
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
        assert MOST_CLIENTS < 100
