"""A run directory: whole after every failure, resumed from any moment."""

from __future__ import annotations

import errno
import math
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

import qkv.models.checkpoint
from qkv.errors import CheckpointError, ConfigError, ResourceError, TextError, TrainingError
from qkv.models import TransformerConfig, build_model
from qkv.models.checkpoint import load_checkpoint
from qkv.text import corpus_from_text
from qkv.training import (
    Evaluation,
    RunDirectory,
    StepReport,
    TrainingConfig,
    TrainingState,
    train,
)
from qkv.training.fusing import compiler_found
from qkv.training.run import Data, Evaluated, Sampled, Saved, drive, start

Tiny = Callable[..., TransformerConfig]
SETTINGS: dict[str, Any] = {
    "tokens": 20 * 33, "batch": 3, "save_every": 4, "evaluate_every": 6, "sample_every": 10,
    "optimizer": "muon", "average": 0.9, "precision": "fp32", "keep": 3,
}  # fmt: skip


@pytest.fixture
def begin(tmp_path: Path, data: Data, tiny: Tiny) -> Callable[..., RunDirectory]:
    def started(
        name: str = "run", model: TransformerConfig | None = None, **fields: Any
    ) -> RunDirectory:
        run = RunDirectory(tmp_path / name)
        start(run, model or tiny(dropout=0.1), TrainingConfig(**{**SETTINGS, **fields}), data)
        return run

    return started


def lines(run: RunDirectory) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in run.metrics()]


def hidden(run: RunDirectory) -> list[Path]:
    return list(run.path.rglob(".*"))


def test_a_run_tells_all_that_happens(begin: Callable[..., RunDirectory], data: Data) -> None:
    run = begin()
    events = list(drive(run, data))
    steps = [event.step for event in events if isinstance(event, StepReport)]
    assert steps == list(range(1, 21))
    assert [e.step for e in events if isinstance(e, Evaluated)] == [6, 12, 18, 20]
    assert [e.step for e in events if isinstance(e, Sampled)] == [10, 20]
    assert [e.step for e in events if isinstance(e, Saved)] == [4, 8, 12, 16, 20]
    assert [path.name for path in run.checkpoints()] == [f"step-{n:08d}" for n in (12, 16, 20)]
    assert run.read_status()["state"] == "finished"
    assert list(drive(run, data)) == []
    with pytest.raises(CheckpointError, match="a run at"):
        begin()


def test_closed_at_any_event_a_run_goes_on_as_if_it_had_not_been(
    begin: Callable[..., RunDirectory], data: Data, full: bool
) -> None:
    whole = begin("whole")
    count = len(list(drive(whole, data)))
    for stop in range(1, count, 1 if full else 7):
        run = begin(f"stopped-{stop}")
        with closing(drive(run, data)) as events:
            for _ in zip(range(stop), events, strict=False):
                pass
        assert run.read_status()["state"] in ("interrupted", "finished")
        assert run.latest().step == [n["step"] for n in run.metrics() if "loss" in n][-1]
        list(drive(run, data))
        assert lines(run) == lines(whole)
        assert list(run.samples()) == list(whole.samples())
        for name, tensor in whole.latest().model.state_dict().items():
            assert torch.equal(run.latest().model.state_dict()[name], tensor)


@pytest.mark.parametrize(
    "fast",
    [
        {"precision": "fp32"},  # the backward by hand
        {"precision": "int8"},
        {"precision": "bf16"},
        pytest.param(
            {"precision": "int8", "compile": "on"},
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(not compiler_found(), reason="no C++ compiler"),
            ],
        ),
    ],
)
def test_fast_steps_go_on_bit_for_bit_too(
    begin: Callable[..., RunDirectory], data: Data, tiny: Tiny, fast: dict[str, Any]
) -> None:
    fields = {**fast, "shortest": 3, "evaluate_every": 0, "sample_every": 0, "probes": 0}
    model = tiny(convolution=3, context=12)
    whole = begin("whole", model, **fields)
    list(drive(whole, data))
    run = begin("stopped", model, **fields)
    for stop in (7, 6):
        with closing(drive(run, data)) as events:
            for _ in zip(range(stop), events, strict=False):
                pass
    list(drive(run, data))
    assert lines(run) == lines(whole)
    for name, tensor in whole.latest().model.state_dict().items():
        assert torch.equal(run.latest().model.state_dict()[name], tensor)


