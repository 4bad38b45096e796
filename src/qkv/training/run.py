"""A run: the loop driven into a run directory, with saves, evaluations and samples.

A generator, like the loop: it yields what happened and prints nothing. Closed or interrupted at
any moment, it saves and can be resumed, and the losses go on bit for bit as they would have.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from qkv.errors import QkvError, TextError
from qkv.models import ModelConfig, Sampling, build_model
from qkv.models.checkpoint import Checkpoint
from qkv.text import Corpus, Tokenizer, train_tokenizer
from qkv.text.tokenizer import Kind
from qkv.training.config import TrainingConfig
from qkv.training.evaluation import evaluate, sample_text
from qkv.training.interrupts import uninterrupted
from qkv.training.loop import StepReport, TrainingState, train
from qkv.training.precision import choose_precision
from qkv.training.rundir import RunDirectory

__all__ = ["Data", "Evaluated", "Event", "Sampled", "Saved", "choose_prompt", "drive", "start"]

SAMPLE_TOKENS = 200


@dataclass(frozen=True)
class Data:
    """A corpus as a model sees it.

    Args:
        corpus: the text.
        tokenizer: learnt from it.
        train: ids of the first part, (N,).
        validation: ids of the rest, (M,).
        validation_characters: how many characters the rest has.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    train: np.ndarray
    validation: np.ndarray
    validation_characters: int

    @classmethod
    def prepare(
        cls,
        corpus: Corpus,
        kind: Kind = "char",
        size: int | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> Data:
        """Split a corpus, learn a tokenizer where none is given, encode both parts.

        Raises:
            TextError: too little text to split.
        """
        first, rest = corpus.split()
        if len(rest) < 2:
            raise TextError(
                f"{len(corpus.text)} characters in {corpus.name}",
                "at least 20, so that a tenth can be kept for validation",
                "give more text",
            )
        # Characters see all of the text, so that none of validation is unknown; BPE learns from
        # the training part alone.
        tokenizer = tokenizer or train_tokenizer(
            kind, first if kind == "bpe" else corpus.text, size=size
        )
        return cls(corpus, tokenizer, tokenizer.encode(first), tokenizer.encode(rest), len(rest))

    def require(self, context: int) -> None:
        """Raise a TextError where the text is shorter than one context."""
        for part, ids in (("training", self.train), ("validation", self.validation[:2])):
            need = context + 1 if part == "training" else 2
            if len(ids) < need:
                raise TextError(
                    f"{len(ids)} tokens of {part} text in {self.corpus.name}",
                    f"more than the context of {context} tokens",
                    f"give more text, or a context of at most {max(1, len(ids) - 1)}",
                )

    def describe(self) -> dict[str, Any]:
        """Return what a run notes of its data."""
        return {
            "name": self.corpus.name,
            "origin": self.corpus.origin,
            "sha256": self.corpus.sha256,
            "characters": len(self.corpus.text),
            "tokenizer": self.tokenizer.kind,
            "vocab": self.tokenizer.size,
            "train_tokens": len(self.train),
            "validation_tokens": len(self.validation),
        }


@dataclass(frozen=True)
class Evaluated:
    """The loss on all of the validation text, nats a token."""

    step: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Sampled:
    """A text the model wrote after the prompt."""

    step: int
    prompt: str
    text: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint was written."""

    step: int
    path: str
    seconds: float


Event = StepReport | Evaluated | Sampled | Saved


def choose_prompt(data: Data) -> str:
    """Return a prompt that fits the text: a speaker of the plays, else how validation text begins.

    Every rung and every step is asked the same.
    """
    for speaker in ("ROMEO:", "ROMEO."):
        if speaker in data.corpus.text:
            return speaker
    beginning = data.corpus.split()[1].lstrip()[:24]
    words = beginning.split()
    return words[0] if words else data.corpus.text[:1]


def start(
    run: RunDirectory,
    model: ModelConfig,
    training: TrainingConfig,
    data: Data,
    device: str = "cpu",
    source: str | None = None,
    prompt: str | None = None,
) -> None:
    """Write a new run's settings; ``auto`` precision is settled here, so that resuming repeats it.

    Raises:
        CheckpointError: a run is there already.
        TextError: text shorter than the context.
    """
    data.require(model.context)
    if training.precision == "auto":
        training = replace(training, precision=choose_precision(device))
    described = {
        **data.describe(),
        "source": source or data.corpus.name,
        "prompt": choose_prompt(data) if prompt is None else prompt,
        "device": device,
    }
    run.create(model, training, described, data.tokenizer)


def drive(run: RunDirectory, data: Data, *, device: str = "cpu") -> Iterator[Event]:
    """Train a started run to the end of its budget, from its newest checkpoint if it has one.

    Yields every step's report, every evaluation, sample and save. Interrupted (Ctrl-C, or closed
    by its user) it saves first.

    Raises:
        TrainingError: a loss that is not a number; the last good checkpoint stays.
        ResourceError: the disk refused.
        CheckpointError: no run, or nothing readable.
    """
    config, training, described = run.read_config()
    found = run.resume()
    model = (found[0].model if found else _new_model(config, training)).to(device)
    state = TrainingState(model, training, step=found[0].step if found else 0)
    if found:
        state.restore(found[1])
    driver = _Driver(run, data, config, training, state, device, described.get("prompt", ""))
    total = training.steps(config.context)
    if found and found[0].metrics.get("finished"):
        run.write_status("finished", state.step, total)
        return
    run.write_status("running", state.step, total)
    try:
        yield from driver.learn()
        run.write_status("finished", state.step, total)
    except (KeyboardInterrupt, GeneratorExit):
        with uninterrupted():
            driver.save()
            run.write_status("interrupted", state.step, total)
        raise
    except QkvError as error:
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
    prompt: str
    last_loss: float | None = None

    def learn(self) -> Iterator[Event]:
        model, total = self.state.model, self.training.steps(self.config.context)
        if not any(p.requires_grad for p in model.parameters()):
            # Nothing to descend: counts are taken in one pass, the uniform guess needs none.
            if fit := getattr(model, "fit", None):
                fit(torch.from_numpy(self.data.train))
            self.state.step = total
            yield from self._finish()
            return
        for report in train(self.state, self.data.train, self.training, device=self.device):
            self.run.append_metrics(asdict(report))
            yield report
            if report.step == report.steps:
                break
            if _due(report.step, self.training.evaluate_every):
                yield self._evaluate()
            if _due(report.step, self.training.sample_every):
                yield self._sample()
            if _due(report.step, self.training.save_every):
                yield self._save_event()
        yield from self._finish()

    def _finish(self) -> Iterator[Event]:
        yield self._evaluate()
        yield self._sample()
        yield self._save_event(finished=True)

    def _evaluate(self) -> Evaluated:
        started = time.perf_counter()
        with self.state.averaged() as model:
            loss = evaluate(model, self.data.validation, device=self.device).loss
        self.last_loss = loss
        self.run.append_metrics({"step": self.state.step, "validation_loss": loss})
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
        self.run.append_sample({"step": self.state.step, "prompt": self.prompt, "text": text})
        return Sampled(self.state.step, self.prompt, text)

    def _save_event(self, *, finished: bool = False) -> Saved:
        started = time.perf_counter()
        with uninterrupted():
            path = self.save(finished=finished)
        return Saved(self.state.step, path, time.perf_counter() - started)

    def save(self, *, finished: bool = False) -> str:
        path = self.run.save(
            model=self.config,
            weights=self.state.weights(),
            training=self.state.tensors(),
            tokenizer=self.data.tokenizer,
            step=self.state.step,
            metrics={"validation_loss": self.last_loss, "finished": finished},
            keep=self.training.keep,
        )
        return str(path)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def finished(run: RunDirectory) -> Checkpoint | None:
    """Return a run's last checkpoint if it went to its end, else ``None``."""
    if not run.checkpoints():
        return None
    latest = run.latest()
    return latest if latest.metrics.get("finished") else None
