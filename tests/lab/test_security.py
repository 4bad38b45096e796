"""Who may ask the lab what: every route, host, origin and token."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute

from qkv.lab.rooms import Lab
from qkv.lab.security import Guard, Keys
from qkv.lab.server import create_app

Ask = Callable[..., Any]
Walk = Callable[..., Iterator[tuple[str, str, str]]]
HOST = "127.0.0.1:8742"


# Every route


def let_in(
    ask: Ask, walk: Walk, app: Any, headers: list[tuple[str, str]]
) -> list[tuple[str, str, str]]:
    """The routes that answer anything but a refusal."""
    found = []
    for kind, method, path in walk(app):
        for each in {method, "GET", "POST"} if kind == "http" else {""}:
            answer = ask(app, path, method=each, headers=headers, kind=kind)
            said = kind == "websocket" or b"no session" in answer.body
            if answer.status != 403 or not said:
                found.append((kind, each, path))
    return found


def test_every_route_is_closed_without_the_cookie(
    ask: Ask, walk: Walk, app: Guard, lab: Lab
) -> None:
    routes = list(walk(app))
    assert {"/", "/inspect", "/assets/x", "/api/items", "/api/open"} <= {
        path for *_, path in routes
    }
    own = [("host", HOST), ("origin", f"http://{HOST}")]
    wrong = f"{lab.keys.cookie}={lab.keys.session[:-1]}x"
    assert let_in(ask, walk, app, own) == []
    assert let_in(ask, walk, app, [*own, ("cookie", wrong)]) == []
    assert let_in(ask, walk, app, [*own, ("cookie", f"qkv-lab-9={lab.keys.session}")]) == []


def test_the_walk_would_see_a_route_outside_the_guard(ask: Ask, walk: Walk, app: Guard) -> None:
    async def leak(_: Any) -> PlainTextResponse:
        return PlainTextResponse("no session")

    async def live(socket: Any) -> None:
        await socket.accept()

    inner = Starlette(routes=[Route("/deep/{n:int}", leak), WebSocketRoute("/live", live)])
    outer = Starlette(routes=[Route("/leak", leak), Mount("/in", inner), Mount("/", app)])
    own = [("host", HOST), ("origin", f"http://{HOST}")]
    assert {path for *_, path in let_in(ask, walk, outer, own)} == {
        "/leak",
        "/in/x",
        "/in/deep/7",
        "/in/live",
    }


def test_every_route_of_the_running_server_is_closed(walk: Walk, server: Any, app: Guard) -> None:
    for kind, method, path in walk(app):
        if kind == "http":
            reply = httpx.request(method, server.url.rstrip("/") + path)
            assert (reply.status_code, "no session" in reply.text or method == "HEAD") == (
                403,
                True,
            )
        else:
            with socket.create_connection(("127.0.0.1", httpx.URL(server.url).port), 10) as raw:
                raw.sendall(
                    f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
                    "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                    "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==\r\n\r\n".encode()
                )
                assert raw.recv(64).startswith(b"HTTP/1.1 403")


def test_what_is_no_known_kind_of_request_is_not_let_in(ask: Ask, app: Guard, signed: Any) -> None:
    with pytest.raises(AssertionError):
        ask(app, kind="webtransport", headers=signed)


# Hosts, origins, tokens

# Of this machine's own names only plain http may be meant; others may stand behind a proxy.
HOSTS: dict[str, tuple[str, ...]] = {
    "127.0.0.1:8742": ("http",),
    "127.0.0.1": ("http",),
    "localhost:8742": ("http",),
    "LOCALHOST:9999": ("http",),
    "[::1]:8742": ("http",),
    "lab.example": ("http", "https"),
    "lab.example:443": ("http", "https"),
    "[fe80::1]:8742": ("http", "https"),
    "evil.example:8742": (),
    "127.0.0.1.evil.example": (),
    "localhost.": (),
    "localhost.evil.example": (),
    "127.0.0.1:8742@evil.example": (),
    "evil.example@127.0.0.1:8742": (),
    "127.0.0.1:8742/evil": (),
    "127.0.0.1 :8742": (),
    "127.0.0.1:8742, evil.example": (),
    "127.1:8742": (),
    "2130706433": (),
    "0.0.0.0:8742": (),
    "[::ffff:127.0.0.1]:8742": (),
    "::1": (),
    "localhost:": (),
    "localhost:8x": (),
    "localhost:999999": (),
    "localhost:8742\n": (),
    "localhost\x00": (),
    "l\xf6calhost": (),
    "": (),
}
ORIGINS = [
    "http://{host}", "https://{host}", "http://evil.example", "http://{host}.evil.example", "null",
    "", "{host}", "http://{host}/", "file://", "http://127.0.0.1:1", "HTTP://{host}",
]  # fmt: skip


@pytest.fixture
def named() -> tuple[Guard, Keys]:
    """A lab that is known by two names besides its own."""
    keys = Keys(8742)
    return create_app(Lab(keys, [], ["Lab.Example", "fe80::1"])), keys


@pytest.mark.parametrize("host", HOSTS)
def test_hosts_origins_and_tokens(ask: Ask, named: tuple[Guard, Keys], host: str) -> None:
    app, keys = named
    good = f"{keys.cookie}={keys.session}"
    cookies = {
        good: True,
        f"a=1; {good}": True,
        f'broken={{"x": 1}}; {good}': True,
        f"{keys.cookie}=tossed; {good}": True,
        "": False,
        f"{keys.cookie}=": False,
        f"{keys.cookie}=\xe9": False,
        f"{keys.cookie}={keys.token}": False,
        f"x{good}": False,
    }
    schemes = HOSTS[host]
    for (sent, holds), pattern in itertools.product(cookies.items(), ORIGINS):
        origin = pattern.format(host=host)
        same = origin.lower() in [f"{scheme}://{host}".lower() for scheme in schemes]
        headers = [("host", host), ("origin", origin), ("cookie", sent)]
        for kind, method in (("http", "GET"), ("http", "POST"), ("websocket", "")):
            path = {"GET": "/inspect", "POST": "/api/open", "": "/api/live"}[method]
            answer = ask(app, path, method=method, headers=headers, kind=kind, body=(b"[]",))
            right = 403
            if kind == "http" and not HOSTS[host]:
                right = 421
            elif kind == "http" and holds and (method == "GET" or same):
                right = 200 if method == "GET" else 400  # [] is no object
            elif kind == "websocket" and holds and same:
                right = 101
            assert answer.status == right, (host, origin, sent, kind, method)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "Same-Origin", "none, none"])
def test_what_another_page_fetches_is_refused(
    ask: Ask, walk: Walk, app: Guard, signed: list[tuple[str, str]], site: str
) -> None:
    told = [*signed, ("sec-fetch-site", site)]
    for kind, method, path in walk(app):
        answer = ask(app, path, method=method, headers=told, kind=kind, body=(b"[]",))
        if path == "/":  # a link may lead here
            assert answer.status == 200
            continue
        assert answer.status == 403, (kind, method, path)
        if kind == "http":
            assert method == "HEAD" or b"another page" in answer.body
    for own in ("same-origin", "none"):
        told = [*signed, ("sec-fetch-site", own)]
        assert ask(app, "/inspect", headers=told).status == 200
        assert ask(app, "/api/live", headers=told, kind="websocket").status == 101
    assert ask(app, "/inspect", headers=[*told, ("sec-fetch-site", site)]).status == 403


@pytest.mark.parametrize("name", ["host", "origin"])
@pytest.mark.parametrize("value", ["evil.example", "http://evil.example", "", f"http://{HOST}"])
def test_a_header_that_comes_twice_is_none(
    ask: Ask, app: Guard, signed: list[tuple[str, str]], name: str, value: str
) -> None:
    for headers in ([*signed, (name, value)], [(name, value), *signed]):
        answer = ask(app, "/api/open", method="POST", headers=headers, body=(b"{}",))
        assert answer.status in (403, 421)


def test_requests_without_host_origin_or_cookie(
    ask: Ask, app: Guard, signed: list[tuple[str, str]]
) -> None:
    statuses = {
        name: ask(
            app, "/api/open", method="POST", headers=[h for h in signed if h[0] != name]
        ).status
        for name in ("host", "origin", "cookie")
    }
    assert statuses == {"host": 421, "origin": 403, "cookie": 403}


def test_a_tunnel_from_another_port_passes(ask: Ask, app: Guard, cookie: str) -> None:
    own = [("host", "localhost:9999"), ("cookie", cookie)]
    good = ask(app, "/api/open", method="POST", headers=[*own, ("origin", "http://localhost:9999")])
    assert b"no JSON" in good.body
    for origin in ("http://evil.example", "http://localhost:8742", "http://127.0.0.1:9999"):
        headers = [*own, ("origin", origin)]
        assert ask(app, "/api/open", method="POST", headers=headers).status == 403


def test_a_cookie_may_come_in_several_headers(ask: Ask, app: Guard, lab: Lab) -> None:
    pairs = ["a=1", f"{lab.keys.cookie}={lab.keys.session}", 'b={"x', "\xff\xfe"]
    headers = [("host", HOST), *(("cookie", pair) for pair in pairs)]
    assert ask(app, headers=headers).status == 200


# The link


def test_the_link_opens_once_and_tells_when_it_is_used_again(ask: Ask) -> None:
    told: list[str] = []
    keys = Keys(8742, on_spent=lambda: told.append("spent"))
    app, host = create_app(Lab(keys)), [("host", HOST)]
    token = keys.token
    assert ask(app, headers=host, query=f"token={token[:-1]}").status == 403
    assert ask(app, "/inspect", headers=host, query=f"token={token}").status == 403
    assert ask(app, method="HEAD", headers=host, query=f"token={token}").status == 403
    assert ask(app, headers=host, query=f"token={token}&token={token}").status == 403
    assert ask(app, headers=[("host", "evil.example")], query=f"token={token}").status == 421
    first = ask(app, headers=host, query=f"token={token}")
    assert first.status == 200
    name, _, rest = first.headers["set-cookie"].partition("=")
    value, *flags = rest.split("; ")
    assert (name, value) == ("qkv-lab-8742", keys.session)
    assert sorted(flags) == ["HttpOnly", "Path=/", "SameSite=Strict"]
    assert token not in first.body.decode()
    assert told == []
    assert ask(app, headers=host, query=f"token={token}").status == 403
    assert told == ["spent"]
    # What a stranger guesses prints nothing, and doesn't open.
    for guess in ("", "x", "%00", "%ff%fe", "\xe9", "a" * 60_000, keys.session):
        assert ask(app, headers=host, query=f"token={guess}").status == 403
    assert told == ["spent"]
    fresh = keys.renew()
    assert ask(app, headers=host, query=f"token={token}").status == 403
    assert ask(app, headers=host, query=f"token={fresh}").status == 200


def test_a_browser_without_a_session_is_told_what_to_do(ask: Ask) -> None:
    keys = Keys(8742)
    app = create_app(Lab(keys))
    page = [("host", HOST), ("accept", "text/html,application/xhtml+xml")]
    token = keys.token
    assert ask(app, headers=page, query=f"token={token}").status == 200
    used = ask(app, headers=page, query=f"token={token}")
    assert used.status == 403
    assert used.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in used.headers["content-security-policy"]
    assert b"This link was used already" in used.body
    assert b"shows a new one" in used.body
    assert token not in used.body.decode()
    assert b"<script" not in used.body
    for path, query in (("/train", ""), ("/", ""), ("/", "token=guess"), ("/nowhere", "")):
        other = ask(app, path, headers=page, query=query)
        assert (other.status, b"not in this browser" in other.body) == (403, True)
    for path, method in (("/api/items", "GET"), ("/", "POST")):
        refused = ask(app, path, method=method, headers=page)
        assert refused.headers["content-type"] == "application/json"


def test_who_has_the_cookie_is_sent_on_without_the_token(
    ask: Ask, app: Guard, lab: Lab, signed: Any
) -> None:
    query = f"token={lab.keys.token}"
    assert b"refresh" in ask(app, headers=signed, query=query).body
    again = ask(app, headers=signed, query=query)
    assert again.status == 200
    assert b"refresh" not in again.body


def test_two_labs_of_one_machine_do_not_share_sessions(ask: Ask, lab: Lab) -> None:
    other = replace(lab, keys=Keys(9000))
    app = create_app(other)
    headers = [("host", HOST), ("cookie", f"{lab.keys.cookie}={lab.keys.session}")]
    assert ask(app, headers=headers).status == 403


# Below a prefix


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_a_proxy_may_cut_the_prefix_off_or_leave_it(
    ask: Ask, walk: Walk, cut: bool, tmp_path: Path
) -> None:
    keys = Keys(8742)
    app = create_app(Lab(keys, [], root_path="/deep/lab", runs=tmp_path))
    prefix = "" if cut else "/deep/lab"
    host = [("host", HOST)]
    assert ask(app, f"{prefix}/", headers=host).status == 403
    first = ask(app, f"{prefix}/", headers=host, query=f"token={keys.token}")
    assert first.status == 200
    assert "Path=/deep/lab/" in first.headers["set-cookie"]
    assert b"url=/deep/lab/" in first.body
    signed = [*host, ("cookie", f"{keys.cookie}={keys.session}"), ("origin", f"http://{HOST}")]
    for path, status in {
        "/": 200, "/inspect": 200, "/assets/app.js": 200, "/api/items": 200, "/nowhere": 404,
        "/deep/nowhere": 404,
    }.items():  # fmt: skip
        assert ask(app, prefix + path, headers=signed).status == status
        assert ask(app, prefix + path, headers=host).status == 403
    assert ask(app, f"{prefix}/api/open", method="POST", headers=signed).status == 400
    assert let_in(ask, walk, app, host) == []
