"""How long `qkv train` takes to its loss: by itself, or in turn with nanoGPT's CPU command."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from qkv.bench.measure import Measurement, spread
from qkv.bench.nanogpt import CPU_SETTINGS, require_checkout, train_nanogpt
from qkv.bench.processes import run_fresh
from qkv.errors import ConfigError
from qkv.models import ModelConfig, count_parameters
from qkv.models.assembly import outline
from qkv.models.checkpoint import Checkpoint
from qkv.models.loading import load_model
from qkv.text import available_corpora, load_corpus
from qkv.training.data import Data
from qkv.training.evaluation import evaluate
from qkv.training.recipes import configure, find_preset
from qkv.training.rundir import RunDirectory

__all__ = ["training"]

Notice = Callable[[str], None]


@dataclass(frozen=True)
class TrainedRun:
    """One command that trained one model.

    Args:
        seed: of it.
        wall_seconds: from the start of its process to its end: imports, text, evaluations, saves.
        train_seconds: in steps alone; evaluations, samples and saves are outside.
        loss: nats a token, on all of the validation text, in windows of the model's context.
        steps: it did.
        saved_step: of the checkpoint that was scored.
    """

    seed: int
    wall_seconds: float
    train_seconds: float
    loss: float
    steps: int
    saved_step: int


def training(
    rounds: int = 3,
    *,
    preset: str = "tiny",
    settings: Mapping[str, str] | None = None,
    nanogpt: Path | None = None,
    source: str = "shakespeare",
    notice: Notice | None = None,
) -> list[Measurement]:
    """Train with as many seeds as rounds, each in a fresh process; with nanoGPT, in turn with it.

    Both sides train on the same split of the same text, with as many threads as torch takes by
    itself (or `OMP_NUM_THREADS` says), and their checkpoints are scored here by one evaluator: all
    validation tokens, windows that do not overlap, fp32. nanoGPT's seed is fixed in its code: its
    ranges are over runs, ours over seeds.

    Args:
        rounds: seeds, from 0 up.
        preset: what `qkv train` trains.
        settings: laid over the preset, as by `--set`.
        nanogpt: a checkout of nanoGPT, which is left as it is.
        source: the text, by name or path; not standard input, which cannot be read twice.
        notice: told which run is on.

    Raises:
        ConfigError: an unknown preset or setting, no checkout of nanoGPT, a preset that is not
            trained by steps or has another context than nanoGPT's, a process that failed.
        TextError: no such text, or too little of it.
    """
    tell = notice or _unheard
    if nanogpt is not None:
        require_checkout(nanogpt)
    over = dict(settings or {})
    if "seed" in over:
        raise ConfigError("a seed for all rounds", "a seed a round", "leave it out")
    if source == "-":
        raise ConfigError(
            "a text from standard input", "a name or a path, to read anew", "save it to a file"
        )
    recipe = find_preset(preset)
    _require_steps(preset, configure(recipe, 65, over)[0], beside=nanogpt is not None)
    data = Data.prepare(load_corpus(source, notice=tell))
    model, trained = configure(recipe, data.tokenizer.size, over)
    data.require(model.context)
    # The same text for both, even where its name stands for another.
    text = data.corpus.name if source in available_corpora() else source
    ours: list[TrainedRun] = []
    theirs: list[TrainedRun] = []
    for seed in range(rounds):
        tell(f"round {seed + 1} of {rounds}: qkv train --preset {preset} --seed {seed} …")
        ours.append(_train(preset, over, seed, text, data))
        if nanogpt is not None:
            tell(f"round {seed + 1} of {rounds}: nanoGPT's CPU command …")
            theirs.append(_train_nanogpt(nanogpt, data))
    steps = ours[0].steps
    shape = {
        "parameters": count_parameters(outline(model)),
        "T": model.context,
        "steps": steps,
        "tokens": steps * trained.batch * model.context,
        "validation_tokens": len(data.validation) - 1,
    }
    beside = " and nanoGPT's CPU command in turn" if theirs else ""
    return [
        Measurement(
            f"training on {data.corpus.name}: preset {preset}{beside}, loss on all validation "
            "text in fp32",
            shape,
            {**_figures(ours), **(_compared(ours, theirs) if theirs else {})},
            rounds,
        )
    ]


def _unheard(_line: str) -> None:
    """A notice that nobody asked for."""


def _require_steps(preset: str, config: ModelConfig, *, beside: bool) -> None:
    if not any(parameter.requires_grad for parameter in outline(config).parameters()):
        raise ConfigError(
            f"the preset {preset}, which takes no steps",
            "one that is trained",
            "try --preset transformer",
        )
    context = CPU_SETTINGS["block_size"]
    if beside and config.context != context:
        raise ConfigError(
            f"the preset {preset} with a context of {config.context} beside nanoGPT's CPU command",
            f"{context}, as nanoGPT has there: losses in other windows do not compare",
            "leave --nanogpt out, or take another preset",
        )


def _train(preset: str, over: dict[str, str], seed: int, text: str, data: Data) -> TrainedRun:
    with tempfile.TemporaryDirectory(prefix="qkv-bench-") as made:
        run = RunDirectory(Path(made) / "run")
        command = [sys.executable, "-m", "qkv", "train", "--preset", preset, "--seed", str(seed)]
        command += ["--data", text, "--out", str(run.path), "--json"]
        for name, value in over.items():
            command += ["--set", f"{name}={value}"]
        wall, _ = run_fresh("qkv train", command)
        seconds = [float(line["seconds"]) for line in run.metrics() if "loss" in line]
        loaded = load_model(run.path)
        return TrainedRun(seed, wall, sum(seconds), _score(loaded, data), len(seconds), loaded.step)


def _train_nanogpt(folder: Path, data: Data) -> TrainedRun:
    run = train_nanogpt(folder, data)
    loss = _score(run.checkpoint, data)
    return TrainedRun(
        1337, run.wall_seconds, run.train_seconds, loss, run.steps, run.checkpoint.step
    )


def _score(loaded: Checkpoint, data: Data) -> float:
    """Return the loss on the validation text, encoded by the checkpoint's own tokenizer."""
    if loaded.tokenizer is None:
        raise ConfigError(f"{loaded.path} without its characters", "a tokenizer", "train it again")
    _, text = data.corpus.split()
    return evaluate(loaded.model, loaded.tokenizer.encode(text)).loss


def _figures(runs: list[TrainedRun]) -> dict[str, Any]:
    return {
        **{
            name: spread([getattr(run, name) for run in runs])
            for name in ("train_seconds", "wall_seconds", "loss")
        },
        "runs": [asdict(run) for run in runs],
    }


def _compared(ours: list[TrainedRun], theirs: list[TrainedRun]) -> dict[str, Any]:
    pairs = list(zip(theirs, ours, strict=True))
    steps = theirs[0].steps
    return {
        **{f"nanogpt_{name}": figure for name, figure in _figures(theirs).items()},
        "nanogpt_steps": steps,
        "nanogpt_tokens": steps * CPU_SETTINGS["batch_size"] * CPU_SETTINGS["block_size"],
        "nanogpt_seed": "fixed in its code: its range is over runs",
        # A ratio is of equals only where this holds.
        "reached_its_loss": all(our.loss <= their.loss for their, our in pairs),
        "times_as_fast_train": spread([t.train_seconds / o.train_seconds for t, o in pairs]),
        "times_as_fast_wall": spread([t.wall_seconds / o.wall_seconds for t, o in pairs]),
    }
