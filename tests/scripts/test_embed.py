"""The script that makes the model that comes with qkv: what it says, and what it refuses."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qkv.errors import ConfigError
from qkv.models import Sampling, TransformerConfig
from qkv.text import corpus_from_text
from qkv.training import RunDirectory, TrainingConfig
from qkv.training.data import Data
from qkv.training.evaluation import sample_text
from qkv.training.probe_archive import ProbeArchive, write_archive
from qkv.training.recipes import configure, find_preset
from qkv.training.run import drive, start

SCRIPT = Path(__file__).parents[2] / "scripts" / "embed.py"


@pytest.fixture(scope="module")
def embed() -> Any:
    spec = importlib.util.spec_from_file_location("embed", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "embed", module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(scope="module")
def data() -> Data:
    return Data.prepare(corpus_from_text("abc cab, bca: acb\n\n" * 300, name="made"))


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory, data: Data) -> RunDirectory:
    """Return a finished run of a tiny model, with probes."""
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "trial")
    model = TransformerConfig(
        vocab=data.tokenizer.size, context=12, layers=1, width=16, heads=2, convolution=3
    )
    training = TrainingConfig(
        tokens=4 * 36, batch=3, optimizer="muon", precision="fp32", compile="off", probes=3
    )
    start(run, model, training, data, prompt="cab", probe="abc abc")
    list(drive(run, data))
    return run


def planned(folder: Path, data: Data, settings: dict[str, str] | None = None) -> RunDirectory:
    """Return a run as the script would start it, without a step."""
    laid = {"probes": "40", "probe_share": "1", "precision": "fp32", "compile": "off"}
    run = RunDirectory(folder)
    start(run, *configure(find_preset("small"), data.tokenizer.size, laid | (settings or {})), data)
    return run


def test_a_run_of_the_recipe_is_whole_wherever_it_ran(
    embed: Any, data: Data, tmp_path: Path, trial: RunDirectory
) -> None:
    assert embed.is_whole(planned(tmp_path / "whole", data))
    for name, value in (("precision", "bf16"), ("save_every", "9"), ("probe_share", "0.5")):
        assert embed.is_whole(planned(tmp_path / name, data, {name: value}))
    for name, value in (("tokens", "9000"), ("batch", "4"), ("layers", "2"), ("seed", "1")):
        assert not embed.is_whole(planned(tmp_path / name, data, {name: value}))
    assert not embed.is_whole(trial)


def test_the_command_names_all_that_is_not_the_recipes(
    embed: Any, data: Data, tmp_path: Path
) -> None:
    settings = {"tokens": "9000", "layers": "2", "compile": "on", "window": "7", "probes": "5"}
    run = planned(tmp_path / "run", data, settings)
    program, script, *options = shlex.split(embed.command_of(run))
    assert (program, script) == ("python", "scripts/embed.py")
    assert options[:2] == ["--budget", "9000"]
    assert set(options[2::2]) == {"--set"}
    assert sorted(options[3::2]) == [
        "compile=on", "layers=2", "precision=fp32", "probes=5", "window=7",
    ]  # fmt: skip
    # Laid over the script's own, they give the run's settings again.
    laid = {"probes": "40", "probe_share": "1", "tokens": "9000"}
    laid |= dict(option.split("=") for option in options[3::2])
    again = configure(find_preset("small"), data.tokenizer.size, laid)
    assert again == run.read_config()[:2]


def test_the_card_says_how_it_was_made_and_what_it_writes(
    embed: Any, data: Data, trial: RunDirectory, tmp_path: Path
) -> None:
    checkpoint = trial.latest()
    timeline = tmp_path / "timeline.zip"
    largest = write_archive(trial.probes, timeline, 10**6, 3)
    made = embed.Made(1.25, 1.2504, 569, 1000, timeline.stat().st_size, 0.0, largest)
    notes = trial.read_config()[2]
    written = embed.write(checkpoint.model, checkpoint.tokenizer, notes)
    sampling = Sampling(temperature=0.8, seed=0)
    assert written == "cab" + sample_text(checkpoint.model, data.tokenizer, "cab", 300, sampling)
    archive = ProbeArchive(timeline.read_bytes(), timeline)
    card = embed.describe(trial, checkpoint, made, archive, written)
    assert "This is a stand-in" in card
    assert f"\n    {embed.command_of(trial)}\n" in card
    assert "`qkv sample -n 300 --precision fp32` (temperature 0.8, seed 0)" in card
    assert card.rstrip().endswith(written.strip().splitlines()[-1].rstrip())
    assert "| model | 1 layers, width 16, 2 heads of 8, context 12 |" in card
    assert "| trained on | 144 characters, 4 steps |" in card
    assert "| as packed, which is what is loaded | 1.2504 (+0.0004) |" in card
    assert not re.search(r"\{\w*\}", card)


def test_other_runs_and_files_too_large_are_refused(
    embed: Any, trial: RunDirectory, tmp_path: Path
) -> None:
    checkpoint, notes = trial.latest(), trial.read_config()[2]
    with pytest.raises(ConfigError, match="a run of made that reads 'abc abc'"):
        embed.require(trial, checkpoint, notes)
    meant = {**notes, "sha256": embed.SHA256, "probe": embed.PASSAGE}
    unfinished = replace(checkpoint, metrics={})
    with pytest.raises(ConfigError, match="which is not finished"):
        embed.require(trial, unfinished, meant)
    made = embed.Made(1.0, 1.0, 9, 3_000_000, 8_000_000, 0.0, 127)
    embed.require_small(made)
    for name in ("weights_bytes", "timeline_bytes"):
        with pytest.raises(ConfigError, match="expected at most"):
            embed.require_small(replace(made, **{name: getattr(made, name) + 1}))
