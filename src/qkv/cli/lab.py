"""`qkv lab`: the browser face of everything, on this machine."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qkv.cli.console import INTERRUPTED, err, out
from qkv.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from qkv.lab.rooms import Lab

RUNS = Path("runs")


def lab_command(  # noqa: PLR0917 (options have names)
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PATH]...",
            help="Runs, folders of runs, models or saved traces to open.",
            show_default="the folder runs, where there is one",
        ),
    ] = None,
    port: Annotated[int, typer.Option(help="Where it listens; 0 takes a free port.")] = 8742,
    host: Annotated[
        str, typer.Option(help="Whom it listens for; by default this machine alone.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name besides localhost by which browsers reach it.", show_default=False
        ),
    ] = None,
    root_path: Annotated[
        str, typer.Option(help="The prefix under which a proxy shows it, such as /lab.")
    ] = "",
    expose: Annotated[
        bool, typer.Option("--expose", help="Allow a --host that other machines can reach.")
    ] = False,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the link, and open nothing.")
    ] = False,
) -> None:
    """Open the lab in a browser: look into heads, train, work attention out by hand.

    It works offline, at once, with the model that comes with qkv; opened on one model, run or
    trace, it begins there. Ctrl-C ends it, not what trains.

    [bold]Examples[/]

      qkv lab

      qkv lab runs/six

      qkv lab --no-browser --port 9000
    """
    from qkv.lab.serving import bind, is_loopback, serve, warm_up

    places = _places(paths)
    if not is_loopback(host) and not expose:
        raise ConfigError(
            f"--host {host}, which other machines can reach",
            "this machine alone, or --expose beside it",
            "prefer a tunnel: ssh -L 8742:localhost:8742 THIS-MACHINE",
        )
    root_path = _prefix(root_path)
    names = [host, *map(_name, allow_host or [])]
    listening = bind(host, port)
    port = listening.getsockname()[1]
    from qkv.lab.rooms import Lab
    from qkv.lab.security import Keys
    from qkv.lab.server import create_app

    shown = f"[{host}]" if ":" in host else host
    address = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else shown}:{port}{root_path}/"

    def link() -> str:
        return f"{address}?token={keys.renew()}"

    def renew() -> None:
        err().print("That link was used before; a new one:", style="dim")
        out().print(f"  {link()}", markup=False, soft_wrap=True)

    keys = Keys(port, on_spent=renew)
    lab = Lab(keys, places, names, root_path)
    keys.leads_to = _first_page(lab, paths or [])
    app = create_app(lab)

    def ready() -> None:
        where = link()
        out().print(f"The lab is open at  {where}", markup=False, soft_wrap=True)
        if os.environ.get("SSH_CONNECTION") and is_loopback(host):
            out().print(
                f"From your own machine:  ssh -L {port}:localhost:{port} {_user_and_host()}",
                markup=False,
                soft_wrap=True,
            )
        if not is_loopback(host):
            err().print(
                "Any machine that reaches this one can try to open it: without the link it is "
                "refused, but nothing is encrypted. Names by which browsers reach it are given "
                "by --allow-host.",
                style="bold",
            )
        out().print("Ctrl-C ends it.", style="dim")
        if not no_browser:
            threading.Thread(target=_open, args=(where,), daemon=True).start()
        lab.warm.clear()
        warm_up(_warm(lab))

    with suppress(KeyboardInterrupt):
        serve(app, listening, ready)
    # Threads that are within torch when Python ends may abort it: nothing here is left to tidy up.
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(INTERRUPTED)


def _open(link: str) -> None:
    """Open the link, unless that would open nothing that its user sees.

    Over SSH a browser would be this machine's, and one that takes the terminal would take the link
    too. Who sets BROWSER, as editors do for the machine where one sits, is obeyed.
    """
    with suppress(webbrowser.Error):
        in_terminal = type(webbrowser.get()) is webbrowser.GenericBrowser
        far = bool(os.environ.get("SSH_CONNECTION"))
        if os.environ.get("BROWSER") or not (far or in_terminal):
            webbrowser.open(link)


def _warm(lab: Lab) -> Callable[[], None]:
    def load() -> None:
        from qkv.cli.startup import load_torch

        try:
            load_torch()
            lab.inspector.warm()
        finally:
            lab.warm.set()

    return load


def _places(paths: list[Path] | None) -> list[Path]:
    if paths is None:
        return [RUNS] if RUNS.is_dir() else []
    for path in paths:
        if not _exists(path):
            raise CheckpointError(
                f"nothing at {str(path)[:80]}",
                "a run, a model, a trace or a folder",
                "check the path",
            )
    return paths


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long
        return False


def _first_page(lab: Lab, paths: list[Path]) -> str:
    """The page of the one thing that was named: of what trains, Train; else Inspect."""
    from urllib.parse import urlencode

    named = [path.resolve() for path in paths]
    item = next((one for one in lab.shelf.items() if [one.path] == named), None)
    if item is None or item.path is None:
        return ""
    if item.kind == "run" and _trains(item.path):
        return f"train?{urlencode({'run': item.id})}"
    return f"inspect?{urlencode({'item': item.id})}"


def _trains(run: Path) -> bool:
    from qkv.lab.runs import standing

    try:
        status = json.loads((run / "status.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(status, dict) and standing(run, status)[0] == "running"


def _prefix(path: str) -> str:
    """A prefix as addresses and cookies may have it, without a slash at its end."""
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*/?", path):
        raise ConfigError(f"--root-path {path}", "a path from /", "try /lab")
    return path.rstrip("/")


def _name(host: str) -> str:
    """A name as browsers send it, but for the port, which is not looked at."""
    if not re.fullmatch(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?", host):
        raise ConfigError(
            f"--allow-host {host}", "a name without scheme or port", "try lab.example.org"
        )
    return host


def _user_and_host() -> str:
    import getpass
    import socket

    return f"{getpass.getuser()}@{socket.gethostname()}"
