"""Probes of a run: what is kept, that nothing else changes, and what a crash leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qkv.errors import CheckpointError, ConfigError, TextError
from qkv.lens import capture, load
from qkv.models import RungConfig, TransformerConfig, build_model
from qkv.text import corpus_from_text
from qkv.training import RunDirectory, StepReport, TrainingConfig, TrainingState
from qkv.training.data import choose_passage
from qkv.training.pacing import probe_steps
from qkv.training.probe_files import ProbeFiles
from qkv.training.probes import Prober
from qkv.training.run import Data, Probed, Saved, drive, start

Tiny = Callable[..., TransformerConfig]
Begin = Callable[..., RunDirectory]
STEPS = 20
SETTINGS: dict[str, Any] = {
    "tokens": STEPS * 33, "batch": 3, "save_every": 4, "optimizer": "muon", "average": 0.9,
    "precision": "fp32", "keep": 3, "probes": 6, "probe_share": 1e9,
}  # fmt: skip
PLAN = list(probe_steps(STEPS, 6))
PASSAGE = "abc abc ab"


@pytest.fixture
def begin(tmp_path: Path, data: Data, tiny: Tiny) -> Begin:
    def started(name: str = "run", probe: str | None = PASSAGE, **fields: Any) -> RunDirectory:
        run = RunDirectory(tmp_path / name)
        training = TrainingConfig(**{**SETTINGS, **fields})
        start(run, tiny(dropout=0.1), training, data, probe=probe)
        return run

    return started


def losses(run: RunDirectory) -> list[Any]:
    return [line["loss"] for line in run.metrics() if "loss" in line]


def test_a_run_keeps_what_its_heads_looked_at(begin: Begin, data: Data) -> None:
    run = begin()
    events = list(drive(run, data))
    assert [event.step for event in events if isinstance(event, Probed)] == PLAN
    lines = list(run.probes.read())
    assert [line["step"] for line in lines] == run.probes.steps() == PLAN
    reports = {event.step: event for event in events if isinstance(event, StepReport)}
    for line in lines:
        path = run.probes.path(line["step"])
        assert path.name == line["file"]
        assert path.stat().st_size == line["bytes"]
        assert line["seconds"] >= line["sample_seconds"] > 0
        assert line["sample"]
        trace = load(path)
        assert "".join(trace.texts) == PASSAGE
        # Scores are those of the file that was written.
        for row in trace.heads():
            told = line["heads"][row.name]
            assert told["role"] == row.role
            known = {name: score for name, score in row.scores.items() if score is not None}
            assert told["scores"].keys() == known.keys()
            for name, (score, _) in told["scores"].items():
                assert score == pytest.approx(known[name].score, abs=1e-4)
        if line["step"]:
            assert line["loss"] == reports[line["step"]].loss
            assert line["tokens"] == reports[line["step"]].tokens
    assert lines[0]["loss"] is None
    assert lines[0]["passage_loss"] == pytest.approx(np.log(data.tokenizer.size), abs=0.5)


def test_first_and_last_are_the_untrained_and_the_trained_model(
    begin: Begin, data: Data, tiny: Tiny
) -> None:
    run = begin()
    list(drive(run, data))
    torch.manual_seed(0)
    untrained = build_model(tiny(dropout=0.1))
    ids = torch.from_numpy(data.tokenizer.encode(PASSAGE))[None]
    for step, model in ((0, untrained), (STEPS, run.latest().model)):
        with torch.no_grad(), capture(model.eval()) as seen:
            model(ids)
        for ours, its in zip(load(run.probes.path(step)), seen, strict=True):
            np.testing.assert_allclose(ours.pattern(), its.pattern(), atol=0.03)
            np.testing.assert_allclose(ours.pattern().sum(-1), 1, atol=2e-6)
    last = load(run.probes.path(STEPS))
    assert any(
        np.abs(a.pattern() - b.pattern()).max() > 0.03
        for a, b in zip(load(run.probes.path(0)), last, strict=True)
    )


def test_a_run_is_the_same_to_the_last_bit_without_them(begin: Begin, data: Data) -> None:
    probed, plain = begin("probed"), begin("plain", probe=None, probes=0)
    list(drive(probed, data))
    list(drive(plain, data))
    assert losses(probed) == losses(plain)
    weights = plain.latest().model.state_dict()
    for name, tensor in probed.latest().model.state_dict().items():
        assert torch.equal(tensor, weights[name])
    assert not plain.probes.folder.exists()


@pytest.mark.parametrize("training", [True, False])
def test_probing_leaves_the_model_as_it_was(
    training: bool, data: Data, tiny: Tiny, tmp_path: Path
) -> None:
    model, settings = build_model(tiny(dropout=0.5)), TrainingConfig(**SETTINGS)
    state = TrainingState(model, settings, step=2)
    files = ProbeFiles(tmp_path / "probes")
    prober = Prober(
        files, state, settings, steps=STEPS, tokenizer=data.tokenizer, passage=PASSAGE,
        prompt="a", untrained=lambda: build_model(tiny()), device="cpu",
    )  # fmt: skip
    model.train(training)
    model(torch.zeros(1, 5, dtype=torch.long)).sum().backward()
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    weights = [p.detach().clone() for p in model.parameters()]
    seconds = {"loss": 1.0, "gradient_norm": 1.0, "learning_rate": 1.0, "tokens": 1, "seconds": 1.0}
    list(prober.after(StepReport(1, STEPS, **seconds)))
    list(prober.after(StepReport(2, STEPS, **seconds)))
    random = torch.get_rng_state()
    list(prober.after(StepReport(4, STEPS, **seconds)))
    assert files.steps() == [0, 2, 4]
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training is training
    for p, weight, grad in zip(model.parameters(), weights, grads, strict=True):
        assert torch.equal(p, weight)
        assert p.requires_grad
        assert (p.grad is None) == (grad is None)
        assert grad is None or torch.equal(p.grad, grad)


def test_what_came_after_the_checkpoint_is_cut_away(begin: Begin, data: Data) -> None:
    whole, run = begin("whole"), begin()
    list(drive(whole, data))
    with closing(drive(run, data)) as events:
        next(event for event in events if isinstance(event, Saved) and event.step == 8)
    kept = run.probes.steps()
    assert kept == sorted({*(step for step in PLAN if step <= 8), 8})
    # As if it was killed some steps later, while it wrote.
    for name in ("step-00000011.safetensors", ".step-00000011.safetensors.1"):
        (run.probes.folder / name).write_bytes(b"torn")
    run.probes.path(15).write_bytes(b"whole, but no line")
    with (run.probes.folder / "index.jsonl").open("a") as file:
        file.write('{"step": 11, "file": "step-00000011.safetensors"}\n{"step": 15, "fi')
    assert [line["step"] for line in run.probes.read()] == [*kept, 11]
    run.resume()
    assert [line["step"] for line in run.probes.read()] == run.probes.steps() == kept
    assert len(list(run.probes.folder.iterdir())) == len(kept) + 1
    list(drive(run, data))
    assert run.probes.steps() == sorted({*PLAN, 8})
    assert losses(run) == losses(whole)


def test_none_are_made_where_none_are_wanted(begin: Begin, data: Data) -> None:
    run = begin(probe=None, probes=0)
    list(drive(run, data))
    assert not run.probes.folder.exists()
    assert run.probes.nearest(3) is None
    with pytest.raises(ConfigError, match="probes=1; expected 2 or more, or 0 for none"):
        begin("one", probes=1)


@pytest.mark.parametrize("steps", [1, 2, STEPS])
def test_the_first_and_the_last_are_made_where_none_fit(
    steps: int, begin: Begin, data: Data
) -> None:
    run = begin(probe_share=0.0, tokens=steps * 33)
    list(drive(run, data))
    assert run.probes.steps() == [0, steps]
    assert [line["sample"] for line in run.probes.read()] == [None, None]
    assert list(run.probes.read())[1]["passage_loss"] < np.log(data.tokenizer.size) + 0.5


@pytest.mark.parametrize("stop", [1, 2, 6, 7, STEPS])
def test_a_run_closed_between_a_step_and_its_probe_makes_it_as_it_ends(
    stop: int, begin: Begin, data: Data
) -> None:
    whole, run = begin("whole"), begin()
    list(drive(whole, data))
    with closing(drive(run, data)) as events:
        next(e for e in events if isinstance(e, StepReport) and e.step == stop)
    # What a step takes is known after the second; what came before is made up for then.
    assert (stop in run.probes.steps()) == (stop > 2)
    assert run.latest().step == stop
    list(drive(run, data))
    assert run.probes.steps() == sorted({*PLAN, *([stop] if stop > 2 else [])})
    assert losses(run) == losses(whole)
    ours, its = ({line["step"]: line for line in one.probes.read()} for one in (run, whole))
    for name in ("loss", "tokens", "passage_loss", "sample", "heads"):
        assert [ours[step][name] for step in PLAN] == [its[step][name] for step in PLAN]


def test_a_model_without_attention_has_none(tmp_path: Path, data: Data) -> None:
    run = RunDirectory(tmp_path / "run")
    model, training = (
        RungConfig("bigram", vocab=data.tokenizer.size, context=11),
        TrainingConfig(**{**SETTINGS, "optimizer": "adamw"}),
    )
    with pytest.raises(ConfigError, match="a probe of bigram, which has no attention"):
        start(run, model, training, data, probe=PASSAGE)
    assert not run.path.exists()
    start(run, model, training, data)
    list(drive(run, data))
    assert not run.probes.folder.exists()


@pytest.mark.parametrize(
    ("probe", "fields", "error", "message"),
    [
        ("abc " * 3, {}, ConfigError, "a probe of 12 tokens; expected at most the context, 11"),
        ("", {}, ConfigError, "an empty probe"),
        ("abc", {"probes": 0}, ConfigError, "a probe and probes=0"),
        ("Zürich", {}, TextError, "'Z'"),
    ],
)
def test_a_passage_that_cannot_be_read_is_said_before_anything_is_written(  # noqa: PLR0917
    probe: str, fields: dict[str, Any], error: type, message: str, begin: Begin, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        begin(probe=probe, **fields)
    assert not list(tmp_path.iterdir())


def test_a_run_of_before_there_were_probes_goes_on(begin: Begin, data: Data) -> None:
    run = begin(probe=None)
    path = run.path / "config.json"
    config = json.loads(path.read_text())
    assert config["data"].pop("probe") == choose_passage(data, 11)
    del config["training"]["probes"], config["training"]["probe_share"]
    path.write_text(json.dumps(config))
    assert run.read_config()[1].probes == 40
    list(drive(run, data))
    config["data"]["probe"] = 3
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="probe is 3"):
        run.read_config()


def test_the_passage_is_how_a_paragraph_begins() -> None:
    text = "words of the first part. " * 400 + "cut off\n\nROMEO:\nBut soft, what light " * 40
    data = Data.prepare(corpus_from_text(text, name="made"))
    passage = choose_passage(data, 64)
    assert passage.startswith("ROMEO:\nBut soft")
    assert len(data.tokenizer.encode(passage)) == 64
    assert len(choose_passage(data, 1000)) == 96
    assert choose_passage(data, 1) == "R"
