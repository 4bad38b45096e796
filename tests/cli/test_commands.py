"""What each command does for its user, from a first text to a proof."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qkv import __version__
from qkv.models import count_parameters
from qkv.training import RunDirectory
from qkv.training.flops import training_flops_per_token

Command = Callable[..., Any]
COMMANDS = [
    "demo", "ladder", "steps", "train", "sample", "eval", "inspect", "ablate", "prove", "bench",
    "doctor",
]  # fmt: skip
TINY = [
    "--set", "layers=1", "--set", "width=24", "--set", "heads=2", "--set", "context=12",
    "--set", "batch=4", "--set", "precision=fp32",
]  # fmt: skip


def fresh(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        check=False,
        timeout=120,
    )


def test_alone_it_says_what_to_do_first(command: Command) -> None:
    ended = command()
    assert ended.code == 0
    assert "qkv demo" in ended.out
    assert len(ended.out.splitlines()) < 10


def test_version(command: Command) -> None:
    assert command("--version").out == f"qkv {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_to_copy(name: str, command: Command) -> None:
    ended = command(name, "--help")
    assert ended.code == 0
    assert f"qkv {name}" in ended.out.partition("Options")[0].partition(f"{name} [OPTIONS]")[2]


def test_help_loads_no_torch() -> None:
    script = f"""
import sys
from qkv.cli import app
for arguments in [[], ["--help"], ["--version"], *([name, "--help"] for name in {COMMANDS})]:
    assert app(arguments, standalone_mode=False) in (None, 0), arguments
