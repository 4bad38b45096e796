"""Training that the lab starts, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from qkv.lab.jobs import MOST_AT_ONCE, Job, Jobs
from qkv.lab.processes import identify
from qkv.lab.rooms import Lab
from qkv.lab.shelf import MOST_ITEMS
from qkv.lab.wanted import LONGEST_TEXT

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
        listed = {one["id"]: one for one in client.get("/api/runs").json()}
        head = listed.get(item, head)
        if head and ready(head):
            return head
        time.sleep(0.1)
    raise AssertionError(head)


def wait_for_end(client: Any, lab: Lab) -> None:
    """Return when the process is gone: its status says so a moment before."""
    (job,) = Jobs(lab.runs).all()
    while Path(f"/proc/{job.process}").exists():
        client.get("/api/runs")
        time.sleep(0.05)


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
    assert (head["can"], head["reason"]) == (["resume", "stop", "remove"], "")
    assert client.post("/api/pause", json={"item": item}).status_code == 400

    client.post("/api/resume", json={"item": item})
    wait_for(client, item, lambda now: now["state"] == "running" and now["step"] > head["step"])
    (job,) = Jobs(lab.runs).running()  # as a lab that was started again sees it
    os.kill(job.process, signal.SIGKILL)
    head = wait_for(client, item, in_state("ended"))
    assert head["reason"] == "its process was killed by SIGKILL"
    assert head["can"] == ["resume", "remove"]
    assert Jobs(lab.runs).running() == []

    client.post("/api/resume", json={"item": item})
    wait_for(client, item, in_state("running"))
    client.post("/api/stop", json={"item": item})
    assert wait_for(client, item, in_state("stopped"))["can"] == ["resume", "remove"]
    wait_for_end(client, lab)
    text = (lab.runs / f"{item.split('/')[1]}.txt").read_text(encoding="utf-8")
    assert text == TEXT


def test_what_the_process_refuses_is_told_and_can_be_removed(client: Any, lab: Lab) -> None:
    place = lab.places[0]
    (place / "notes.txt").write_text(TEXT)
    source = place / "notes"
    source.mkdir()
    (source / "short.txt").write_text(TEXT[:30])
    wanted = {"preset": "one-head", "file": "notes", "budget": "1k"}
    item = client.post("/api/start", json=wanted).json()["id"]
    head = wait_for(client, item, in_state("ended"))
    assert head["reason"].startswith("got 27 tokens of training text in notes")
    (told,) = client.get("/api/runs").json()
    assert (told["kind"], told["state"], told["can"]) == ("run", "ended", ["resume", "remove"])
    client.post("/api/remove", json={"item": item})
    assert client.get("/api/runs").json() == []
    (trash,) = (lab.runs / ".trash").iterdir()
    assert {path.suffix for path in trash.iterdir()} == {".log", ".json"}
    assert [path.name for path in lab.runs.iterdir()] == [".trash"]


@pytest.mark.parametrize("act", ["pause", "stop"])
def test_what_is_paused_before_it_began_is_begun_later(client: Any, lab: Lab, act: str) -> None:
    item = client.post("/api/start", json={**LONG, "budget": "20k"}).json()["id"]
    client.post(f"/api/{act}", json={"item": item})
    head = wait_for(client, item, lambda one: "resume" in one["can"])
    assert (head["state"], head["reason"], head["step"]) == ("waiting", "", 0)
    assert client.post("/api/resume", json={"item": item}).status_code == 200
    head = wait_for(client, item, in_state("finished", "ended"))
    assert (head["state"], head["reason"]) == ("finished", "")
    assert wait_for(client, item, lambda one: one["can"] != [])["can"] == ["remove"]


def test_a_paused_run_is_stopped_without_its_process(client: Any, lab: Lab) -> None:
    item = client.post("/api/start", json=LONG).json()["id"]
    wait_for(client, item, lambda head: head["step"] > 2)
    client.post("/api/pause", json={"item": item})
    wait_for(client, item, in_state("paused"))
    client.post("/api/stop", json={"item": item})
    assert wait_for(client, item, in_state("stopped"))["can"] == ["resume", "remove"]
    client.post("/api/resume", json={"item": item})
    wait_for(client, item, in_state("running"))
    assert client.post("/api/remove", json={"item": item}).status_code == 400
    assert (lab.runs / item.split("/")[1]).is_dir()
    client.post("/api/stop", json={"item": item})
    wait_for_end(client, lab)


def test_a_run_ended_by_a_nameless_signal_is_told(client: Any, lab: Lab) -> None:
    item = client.post("/api/start", json=LONG).json()["id"]
    wait_for(client, item, lambda head: head["step"] > 2)
    (job,) = Jobs(lab.runs).running()
    os.kill(job.process, signal.SIGRTMIN + 6)
    head = wait_for(client, item, in_state("ended"))
    assert head["reason"] == f"its process was killed by signal {signal.SIGRTMIN + 6}"


def test_the_longest_text_may_be_written_in_anything(client: Any, lab: Lab) -> None:
    wanted = {"preset": "bigram", "text": "\u4e00\u4e8c\u0001" * (LONGEST_TEXT // 3), "budget": "0"}
    reply = client.post("/api/start", content=json.dumps(wanted, ensure_ascii=False).encode())
    assert (reply.status_code, reply.json()["kind"]) == (400, "ConfigError")  # of the budget alone


def test_a_disk_that_refuses_leaves_nothing_behind(
    client: Any, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    reply = client.post("/api/start", json={**LONG, "beside": True})
    assert "No space left" in reply.json()["error"]
    assert list(lab.runs.iterdir()) == []


def test_what_the_lab_started_is_listed_among_many(client: Any, lab: Lab) -> None:
    for number in range(MOST_ITEMS + 5):
        path = lab.places[0] / f"run-{number:04d}"
        path.mkdir()
        for name in ("config.json", "tokenizer.json"):
            (path / name).write_text("{}")
    old = lab.runs / "z-started"
    old.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (old / name).write_text("{}")
    os.utime(old, (1, 1))
    (lab.runs / "z-started.job.json").write_text(mark(name="z-started"))
    listed = client.get("/api/runs").json()
    assert MOST_ITEMS - 2 <= len(listed) <= MOST_ITEMS + 1
    assert "z-started" in [one["title"] for one in listed]


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
        {"preset": "bigram", "text": TEXT, "budget": "abc"},
        {"preset": "bigram", "text": TEXT, "budget": "0"},
        {"preset": "bigram", "text": TEXT, "budget": "-1"},
        {"preset": "bigram", "text": TEXT, "budget": "1e99"},
        {"preset": "bigram", "text": TEXT, "budget": "5min"},
        {"preset": "ladder", "text": TEXT, "budget": "0s"},
        {"preset": "one-head", "text": "shorter than a context"},
        {"preset": "ladder", "text": "shorter than a context"},
        {"preset": "small", "text": TEXT[:2500]},
        {"preset": "one-head", "text": TEXT, "probe": "Ω"},
        {"preset": "one-head", "text": TEXT, "probe": "half a pair \udc00"},
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
        (lab.runs / "bigram-1.job.json").write_text(json.dumps(job.__dict__))
        for act in ("pause", "stop"):
            reply = client.post(f"/api/{act}", json={"item": "1/bigram-1"})
            assert reply.status_code == 400
            assert "not running" in reply.json()["error"]
        assert stranger.poll() is None
        stranger.kill()


def mark(**fields: Any) -> str:
    """What stands beside a run that the lab started, with some of it changed."""
    return json.dumps({**Job("bigram-1", "bigram", 1, None, 0.0).__dict__, **fields})


def test_only_so_many_train_at_once(client: Any, lab: Lab) -> None:
    with ExitStack() as stack:
        for number in range(MOST_AT_ONCE):
            process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
            stack.enter_context(process)
            stack.callback(process.kill)
            name = f"bigram-{number}"
            found = mark(name=name, process=process.pid, identity=identify(process.pid))
            (lab.runs / f"{name}.job.json").write_text(found)
        reply = client.post("/api/start", json={**LONG, "beside": True})
        assert (reply.status_code, reply.json()["kind"]) == (400, "ResourceError")
        assert f"{MOST_AT_ONCE} runs training already" in reply.json()["error"]
        assert "pause or stop one" in reply.json()["remedy"]
        assert len(Jobs(lab.runs).all()) == MOST_AT_ONCE


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"name": "other"}',
        "\0",
        mark(wish="dance"),
        mark(wish=None),
        mark(wish=["go"]),
        mark(preset=7),
        mark(preset=None),
        mark(identity=7),
        mark(identity={}),
        mark(process="1"),
        mark(process=True),
        mark(started="now"),
        mark(started=True),
        mark(asked=[]),
        mark(more=1),
    ],
)
def test_torn_marks_are_no_jobs(client: Any, lab: Lab, content: str) -> None:
    (lab.runs / "bigram-1.job.json").write_text(content)
    assert Jobs(lab.runs).all() == []
    assert client.get("/api/runs").json() == []


def test_runs_of_others_are_only_watched(client: Any) -> None:
    for act in ("pause", "resume", "stop", "remove"):
        for item in ("1/elsewhere", "own", "", None, 7, ["1"], "1/../../x"):
            assert client.post(f"/api/{act}", json={"item": item}).status_code == 400


def test_the_rungs_of_a_ladder_are_probed(client: Any, lab: Lab) -> None:
    wanted = {"preset": "ladder", "text": TEXT, "budget": "1k"}
    item = client.post("/api/start", json=wanted).json()["id"]
    plan = lab.runs / item.split("/")[1] / "ladder.json"
    for _ in range(600):
        if plan.exists():
            break
        time.sleep(0.1)
    assert json.loads(plan.read_text())["plan"]["settings"] == {"probes": "40"}
    client.post("/api/stop", json={"item": item})
    wait_for_end(client, lab)


def test_what_may_be_trained_is_told(client: Any) -> None:
    offers = client.get("/api/presets").json()
    names = [preset["name"] for preset in offers["presets"]]
    assert names[0] == "ladder"
    assert {"bigram", "one-head", "tiny", "small"} <= set(names)
    assert [corpus["name"] for corpus in offers["corpora"]] == ["shakespeare", "plays", "python"]
    assert client.get("/api/estimate", params={"preset": "bigram"}).json()["seconds_a_token"] > 0
    assert client.get("/api/estimate", params={"preset": "none"}).status_code == 400
