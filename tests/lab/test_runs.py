"""Runs as pages show them, read from directories that others write."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qkv.attention import Causal
from qkv.lab.curves import Births, Curve
from qkv.lab.growing import Growing
from qkv.lab.processes import holds_lock, identify, is_alive
from qkv.lab.rooms import Lab
from qkv.lab.runs import Run, standing
from qkv.lens import AttentionMap
from qkv.lens.heads.head_table import score_heads
from qkv.models.config import RungConfig
from qkv.text import corpus_from_text
from qkv.training.config import TrainingConfig
from qkv.training.probe_archive import embedded_timeline
from qkv.training.probes import told_scores
from qkv.training.run import Data, start
from qkv.training.rundir import RunDirectory

TEXT = "to be, or not to be: that is the question.\n" * 20
GONE = 2**22 + 1
"""No process has this number: it is above the most that Linux gives."""


def make_run(path: Path, kind: str = "one-head") -> RunDirectory:
    """A run that was begun, with nothing done yet."""
    data = Data.prepare(corpus_from_text(TEXT, name="hamlet"), "char")
    model = RungConfig(kind=kind, vocab=data.tokenizer.size, context=8, width=8, heads=1)
    run = RunDirectory(path)
    start(run, model, TrainingConfig(tokens=8 * 4 * 100, batch=4), data, source="hamlet")
    return run


def add_steps(run: RunDirectory, first: int, last: int, steps: int = 100) -> None:
    for step in range(first, last + 1):
        line = {"step": step, "steps": steps, "loss": 4.0 - step / 100, "tokens": 32 * step}
        run.append_metrics({**line, "gradient_norm": 1.0, "seconds": 0.01})


def add_probe(run: RunDirectory, step: int, previous: float, role: str = "mixed") -> None:
    scores = {"previous": [previous, 0.1], "entropy": [1.0, 2.0], "other": "no score"}
    heads = {"L0H0": {"role": role, "lift": None, "scores": scores}}
    run.probes.make_folder()
    run.probes.append({"step": step, "passage_loss": 3.0, "sample": "abc", "heads": heads})


def watched(client: Any, item: str) -> dict[str, Any]:
    """What is told first of a run to who watches it."""
    with client.websocket_connect("ws://127.0.0.1:8742/api/live") as session:
        session.send_json({"watch": [item]})
        while True:
            message = json.loads(session.receive_text())
            if message["kind"] == "run":
                return dict(message)


@pytest.fixture
def made(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "run")


def test_all_that_a_run_wrote_is_told(made: RunDirectory) -> None:
    add_steps(made, 1, 60)
    made.append_metrics({"step": 50, "validation_loss": 3.4})
    made.append_sample({"step": 60, "prompt": "to", "text": " be"})
    add_probe(made, 0, 0.1)
    add_probe(made, 60, 0.6, "previous")
    made.write_status("interrupted", 60, 100)
    run = Run(made.path)
    run.follow()
    head, (lists, _) = run.head(), run.lists()
    assert (head["state"], head["reason"]) == ("interrupted", "")
    assert (head["step"], head["steps"]) == (60, 100)
    assert head["rate"] == pytest.approx(3200)  # 32 tokens in 10 ms
    assert head["about"]["name"] == "hamlet"
    assert lists["losses"]["items"][0][:2] == [1, 3.99]
    assert lists["validation"]["items"] == [[50, 3.4]]
    assert lists["samples"]["items"] == [{"step": 60, "prompt": "to", "text": " be"}]
    assert [probe["step"] for probe in lists["probes"]["items"]] == [0, 60]
    assert lists["probes"]["items"][1]["heads"]["L0H0"]["previous"] == [0.6, 0.1]
    assert [probe["heads"]["L0H0"]["does"] for probe in lists["probes"]["items"]] == [
        [],
        ["previous"],
    ]
    (born,) = lists["births"]["items"]
    assert (born["step"], born["head"], born["kind"]) == (60, "L0H0", "previous")


def test_only_what_is_new_is_told_again(made: RunDirectory) -> None:
    add_steps(made, 1, 5)
    run = Run(made.path)
    run.follow()
    _, seen = run.lists()
    run.follow()
    assert run.lists(seen)[0] == {}
    add_steps(made, 6, 7)
    run.follow()
    lists, _ = run.lists(seen)
    assert set(lists) == {"losses"}
    assert lists["losses"]["from"] == 4  # the last point before may have grown
    assert [point[0] for point in lists["losses"]["items"]] == [5, 6, 7]


def test_a_run_cut_back_on_resuming_is_told_from_its_beginning(made: RunDirectory) -> None:
    add_steps(made, 1, 9)
    run = Run(made.path)
    run.follow()
    _, seen = run.lists()
    made.resume()  # no checkpoint: back to step 0
    add_steps(made, 1, 2)
    run.follow()
    lists, _ = run.lists(seen)
    assert lists["losses"]["from"] == 0
    assert [point[0] for point in lists["losses"]["items"]] == [1, 2]


def test_a_torn_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntw")
    growing = Growing(path)
    assert growing.read() == ([b"one"], False)
    assert growing.read() == ([], False)
    with path.open("ab") as file:
        file.write(b"o\n")
    assert growing.read() == ([b"two"], False)
    path.unlink()
    assert growing.read() == ([], True)


def test_lines_that_are_none_are_left_out(made: RunDirectory) -> None:
    add_steps(made, 1, 2)
    with (made.path / "metrics.jsonl").open("ab") as file:
        file.write(b'[]\n{"step": true}\n{"step": -1, "loss": 1}\n\xff\n{"step": 3, "loss": NaN}\n')
        file.write(b'{"step": 4, "loss": "2"}\n' + b"[" * 100_000 + b"\n")
    made.probes.make_folder()
    (made.probes.folder / "index.jsonl").write_text('{"step": 1, "heads": [1]}\n{"step": 2}\n')
    run = Run(made.path)
    run.follow()
    lists, _ = run.lists()
    assert [point[0] for point in lists["losses"]["items"]] == [1, 2]
    assert [probe["heads"] for probe in lists["probes"]["items"]] == [{}, {}]
    json.dumps([run.head(), lists], allow_nan=False)


def test_points_stay_bounded_and_keep_their_mean() -> None:
    curve = Curve(steps=100_000, most=50)
    losses = [1 + 1 / step for step in range(1, 10_001)]
    for step, loss in enumerate(losses, 1):
        curve.add(step, loss)
    assert len(curve.points) <= 50
    assert curve.points[-1][0] == 10_000
    assert curve.points[-1][2] == pytest.approx(losses[-1], abs=1e-3)
    stride = curve.points[0][0]
    assert curve.points[0][1] == pytest.approx(sum(losses[:stride]) / stride)


def told(first: float, previous: float, tokens: int = 24) -> dict[str, Any]:
    """The probe's line of a head of which each row gives such shares, 1 to each other key."""
    codes = np.eye(tokens)
    queries = np.log(previous) * np.roll(codes, 1, axis=0)
    queries[:, 0] += np.log(first)
    head = AttentionMap.of(queries, codes, mask=Causal(), scale=1.0, name="L0H0")
    return told_scores(score_heads([head]))


