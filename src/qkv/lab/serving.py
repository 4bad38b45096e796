"""Serves the lab on this machine: one process; its event loop leaves what takes long to threads."""

from __future__ import annotations

import errno
import ipaddress
import socket
import threading
from collections.abc import Callable

from qkv.errors import ConfigError, ResourceError

__all__ = ["bind", "is_loopback", "serve", "warm_up"]

BACKLOG = 128


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a host.

    >>> [is_loopback(host) for host in ("127.0.0.1", "::1", "0.0.0.0", "example.org")]
    [True, True, False, False]
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises:
        ConfigError: an address that is none of this machine's.
        ResourceError: a port that is taken or not allowed.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        found.close()
        taken = {
            errno.EADDRINUSE: (f"port {port}, which is taken", "a free one"),
            errno.EACCES: (f"port {port}, which this user may not take", "one above 1023"),
        }.get(getattr(error, "errno", None) or 0)
        if taken is not None:
            raise ResourceError(*taken, "try --port 0") from error
        raise ConfigError(
            f"{host}:{port}: {error}", "an address of this machine", "leave it out"
        ) from error
    return found


def serve(app: object, listening: socket.socket, on_ready: Callable[[], object]) -> None:
    """Serve until interrupted."""
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            on_ready()

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="critical",
        access_log=False,
        lifespan="off",
        server_header=False,
        proxy_headers=False,
        ws="websockets-sansio",
        ws_max_size=2**16,
        timeout_graceful_shutdown=1,
    )
    Server(config).run([listening])


def warm_up(load: Callable[[], object]) -> threading.Thread:
    """Load what is slow to load in the background, and return its thread."""
    thread = threading.Thread(target=load, name="warm-up", daemon=True)
    thread.start()
    return thread
