"""What may be opened: what lies under the folders named, by whatever way it is asked for."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from starlette.testclient import TestClient

from qkv.errors import ConfigError
from qkv.lab.catalogue import Catalogue
from qkv.lab.rooms import Lab
from qkv.lab.security import Guard, Keys
from qkv.lab.server import create_app
from qkv.lab.shelf import Shelf

Ask = Callable[..., Any]
Walk = Callable[..., Iterator[tuple[str, str, str]]]
HOST = "127.0.0.1:8742"


MARK = "MARK-OF-WHAT-LIES-OUTSIDE"


class Watch:
    """Writes down what this process opens, while it is on; such a hook can't be taken away."""

    def __init__(self) -> None:
        self.on, self.seen = False, list[str]()
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event in ("open", "os.listdir", "os.scandir"):
            self.seen.append(str(arguments[0]))


@pytest.fixture(scope="session")
def watch() -> Watch:
    """What is opened while a test runs."""
    return Watch()


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside those named, with a run, a trace and a text; links lead there from inside."""
    folder = tmp_path / "outside"
    (folder / "run").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "metrics.jsonl"):
        (folder / "run" / name).write_text(json.dumps({"mark": MARK}), encoding="utf-8")
    (folder / "heads.safetensors").write_text(MARK, encoding="utf-8")
    (folder / "secret.txt").write_text(MARK, encoding="utf-8")
    place = tmp_path / "place"
    (place / "link").symlink_to(folder)
    (place / "link.safetensors").symlink_to(folder / "heads.safetensors")
    (place / "loop").symlink_to(place / "loop")
    (place / "sub").mkdir()
    return folder


def ways(rng: np.random.Generator, outside: Path, count: int) -> list[str]:
    """Ways out of a folder: up, absolute, encoded, with backslashes, NULs, links, very long."""
    targets = [
        "outside/run", "outside/heads.safetensors", "outside/secret.txt", "outside", "etc/passwd",
        "", str(outside / "run")[1:], "proc/self/environ",
    ]  # fmt: skip
    ups = [
        "../", "..\\", "%2e%2e/", "%2e%2e%2f", "..%2f", "..%5c", "....//", "./../", ".././", "..;/",
        "sub/../../", "..%00/", "..\x00/", "%252e%252e%252f", "\uff0e\uff0e/", "..%c0%af", "link/",
        "link/../", "link/../outside/", "loop/", "/", "//", "~/", "link.safetensors/../", "C:\\",
    ]  # fmt: skip
    found = []
    for _ in range(count):
        way = "".join(rng.choice(ups, rng.integers(1, 7)))
        way += str(rng.choice(targets))
        if rng.random() < 0.1:
            way = "a" * int(rng.integers(200, 9000)) + "/" + way
        if rng.random() < 0.1:
            way += str(rng.choice(["\x00", "%00.json", "/", "/.", "?x", "#x", "\udcff", "\ud800"]))
        start = rng.choice(["0/", "0", "1/", "", "/", "own/", "9/", "00/", "-1/", "٠/"])
        found.append(f"{start}{way}")
    return found


def tree(folder: Path) -> list[tuple[str, int, float]]:
    """All there is below a folder, and when it was written."""
    stats = ((path, path.lstat()) for path in sorted(folder.rglob("*")))
    return [(str(path), stat.st_size, stat.st_mtime) for path, stat in stats]


def test_a_thousand_ways_out_of_the_folders_lead_nowhere(  # noqa: PLR0917
    ask: Ask, app: Guard, signed: Any, outside: Path, rng: np.random.Generator, watch: Watch
) -> None:
    before, statuses = tree(outside.parent), []
    watch.on = True
    try:
        for way in ways(rng, outside, 1000):
            said = quote(way, errors="surrogatepass")
            item = json.dumps({"item": way, "text": "x"}).encode()
            answers = [
                ask(app, "/api/item", headers=signed, query=f"item={said}"),
                ask(app, "/api/open", method="POST", headers=signed, body=(item,)),
                ask(app, "/assets/" + way, headers=signed),
                ask(app, "/" + way, headers=signed),
            ]
            statuses += [answer.status for answer in answers]
            assert not [answer for answer in answers if MARK.encode() in answer.body], way
            assert answers[0].status == answers[1].status == 400, way
            assert answers[2].status == 404, way
    finally:
        watch.on = False
    assert set(statuses) == {400, 404}
    assert [path for path in watch.seen if path.startswith(str(outside))] == []
    assert not {"/etc/passwd", "/proc/self/environ"} & set(watch.seen)
    assert tree(outside.parent) == before
    assert ask(app, headers=signed).status == 200


def test_links_out_of_a_folder_are_not_listed(client: TestClient, outside: Path) -> None:
    reply = client.get("/api/items")
    assert MARK not in reply.text
    assert [item["id"] for item in reply.json()] == ["own"]


def test_names_that_are_no_text_are_listed_and_found(client: TestClient, tmp_path: Path) -> None:
    for name in (b"\xe9.gguf", "ü b&c?#%2e.safetensors".encode()):
        (tmp_path / "place" / os.fsdecode(name)).write_bytes(b"x")
    listed = client.get("/api/items").json()[1:]
    assert [(item["kind"], item["id"]) for item in listed] == [
        ("trace", "place/ü b&c?#%2e.safetensors"),
        ("model", "place/\udce9.gguf"),
    ]
    catalogue = Catalogue(Shelf([tmp_path / "place"]))
    for item in listed:
        assert catalogue.find(item["id"]).title == item["title"]


def test_what_kind_a_thing_is_is_told_by_its_files(tmp_path: Path) -> None:
    files = {
        "run": ("config.json", "tokenizer.json"),
        "hugging": ("config.json", "tokenizer.json", "model.safetensors"),
        "nano": ("ckpt.pt",),
        "step": ("checkpoint.json", "model.safetensors"),
        "nothing": ("notes.txt",),
        ".hidden": ("config.json", "tokenizer.json"),
        "a/b/c": ("config.json", "tokenizer.json"),
        "a/b/c2/too/deep": ("config.json", "tokenizer.json"),
    }
    for folder, names in files.items():
        (tmp_path / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / folder / name).touch()
    found = {item.title: item.kind for item in Shelf([tmp_path]).items()[1:]}
    models = dict.fromkeys(("hugging", "nano", "step"), "model")
    assert found == {"run": "run", "a/b/c": "run", **models}
    assert [item.id for item in Shelf([tmp_path / "run"]).items()] == ["own", "0"]
    assert Shelf([tmp_path / "run"]).find("0").path == (tmp_path / "run").resolve()


def test_a_place_within_another_lists_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("notes", "more"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        for file in ("config.json", "tokenizer.json"):
            (tmp_path / "runs" / name / file).touch()
    monkeypatch.chdir(tmp_path)
    runs = Path("runs")
    for places in ([runs / "notes"], [runs.resolve()], [runs, runs / "notes"], [Path("x/../runs")]):
        lab = Lab(Keys(8742), places, runs=runs)
        items = lab.shelf.items()[1:]
        assert sorted(str(item.path) for item in items) == [
            str(tmp_path / "runs" / name) for name in ("more", "notes")
        ]
        with TestClient(create_app(lab), f"http://{HOST}") as client:
            cookie = f"{lab.keys.cookie}={lab.keys.session}"
            listed = client.get("/api/runs", headers={"cookie": cookie}).json()
        assert sorted(one["id"] for one in listed) == sorted(item.id for item in items)
    # What was named has the first number.
    assert [item.id for item in Shelf([runs / "notes", runs]).items()] == ["own", "0", "1/more"]


@pytest.mark.parametrize(
    "name", [None, 7, [], {}, "", "1", "0/nothing", "0/run/config.json", "x/y"]
)
def test_what_is_none_is_said_to_be_none(tmp_path: Path, name: object) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ConfigError, match="something the lab was opened on"):
        Shelf([tmp_path]).find(name)