def test_a_head_is_born_once_for_each_thing_that_it_does() -> None:
    births = Births()
    for step, first, previous in ((0, 1, 1), (4, 1, 40), (8, 90, 40), (12, 1, 1), (16, 90, 40)):
        births.add(step, told(first, previous))
    assert [(one["step"], one["kind"]) for one in births.items] == [(4, "previous"), (8, "first")]


def test_births_agree_with_the_names_of_heads() -> None:
    # What rests on the first key gives little to any other: its name sets that mass aside.
    births = Births()
    (head,) = told(200, 40).values()
    score, chance = head["scores"]["previous"]
    assert (score - chance) / (1 - chance) < 0.2
    assert head["role"] == "previous"
    births.add(1, {"L0H0": head})
    assert {one["kind"] for one in births.items} == {"previous", "first"}

    timeline = embedded_timeline()
    born = Births()
    for line in timeline.lines:
        born.add(line["step"], line["heads"])
    for step in timeline.steps()[-4:]:
        for row in timeline.trace(step).heads():
            if row.role == "previous":
                (one,) = [
                    one
                    for one in born.items
                    if (one["head"], one["kind"]) == (row.name, "previous")
                ]
                assert one["step"] <= step
    named = {
        row.name
        for step in timeline.steps()
        for row in timeline.trace(step).heads()
        if row.role == "previous"
    }
    assert {one["head"] for one in born.items if one["kind"] == "previous"} == named


def test_what_a_probe_says_of_no_head_bears_nothing() -> None:
    births = Births()
    for role, score in (
        (None, [0.5, None]),
        ("", [0.5, 1.0]),
        (["previous"], None),
        (7, [None, 0.1]),
    ):
        births.add(1, {"L0H0": {"role": role, "scores": {"first": score}}})
    assert births.items == []


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="this system does not list its locks")
def test_a_lock_is_seen_without_being_taken(made: RunDirectory) -> None:
    lock = made.path / "lock"
    with made.lock():
        assert holds_lock(lock, os.getpid()) is True
        assert holds_lock(lock, os.getppid()) is False
    assert holds_lock(lock, os.getpid()) is False


