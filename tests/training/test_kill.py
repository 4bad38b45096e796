"""Killed at any moment, a run is whole and goes on as if nothing had been."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qkv.models.checkpoint import load_checkpoint, read_training_state
from qkv.training.rundir import RunDirectory

SAVE_EVERY = 10
EXACT = ("step", "steps", "loss", "gradient_norm", "learning_rate", "tokens", "validation_loss")
Spawn = Callable[..., "subprocess.Popen[str]"]


def settings(steps: int) -> list[str]:
    """Return a run that uses all that can be saved, with checkpoints of about 9 MB."""
    given = {
        "layers": 4, "width": 128, "heads": 2, "context": 16, "batch": 4, "dropout": 0.1,
        "average": 0.9, "optimizer": "muon", "precision": "fp32", "save_every": SAVE_EVERY,
        "evaluate_every": 70, "sample_every": 150, "tokens": steps * 4 * 16,
    }  # fmt: skip
    pairs = [argument for name in given for argument in ("--set", f"{name}={given[name]}")]
    return ["--preset", "transformer", *pairs]


@pytest.fixture(scope="module")
def steps(full: bool) -> int:
    """Return enough steps for all the kills to fall before the end."""
    return 900 if full else 130


@pytest.fixture(scope="module")
def whole(
    spawn: Spawn, text_file: Path, tmp_path_factory: pytest.TempPathFactory, steps: int
) -> Iterator[Callable[[], RunDirectory]]:
    """Start the uninterrupted run, which goes on beside the test; return what waits for it."""
    run = RunDirectory(tmp_path_factory.mktemp("whole") / "run")
    process = spawn("train", "--data", text_file, *settings(steps), "--out", run.path)

    def finished() -> RunDirectory:
        if process.stderr is not None and not process.stderr.closed:
            process.communicate(timeout=600)
        assert process.returncode == 0
        return run

    with process:
        yield finished
        process.kill()


@pytest.mark.slow
def test_killed_run_is_never_unreadable_and_ends_as_if_it_had_not_been(  # noqa: PLR0917
    spawn: Spawn,
    whole: Callable[[], RunDirectory],
    text_file: Path,
    tmp_path: Path,
    steps: int,
    full: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kills, inside = (25, 8) if full else (3, 1)
    asked = ["train", "--data", text_file, *settings(steps)]
    killed = RunDirectory(tmp_path / "killed")

    rng = random.Random(20240229)
    done = in_save = longest = 0
    while done < kills or in_save < inside:
        assert done < 2 * kills, f"only {in_save} of {done} kills fell inside a save"
        resumed = killed.exists()
        way = ["train", "--resume", killed.path] if resumed else [*asked, "--out", killed.path]
        in_save += kill(spawn(*way), killed, rng, aim_at_save=in_save < inside or done % 2 == 0)
        done += 1
        longest = max(longest, check_readable(killed, tmp_path / "copy"))
    run_to_end(spawn("train", "--resume", killed.path))

    with capsys.disabled():
        print(f"{done} kills, {in_save} inside a save, at most {longest} steps lost")  # noqa: T201
    assert exact(killed) == exact(whole())
    losses = [line["step"] for line in killed.metrics() if "loss" in line]
    assert losses == list(range(1, steps + 1))
    assert list(killed.samples()) == list(whole().samples())
    assert hashes(killed) == hashes(whole())
    assert not list(killed.path.rglob(".*")), "something half-written is left"


def kill(
    process: subprocess.Popen[str], run: RunDirectory, rng: random.Random, *, aim_at_save: bool
) -> bool:
    """Kill a run at a random moment; return whether the kill fell inside a save."""
    before = {folder.name for folder in leftovers(run)}
    logged = run.path / "metrics.jsonl"
    size = logged.stat().st_size if logged.exists() else 0
    try:
        if aim_at_save:
            wait(process, lambda: {folder.name for folder in leftovers(run)} - before)
            time.sleep(rng.uniform(0, 0.012))
        elif rng.random() < 0.2:  # while it still loads
            wait(process, run.exists)
            time.sleep(rng.uniform(0, 2))
        else:
            wait(process, lambda: logged.exists() and logged.stat().st_size not in {0, size})
            time.sleep(rng.uniform(0, 0.3))
        assert process.poll() is None, "the run ended before it was killed: give it more steps"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return bool({folder.name for folder in leftovers(run)} - before)


def check_readable(run: RunDirectory, copy: Path) -> int:
    """Assert that all of a killed run can be read; return how many steps resuming will lose."""
    for folder in run.checkpoints():
        load_checkpoint(folder)
        read_training_state(folder)
    run.read_config()
    assert (not (run.path / "status.json").exists()) or run.read_status()["state"] == "running"
    steps = [line["step"] for line in run.metrics() if "loss" in line]
    assert steps == list(range(1, len(steps) + 1))

    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run.path, copy)
    found = RunDirectory(copy).resume()
    step = found[0].step if found else 0
    kept = [line["step"] for line in RunDirectory(copy).metrics() if "loss" in line]
    assert kept == list(range(1, step + 1)), "lines past the checkpoint are dropped, no others"
    assert len(steps) - step <= SAVE_EVERY
    return len(steps) - step


def leftovers(run: RunDirectory) -> list[Path]:
    return list((run.path / "checkpoints").glob(".step-*.partial-*"))


def wait(process: subprocess.Popen[str], happened: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        if process.poll() is not None:
            pytest.fail(f"the run ended by itself: {process.communicate()[1][-500:]}")
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def run_to_end(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors


def exact(run: RunDirectory) -> list[dict[str, Any]]:
    """Return all the lines of numbers but for how long a step took."""
    return [{name: line[name] for name in EXACT if name in line} for line in run.metrics()]


def hashes(run: RunDirectory) -> dict[str, Any]:
    """Return what identifies the bytes of the last weights and of the training state."""
    described = json.loads((run.checkpoints()[-1] / "checkpoint.json").read_text())
    files: dict[str, Any] = described["files"]
    return files


def interrupt(process: subprocess.Popen[str], run: RunDirectory) -> tuple[float, str]:
    """Send Ctrl-C once some steps were logged; return the seconds it took and what was said."""
    logged = run.path / "metrics.jsonl"
    size = logged.stat().st_size if logged.exists() else 0
    wait(process, lambda: logged.exists() and logged.stat().st_size > size + 2000)
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    return time.monotonic() - started, said


@pytest.mark.slow
def test_ctrl_c_saves_at_once_says_how_to_go_on_and_loses_no_step(  # noqa: PLR0917
    spawn: Spawn,
    whole: Callable[[], RunDirectory],
    text_file: Path,
    tmp_path: Path,
    steps: int,
    full: bool,
) -> None:
    asked = ["train", "--data", text_file, *settings(steps), "--set", "save_every=100000"]
    stopped = RunDirectory(tmp_path / "stopped")
    ways = [[*asked, "--out", stopped.path], ["train", "--resume", stopped.path]]
    for way in ways if full else ways[:1]:
        seconds, said = interrupt(spawn(*way), stopped)
        assert seconds < 5
        assert f"qkv train --resume {stopped.path}" in said
        assert "Traceback" not in said
        last = [line["step"] for line in stopped.metrics() if "loss" in line][-1]
        assert stopped.latest().step == last == stopped.read_status()["step"]
        assert stopped.read_status()["state"] == "interrupted"
    run_to_end(spawn("train", "--resume", stopped.path))
    assert exact(stopped) == exact(whole())
    assert hashes(stopped) == hashes(whole())


@pytest.mark.slow
def test_ctrl_c_in_a_ladder_is_taken_up_where_it_was(
    spawn: Spawn, text_file: Path, tmp_path: Path
) -> None:
    asked = [
        "ladder", "--data", text_file, "--rungs", "bigram,heads", "--budget", "200k",
        "--set", "precision=fp32", "--set", "batch=8", "--json",
    ]  # fmt: skip
    folder = tmp_path / "ladder"
    bigram, heads = RunDirectory(folder / "01-bigram"), RunDirectory(folder / "02-heads")
    process = spawn(*asked, "--out", folder)
    wait(process, heads.exists)
    _, said = interrupt(process, heads)
    assert f"qkv ladder --resume {folder}" in said
    before = (bigram.path / "metrics.jsonl").read_bytes()
    stopped_at = heads.latest().step
    assert 0 < stopped_at < heads.read_status()["steps"]

    again = spawn("ladder", "--resume", folder, "--json")
    told, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    results = json.loads(told)["results"]
    assert [result["name"] for result in results] == ["bigram", "heads"]
    assert results == json.loads((folder / "ladder.json").read_text())["results"]
    assert (bigram.path / "metrics.jsonl").read_bytes() == before
    steps = [line["step"] for line in heads.metrics() if "loss" in line]
    assert steps == list(range(1, heads.read_status()["steps"] + 1))