def test_torn_and_later_lines_are_cut_and_leftovers_cleaned(
    begin: Callable[..., RunDirectory], data: Data
) -> None:
    run = begin()
    with closing(drive(run, data)) as events:
        next(event for event in events if isinstance(event, Saved) and event.step == 8)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "loss": 1.0}\n{"step": 10, "lo')
    assert [line["step"] for line in run.metrics()][-1] == 9  # the torn line is no line
    for folder in (".step-00000012.partial-1", ".step-00000004.dropped-1"):
        (run.path / "checkpoints" / folder).mkdir()
    (run.path / ".status.json.partial-1").write_text("{")
    run.resume()
    assert [line["step"] for line in run.metrics()][-1] == 8
    assert not hidden(run)


def test_checkpoint_half_replaced_is_brought_back(
    begin: Callable[..., RunDirectory], data: Data
) -> None:
    run = begin(keep=1)
    with closing(drive(run, data)) as events:
        next(event for event in events if isinstance(event, Saved) and event.step == 8)
    (only,) = run.checkpoints()
    only.rename(only.with_name(f".{only.name}.replaced-1"))
    found = run.resume()
    assert found is not None
    assert found[0].step == 8


def test_damaged_newest_checkpoint_falls_back_to_the_one_before(
    begin: Callable[..., RunDirectory], data: Data
) -> None:
    whole, run = begin("whole"), begin()
    list(drive(whole, data))
    with closing(drive(run, data)) as events:
        next(event for event in events if isinstance(event, Saved) and event.step == 12)
    weights = run.checkpoints()[-1] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="step-00000008: give that folder"):
        run.latest()
    list(drive(run, data))
    assert lines(run) == lines(whole)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_damaged_notes_are_told(begin: Callable[..., RunDirectory], data: Data, name: str) -> None:
    run = begin()
    (run.path / name).write_text('{"model": ')
    with pytest.raises(CheckpointError, match=name):
        run.read_config() if name == "config.json" else run.read_tokenizer()


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def fill() -> None:
        def refuse(*_: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(qkv.models.checkpoint, "save_file", refuse)

    return fill


def test_full_disk_leaves_the_last_checkpoint(
    begin: Callable[..., RunDirectory], data: Data, full_disk: Callable[[], None]
) -> None:
    run = begin()
    events = drive(run, data)
    next(event for event in events if isinstance(event, Saved))
    full_disk()
    with pytest.raises(ResourceError, match="No space left on device"):
        list(events)
    assert [path.name for path in run.checkpoints()] == ["step-00000004"]
    assert run.latest().step == 4
    status = run.read_status()
    assert (status["state"], status["step"]) == ("failed", 8)
    assert "No space left" in status["error"]
    assert not hidden(run)


@pytest.mark.slow
def test_really_full_disk(
    spawn: Callable[..., subprocess.Popen[str]], text_file: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=700k", "none", str(small)]
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        process = spawn(
            "train", "--preset", "transformer", "--data", text_file, "--out", small / "run",
            "--budget", "40k",
            "--set", "layers=2", "--set", "width=48", "--set", "save_every=5", "--set", "keep=5",
            "--set", "context=16", "--set", "precision=fp32",
        )  # fmt: skip
        _, said = process.communicate(timeout=120)
        assert process.returncode == 2, said
        assert "Traceback" not in said
        (line,) = [line for line in said.splitlines() if line.startswith("qkv: got")]
        assert "No space left on device" in line
        run = RunDirectory(small / "run")
        assert run.checkpoints()
        for folder in run.checkpoints():
            load_checkpoint(folder)
        assert not list((run.path / "checkpoints").glob(".*"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize(("rate", "every"), [(1e30, 1), (1e30, 7), (1e30, 100)])
def test_exploding_training_stops_and_keeps_only_good_checkpoints(
    begin: Callable[..., RunDirectory], data: Data, rate: float, every: int
) -> None:
    run = begin(learning_rate=rate, muon_learning_rate=rate, save_every=every, average=0.0)
    with pytest.raises(TrainingError, match=r"step \d"):
        list(drive(run, data))
    assert run.read_status()["state"] == "failed"
    for folder in run.checkpoints():
        model = load_checkpoint(folder).model
        ids = torch.from_numpy(data.train[:11])[None]
        assert bool(model(ids).isfinite().all())


def test_no_number_at_the_very_end_is_told_too(
    begin: Callable[..., RunDirectory], data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin(tokens=33)
    nothing = Evaluation(math.nan, 1, 11)
    monkeypatch.setattr("qkv.training.run.evaluate", lambda *_, **__: nothing)
    with pytest.raises(TrainingError, match="after step 1"):
        list(drive(run, data))
    assert not run.checkpoints()
    assert all("validation_loss" not in line for line in run.metrics())


def test_text_shorter_than_the_context_starts_nothing(tmp_path: Path, tiny: Tiny) -> None:
    data = Data.prepare(corpus_from_text("abcdefghij" * 3))
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(TextError, match="more than the context of 64 tokens"):
        start(run, tiny(context=64, vocab=data.tokenizer.size), TrainingConfig(), data)
    assert not run.path.exists()


@pytest.fixture(autouse=True)
def untouched_random_state() -> Iterator[None]:
    """Keep the tests from depending on one another by torch's own generator."""
    with torch.random.fork_rng(devices=[]):
        yield


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    run = RunDirectory(tmp_path)
    with run.lock(), pytest.raises(CheckpointError, match="another process"), run.lock():
        pass
    with run.lock():  # and it is free again
        pass


def test_a_damaged_newest_checkpoint_pushes_no_good_one_out(
    begin: Callable[..., RunDirectory], data: Data
) -> None:
    run = begin(keep=2, save_every=3)
    with closing(drive(run, data)) as events:
        for event in events:
            if isinstance(event, Saved) and event.step == 12:
                break
    newest = run.checkpoints()[-1]
    (newest / "model.safetensors").write_bytes(b"torn")
    with closing(drive(run, data)) as events:
        next(event for event in events if isinstance(event, StepReport))
    assert run.latest().step == 10  # from 9, one step on, saved when closed
    assert (newest.parent / f"damaged-{newest.name}").is_dir()


def test_an_interrupt_while_weights_are_lent_mixes_no_two_sets(
    begin: Callable[..., RunDirectory], data: Data, tiny: Tiny
) -> None:
    config = TrainingConfig(**{**SETTINGS, "average": 0.9})
    state = TrainingState(build_model(tiny()), config)
    next(iter(train(state, data.train, config)))
    before = {name: p.detach().clone() for name, p in state.model.named_parameters()}
    with pytest.raises(KeyboardInterrupt), state.averaged():
        raise KeyboardInterrupt
    for name, p in state.model.named_parameters():
        assert torch.equal(p, before[name])


def test_gradients_of_an_interrupted_step_are_not_added(data: Data, tiny: Tiny) -> None:
    config = TrainingConfig(**{**SETTINGS, "average": 0.0})
    losses = []
    for interrupted in (False, True):
        torch.manual_seed(0)
        state = TrainingState(build_model(tiny()), config)
        if interrupted:
            for p in state.model.parameters():
                p.grad = torch.ones_like(p)
        steps = zip(range(3), train(state, data.train, config), strict=False)
        losses.append([report.loss for _, report in steps])
    assert losses[0] == losses[1]


def test_resumed_without_a_compiler_a_compiled_run_says_so(
    begin: Callable[..., RunDirectory], data: Data, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin("run", tiny(), compile="off")
    written = run.path / "config.json"
    written.write_text(written.read_text().replace('"compile": "off"', '"compile": "on"'))
    monkeypatch.setattr("qkv.training.precision.compiler_found", lambda: False)
    with pytest.raises(ConfigError, match=r"compile=on, but nothing .* can compile with"):
        list(drive(run, data))


def test_windows_that_do_not_double_are_refused_before_anything_is_written(
    begin: Callable[..., RunDirectory], tiny: Tiny, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="windows of 5 tokens at first"):
        begin("run", tiny(context=12), shortest=5)
    assert not (tmp_path / "run").exists()