def test_a_run_whose_process_is_gone_has_ended(made: RunDirectory, tmp_path: Path) -> None:
    made.write_status("running", 3, 100)
    status = made.read_status()
    with made.lock():
        assert standing(made.path, status)[0] == "running"
    gone = {**status, "process": GONE}
    assert standing(made.path, gone) == (
        "ended",
        "its process was killed, or the machine went down",
    )
    log = tmp_path / "run.log"
    log.write_text("step 1\nqkv: got no space left; expected room; make some\n\n")
    assert standing(made.path, gone, log) == (
        "ended",
        "got no space left; expected room; make some",
    )


def test_a_number_given_to_another_process_is_not_the_run(made: RunDirectory) -> None:
    made.write_status("running", 3, 100)
    status: dict[str, Any] = {**made.read_status(), "time": time.time() - 10_000}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert identify(other.pid) is not None
        assert is_alive({**status, "process": other.pid}, made.path / "lock") is False
        other.kill()
    assert identify(other.pid) is None


def test_a_run_of_another_machine_is_only_watched(made: RunDirectory) -> None:
    made.write_status("running", 3, 100)
    status = {**made.read_status(), "host": f"not-{platform.node()}", "process": GONE}
    (made.path / "status.json").write_text(json.dumps(status))
    run = Run(made.path)
    run.follow()
    assert run.head()["state"] == "running"
    assert run.head()["host"] == status["host"]


@pytest.mark.parametrize(
    ("hours", "said"), [(0.1, ""), (0.5, "30 min"), (3, "3 h"), (72, "3 days")]
)
def test_a_run_of_another_machine_that_is_silent_is_not_said_to_train(
    made: RunDirectory, hours: float, said: str
) -> None:
    add_steps(made, 1, 5)
    made.write_status("running", 5, 100)
    status = {**made.read_status(), "host": f"not-{platform.node()}"}
    (made.path / "status.json").write_text(json.dumps(status))
    when = time.time() - 3600 * hours
    for name in ("status.json", "metrics.jsonl", "checkpoints"):
        if (made.path / name).exists():
            os.utime(made.path / name, (when, when))
    run = Run(made.path)
    run.follow()
    head = run.head()
    assert head["state"] == ("silent" if said else "running")
    assert head["reason"] == (f"last heard of {said} ago" if said else "")
    assert (head["left_s"] is None) == bool(said)


def test_a_failed_run_says_why(made: RunDirectory) -> None:
    made.write_status("failed", 3, 100, error="got no space left on device; expected room")
    run = Run(made.path)
    run.follow()
    assert run.head()["reason"] == "got no space left on device; expected room"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"model": {"kind": "new"}, "training": {}, "data": {}}', "\0"]
)
def test_damage_and_other_versions_are_told_in_one_line(
    client: Any, lab: Lab, tmp_path: Path, content: str
) -> None:
    make_run(tmp_path / "runs" / "bad")
    (tmp_path / "runs" / "bad" / "config.json").write_text(content)
    (tmp_path / "runs" / "half").mkdir()
    (tmp_path / "runs" / "half" / "metrics.jsonl").write_text("{")
    (told,) = client.get("/api/runs").json()
    assert told["state"] == "unreadable"
    assert told["reason"].startswith("got ")
    assert "\n" not in told["reason"]
    for item, reason in (("1/bad", told["reason"]), ("1/half", "")):
        head = watched(client, item)["head"]
        assert head["state"] == "unreadable"
        assert head["reason"].startswith(reason or "got ")


def test_the_model_that_comes_along_has_its_timeline(client: Any) -> None:
    told = watched(client, "own")
    assert told["head"]["state"] == "finished"
    assert len(told["lists"]["probes"]["items"]) > 20
    assert {born["kind"] for born in told["lists"]["births"]["items"]} >= {"previous"}
    assert told["lists"]["losses"]["items"][-1][0] == told["head"]["step"]


def test_rungs_are_told_as_one_ladder(client: Any, tmp_path: Path) -> None:
    ladder = tmp_path / "runs" / "ladder"
    for name in ("01-uniform", "02-bigram"):
        make_run(ladder / name, name[3:]).write_status("finished", 100, 100)
    (ladder / "ladder.json").write_text(
        json.dumps({"plan": {"rungs": ["uniform", "bigram", "rnn"]}})
    )
    told = {one["id"]: one for one in client.get("/api/runs").json()}
    assert set(told) == {"1/ladder", "1/ladder/01-uniform", "1/ladder/02-bigram"}
    whole = told["1/ladder"]
    assert (whole["kind"], whole["state"], whole["step"], whole["steps"]) == (
        "ladder", "interrupted", 2, 3,
    )  # fmt: skip
    assert told["1/ladder/02-bigram"]["group"] == "1/ladder"
    assert whole["can"] == []
