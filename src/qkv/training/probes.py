"""Probes: one passage, read at steps spaced by logarithm, and what each head looked at.

A probe is a trace saved in one byte a number, with the head scores of the saved numbers beside it.
It reads the model as evaluations do and changes nothing of it: the losses of a run are the same to
the last bit with probes and without.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from qkv.attention.threads import one_thread
from qkv.errors import ConfigError
from qkv.lens import Trace, capture, load
from qkv.models import ModelConfig, Sampling, has_attention
from qkv.models.assembly import outline
from qkv.text import Tokenizer
from qkv.training.config import TrainingConfig
from qkv.training.evaluation import sample_text
from qkv.training.interrupts import uninterrupted
from qkv.training.pacing import Pace, probe_steps

if TYPE_CHECKING:
    from qkv.lens.heads.head_table import HeadTable
    from qkv.training.loop import StepReport, TrainingState
    from qkv.training.probe_files import ProbeFiles

__all__ = ["Probed", "Prober", "require_passage", "told_scores"]

SAMPLE_TOKENS = 32
"""Of a sample, at most: with the prompt it stays within the context."""
SAMPLE_SHARE = 1 / 3
"""Of the time of probes, what samples may take."""
LEAST_SECONDS = 0.1
"""What heads look at may take so long in a run of a second too: nobody notices."""


@dataclass(frozen=True)
class Probed:
    """The passage was read, and what heads looked at was written."""

    step: int
    path: str
    seconds: float


def require_passage(
    passage: str, tokenizer: Tokenizer, model: ModelConfig, training: TrainingConfig
) -> None:
    """Raise where a passage that was asked for can't be probed.

    Raises:
        ConfigError: an empty one, one longer than the context, probes that are switched off, or a
            model without attention.
        TextError: characters that the tokenizer doesn't know.
    """
    if not passage:
        raise ConfigError("an empty probe", "a few words", "give some, or leave --probe out")
    tokens, most = len(tokenizer.encode(passage)), model.context
    if tokens > most:
        raise ConfigError(
            f"a probe of {tokens:,} tokens",
            f"at most the context, {most:,}",
            f"shorten it, or add --set context={tokens}",
        )
    if not training.probes:
        raise ConfigError("a probe and probes=0", "2 or more", "leave one of them out")
    if not has_attention(outline(model)):
        raise ConfigError(
            f"a probe of {model.kind}, which has no attention",
            "a model with heads",
            "leave --probe out, or choose --preset one-head or a later rung",
        )


class Prober:
    """Makes a run's probes between its steps: the first, the last, and what their share allows.

    Two thirds of the share are for what heads look at, one for samples, which take longer; both are
    spaced by logarithm (`Pace`). Step 0 is made after the second step, when it is known what a step
    takes, from weights drawn anew. In a run of seconds they may take more than the share, and have
    no samples.

    Args:
        files: where they are written.
        state: what is trained.
        training: the seed, how many probes, and their share.
        steps: of the run.
        tokenizer: of the run.
        passage: what is read.
        prompt: what samples go on from.
        untrained: gives the model of step 0.
        device: where the model is.
        past: the seconds of the steps that were taken before.
    """

    def __init__(
        self,
        files: ProbeFiles,
        state: TrainingState,
        training: TrainingConfig,
        *,
        steps: int,
        tokenizer: Tokenizer,
        passage: str,
        prompt: str,
        untrained: Callable[[], nn.Module],
        device: str,
        past: Sequence[float] = (),
    ) -> None:
        self.files, self.state, self.training = files, state, training
        self.tokenizer, self.prompt = tokenizer, prompt
        self.untrained, self.device = untrained, device
        self.ids = torch.from_numpy(np.asarray(tokenizer.encode(passage), np.int64))[None]
        plan = probe_steps(steps, training.probes)
        self.reading = Pace(
            plan,
            training.probe_share * (1 - SAMPLE_SHARE),
            least_seconds=LEAST_SECONDS if training.probe_share else 0.0,
            ends=True,
        )
        self.sampling = Pace(plan, training.probe_share * SAMPLE_SHARE)
        for line in files.read():
            if line["step"] not in plan:
                continue  # where the run was stopped: what is planned stays as it was
            writing = line.get("sample_seconds")
            self.reading.note(line["step"], line.get("seconds", 0.0) - (writing or 0.0))
            if writing is not None:
                self.sampling.note(line["step"], writing)
        # The first step warms up.
        self._timed, self._seconds = len(past) - 1, sum(past[1:])

    def after(self, report: StepReport) -> Iterator[Probed]:
        """Make the probes that are due when a step was taken, if any."""
        self._timed += 1
        if self._timed > 0:
            self._seconds += report.seconds
        yield from self.catch_up(report)

    def catch_up(self, report: StepReport) -> Iterator[Probed]:
        """Make the probes that are due after a step whose time was counted already, if any.

        Args:
            report: of the last step, which may have been taken before the run was interrupted.
        """
        if self._timed < 1 and report.step < report.steps:
            return
        a_step = self._seconds / self._timed if self._timed > 0 else report.seconds
        if self.reading.due(0, a_step):
            yield from self._probe(self.untrained(), 0, None, a_step)
        if self.reading.due(report.step, a_step):
            with self.state.averaged() as model:
                found = list(self._probe(model, report.step, report, a_step))
            yield from found

    def read_last(self, report: StepReport) -> None:
        """Make a probe at the step with which a run ends early, planned or not.

        Before the second step there is none: what came first is made with it.
        """
        if report.step in self.reading.done or self._timed < 1:
            return
        with self.state.averaged() as model:
            for _ in self._probe(model, report.step, report, math.inf, last=True):
                pass

    def _probe(
        self,
        model: nn.Module,
        step: int,
        report: StepReport | None,
        step_seconds: float,
        *,
        last: bool = False,
    ) -> Iterator[Probed]:
        started = time.perf_counter()
        path = self.files.path(step)
        # A passage is small: a second thread only waits for the first, and costs three times that.
        with one_thread():
            trace, loss = self._read(model)
            if not math.isfinite(loss):
                return  # the loop says what is to be said of it
            self.files.make_folder()
            trace.save(path, "int8")
            table = load(path).heads()
        self.reading.note(step, time.perf_counter() - started)
        sample = None
        # Who stops a run waits: where samples took too long for it, there is none at its end.
        if bool(self.sampling.done) if last else self.sampling.due(step, step_seconds):
            began = time.perf_counter()
            sample = self._sample(model)
            self.sampling.note(step, time.perf_counter() - began)
        seconds = time.perf_counter() - started
        line = {
            "step": step,
            "tokens": report.tokens if report else 0,
            "loss": report.loss if report else None,
            "passage_loss": loss,
            "file": path.name,
            "bytes": path.stat().st_size,
            "seconds": seconds,
            "sample_seconds": self.sampling.done.get(step),
            "sample": sample,
            "heads": told_scores(table),
        }
        with uninterrupted():
            self.files.append(line)
        yield Probed(step, str(path), seconds)

    @torch.no_grad()
    def _read(self, model: nn.Module) -> tuple[Trace, float]:
        """What each head looks at, and the loss on the passage, nats a token."""
        training = model.training
        model.eval()
        try:
            with capture(model, tokenizer=self.tokenizer) as trace:
                logits = model(self.ids.to(self.device))
        finally:
            model.train(training)
        if self.ids.shape[1] < 2:
            return trace, 0.0
        told = logits[0, :-1].float().cpu()
        return trace, float(F.cross_entropy(told, self.ids[0, 1:]))

    def _sample(self, model: nn.Module) -> str:
        context = int(model.config.context)  # type: ignore[union-attr, arg-type]
        room = context - len(self.tokenizer.encode(self.prompt)) if self.prompt else context
        return sample_text(
            model,
            self.tokenizer,
            self.prompt,
            max(1, min(SAMPLE_TOKENS, room)),
            Sampling(temperature=0.8, seed=self.training.seed),
            device=self.device,
        )


def told_scores(table: HeadTable) -> dict[str, Any]:
    """Each head's role, its lift, and each score with its chance, to four decimals."""
    return {
        row.name: {
            "role": row.role,
            "lift": None if row.lift is None else round(row.lift, 4),
            "scores": {
                name: [round(score.score, 4), None if score.chance is None else
                       round(score.chance, 4)]
                for name, score in row.scores.items()
                if score is not None
            },
        }
        for row in table
    }  # fmt: skip