print([name for name in ("torch", "numpy") if name in sys.modules], file=sys.stderr)
"""
    ended = fresh(script)
    assert ended.returncode == 0, ended.stderr
    assert "torch" not in ended.stderr


def test_shell_completion_is_there() -> None:
    ended = fresh("from qkv.cli import app; app(prog_name='qkv')", _QKV_COMPLETE="source_bash")
    assert "complete -o default -F _qkv_completion qkv" in ended.stdout


@pytest.mark.parametrize("how", ["pipe", "NO_COLOR"])
def test_no_escape_codes_where_none_are_wanted(
    how: str, command: Command, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")
    for arguments in (["--help"], ["eval", trained], ["prove", trained], []):
        ended = command(*arguments)
        assert "\x1b[3" not in ended.out + ended.err
        assert how == "NO_COLOR" or "\x1b" not in ended.out + ended.err


def test_train_leaves_a_run_and_says_what_next(
    command: Command, text_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    ended = command("train", "--data", text_file, "--out", out, "--budget", "1k", *TINY)
    assert ended.code == 0
    assert f"qkv sample {out}" in ended.out
    assert "seed 0" in ended.err
    assert RunDirectory(out).read_status()["state"] == "finished"
    again = command("train", "--resume", out)
    assert again.code == 0
    assert "finished already" in again.out


def test_json_is_all_that_is_printed(
    command: Command, text_file: Path, trained: Path, tmp_path: Path
) -> None:
    train = ["train", "--data", text_file, "--budget", "500", *TINY, "--json"]
    for arguments, key in (
        ([*train, "--out", tmp_path / "run"], "validation_loss"),
        ([*train, "--dry-run"], "parameters"),
        (["sample", trained, "--tokens", "5", "--json"], "text"),
        (["eval", trained, "--json"], "loss"),
        (["prove", trained, "--json"], "proofs"),
        (["ladder", "--data", text_file, "--rungs", "uniform,heads", "--budget", "2k", "--out",
          tmp_path / "ladder", "--set", "context=12", "--set", "batch=4", "--json"], "results"),
    ):  # fmt: skip
        ended = command(*arguments)
        assert ended.code == 0, ended.err
        assert key in json.loads(ended.out, parse_constant=pytest.fail)


def test_dry_run_counts_exactly_and_writes_nothing(
    command: Command, text_file: Path, trained: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command("train", "--data", text_file, "--budget", "10k", *TINY, "--dry-run", "--json")
    told = json.loads(ended.out)
    checkpoint = RunDirectory(trained).latest()
    assert told["parameters"] == count_parameters(checkpoint.model)
    assert told["steps"] == round(10_000 / 48)
    a_token = training_flops_per_token(checkpoint.config, told["parameters"])
    assert told["flops"] == a_token * told["steps"] * 48
    assert told["seconds"] > 0
    assert list(tmp_path.iterdir()) == []
    plain = command("train", "--data", text_file, "--budget", "10k", *TINY, "--dry-run")
    assert f"{told['parameters']:,}" in plain.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("compiled", [True, False])
def test_dry_run_tells_the_precision_that_it_timed_and_what_is_faster(
    command: Command, text_file: Path, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    monkeypatch.setattr("qkv.training.precision.compiler_found", lambda: True)
    options = [*TINY, "--set", f"compile={'on' if compiled else 'off'}", "--dry-run"]
    if compiled:  # asked for explicitly, since what auto takes depends on the machine
        monkeypatch.setattr(
            "qkv.training.precision.choose_precision",
            lambda _device, *, fused: "int8" if fused else "bf16",
        )
        options += ["--set", "precision=auto"]
    out = command("train", "--data", text_file, "--budget", "10k", *options).out
    assert (" here, in bf16 (" if compiled else " here, in fp32 (") in out
    assert ("compiled   the run will be, in int8, and faster than that\n" in out) is compiled


def test_sample_is_repeatable_and_longer_than_the_context(command: Command, trained: Path) -> None:
    first = command("sample", trained, "--prompt", "ab", "--tokens", "50", "--seed", "3")
    assert first.out.startswith("ab")
    assert len(first.out) == 2 + 50 + 1
    assert command("sample", trained, "-p", "ab", "-n", "50", "--seed", "3") == first
    assert command("sample", trained, "-p", "ab", "-n", "50", "--seed", "4") != first
    likeliest = command("sample", trained, "-p", "ab", "-n", "20", "-t", "0")
    assert command("sample", trained, "-p", "ab", "-n", "20", "--top-k", "1") == likeliest
    assert command("sample", trained, "-p", "ab", "-n", "9", "--top-p", "0.9").code == 0


def test_eval_is_the_loss_of_the_run_and_of_other_texts(
    command: Command, trained: Path, text_file: Path
) -> None:
    told = json.loads(command("eval", trained, "--json").out)
    assert told["loss"] == pytest.approx(RunDirectory(trained).latest().metrics["validation_loss"])
    assert told["context"] == 12
    whole = json.loads(command("eval", trained, "--data", text_file, "--json").out)
    assert whole["tokens"] == len(text_file.read_text()) - 1
    assert f"{told['loss']:.4f}" in command("eval", trained).out
    checkpoint = RunDirectory(trained).checkpoints()[-1]
    assert json.loads(command("eval", checkpoint, "--json").out)["loss"] == told["loss"]


def test_prove_ends_with_one_where_a_proof_fails(
    command: Command, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = command("prove", trained)
    assert held.code == 0
    assert "FAILS" not in held.out
    assert "above the diagonal" in held.out

    from qkv.attention import attend
    from qkv.models import blocks

    monkeypatch.setattr(blocks, "attend", lambda q, k, v, **_: attend(q, k, v))
    failed = command("prove", trained)
    assert failed.code == 1
    assert "FAILS" in failed.out


def test_prove_takes_models_without_attention(
    command: Command, text_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "bigram"
    assert command("train", "--preset", "bigram", "--data", text_file, "--budget", "2k", "--out",
                   run).code == 0  # fmt: skip
    ended = command("prove", run)
    assert ended.code == 0, ended.err
    assert "no attention in this model" in ended.out


def test_every_kind_of_setting_is_read(command: Command, text_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = command(
        "train", "--data", text_file, "--out", run, *TINY, "--set", "tokens=480", "--set",
        "bias=true", "--set", "dropout=0.1", "--set", "norm=layer", "--set", "window=4", "--set",
        "kv_heads=none", "--set", "learning_rate=1e-3", "--seed", "7",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    model, training, _ = RunDirectory(run).read_config()
    assert (model.bias, model.dropout, model.norm, model.window) == (True, 0.1, "layer", 4)  # type: ignore[union-attr]
    assert (training.tokens, training.learning_rate, training.seed) == (480, 1e-3, 7)


def test_ladder_reports_and_resumes(command: Command, text_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ladder"
    small = ["--set", "context=12", "--set", "batch=4", "--set", "width=24", "--set", "heads=2"]
    ended = command("ladder", "--data", text_file, "--rungs", "bigram,heads", "--budget", "2k",
                    "--out", folder, *small)  # fmt: skip
    assert ended.code == 0, ended.err
    for piece in (
        "several heads",
        "Proved on the trained weights",
        "above the diagonal",
        "qkv sample",
    ):
        assert piece in ended.out
    shutil.rmtree(folder / "02-heads")
    again = command("ladder", "--resume", folder, "--json")
    assert [row["name"] for row in json.loads(again.out)["results"]] == ["bigram", "heads"]
    assert command("ladder", "--data", text_file, "--out", folder).code == 2
    lower = command("ladder", "--data", text_file, "--rungs", "uniform,bigram", "--budget", "2k",
                    "--out", tmp_path / "lower", *small[:4])  # fmt: skip
    assert lower.code == 0, lower.err
    assert "Proved on" not in lower.out  # no heads to look into
    assert "qkv inspect" not in lower.out


@pytest.mark.slow
def test_reader_of_a_pipe_may_leave(trained: Path) -> None:
    line = f"'{sys.executable}' -m qkv sample '{trained}' --tokens 3000 | head -c 10"
    ended = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=False, timeout=120
    )
    assert len(ended.stdout) == 10
    assert ended.stderr == ""


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_output_that_knows_few_characters_gets_what_it_can(options: list[str]) -> None:
    asked = ["steps", "--affinities", "1,8", "--values", "3,6", *options]
    run = subprocess.run(
        [sys.executable, "-m", "qkv", *asked],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.isascii()


def test_after_training_it_says_what_to_look_at(
    command: Command, text_file: Path, tmp_path: Path
) -> None:
    few = ("--budget", "1k", "--data")
    ended = command("train", *few, text_file, "--out", tmp_path / "a", *TINY)
    after = ended.out.partition("Next:\n")[2].splitlines()
    names = [line.split()[1] for line in after]
    assert names == ["sample", "inspect", "ablate", "prove"]
    assert after[2].endswith("a --all")
    ended = command("train", "--preset", "bigram", *few, text_file, "--out", tmp_path / "b")
    assert "qkv inspect" not in ended.out
    text = text_file.read_text("utf-8")
    ended = command("train", *few, "-", "--out", tmp_path / "c", *TINY, stdin=text)
    assert "qkv inspect" in ended.out
    assert "c --file FILE\n" in ended.out
