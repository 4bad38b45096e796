"""What the lab makes of requests: headers of every answer, bodies too large, rubbish."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from qkv.lab.rooms import Lab
from qkv.lab.security import LARGEST_BODY, Guard, Keys
from qkv.lab.server import create_app

Ask = Callable[..., Any]
Walk = Callable[..., Iterator[tuple[str, str, str]]]
HOST = "127.0.0.1:8742"


ALWAYS = (
    "content-security-policy",
    "x-content-type-options",
    "x-frame-options",
    "referrer-policy",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "cache-control",
)


# Answers


def test_every_answer_has_its_headers(ask: Ask, app: Guard, lab: Lab, signed: Any) -> None:
    tag = ask(app, "/assets/lab.css", headers=signed).headers["etag"]
    answers = {
        200: ask(app, headers=signed),
        304: ask(app, "/assets/lab.css", headers=[*signed, ("if-none-match", tag)]),
        400: ask(app, "/api/open", method="POST", headers=signed),
        404: ask(app, "/nowhere", headers=signed),
        405: ask(app, "/api/open", headers=signed),
        403: ask(app, headers=[("host", HOST)]),
        421: ask(app),
        413: ask(app, headers=[*signed, ("content-length", str(LARGEST_BODY + 1))]),
    }
    welcome = ask(app, headers=[("host", HOST)], query=f"token={lab.keys.token}")
    for status, answer in [*answers.items(), (200, welcome)]:
        assert answer.status == status
        assert [name for name in ALWAYS if name not in answer.headers] == []
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert answers[200].headers["cache-control"] == "no-store"


def test_only_the_page_with_the_chart_may_write_styles(ask: Ask, app: Guard, signed: Any) -> None:
    for path in ("/", "/inspect", "/train", "/worksheet", "/trainer", "/api/items"):
        policy = ask(app, path, headers=signed).headers["content-security-policy"]
        script, style = (
            next(part for part in policy.split("; ") if part.startswith(name))
            for name in ("script-src", "style-src")
        )
        assert script == "script-src 'self'"
        assert ("'unsafe-inline'" in style) == (path == "/train")


def test_a_fault_of_our_own_tells_no_traceback_but_in_the_terminal(
    lab: Lab,
    app: Guard,
    signed: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("/home/someone/secret")

    monkeypatch.setattr(lab.shelf, "items", fail)
    with TestClient(app, f"http://{HOST}", raise_server_exceptions=False) as client:
        reply = client.get("/api/items", headers=dict(signed))
    assert reply.status_code == 500
    assert "ZeroDivisionError" in reply.json()["error"]
    assert not {"secret", "Traceback", ".py"} & set(reply.text.replace("/", " ").split())
    assert [name for name in ALWAYS if name not in reply.headers] == []
    assert "GET /api/items failed" in caplog.text
    assert "ZeroDivisionError: /home/someone/secret" in caplog.text


# Bodies


@pytest.mark.parametrize("length", [LARGEST_BODY + 1, "9" * 19, "9" * 5000, "-1", "1e3", "", "x"])
def test_a_length_that_is_too_large_or_none_is_refused(
    ask: Ask, app: Guard, signed: Any, length: object
) -> None:
    headers = [*signed, ("content-length", str(length))]
    assert ask(app, "/api/open", method="POST", headers=headers).status == 413


@pytest.mark.parametrize("path", ["/api/open", "/api/ask", "/api/effect"])
def test_a_body_that_goes_on_after_the_limit_is_refused(
    ask: Ask, app: Guard, signed: Any, path: str
) -> None:
    parts = (b" " * 2**20,) * (LARGEST_BODY // 2**20 + 1)
    answer = ask(app, path, method="POST", headers=signed, body=parts)
    assert answer.status == 413
    assert "larger" in json.loads(answer.body)["error"]
    lying = [*signed, ("content-length", "2")]
    assert ask(app, path, method="POST", headers=lying, body=parts).status == 413


RUBBISH = [
    b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff\xfe", b"\x00", b"[" * 200_000, b"9" * 10_000,
    b'{"item": null}', b'{"item": ["own"]}', b'{"item": "own", "text": 7}',
    b'{"item": "own", "text": ""}', b'{"item": "own", "text": "\\ud800"}',
    b'{"item": "own", "step": 1e400}', b'{"item": "own", "step": true}',
    b'{"item": "own", "step": ' + b"9" * 400 + b"}", b'{"item": "own", "changes": [1]}',
    b'{"item": "own", "changes": {"ablate": "L9H9"}}',
    b'{"item": "own", "changes": {"scale": [1]}}',
    b'{"item": "own", "changes": {"temperature": NaN}}',
    b'{"item": "own", "changes": {"__class__": 1}}', b'{"trace": {}, "kind": []}',
    b'{"trace": "1", "kind": "cell", "row": -1}',
]  # fmt: skip


def test_rubbish_is_answered_in_one_line(ask: Ask, walk: Walk, app: Guard, signed: Any) -> None:
    posts = {path for kind, method, path in walk(app) if method == "POST"}
    assert posts
    for path, body in itertools.product(sorted(posts), RUBBISH):
        answer = ask(app, path, method="POST", headers=signed, body=(body,))
        assert answer.status in (200, 400, 404), (path, body[:60], answer.body[:200])
        if answer.status != 200:
            assert "\n" not in json.loads(answer.body)["error"]


def test_rubbish_on_a_websocket_ends_nothing_else(
    walk: Walk, client: TestClient, app: Guard
) -> None:
    frames: list[str | bytes] = [
        "", "{", "[]", "null", "9" * 5000, "\x00", "[" * 50_000, '{"kind": 7}', '{"kind": "x"}',
        '{"kind": {}}', '{"watch": ["../.."]}', b"", b"\xff\xfe\x00",
    ]  # fmt: skip
    for path in [f"ws://{HOST}{path}" for kind, _, path in walk(app) if kind == "websocket"]:
        for frame in frames:
            with client.websocket_connect(path) as live:
                try:
                    live.send_text(frame) if isinstance(frame, str) else live.send_bytes(frame)
                except (WebSocketDisconnect, RuntimeError):
                    continue  # the lab has hung up: its right
        with client.websocket_connect(path):
            assert client.get("/").status_code == 200


def test_the_prefix_itself_leads_to_the_page(ask: Ask, tmp_path: Path) -> None:
    keys = Keys(8742)
    app = create_app(Lab(keys, [], root_path="/lab", runs=tmp_path))
    signed = [("host", HOST), ("cookie", f"{keys.cookie}={keys.session}")]
    answer = ask(app, "/lab", headers=signed)
    # Relative addresses need the slash.
    assert (answer.status, answer.headers["location"]) == (307, "/lab/")
    assert [name for name in ALWAYS if name not in answer.headers] == []
    assert ask(app, "/lab", headers=signed[:1]).status == 403
    assert ask(app, "/lab", headers=signed[:1], query=f"token={keys.token}").status == 200


# As bytes arrive

RAW = [
    b"\x00\x01\x02\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
    b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    b"GET //evil.example/%2e%2e/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8742@evil.example\r\n\r\n",
    b"GET /../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /assets/..%2f..%2fserver.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /api/open HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /api/open HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
    b"POST /api/open HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    b"GET /api/items HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"TRACE / HTTP/1.1\r\nHost: localhost\r\nCookie: a=\xff\xfe\r\n\r\n",
]


def test_rude_bytes_are_refused_and_the_server_lives(server: Any) -> None:
    port = httpx.URL(server.url).port
    for sent in RAW:
        with socket.create_connection(("127.0.0.1", port), 10) as raw:
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
            told = b""
            try:
                while part := raw.recv(65536):
                    told += part
            except ConnectionResetError:
                pass
        for line in told.split(b"\r\n"):
            if line.startswith(b"HTTP/"):
                assert line.split()[1] in (b"400", b"403", b"413", b"421", b"431"), sent[:90]
        assert b"root:" not in told
        assert b"Traceback" not in told
    assert httpx.get(server.url).status_code == 403
