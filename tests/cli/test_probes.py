"""Probes from the command line: a passage chosen for a run, and its steps inspected."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qkv.cli import main
from qkv.lens import load

Command = Callable[..., Any]
PASSAGE = "abc abc abc"


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Path:
    run = tmp_path_factory.mktemp("runs") / "probed"
    arguments = [
        "--data", str(text_file), "--out", str(run), "--budget", "960", "--probe", PASSAGE,
        *(part for name in ("layers=1", "width=24", "heads=2", "context=12", "batch=4",
                            "precision=fp32", "probes=6", "probe_share=1e9")
          for part in ("--set", name)),
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["qkv", "train", *arguments])
        assert main() == 0
    return run


def test_a_step_is_inspected_like_any_trace(command: Command, probed: Path, tmp_path: Path) -> None:
    ended = command("inspect", probed, "--step", 20)
    assert ended.code == 0
    told = ended.out.splitlines()
    assert told[0].endswith("probed · step 20 · 1 layer, 2 heads · 11 tokens of its probe")
    file = probed / "probes" / "step-00000020.safetensors"
    assert command("inspect", file).out.splitlines()[1:] == told[1:]
    page, table = tmp_path / "page.html", tmp_path / "heads.csv"
    command("inspect", probed, "--step", 0, "--html", page, "--csv", table)
    assert page.stat().st_size > 0
    assert table.stat().st_size > 0
    told = json.loads(command("inspect", probed, "--step", 0, "--json").out)
    assert "".join(told["tokens"]) == PASSAGE
    # Scores are those that the run's own lines give.
    line = json.loads((probed / "probes" / "index.jsonl").read_text().splitlines()[0])
    for head in told["heads"]:
        for name, (score, chance) in line["heads"][head["name"]]["scores"].items():
            assert head["scores"][name]["score"] == pytest.approx(score, abs=1e-4)
            assert chance is None or head["scores"][name]["chance"] == pytest.approx(
                chance, abs=1e-4
            )


def test_the_nearest_is_taken_and_said(command: Command, probed: Path) -> None:
    steps = [
        json.loads(line)["step"]
        for line in (probed / "probes" / "index.jsonl").read_text().splitlines()
    ]
    named = ", ".join(map(str, steps))
    said = command("inspect", probed, "--step", 1000).out.splitlines()
    assert f"step 20, the nearest to 1,000; probed at {named}" in said[0]
    between = next(step for step in range(1, 20) if step not in steps)
    nearest = min(steps, key=lambda step: (abs(step - between), step))
    said = command("inspect", probed, "--step", between).out.splitlines()
    assert f"step {nearest}, the nearest to {between};" in said[0]


def test_a_run_of_a_moment_has_its_first_and_last_step(command: Command, trained: Path) -> None:
    assert "· step 0 ·" in command("inspect", trained, "--step", 0).out.splitlines()[0]
    last = command("inspect", trained, "--step", 100).out.splitlines()[0]
    assert "step 42, the nearest to 100; probed at 0, " in last


def test_a_step_of_nothing_is_one_line(
    command: Command, probed: Path, trained: Path, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(trained, plain, ignore=shutil.ignore_patterns("probes"))
    trace = probed / "probes" / "step-00000000.safetensors"
    for arguments, message in (
        ((plain,), f"got no probes in {plain}"),
        ((trace,), "which is no run"),
        ((probed / "checkpoints" / "step-00000020",), "which is no run"),
        ((tmp_path / "none",), "got nothing at"),
        ((probed.parent,), "which holds 1 run, no model"),
        ((probed, "--text", "abc"), "--text and --step"),
        ((probed, "--file", "abc"), "--file and --step"),
        ((probed, "--sequence", 0), "--sequence and --step"),
    ):
        ended = command("inspect", *arguments, "--step", 3)
        assert (ended.code, ended.out) == (2, "")
        assert message in ended.err
        assert len(ended.err.splitlines()) == 1
    assert command("inspect", probed, "--step", -1).code == 2


def test_a_passage_is_checked_before_anything_is_written(
    command: Command, text_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for more in ((), ("--dry-run",)):
        ended = command("train", "--preset", "transformer", "--data", text_file, "--out", out,
                        "--probe", "abc " * 20, *more)  # fmt: skip
        assert (ended.code, ended.out) == (2, "")
        assert "got a probe of 80 tokens; expected at most the context, 64; shorten" in ended.err
        assert len(ended.err.splitlines()) == 1
        assert not out.exists()


def test_a_resumed_run_keeps_its_passage(command: Command, probed: Path) -> None:
    ended = command("train", "--resume", probed, "--probe", "cab")
    assert "--probe cab beside --resume" in ended.err
    trace = load(probed / "probes" / "step-00000020.safetensors")
    assert "".join(trace.texts) == PASSAGE
