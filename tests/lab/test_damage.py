"""Runs that are damaged or made to harm: each is told as far as it goes, and hides no other."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import pytest

from qkv.models.config import RungConfig
from qkv.text import corpus_from_text
from qkv.training.config import TrainingConfig
from qkv.training.run import Data, start
from qkv.training.rundir import RunDirectory

URL = "ws://127.0.0.1:8742/api/live"
GOOD = '{"step": 1, "steps": 100, "loss": 3.0, "tokens": 32, "seconds": 0.01}\n'


@pytest.fixture
def made(tmp_path: Path) -> RunDirectory:
    """A run that was begun beside a good one."""
    data = Data.prepare(corpus_from_text("to be, or not to be\n" * 20), "char")
    model = RungConfig(kind="one-head", vocab=data.tokenizer.size, context=8, width=8, heads=1)
    for name in ("good", "bad"):
        start(RunDirectory(tmp_path / "runs" / name), model, TrainingConfig(tokens=3200), data)
    (tmp_path / "runs" / "good" / "metrics.jsonl").write_text(GOOD)
    return RunDirectory(tmp_path / "runs" / "bad")


def listed(client: Any) -> dict[str, dict[str, Any]]:
    reply = client.get("/api/runs")
    assert reply.status_code == 200
    return {one["title"]: one for one in reply.json()}


def told(client: Any, *names: str) -> dict[str, dict[str, Any]]:
    """What each run's first message says."""
    found: dict[str, dict[str, Any]] = {}
    with client.websocket_connect(URL) as session:
        session.send_json({"watch": [f"1/{name}" for name in names]})
        while len(found) < len(names):
            text = session.receive_text()
            assert not any(word in text for word in ("NaN", "Infinity"))
            message = json.loads(text)
            if message["kind"] == "run":
                found[message["head"]["id"].split("/")[1]] = message
    return found


def test_a_budget_beyond_all_numbers(client: Any, made: RunDirectory) -> None:
    config = json.loads((made.path / "config.json").read_text())
    config["training"]["tokens"] = 10**400
    (made.path / "config.json").write_text(json.dumps(config))
    runs = listed(client)
    assert (runs["good"]["step"], runs["bad"]["state"]) == (1, "unreadable")
    assert "a budget of more than 1e300 tokens" in runs["bad"]["reason"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "status.json", "probes/index.jsonl"])
def test_a_pipe_is_not_waited_for(client: Any, made: RunDirectory, name: str) -> None:
    path = made.path / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert listed(client)["good"]["step"] == 1
    assert told(client, "good", "bad")["good"]["head"]["step"] == 1


@pytest.mark.parametrize("when", ["yesterday", None, 1e400, [1]])
def test_a_status_of_no_time(client: Any, made: RunDirectory, when: object) -> None:
    status = {"state": "running", "process": os.getpid(), "host": platform.node(), "time": when}
    (made.path / "status.json").write_text(json.dumps(status))
    assert listed(client)["bad"]["state"] in ("ended", "running")


@pytest.mark.parametrize(
    "odd",
    [
        '"step": 2, "tokens": NaN, "seconds": 0.01',
        '"step": 2, "tokens": 64, "seconds": 1e-320',
        '"step": 2, "tokens": 64, "seconds": 1e308',
        f'"step": 2, "tokens": {10**400}, "seconds": 0.01',
        f'"step": 2, "steps": {10**400}, "tokens": 64, "seconds": 0.01',
        f'"step": {10**400}, "tokens": 64, "seconds": 0.01',
        '"step": 2, "steps": -1, "tokens": "64", "seconds": "long"',
    ],
)
def test_odd_numbers_of_a_step(client: Any, made: RunDirectory, odd: str) -> None:
    (made.path / "metrics.jsonl").write_text(GOOD + f'{{"loss": 3.0, {odd}}}\n' * 3)
    status = {"state": "running", "host": "elsewhere", "step": 10**400, "time": time.time()}
    (made.path / "status.json").write_text(json.dumps(status))
    assert listed(client)["bad"]["state"] == "running"
    message = told(client, "good", "bad")["bad"]
    assert message["head"]["state"] == "running"
    assert message["lists"]["losses"]["items"]


def test_odd_numbers_of_a_probe(client: Any, made: RunDirectory) -> None:
    made.probes.make_folder()
    lines = [
        '{"step": 2, "passage_loss": NaN, "heads": {"L0H0": {"scores": {"first": [NaN, 1e400]}}}}',
        f'{{"step": {10**400}, "passage_loss": 3.0, "heads": {{}}}}',
    ]
    (made.probes.folder / "index.jsonl").write_text("\n".join(lines) + "\n")
    (probe,) = told(client, "bad")["bad"]["lists"]["probes"]["items"]
    assert (probe["step"], probe["loss"]) == (2, None)
    assert client.get("/api/item", params={"item": "1/bad"}).status_code != 500
