"""The ladder: every rung on the same text, split, token budget and evaluation.

All of them train without probes and uncompiled, so that their times compare: compiled, the
Transformer alone would spend half a minute more, and round its products to int8.

A generator of what happens, and a folder that holds one run directory a rung and ``ladder.json``;
interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from qkv.errors import CheckpointError, ConfigError
from qkv.models import RungConfig, TransformerConfig, build_model, count_parameters, sight
from qkv.models.assembly import outline
from qkv.models.checkpoint import write_atomically
from qkv.training.config import TrainingConfig
from qkv.training.estimate import seconds_a_step
from qkv.training.proofs import Influence, measure_influence
from qkv.training.recipes import LADDER, Preset, configure, find_preset
from qkv.training.run import Data, Event, drive, start
from qkv.training.rundir import RunDirectory

__all__ = [
    "Climbed",
    "Climbing",
    "Plan",
    "RungResult",
    "Started",
    "check_settings",
    "climb",
    "estimate_seconds",
    "fit_budget",
    "read_plan",
    "select_rungs",
    "time_rungs",
]

PLAN = "ladder.json"


@dataclass(frozen=True)
class Plan:
    """What a ladder is asked to do.

    Args:
        rungs: names of presets, in order.
        tokens: each rung's budget.
        seed: of weights, batches and samples.
        source: what the text was loaded from.
        tokenizer: its kind.
        prompt: what every rung continues.
        settings: fields of the configs laid over every rung that has them.
    """

    rungs: list[str]
    tokens: int
    seed: int
    source: str
    tokenizer: str
    prompt: str
    settings: dict[str, str]


@dataclass(frozen=True)
class RungResult:
    """One row of the table.

    Args:
        name: of the rung's preset.
        title: as shown.
        parameters: learnt numbers.
        context: tokens it may see, the last one included.
        influence: what it was measured to look at.
        loss: on all of the validation text, nats a token.
        seconds: of training.
        tokens: trained on.
        sample: text after the plan's prompt.
        run: its run directory.
    """

    name: str
    title: str
    parameters: int
    context: int
    influence: Influence
    loss: float
    seconds: float
    tokens: int
    sample: str
    run: str


@dataclass(frozen=True)
class Started:
    """A rung begins."""

    index: int
    preset: Preset
    parameters: int
    steps: int


@dataclass(frozen=True)
class Climbing:
    """Something happened in the run of the rung under way."""

    index: int
    event: Event


@dataclass(frozen=True)
class Climbed:
    """A rung is done."""

    index: int
    result: RungResult


def select_rungs(names: str | None) -> list[Preset]:
    """Return the rungs that a comma-separated list names, in the ladder's order; all for ``None``.

    Raises:
        ConfigError: an unknown rung, or an empty list.

    >>> [rung.name for rung in select_rungs("transformer, bigram")]
    ['bigram', 'transformer']
    """
    if names is None:
        return list(LADDER)
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = [rung.name for rung in LADDER]
    for name in wanted:
        if name not in known:
            raise ConfigError(f"the rung {name!r}", f"one of {', '.join(known)}", "check its name")
    if not wanted:
        raise ConfigError("no rungs", f"some of {', '.join(known)}", "name at least one")
    return [rung for rung in LADDER if rung.name in wanted]


def time_rungs(
    rungs: Sequence[Preset], data: Data, settings: dict[str, str] | None = None
) -> list[float]:
    """Return what a token of training costs each rung here, in seconds, by running some steps.

    Raises:
        TextError: text shorter than the context.
    """
    return [_seconds_a_token(rung, data, settings) for rung in rungs]


def estimate_seconds(costs: Sequence[float], tokens: int, data: Data) -> list[float]:
    """Return what each rung will take: training, evaluation, samples and saves.

    Args:
        costs: seconds a token, from :func:`time_rungs`.
        tokens: each rung's budget.
        data: its validation text is evaluated once a rung.
    """
    # Evaluation is a forward pass, about a third of a step; samples recompute their prefixes.
    return [cost * (tokens + len(data.validation) / 3) + 0.5 for cost in costs]


def fit_budget(costs: Sequence[float], seconds: float, data: Data) -> int:
    """Return the one token budget with which the whole ladder ends within some seconds.

    At least 20,000 tokens: with fewer there is nothing to see, and the ladder takes longer than
    asked.

    Raises:
        ConfigError: no time at all.
    """
    if not seconds > 0:
        raise ConfigError(f"a budget of {seconds:g} s", "more than 0", "try --budget 60s")
    left = seconds - sum(estimate_seconds(costs, 0, data))
    return max(20_000, int(left / max(sum(costs), 1e-9)))


def _seconds_a_token(rung: Preset, data: Data, settings: dict[str, str] | None) -> float:
    model_config, training = configure(rung, data.tokenizer.size, _applicable(rung, settings))
    data.require(model_config.context)
    with torch.random.fork_rng(devices=[]):
        model = build_model(model_config)
    return seconds_a_step(model, training, data)[0] / (training.batch * model_config.context)


def check_settings(rungs: Sequence[Preset], settings: dict[str, str]) -> None:
    """Raise a ConfigError for a setting that no rung has, or that one of them refuses.

    The vocabulary is not known yet, so that a wrong setting is told before a text is fetched.
    """
    for rung in rungs:
        configure(rung, 256, _applicable(rung, settings))
    known = {name for rung in rungs for name in _applicable(rung, settings)}
    for name, text in settings.items():
        if name not in known:
            configure(rungs[-1], 256, {name: text})


def _applicable(rung: Preset, settings: dict[str, str] | None) -> dict[str, str]:
    """Return the settings that this rung has: `layers` says nothing to a bigram."""
    cls = TransformerConfig if rung.kind == TransformerConfig.kind else RungConfig
    known = cls.__dataclass_fields__.keys() | TrainingConfig.__dataclass_fields__.keys()
    return {name: text for name, text in (settings or {}).items() if name in known}


def read_plan(folder: Path) -> Plan:
    """Return the plan of a ladder that was begun.

    Raises:
        CheckpointError: none there, or damaged.
    """
    try:
        data = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        return Plan(**data["plan"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"no readable {PLAN} in {folder} ({error!r})",
            "the folder of a ladder",
            "start one with `qkv ladder`",
        ) from error


def climb(
    folder: Path, plan: Plan, data: Data
) -> Generator[Started | Climbing | Climbed, None, None]:
    """Train the plan's rungs in order, one run directory each, yielding all that happens.

    A rung that is finished already is only read; one that was interrupted goes on.

    Raises:
        TrainingError, ResourceError, CheckpointError: as :func:`qkv.training.run.drive`.
    """
    results: list[RungResult] = []
    _write(folder, plan, results)
    for index, name in enumerate(plan.rungs):
        preset = find_preset(name)
        run = RunDirectory(folder / f"{index + 1:02d}-{name}")
        if not run.exists():
            configs = configure(
                preset,
                data.tokenizer.size,
                {"seed": str(plan.seed), **_applicable(preset, plan.settings)},
                tokens=plan.tokens,
                probes=0,
                compile="off",
            )
            start(run, *configs, data, source=plan.source, prompt=plan.prompt)
        yield from _climb_one(run, index, preset, data, results)
        _write(folder, plan, results)


def _climb_one(
    run: RunDirectory, index: int, preset: Preset, data: Data, results: list[RungResult]
) -> Iterator[Started | Climbing | Climbed]:
    model_config, training, described = run.read_config()
    if described.get("sha256") != data.corpus.sha256:
        raise CheckpointError(
            f"another text at {described.get('source')} than {run.path} was started with",
            f"sha256 {str(described.get('sha256'))[:12]}…",
            "restore the text, or start a new ladder",
        )
    parameters = count_parameters(outline(model_config))
    yield Started(index, preset, parameters, training.steps(model_config.context))
    with closing(drive(run, data)) as events:
        for event in events:
            yield Climbing(index, event)
    result = _read_result(run, preset, data)
    results.append(result)
    yield Climbed(index, result)


def _read_result(run: RunDirectory, preset: Preset, data: Data) -> RungResult:
    """Return a finished rung's row, from its run directory alone and what can be measured on it."""
    checkpoint = run.latest()
    metrics = list(run.metrics())
    steps = [line for line in metrics if "loss" in line]
    samples = list(run.samples())
    return RungResult(
        name=preset.name,
        title=preset.title,
        parameters=count_parameters(checkpoint.model),
        context=sight(checkpoint.model),
        influence=measure_influence(checkpoint.model, data.validation),
        loss=float(checkpoint.metrics["validation_loss"]),
        seconds=sum(line["seconds"] for line in steps),
        tokens=steps[-1]["tokens"] if steps else 0,
        sample=samples[-1]["text"] if samples else "",
        run=str(run.path),
    )


def _write(folder: Path, plan: Plan, results: Sequence[RungResult]) -> None:
    content: dict[str, Any] = {
        "plan": asdict(plan),
        "results": [asdict(result) for result in results],
    }
    write_atomically(folder / PLAN, json.dumps(content, indent=1) + "\n")
