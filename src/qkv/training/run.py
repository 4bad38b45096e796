"""A run: the loop driven into a run directory, with saves, evaluations and samples.

A generator, like the loop: it yields what happened and prints nothing. Closed or interrupted at
any moment, it saves and can be resumed, and the losses go on bit for bit as they would have.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from qkv.errors import CheckpointError, QkvError, TrainingError
from qkv.models import ModelConfig, Sampling, build_model, has_attention
from qkv.models.checkpoint import Checkpoint
from qkv.models.config import require_memory
from qkv.training.config import TrainingConfig
from qkv.training.data import Data, choose_passage, choose_prompt
from qkv.training.evaluation import evaluate, sample_text
from qkv.training.events import Evaluated, Sampled, Saved
from qkv.training.interrupts import uninterrupted
from qkv.training.loop import StepReport, TrainingState, train
from qkv.training.precision import require_fast_steps, settle
from qkv.training.probes import Probed, Prober, require_passage
from qkv.training.rundir import RunDirectory
from qkv.training.schedules import windows_at

__all__ = [
    "Data",
    "Evaluated",
    "Event",
    "Probed",
    "Sampled",
    "Saved",
    "choose_prompt",
    "drive",
    "start",
]

SAMPLE_TOKENS = 200


Event = StepReport | Evaluated | Probed | Sampled | Saved


def start(  # noqa: PLR0917 (two of them have defaults)
    run: RunDirectory,
    model: ModelConfig,
    training: TrainingConfig,
    data: Data,
    device: str = "cpu",
    source: str | None = None,
    prompt: str | None = None,
    probe: str | None = None,
) -> None:
    """Write a new run's settings; ``auto`` precision is settled here, so that resuming repeats it.

    Raises:
        CheckpointError: a run is there already.
        TextError: text shorter than the context, or a probe with unknown characters.
        ConfigError: a probe too long, or that nothing would read; windows that do not double.
    """
    data.require(model.context)
    if probe is not None:
        require_passage(probe, data.tokenizer, model, training)
    require_memory(model)
    windows_at(0, training.steps(model.context), training, model.context)
    training = settle(training, model, device)
    described = {
        **data.describe(),
        "source": source or data.corpus.name,
        "prompt": choose_prompt(data) if prompt is None else prompt,
        "probe": choose_passage(data, model.context) if probe is None else probe,
        "device": device,
    }
    run.create(model, training, described, data.tokenizer)


def drive(run: RunDirectory, data: Data, *, device: str = "cpu") -> Generator[Event, None, None]:
    """Train a started run to the end of its budget, from its newest checkpoint if it has one.

    Yields every step's report, every evaluation, sample and save. Interrupted (Ctrl-C, or closed
    by its user) it saves first.

    Raises:
        TrainingError: a loss that is not a number; the last good checkpoint stays.
        ResourceError: the disk refused.
        CheckpointError: no run, nothing readable, or another process is training it.
    """
    run.read_config()
    with run.lock():
        yield from _drive(run, data, device)


def _drive(run: RunDirectory, data: Data, device: str) -> Generator[Event, None, None]:
    config, training, described = run.read_config()
    require_fast_steps(training, config, device)
    found = run.resume()
    if found and (found[0].config != config or found[0].tokenizer != data.tokenizer):
        raise CheckpointError(
            f"{found[0].path} of another model or tokenizer",
            f"a checkpoint of the run that {run.path} describes",
            "put the run's own checkpoints back",
        )
    model = (found[0].model if found else _new_model(config, training)).to(device)
    state = TrainingState(model, training, step=found[0].step if found else 0)
    if found:
        state.restore(found[1])
    driver = _Driver(run, data, config, training, state, device, described)
    if found:
        driver.take_up(found[0])
    total = training.steps(config.context)
    if found and found[0].metrics.get("finished") and driver.last_loss is not None:
        run.write_status("finished", state.step, total)
        return
    run.write_status("running", state.step, total)
    try:
        yield from driver.learn()
        run.write_status("finished", state.step, total)
    except (KeyboardInterrupt, GeneratorExit):
        with uninterrupted():
            driver.note_last_step()
            driver.save()
            run.write_status("interrupted", state.step, total)
            # Last: where the process is killed over it, what it has learnt is safe.
            driver.probe_last_step()
        raise
    except Exception as error:
        with contextlib.suppress(QkvError):
            run.write_status("failed", state.step, total, error=str(error))
        raise


def _new_model(config: ModelConfig, training: TrainingConfig) -> nn.Module:
    """Draw weights from the seed without touching the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(training.seed)
        return build_model(config)


