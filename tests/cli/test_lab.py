"""`qkv lab` as it is typed: the link it prints, whom it listens for, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

Command = Callable[..., Any]


@contextmanager
def running(
    folder: Path, *arguments: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Run it until the block is left; yields its process and its lines up to "Ctrl-C ends it."."""
    process = subprocess.Popen(
        [sys.executable, "-m", "qkv", "lab", "--port", "0", *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "NO_COLOR": "1", **environment},
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line.strip())
            if line.startswith("Ctrl-C"):
                break
        yield process, lines
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def link_of(lines: list[str]) -> str:
    return next(line.split()[-1] for line in lines if "The lab is open at" in line)


def test_it_prints_a_link_that_opens(tmp_path: Path) -> None:
    with running(tmp_path, "--no-browser") as (_, lines):
        link = link_of(lines)
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{43}", link)
        with httpx.Client() as browser:
            assert browser.get(link.split("?")[0]).status_code == 403
            assert browser.get(link).status_code == 200
            assert "app.js" in browser.get(link.split("?")[0]).text
    assert list(tmp_path.iterdir()) == []  # looking leaves nothing behind


def test_a_link_that_was_used_is_followed_by_a_new_one(tmp_path: Path) -> None:
    with running(tmp_path, "--no-browser") as (process, lines):
        link = link_of(lines)
        assert httpx.get(link).status_code == 200
        assert httpx.get(link).status_code == 403
        assert process.stdout is not None
        assert "used before" in process.stdout.readline()
        fresh = process.stdout.readline().strip()
        assert fresh != link
        assert httpx.get(fresh).status_code == 200


def opened_page(lines: list[str]) -> str:
    """The page that a browser is sent on to by the link."""
    body = httpx.get(link_of(lines)).text
    return str(re.findall(r"url=([^\"]+)\"", body)[0])


def test_opened_on_one_thing_it_begins_there(tmp_path: Path) -> None:
    model = tmp_path / "some models" / "mine"
    model.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (model / name).write_text("{}", encoding="utf-8")
    (tmp_path / "b.safetensors").write_bytes(b"")
    for arguments, page in {
        ("some models/mine",): "/inspect?item=0",
        ("b.safetensors",): "/inspect?item=0",
        ("some models",): "/",
        ("b.safetensors", "some models/mine"): "/",
        (): "/",
    }.items():
        with running(tmp_path, "--no-browser", *arguments) as (_, lines):
            assert opened_page(lines) == page


def test_opened_on_what_trains_it_begins_at_its_curves(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "it's six"
    run.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (run / name).write_text("{}", encoding="utf-8")
    about = {"process": os.getpid(), "host": socket.gethostname(), "time": time.time()}
    (run / "status.json").write_text(json.dumps({"state": "running", **about}), encoding="utf-8")
    with running(tmp_path, "--no-browser", str(run)) as (_, lines):
        page = opened_page(lines)
    assert page == "/train?run=0"


def test_it_is_there_before_torch_is() -> None:
    code = "import qkv.lab.server, qkv.lab.rooms, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_browser_is_opened_unless_told_otherwise(tmp_path: Path) -> None:
    told, browser = tmp_path / "told", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {told}\n', encoding="utf-8")
    browser.chmod(0o755)
    with running(tmp_path, BROWSER=str(browser)) as (_, lines):
        for _ in range(200):
            if told.exists() and told.read_text(encoding="utf-8"):
                break
            time.sleep(0.05)
        assert told.read_text(encoding="utf-8").strip() == link_of(lines)


def test_over_ssh_no_browser_of_the_far_machine_is_opened(tmp_path: Path) -> None:
    told, folder = tmp_path / "told", tmp_path / "bin"
    folder.mkdir()
    for name in ("xdg-open", "www-browser", "x-www-browser", "firefox", "chromium", "w3m"):
        (folder / name).write_text(f'#!/bin/sh\necho "$1" > {told}\n', encoding="utf-8")
        (folder / name).chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    found = {"PATH": path, "DISPLAY": ":0", "BROWSER": ""}
    with running(tmp_path, SSH_CONNECTION="1 2 3 4", **found) as (_, lines):
        link_of(lines)
        time.sleep(0.5)
        assert not told.exists()


def test_over_ssh_it_prints_the_tunnel(tmp_path: Path) -> None:
    with running(tmp_path, "--no-browser", SSH_CONNECTION="1 2 3 4") as (_, lines):
        port = httpx.URL(link_of(lines)).port
        tunnel = next(line for line in lines if "ssh -L" in line)
        assert re.search(rf"ssh -L {port}:localhost:{port} \S+@\S+$", tunnel)


def test_without_ssh_there_is_no_tunnel(tmp_path: Path) -> None:
    with running(tmp_path, "--no-browser", SSH_CONNECTION="") as (_, lines):
        assert not [line for line in lines if "ssh" in line]


def test_below_a_prefix_the_link_has_it(tmp_path: Path) -> None:
    with running(tmp_path, "--no-browser", "--root-path", "/my/lab/") as (_, lines):
        link = link_of(lines)
        assert "/my/lab/?token=" in link
        assert httpx.get(link).status_code == 200


def test_exposed_it_says_what_that_means(tmp_path: Path) -> None:
    arguments = ("--host", "0.0.0.0", "--expose", "--allow-host", "lab.example")
    with running(tmp_path, "--no-browser", *arguments) as (_, lines):
        assert "nothing is encrypted" in " ".join(lines)
        address = link_of(lines).split("?")[0]
        for host, status in {"lab.example": 403, "other.example": 421, "localhost": 403}.items():
            assert httpx.get(address, headers={"host": host}).status_code == status


@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.8])
def test_ctrl_c_ends_it(tmp_path: Path, seconds: float) -> None:
    """Also while torch is loaded in the background."""
    with running(tmp_path, "--no-browser") as (process, _):
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stdout is not None
        assert "Traceback" not in process.stdout.read()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--port", "70000"), "70000"),
        (("--port", "-1"), "-1"),
        (("--host", "0.0.0.0"), "--expose"),
        (("--host", "192.0.2.7"), "ssh -L"),
        (("--host", "192.0.2.7", "--expose"), "an address of this machine"),
        (("--host", "no such host", "--expose"), "an address of this machine"),
        (("nowhere",), "nothing at nowhere"),
        (("x" * 5000,), "nothing at xxx"),
        (("--root-path", "lab"), "try /lab"),
        (("--root-path", '/"><script>'), "a path from /"),
        (("--root-path", "/a;b"), "a path from /"),
        (("--allow-host", "https://lab.example"), "without scheme or port"),
        (("--allow-host", "lab.example:80"), "without scheme or port"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(
    command: Command, arguments: tuple[str, ...], says: str
) -> None:
    ended = command("lab", "--no-browser", *arguments)
    assert ended.code == 2
    assert says in ended.err
    assert ended.out == ""
    assert "Traceback" not in ended.err


def test_a_port_that_is_taken_is_said(command: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = command("lab", "--no-browser", "--port", str(port))
    assert ended.code == 2
    assert f"port {port}, which is taken" in ended.err
    assert "--port 0" in ended.err
