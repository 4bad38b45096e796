"""Training that the lab starts, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qkv.lab.jobs import LONGEST_TEXT, Job, Jobs
from qkv.lab.processes import identify
from qkv.lab.rooms import Lab

TEXT = "to be, or not to be: that is the question.\n" * 100
LONG = {"preset": "one-head", "text": TEXT, "budget": "500M"}


@pytest.fixture(autouse=True)
def tidy(lab: Lab) -> Iterator[None]:
    """Nothing that a test starts outlives it."""
    yield
    jobs = Jobs(lab.runs)
    for job in jobs.running():
        os.kill(job.process, signal.SIGKILL)


def wait_for(client: Any, item: str, ready: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """A run's head when it is as wished."""
    head: dict[str, Any] = {}
    for _ in range(600):
        head = client.get("/api/run", params={"item": item}).json()["head"]
        if ready(head):
            return head
        time.sleep(0.1)
    raise AssertionError(head)


def in_state(*states: str) -> Callable[[dict[str, Any]], bool]:
    return lambda head: head["state"] in states


def test_a_run_is_started_paused_gone_on_with_killed_and_stopped(client: Any, lab: Lab) -> None:
    item = client.post("/api/start", json=LONG).json()["id"]
    assert wait_for(client, item, in_state("starting", "running"))["can"] == ["pause", "stop"]
    busy = client.post("/api/start", json=LONG)
    assert (busy.status_code, busy.json()["kind"]) == (400, "BusyError")
    assert "one at a time" in busy.json()["error"]
    wait_for(client, item, lambda head: head["step"] > 2)
    assert client.post("/api/resume", json={"item": item}).status_code == 400

    client.post("/api/pause", json={"item": item})
    head = wait_for(client, item, in_state("paused"))
    assert (head["can"], head["reason"]) == (["resume"], "")
    assert client.post("/api/pause", json={"item": item}).status_code == 400

    client.post("/api/resume", json={"item": item})
    wait_for(client, item, lambda now: now["state"] == "running" and now["step"] > head["step"])
    (job,) = Jobs(lab.runs).running()  # as a lab that was started again sees it
    os.kill(job.process, signal.SIGKILL)
    head = wait_for(client, item, in_state("ended"))
    assert head["reason"] == "its process was killed by SIGKILL"
    assert head["can"] == ["resume"]
    assert Jobs(lab.runs).running() == []

    client.post("/api/resume", json={"item": item})
    wait_for(client, item, in_state("running"))
    client.post("/api/stop", json={"item": item})
    assert wait_for(client, item, in_state("stopped"))["can"] == ["resume"]
    (job,) = Jobs(lab.runs).all()
    while Path(f"/proc/{job.process}").exists():  # its status says so a moment before it is gone
        client.get("/api/runs")
        time.sleep(0.05)
    text = (lab.runs / f"{item.split('/')[1]}.txt").read_text(encoding="utf-8")
    assert text == TEXT


def test_what_the_process_refuses_is_told(client: Any, lab: Lab) -> None:
    place = lab.places[0]
    (place / "notes.txt").write_text(TEXT)
    wanted = {"preset": "bigram", "file": "notes.txt", "budget": "many"}
    item = client.post("/api/start", json=wanted).json()["id"]
    head = wait_for(client, item, in_state("ended"))
    assert head["reason"].startswith("got a budget of 'many' tokens; expected a number above 0")
    (told,) = client.get("/api/runs").json()
    assert (told["kind"], told["state"], told["can"]) == ("run", "ended", [])


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"preset": "bigram"},
        {"preset": "bigram", "corpus": "shakespeare", "text": "both"},
        {"preset": "bigram", "corpus": "nowhere"},
        {"preset": "--help", "corpus": "python"},
        {"preset": "nothing", "corpus": "python"},
        {"preset": "bigram", "corpus": "python", "seed": -1},
        {"preset": "bigram", "corpus": "python", "seed": "1"},
        {"preset": "bigram", "corpus": "python", "seed": True},
        {"preset": "bigram", "corpus": "python", "budget": 5},
        {"preset": "bigram", "corpus": "python", "out": "/tmp"},
        {"preset": "bigram", "corpus": "python", "probe": "a\0b"},
        {"preset": "bigram", "corpus": "python", "probe": "a" * 100_000},
        {"preset": "bigram", "text": ""},
        {"preset": "bigram", "text": "a"},
        {"preset": "bigram", "text": "half a pair \ud800 of surrogates"},
        {"preset": "bigram", "file": "/etc/passwd"},
        {"preset": "bigram", "file": "../secret.txt"},
        {"preset": "bigram", "file": "nothing.txt"},
        {"preset": "bigram", "file": "link.txt"},
    ],
)
def test_bad_wishes_are_refused_in_one_line(
    client: Any, lab: Lab, tmp_path: Path, wanted: dict[str, Any]
) -> None:
    (tmp_path / "secret.txt").write_text(TEXT)
    (lab.places[0] / "link.txt").symlink_to(tmp_path / "secret.txt")
    reply = client.post("/api/start", content=json.dumps(wanted))
    assert reply.status_code == 400
    assert "\n" not in reply.json()["error"]
    assert Jobs(lab.runs).all() == []


def test_a_text_too_long_says_the_limit(client: Any) -> None:
    wanted = {"preset": "bigram", "text": "ab" * LONGEST_TEXT}
    reply = client.post("/api/start", json=wanted)
    assert reply.status_code in (400, 413)
    wanted["text"] = wanted["text"][: LONGEST_TEXT + 1]
    assert client.post("/api/start", json=wanted).json()["limit"] == LONGEST_TEXT


def test_a_stranger_with_the_number_is_never_signalled(client: Any, lab: Lab) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        known = identify(stranger.pid)
        job = Job("bigram-1", "bigram", stranger.pid, f"{known} before", time.time())
        mark = {**job.__dict__}
        (lab.runs / "bigram-1.job.json").write_text(json.dumps(mark))
        for act in ("pause", "stop"):
            reply = client.post(f"/api/{act}", json={"item": "1/bigram-1"})
            assert reply.status_code == 400
            assert "not running" in reply.json()["error"]
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"name": "other"}', "\0"])
def test_torn_marks_are_no_jobs(client: Any, lab: Lab, content: str) -> None:
    (lab.runs / "bigram-1.job.json").write_text(content)
    assert Jobs(lab.runs).all() == []
    assert client.get("/api/runs").json() == []


def test_runs_of_others_are_only_watched(client: Any) -> None:
    for act in ("pause", "resume", "stop"):
        for item in ("1/elsewhere", "own", "", None, 7, ["1"], "1/../../x"):
            assert client.post(f"/api/{act}", json={"item": item}).status_code == 400


def test_what_may_be_trained_is_told(client: Any) -> None:
    offers = client.get("/api/presets").json()
    names = [preset["name"] for preset in offers["presets"]]
    assert names[0] == "ladder"
    assert {"bigram", "one-head", "tiny", "small"} <= set(names)
    assert [corpus["name"] for corpus in offers["corpora"]] == ["shakespeare", "plays", "python"]
    assert client.get("/api/estimate", params={"preset": "bigram"}).json()["seconds_a_token"] > 0
    assert client.get("/api/estimate", params={"preset": "none"}).status_code == 400