@dataclass
class _Driver:
    """What a run does between the loop's steps."""

    run: RunDirectory
    data: Data
    config: ModelConfig
    training: TrainingConfig
    state: TrainingState
    device: str
    described: dict[str, Any]  # what the run noted of its data
    last_loss: float | None = None
    saved: int = -1  # step of the newest checkpoint
    noted: set[tuple[str, int]] = field(default_factory=set)  # what the logs have, by step
    probing: Prober | None = None

    def take_up(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint and from logs that end with it."""
        loss = checkpoint.metrics.get("validation_loss")
        self.saved, self.last_loss = checkpoint.step, loss if isinstance(loss, float) else None
        self.noted = {(name, line["step"]) for line in self.run.metrics() for name in line}
        self.noted |= {("text", line["step"]) for line in self.run.samples()}

    @property
    def prompt(self) -> str:
        """What samples go on from."""
        return str(self.described.get("prompt", ""))

    def prober(self) -> Prober | None:
        """What makes the run's probes, if it has any."""
        if not self.training.probes or not has_attention(self.state.model):
            return None
        # Runs that were started before there were probes have none chosen.
        passage = self.described.get("probe") or choose_passage(self.data, self.config.context)
        require_passage(passage, self.data.tokenizer, self.config, self.training)
        return Prober(
            self.run.probes,
            self.state,
            self.training,
            steps=self.training.steps(self.config.context),
            tokenizer=self.data.tokenizer,
            passage=passage,
            prompt=self.prompt,
            untrained=lambda: _new_model(self.config, self.training).to(self.device),
            device=self.device,
            past=[line["seconds"] for line in self.run.metrics() if "seconds" in line],
        )

    def learn(self) -> Iterator[Event]:
        model, total = self.state.model, self.training.steps(self.config.context)
        if not any(p.requires_grad for p in model.parameters()):
            # Nothing to descend: counts are taken in one pass, the uniform guess needs none.
            if fit := getattr(model, "fit", None):
                fit(torch.from_numpy(self.data.train))
            self.state.step = total
            yield from self._finish()
            return
        prober = self.probing = self.prober()
        # An interruption may have come between a step and what is done after it.
        if prober is not None and (last := self._last_report()) is not None:
            yield from prober.catch_up(last)
        if 0 < self.state.step < total:
            yield from self._look()
        for report in train(self.state, self.data.train, self.training, device=self.device):
            self.note_last_step()
            yield report
            if prober is not None:
                yield from prober.after(report)
            if report.step == report.steps:
                break
            yield from self._look()
            if _due(report.step, self.training.save_every):
                yield self._save_event()
        yield from self._finish()

    def probe_last_step(self) -> None:
        """Read the passage once more where the run ends early: what it came to can be seen."""
        report = self.state.report
        if self.probing is not None and report is not None:
            with contextlib.suppress(QkvError):
                self.probing.read_last(report)

    def _last_report(self) -> StepReport | None:
        """The logged report of the step that the run goes on from."""
        logged = (line for line in self.run.metrics() if "loss" in line)
        return next(
            (StepReport(**line) for line in logged if line["step"] == self.state.step), None
        )

    def note_last_step(self) -> None:
        """Log the last update's report, unless it is logged already."""
        report = self.state.report
        if report is not None:
            with uninterrupted():
                self._note(self.run.append_metrics, "loss", asdict(report))

    def _note(
        self, append: Callable[[dict[str, Any]], None], name: str, line: dict[str, Any]
    ) -> None:
        if (name, line["step"]) not in self.noted:
            append(line)
            self.noted.add((name, line["step"]))

    def _look(self) -> Iterator[Event]:
        step = self.state.step
        if _due(step, self.training.evaluate_every) and ("validation_loss", step) not in self.noted:
            yield self._evaluate()
        if _due(step, self.training.sample_every) and ("text", step) not in self.noted:
            yield self._sample()

    def _finish(self) -> Iterator[Event]:
        yield self._evaluate()
        yield self._sample()
        yield self._save_event(finished=True)

    def _evaluate(self) -> Evaluated:
        started = time.perf_counter()
        with self.state.averaged() as model:
            loss = evaluate(model, self.data.validation, device=self.device).loss
        _require_finite(loss, "a validation loss", self.state.step)
        self.last_loss = loss
        line = {"step": self.state.step, "validation_loss": loss}
        self._note(self.run.append_metrics, "validation_loss", line)
        return Evaluated(self.state.step, loss, time.perf_counter() - started)

    def _sample(self) -> Sampled:
        with self.state.averaged() as model:
            text = sample_text(
                model,
                self.data.tokenizer,
                self.prompt,
                SAMPLE_TOKENS,
                Sampling(temperature=0.8, seed=self.training.seed),
                device=self.device,
            )
        line = {"step": self.state.step, "prompt": self.prompt, "text": text}
        self._note(self.run.append_sample, "text", line)
        return Sampled(self.state.step, self.prompt, text)

    def _save_event(self, *, finished: bool = False) -> Saved:
        started = time.perf_counter()
        with uninterrupted():
            path = self.save(finished=finished)
        return Saved(self.state.step, path, time.perf_counter() - started)

    def save(self, *, finished: bool = False) -> str:
        """Write a checkpoint, if the weights are good; one of this very step is not repeated."""
        if self.saved == self.state.step and not finished:
            return str(self.run.checkpoints()[-1])
        if not finished:  # finished weights were evaluated
            self._try_weights()
        path = self.run.save(
            model=self.config,
            weights=self.state.weights(),
            training=self.state.tensors(),
            tokenizer=self.data.tokenizer,
            step=self.state.step,
            metrics={"validation_loss": self.last_loss, "finished": finished},
            keep=self.training.keep,
        )
        self.saved = self.state.step
        return str(path)

    @torch.no_grad()
    def _try_weights(self) -> None:
        """Raise where the weights give no loss: they must not push a good checkpoint out."""
        ids, context = self.data.train, self.config.context
        window = torch.from_numpy(ids[: context + 1].astype(np.int64))[None].to(self.device)
        model, training = self.state.model, self.state.model.training
        logits = model.eval()(window[:, :-1])
        model.train(training)
        loss = F.cross_entropy(logits.float().flatten(0, 1), window[:, 1:].flatten())
        _require_finite(float(loss), "a loss", self.state.step)


def _require_finite(loss: float, what: str, step: int) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"{what} of {loss} after step {step}",
            "a finite number",
            "lower the learning rate, or train in fp32; the last checkpoint is kept",
        )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
