"""Bytes from the network, once: bounded in time and size, hash checked, cached atomically."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import netrc
import os
import queue
import secrets
import ssl
import threading
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from qkv.errors import ResourceError

__all__ = [
    "Access",
    "Page",
    "cache_folder",
    "cached",
    "download",
    "without_credentials",
    "write_atomically",
]

Notice = Callable[[str], None]

_CHUNK_BYTES = 1 << 16
# A server that sends a byte now and then would never time out: all of a file may take this much
# longer than one wait.
_WHOLE_OVER_WAIT = 12


@dataclass(frozen=True)
class Access:
    """How hosts are reached: certificates, a proxy, and hosts whose certificate isn't asked for."""

    certificates: str | None = None
    client_certificate: str | None = None
    proxy: str | None = None
    trusted_hosts: tuple[str, ...] = ()

    def opener(self, host: str, port: int | None) -> urllib.request.OpenerDirector:
        """An opener with the system's certificates, or those given."""
        bundle = self.certificates or os.environ.get("REQUESTS_CA_BUNDLE") or None
        folder = bundle is not None and Path(bundle).is_dir()
        context = ssl.create_default_context(
            cafile=None if folder else bundle, capath=bundle if folder else None
        )
        if self.client_certificate:
            context.load_cert_chain(self.client_certificate)
        if {host, f"{host}:{port}"} & set(self.trusted_hosts):
            # What comes from there is used only if its hash is right.
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        handlers: list[urllib.request.BaseHandler] = [urllib.request.HTTPSHandler(context=context)]
        if self.proxy:
            proxies = {"http": self.proxy, "https": self.proxy}
            handlers.append(urllib.request.ProxyHandler(proxies))
        return urllib.request.build_opener(*handlers)


@dataclass(frozen=True)
class Page:
    """What a server answered, and the address it came from after redirections."""

    body: bytes
    url: str
    content_type: str


def download(
    url: str,
    *,
    timeout_seconds: float,
    limit_bytes: int,
    accept: str = "*/*",
    access: Access | None = None,
    credentials: str | None = None,
) -> Page:
    """The content of an http, https or file address.

    Waits at most ``timeout_seconds`` for the first piece and between pieces. ``credentials``
    ("user:password") serve where the address and the user's netrc hold none. Raises ResourceError
    for whatever goes wrong, without the credentials in its line.
    """
    access = access or Access()
    transfer = _Transfer(url, timeout_seconds, limit_bytes, accept, access, credentials)
    # A socket's time-out covers neither the look-up of a name nor one address after another of a
    # host that drops packets; a thread that may be left behind covers all of it.
    threading.Thread(target=transfer.run, daemon=True, name="qkv-download").start()
    try:
        return transfer.collect()
    finally:
        transfer.abandoned.set()


@dataclass(frozen=True)
class _Transfer:
    """One download: ``run`` in a thread of its own puts pieces, ``collect`` waits for them."""

    url: str
    timeout_seconds: float
    limit_bytes: int
    accept: str
    access: Access
    credentials: str | None
    pieces: queue.Queue[bytes | Page | Exception] = field(default_factory=queue.Queue)
    abandoned: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            self.pieces.put(self._receive())
        except Exception as error:  # told to the caller, who waits for it
            self.pieces.put(error)

    def _receive(self) -> Page:
        parts = urlsplit(self.url)
        headers = {"Accept": self.accept, "User-Agent": "qkv"}
        request = urllib.request.Request(without_credentials(self.url), headers=headers)
        if authorization := _authorization(self.url, self.credentials):
            # Unredirected: a server elsewhere has no business with the password.
            request.add_unredirected_header("Authorization", authorization)
        opener = self.access.opener(parts.hostname or "", parts.port)
        with opener.open(request, timeout=self.timeout_seconds) as response:
            # A file address answers without read1, which returns what has come so far.
            read = getattr(response, "read1", response.read)
            expected = response.headers.get("Content-Length", "")
            received = 0
            while not self.abandoned.is_set() and (piece := read(_CHUNK_BYTES)):
                received += len(piece)
                self.pieces.put(piece)
            if expected.isdigit() and received < int(expected):
                raise OSError(f"the connection ended after {received} of {expected} bytes")
            return Page(b"", response.geturl(), response.headers.get("Content-Type", ""))

    def collect(self) -> Page:
        body = bytearray()
        deadline = time.monotonic() + _WHOLE_OVER_WAIT * self.timeout_seconds
        while True:
            try:
                piece = self.pieces.get(timeout=self.timeout_seconds)
            except queue.Empty:
                raise _unreachable(
                    self.url, f"no answer within {self.timeout_seconds:g} s"
                ) from None
            if isinstance(piece, Page):
                return Page(bytes(body), piece.url, piece.content_type)
            if isinstance(piece, Exception):
                raise _unreachable(self.url, self._reason(piece)) from piece
            body += piece
            if len(body) > self.limit_bytes:
                raise _unreachable(self.url, f"more than {self.limit_bytes:,} bytes")
            if time.monotonic() > deadline:
                raise _unreachable(self.url, f"only {len(body):,} bytes within the time allowed")

    def _reason(self, error: Exception) -> str:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            return f"HTTP status {error.code}"
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, TimeoutError):
            return f"no answer within {self.timeout_seconds:g} s"
        if isinstance(cause, http.client.HTTPException):
            return f"a broken answer, {type(cause).__name__}"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        return str(cause) or type(cause).__name__


