"""A lab to ask in this process, and a running one to look at in Chromium.

`client` asks the application as a page of it would; `visit` opens pages of a server of its own
process, and what they complain of, or ask of other machines, fails the test. Longer than a file
should be: what all tests of a folder share can stand in its conftest alone.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.testclient import TestClient

from qkv.lab.rooms import Lab
from qkv.lab.security import Guard, Keys
from qkv.lab.server import create_app

PORT = 8742
ORIGIN = f"http://127.0.0.1:{PORT}"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lab over the folders `place` and `runs` of the test's own."""
    for name in ("place", "runs"):
        (tmp_path / name).mkdir()
    return Lab(Keys(PORT), [tmp_path / "place"], runs=tmp_path / "runs")


@pytest.fixture
def app(lab: Lab) -> Guard:
    """Its guarded application."""
    return create_app(lab)


@pytest.fixture
def client(lab: Lab, app: Guard) -> Iterator[TestClient]:
    """Whoever opened the link: with the session's cookie, from a page of the lab itself."""
    headers = {"cookie": f"{lab.keys.cookie}={lab.keys.session}", "origin": ORIGIN}
    with TestClient(app, ORIGIN, headers=headers) as found:
        yield found


@dataclass(frozen=True)
class Answer:
    """What came back; of a WebSocket, 101 where it was let in."""

    status: int
    headers: dict[str, str]
    body: bytes


def _ask(
    app: Any,
    path: str = "/",
    *,
    method: str = "GET",
    headers: list[tuple[str, str]] | None = None,
    query: str = "",
    body: tuple[bytes, ...] = (b"",),
    kind: str = "http",
) -> Answer:
    """Send one request exactly as it is written, and return what is answered."""
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers or []]
    scope: dict[str, Any] = {
        "type": kind, "asgi": {"version": "3.0"}, "http_version": "1.1", "path": path,
        "raw_path": quote(path, errors="replace").encode(), "query_string": query.encode("latin-1"),
        "headers": raw, "scheme": "http" if kind == "http" else "ws", "root_path": "",
        "client": ("127.0.0.1", 50000), "server": ("127.0.0.1", 8742), "state": {},
    }  # fmt: skip
    if kind == "http":
        scope["method"] = method
        waiting = [
            {"type": "http.request", "body": part, "more_body": at + 1 < len(body)}
            for at, part in enumerate(body)
        ]
    else:
        scope["subprotocols"] = []
        waiting = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1001}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.sleep(60)  # whoever asked is still there
        return waiting.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    first = sent[0]
    if kind == "websocket":
        return Answer(101 if first["type"] == "websocket.accept" else 403, {}, b"")
    told = {name.decode(): value.decode() for name, value in first["headers"]}
    return Answer(first["status"], told, b"".join(one.get("body", b"") for one in sent[1:]))


@pytest.fixture
def cookie(lab: Lab) -> str:
    """The session's cookie, as a header has it."""
    return f"{lab.keys.cookie}={lab.keys.session}"


@pytest.fixture
def signed(cookie: str) -> list[tuple[str, str]]:
    """The headers of a page of the lab."""
    return [("host", f"127.0.0.1:{PORT}"), ("origin", ORIGIN), ("cookie", cookie)]


