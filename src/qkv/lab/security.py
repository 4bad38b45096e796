"""One guard before every route: who may ask, for what host, from which page, and how much.

The lab runs on one's own machine, and any page in any browser there can send it requests. So the
guard stands in front of the whole application, for HTTP and WebSockets alike, and a new route is
closed by default. A request passes when

* its Host is this machine's, or one that was named: a stranger's name that resolves to 127.0.0.1
  (DNS rebinding) is none of them;
* it carries the session's cookie. The link printed at the start holds a token that is exchanged for
  it, once; the cookie is HttpOnly and SameSite=Strict, named by the port, since cookies aren't kept
  apart by ports;
* where it may change something (any method but GET and HEAD, and every WebSocket), its Origin is
  the scheme and host that it was itself sent to. So tunnels with another local port work;
* the browser doesn't say that another page asks (Sec-Fetch-Site), but for the page at the root,
  which links may lead to: what is only got may take long, too;
* its body is no longer than the limit.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from collections.abc import Callable, Iterable
from html import escape
from typing import Any, TypeAlias
from urllib.parse import parse_qs

__all__ = ["CONTENT_POLICY", "LARGEST_BODY", "Guard", "Keys", "TooLargeError"]

Scope: TypeAlias = dict[str, Any]
Receive: TypeAlias = Callable[[], Any]
Send: TypeAlias = Callable[[Any], Any]

LARGEST_BODY = 2**24
"""Bytes of one request; the longest text that may be pasted fits, whatever it is written in."""
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
# The page that draws with plotly, which writes a style sheet of its own, may have inline styles.
CHART_POLICY = CONTENT_POLICY.replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")
CHART_PAGES = ("/train",)
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_UNKEPT = {"cache-control": "no-store"}
_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?P<port>:[0-9]{1,5})?", re.ASCII)
_LENGTH = re.compile(r"[0-9]{1,18}", re.ASCII)
# A redirect after a click on another site would be sent without the cookie: it is Strict. A page
# that goes on by itself is our own.
_WELCOME = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>qkv</title>'
    '<link rel="icon" href="data:,"><meta http-equiv="refresh" content="0;url={home}">'
    '<a href="{home}">Open the lab</a></html>'
)
_CLOSED = (
    '<!doctype html><html lang="en"><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width"><meta name="color-scheme" '
    'content="light dark"><title>{0} · qkv</title><link rel="icon" href="data:,">'
    "<main><h1>{0}</h1><p>{1}</p></main></html>"
)
_USED = (
    "This link was used already",
    "A link opens the lab in one browser, once. The terminal where <code>qkv lab</code> runs "
    "shows a new one now: open that.",
)
_UNKNOWN = (
    "The lab is open, but not in this browser",
    "Open the link that <code>qkv lab</code> printed in its terminal. If that one was used "
    "already, opening it again has the terminal show a new one.",
)


class Keys:
    """The link's token, to be exchanged once, and the session's secret.

    Args:
        port: the cookie is named by it.
        on_spent: told when a link is opened that was used before, to print a new one.
        leads_to: the page that the link opens, below the prefix; the first one unless given.
    """

    def __init__(
        self, port: int, on_spent: Callable[[], object] = lambda: None, leads_to: str = ""
    ) -> None:
        self.cookie = f"qkv-lab-{port}"
        self.session = secrets.token_urlsafe(32)
        self.token = self.spent = ""
        self.leads_to = leads_to
        self._on_spent = on_spent
        self.renew()

    def renew(self) -> str:
        """Return a new token for a link; the one before is worth nothing any more."""
        self.token = secrets.token_urlsafe(32)
        return self.token

    def exchange(self, token: str) -> bool:
        """Return whether the token was the one; it is spent then."""
        good = _same(token, self.token)
        if good:
            self.token, self.spent = "", token
        elif _same(token, self.spent):  # a stranger's guess is told to nobody
            self._on_spent()
        return good

    def holds(self, cookies: str) -> bool:
        """Return whether a Cookie header has the session's secret.

        Cookies of other ports come along, some of them malformed, some of the same name: what
        another server of this machine has set must not lock anybody out.
        """
        pairs = (pair.strip().partition("=") for pair in cookies.split(";"))
        return any(name == self.cookie and _same(value, self.session) for name, _, value in pairs)


def _same(given: str, secret: str) -> bool:
    """Whether a secret was given, in a time that tells nothing; no secret is never given."""
    return bool(secret) and hmac.compare_digest(given.encode(), secret.encode())


class Guard:
    """ASGI middleware around the whole application.

    Args:
        app: what is guarded.
        keys: the session's.
        hosts: names besides this machine's own by which it may be reached.
        root_path: the prefix under which a proxy shows the lab, such as "/lab".
        largest_body: bytes of a request; more raises TooLargeError in the application.
    """

    def __init__(
        self,
        app: Any,
        keys: Keys,
        hosts: Iterable[str] = (),
        root_path: str = "",
        largest_body: int = LARGEST_BODY,
    ) -> None:
        self.app, self.keys, self.root_path = app, keys, root_path.rstrip("/")
        self.hosts = {*LOOPBACK, *map(_named, hosts)}
        self.largest_body = largest_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with what it lacks."""
        kind = scope["type"]
        if kind == "lifespan":
            await self.app(scope, receive, send)
            return
        assert kind in ("http", "websocket"), kind  # what isn't known isn't let in
        scope = self._placed(scope)
        refused = self._refuse(scope)
        if kind == "websocket":
            if refused is not None:
                await _close(receive, send)
            else:
                await self.app(scope, receive, send)
        elif (refused is None or refused[0] == 403) and self._opens(scope, signed=refused is None):
            await self._welcome(send)
        elif refused is None and scope["path"] == self.root_path != "":
            # Addresses in pages are relative: without the slash they would miss the prefix.
            await _send(send, 307, "", {**HEADERS, **_UNKEPT, "location": f"{self.root_path}/"})
        elif refused is None:
            await self._serve(scope, receive, send)
        elif refused[0] == 403 and _wants_page(scope):
            await self._explain(scope, send)
        else:
            await _answer(send, *refused)

    def _placed(self, scope: Scope) -> Scope:
        """Return the scope with its path below the prefix, whether or not a proxy cut that off."""
        path, root = scope["path"], self.root_path
        if root and path != root and not path.startswith(f"{root}/"):
            path = root + path
        return {**scope, "path": path, "root_path": root}

    def _refuse(self, scope: Scope) -> tuple[int, str] | None:
        """Return the status and the reason for which a request is refused, if it is."""
        host = self._host(scope)
        if host is None:
            return 421, "this name is not one the lab answers to; see --allow-host"
        if not self.keys.holds("; ".join(_headers(scope, b"cookie"))):
            return 403, "no session: open the link that `qkv lab` printed"
        if not self._own_fetch(scope):
            return 403, "a request from another page"
        changing = scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD")
        if changing and not self._same_origin(scope, host):
            return 403, "a request from another page"
        lengths = _headers(scope, b"content-length")
        if any(not _LENGTH.fullmatch(x) or int(x) > self.largest_body for x in lengths):
            return 413, f"a body of more than {self.largest_body:,} bytes"
        return None

    def _host(self, scope: Scope) -> str | None:
        """Return the host that was asked for, with its port, where it is one of ours."""
        given = _headers(scope, b"host")
        match = _HOST.fullmatch(given[0].lower()) if len(given) == 1 else None
        return match[0] if match is not None and match["name"] in self.hosts else None

    def _own_fetch(self, scope: Scope) -> bool:
        """Whether a page of the lab asks, or nobody but the user, as far as the browser says."""
        home = scope["path"] in (self.root_path, f"{self.root_path}/")
        sites = _headers(scope, b"sec-fetch-site")
        return home or all(site in ("same-origin", "none") for site in sites)

    def _same_origin(self, scope: Scope, host: str) -> bool:
        origins = _headers(scope, b"origin")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        # Only a proxy that was named may say that it speaks TLS for us.
        schemes = ["http"] if name in LOOPBACK else ["http", "https"]
        return len(origins) == 1 and origins[0].lower() in [f"{s}://{host}" for s in schemes]

    def _opens(self, scope: Scope, *, signed: bool) -> bool:
        """Whether a request brings the link's token; it is spent by this.

        Who has the cookie already is sent on too, so that no token stays in the address; but with
        a spent one they just see the page.
        """
        path = scope["path"].removeprefix(self.root_path)
        if scope["method"] != "GET" or path not in ("", "/"):
            return False
        tokens = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        if len(tokens) != 1 or (signed and _same(tokens[0], self.keys.spent)):
            return False
        return self.keys.exchange(tokens[0])

    async def _welcome(self, send: Send) -> None:
        path = f"{self.root_path}/"
        cookie = f"{self.keys.cookie}={self.keys.session}; HttpOnly; SameSite=Strict; Path={path}"
        headers = {**HEADERS, "set-cookie": cookie, **_UNKEPT}
        page = _WELCOME.format(home=escape(path + self.keys.leads_to))
        await _send(send, 200, page, headers | {"content-type": "text/html; charset=utf-8"})

    async def _explain(self, scope: Scope, send: Send) -> None:
        """Answer who comes without a session with a page that says what to do."""
        path = scope["path"].removeprefix(self.root_path)
        tokens = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        used = path in ("", "/") and len(tokens) == 1 and _same(tokens[0], self.keys.spent)
        page = _CLOSED.format(*(_USED if used else _UNKNOWN))
        headers = {**HEADERS, **_UNKEPT, "content-type": "text/html; charset=utf-8"}
        await _send(send, 403, page, headers)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application with a bounded body, and add what every answer says."""
        seen = 0
        page = scope["path"].removeprefix(self.root_path)
        policy = CHART_POLICY if page in CHART_PAGES else CONTENT_POLICY

        async def bounded() -> Any:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.largest_body:
                raise TooLargeError
            return message

        async def adorned(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                added = HEADERS | _UNKEPT | {"content-security-policy": policy}
                message["headers"] = [
                    *message["headers"],
                    *((n.encode(), v.encode()) for n, v in added.items() if n.encode() not in own),
                ]
            await send(message)

        await self.app(scope, bounded, adorned)


class TooLargeError(Exception):
    """A body that goes on after the limit."""


def _wants_page(scope: Scope) -> bool:
    """Whether a browser asks for a page to show, not a script of one for data."""
    accepted = ",".join(_headers(scope, b"accept"))
    return scope["method"] == "GET" and "/api/" not in scope["path"] and "text/html" in accepted


def _named(host: str) -> str:
    """A name or address as a Host header has it."""
    host = host.lower()
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]


async def _close(receive: Receive, send: Send) -> None:
    """Refuse a WebSocket before it is open: the browser is answered 403."""
    message = await receive()
    if message["type"] == "websocket.connect":
        await send({"type": "websocket.close", "code": 1008})


async def _answer(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": reason})
    headers = {**HEADERS, "content-type": "application/json", **_UNKEPT}
    await _send(send, status, body, headers)


async def _send(send: Send, status: int, body: str, headers: dict[str, str]) -> None:
    data = body.encode()
    listed = {
        **headers,
        "content-length": str(len(data)),
        "content-security-policy": CONTENT_POLICY,
    }
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(name.encode(), value.encode()) for name, value in listed.items()],
        }
    )
    await send({"type": "http.response.body", "body": data})