def _authorization(url: str, credentials: str | None) -> str | None:
    parts = urlsplit(url)
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    elif parts.hostname and credentials is None:
        # A netrc that is absent or can't be read holds no password.
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            entry = netrc.netrc(os.environ.get("NETRC")).authenticators(parts.hostname)
            credentials = f"{entry[0]}:{entry[2]}" if entry else None
    return None if credentials is None else "Basic " + b64encode(credentials.encode()).decode()


def without_credentials(url: str) -> str:
    """The address without user and password.

    >>> without_credentials("https://me:secret@index.example/simple")
    'https://index.example/simple'
    """
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _unreachable(url: str, reason: str) -> ResourceError:
    # The host alone: the whole address may be long, and hold a password.
    return ResourceError(
        f"no file from {urlsplit(url).hostname or 'this machine'} ({reason})",
        "the file that was asked for",
        "check the network and try again",
    )


def cached(
    name: str, sha256: str, obtain: Callable[[], bytes], *, notice: Notice
) -> tuple[bytes, str]:
    """The bytes with a hash, and where they were: ``$QKV_DATA_DIR``, the cache, or ``obtain()``.

    What ``obtain`` gives is kept in the cache (``$QKV_CACHE_DIR``, or the user's own). A file with
    another hash is not used; a cache that can't be written is only noticed. Raises ResourceError
    if ``obtain`` gives other bytes, and whatever ``obtain`` raises.
    """
    folders = [Path(given) for given in [os.environ.get("QKV_DATA_DIR")] if given]
    folders.append(cache_folder())
    for folder in folders:
        content = _read(folder / name)
        if content is None:
            continue
        if hashlib.sha256(content).hexdigest() == sha256:
            return content, f"kept in {folder}"
        notice(f"{folder / name} is damaged or another file: its sha256 is not {sha256[:8]}…")
    content = obtain()
    got = hashlib.sha256(content).hexdigest()
    if got != sha256:
        raise ResourceError(
            f"{name} with sha256 {got[:8]}…",
            f"{sha256[:8]}…",
            "try again or use a file of your own",
        )
    try:
        write_atomically(folders[-1] / name, content)
    except OSError as error:
        notice(f"{name} can't be kept in {folders[-1]} ({error.strerror}): set QKV_CACHE_DIR")
    return content, "fetched now"


def is_kept(name: str) -> bool:
    """Return whether a file that is fetched once was, or lies in ``$QKV_DATA_DIR``."""
    given = os.environ.get("QKV_DATA_DIR")
    folders = [*([Path(given)] if given else []), cache_folder()]
    return any((folder / name).is_file() for folder in folders)


def cache_folder() -> Path:
    """Return where what is fetched or made once is kept: ``$QKV_CACHE_DIR``, or the user's own."""
    if given := os.environ.get("QKV_CACHE_DIR"):
        return Path(given)
    import platformdirs

    return Path(platformdirs.user_cache_dir("qkv", appauthor=False))


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, and its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, as a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