def _walk(app: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (kind, method, path) of every route below an application, whatever wraps it."""
    while app is not None:
        for route in getattr(app, "routes", None) or []:
            yield from _walk_route(route, prefix)
        app = getattr(app, "app", None)


def _walk_route(route: BaseRoute, prefix: str) -> Iterator[tuple[str, str, str]]:
    path = prefix + getattr(route, "path", "")
    for name, convertor in getattr(route, "param_convertors", {}).items():
        path = path.replace("{" + name + "}", "7" if convertor.regex.startswith("[0-9]") else "x")
        path = path.replace("{" + name + ":path}", "x/y").replace("{" + name + ":int}", "7")
    if isinstance(route, WebSocketRoute):
        yield "websocket", "", path
    elif isinstance(route, Route):
        for method in sorted(route.methods or {"GET"}):
            yield "http", method, path
    else:
        assert isinstance(route, Mount), f"{route}: a kind of route that this walk doesn't know"
        path = path.replace("/{path}", "").replace("/{path:path}", "")
        yield "http", "GET", f"{path}/x"
        yield from _walk(route.app, path)


@pytest.fixture(scope="session")
def ask() -> Callable[..., Answer]:
    """Send one request exactly as it is written, with no client that tidies it on its way."""
    return _ask


@pytest.fixture(scope="session")
def walk() -> Callable[..., Iterator[tuple[str, str, str]]]:
    """Yield (kind, method, path) of every route below an application, whatever wraps it."""
    return _walk


@dataclass(frozen=True)
class Running:
    """A server in a process of its own: its link's token isn't used yet, `folder/runs` is open."""

    url: str
    token: str
    folder: Path
    process: subprocess.Popen[str]
    lines: list[str]
    """What it printed up to its link."""


@contextmanager
def running(folder: Path, *arguments: str, **environment: str) -> Iterator[Running]:
    """Run `qkv lab` in a folder until the block is left."""
    (folder / "runs").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "qkv", "lab", "--no-browser", "--port", "0", *arguments]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **os.environ,
            "NO_COLOR": "1",
            "QKV_PROGRESS": str(folder / "progress.db"),
            **environment,
        },
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        link = None
        while link is None:
            lines.append(process.stdout.readline())
            assert lines[-1], f"the lab ended: {''.join(lines)}"
            link = re.search(r"(http://\S+/)\?token=(\S+)", lines[-1])
        yield Running(link[1], link[2], folder, process, lines)
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@pytest.fixture(scope="session")
def start_lab() -> Callable[..., Any]:
    """`with start_lab(folder, *arguments) as server`: a server of a test's own."""
    return running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server that all tests of pages share; its folder `runs` is empty at the start."""
    with running(tmp_path_factory.mktemp("lab")) as found:
        yield found


@pytest.fixture(scope="session")
def session_cookie(server: Running) -> dict[str, str]:
    """The session's cookie, for which the link's token was exchanged."""
    import httpx

    reply = httpx.get(server.url, params={"token": server.token})
    assert reply.status_code == 200
    ((name, value),) = reply.cookies.items()
    return {"name": name, "value": value, "url": server.url}


@pytest.fixture
def lab_url(server: Running) -> str:
    """Where the shared server listens, with a slash at its end."""
    return server.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, or a reason why not."""
    # Of a module: where one playwright runs, no other test of this process could start its own.
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium among the commands")
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield found
        found.close()


@dataclass
class Visit:
    """A page with all that it asked for and complained of."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    allowed: str = "(?!)"

    def __post_init__(self) -> None:
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)

    def _heard(self, message: Any) -> None:
        # `log` and `info` are a page's own; what it complains of is more.
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def strangers(self) -> list[str]:
        """Requests to other machines."""
        own = re.compile(r"(https?|wss?)://(127\.0\.0\.1|localhost|\[::1\]):|data:|blob:")
        return [url for url in self.requests if not own.match(url)]


@pytest.fixture
def visit(
    browser: Any, server: Running, session_cookie: dict[str, str]
) -> Iterator[Callable[..., Any]]:
    """Open a page of the lab, such as `visit("inspect", width=360, dark=True)`, and return it.

    What it complains of in the console (but for what `allowed`, a regular expression, matches), and
    any request to another machine, fails the test when it ends. `wait` is what it waits for.
    """
    visits: list[Visit] = []

    def open_page(
        path: str | None = "",
        *,
        width: int = 1280,
        height: int = 900,
        dark: bool = False,
        allowed: str = "(?!)",
        wait: str = "html[data-ready=true]",
        **options: Any,
    ) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            **options,
        )
        context.add_cookies([session_cookie])
        context.set_default_timeout(20_000)
        visits.append(Visit(context.new_page(), allowed=allowed))
        page = visits[-1].page
        if path is not None:
            page.goto(server.url + path)
            page.wait_for_selector(wait, timeout=60_000, state="attached")
        return page

    yield open_page
    for visited in visits:
        visited.page.context.close()
    for visited in visits:
        assert visited.strangers() == []
        found = [text for text in visited.complaints if not re.search(visited.allowed, text)]
        assert found == []


@pytest.fixture(scope="session")
def delay() -> Callable[[Any, dict[str, int]], None]:
    """Let replies come late: `delay(page, {"practice/grade": 300})`, in milliseconds."""
    script = """(late) => {
      const { fetch } = window;
      window.fetch = async (path, options) => {
        const reply = await fetch(path, options);
        const [, wait] = Object.entries(late).find(([part]) => path.includes(part)) ?? [];
        if (wait) await new Promise((done) => setTimeout(done, wait));
        return reply;
      };
    }"""
    return lambda page, late: page.evaluate(script, late)


@pytest.fixture
def page(visit: Callable[..., Any]) -> Any:
    """A page with the session's cookie that isn't anywhere yet."""
    return visit(None)


@pytest.fixture(scope="session")
def axe() -> Callable[[Any], None]:
    """Assert that axe finds nothing serious or critical on a page."""
    module = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe is not installed"
    )

    def check(page: Any) -> None:
        found = [
            (one["id"], [node["html"][:160] for node in one["nodes"]])
            for one in module.Axe().run(page).response["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert found == []

    return check


@pytest.fixture(scope="session")
def overflow() -> Callable[[Any], list[str]]:
    """Name what makes a page scroll sideways; nothing where it doesn't."""
    script = """() => {
      const wide = document.documentElement.clientWidth;
      if (document.documentElement.scrollWidth <= wide) return [];
      return [...document.querySelectorAll("body *")]
        .filter((one) => one.getBoundingClientRect().right > wide + 1)
        .map((one) => one.outerHTML.slice(0, 120));
    }"""
    return lambda page: list(page.evaluate(script))
