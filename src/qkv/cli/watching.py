"""A run as it trains: a bar, losses, the last sample, and what to do next."""

from __future__ import annotations

import shlex
import signal
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import BarColumn, Progress, TextColumn

from qkv.cli.console import (
    INTERRUPTED,
    count,
    duration,
    err,
    one_line,
    out,
    print_json,
    short_path,
)

if TYPE_CHECKING:
    from qkv.training.run import Data
    from qkv.training.rundir import RunDirectory

__all__ = ["watch_run"]


def watch_run(run: RunDirectory, data: Data, device: str, as_json: bool) -> None:
    """Drive the run, showing what happens; on Ctrl-C it is saved and the way back is told.

    Raises:
        TrainingError, ResourceError, CheckpointError: as :func:`qkv.training.run.drive`.
    """
    from qkv.training.loop import StepReport
    from qkv.training.run import Evaluated, Sampled, drive

    model, training, described = run.read_config()
    console, place = err(), short_path(run.path)
    console.print(
        f"{described['source']}: {count(described['train_tokens'])} tokens to train on, "
        f"{count(described['validation_tokens'])} for validation; seed {training.seed}, "
        f"{training.precision}; writing {place}",
        markup=False,
    )
    if training.compile == "on":
        console.print("Compiling comes first: half a minute, the first time.", style="dim")
    evaluation: Evaluated | None = None
    sample: Sampled | None = None
    started, done_before = time.perf_counter(), -1
    bar = Progress(
        TextColumn("step {task.completed:,.0f}/{task.total:,.0f}"),
        BarColumn(bar_width=None),
        TextColumn("{task.description}"),
        console=console,
        expand=True,
        disable=not console.is_terminal,
    )
    try:
        with bar, closing(drive(run, data, device=device)) as events:
            task = bar.add_task("", total=training.steps(model.context))
            for event in events:
                if isinstance(event, StepReport):
                    if done_before < 0:
                        done_before = event.step - 1
                    bar.update(task, completed=event.step, description=_pace(event, started,
                               done_before))  # fmt: skip
                    if not console.is_terminal and event.step % max(1, event.steps // 10) == 0:
                        console.print(
                            f"step {event.step:,}/{event.steps:,}  "
                            f"{_pace(event, started, done_before)}"
                        )
                elif isinstance(event, Evaluated):
                    evaluation = event
                    bar.console.print(
                        f"step {event.step:,}: validation loss [bold]{event.loss:.4f}[/]"
                    )
                elif isinstance(event, Sampled):
                    sample = event
    except KeyboardInterrupt:
        status = run.read_status()
        saved = "Saved" if status.get("state") == "interrupted" else "Stopped"
        step = status.get("step", 0)
        # Later ones would only tear this line: all that had to be saved is.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        console.print(
            f"{saved} at step {step:,}. Go on with:  qkv train --resume {shlex.quote(place)}",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    _conclude(run, evaluation, sample, as_json)


def _pace(report: Any, started: float, done_before: int) -> str:
    done = report.step - done_before
    elapsed = time.perf_counter() - started
    rate = done * (report.tokens / report.step) / max(elapsed, 1e-9)
    left = (report.steps - report.step) * elapsed / done
    return f"loss {report.loss:.3f}  {count(rate)} tokens/s  {duration(left)} left"


def _conclude(run: RunDirectory, evaluation: Any, sample: Any, as_json: bool) -> None:
    from qkv.models import has_attention

    place = short_path(run.path)
    checkpoint = run.latest()
    loss = checkpoint.metrics["validation_loss"]
    if as_json:
        print_json(
            {
                "run": str(run.path),
                "step": checkpoint.step,
                "validation_loss": loss,
                "sample": sample.text if sample else None,
            }
        )
        return
    console = out()
    if evaluation is None:
        console.print(f"This run was finished already: validation loss {loss:.4f}.")
    if sample is not None:
        console.print(f"\n[bold]{_escape(sample.prompt)}[/]{_escape(sample.text)}\n")
    console.print(f"The run is at {place}. Next:", markup=False)
    console.print(f'  qkv sample {place} --prompt "{one_line(_prompt(run))}"', markup=False)
    # A run that was fed from standard input has no text of its own to read again.
    text = " --file FILE" if run.read_config()[2].get("source") == "-" else ""
    if has_attention(checkpoint.model):
        console.print(f"  qkv inspect {place}{text}", markup=False)
        console.print(f"  qkv ablate {place} --all{text}", markup=False)
    console.print(f"  qkv prove {place}", markup=False)


def _prompt(run: RunDirectory) -> str:
    return str(run.read_config()[2].get("prompt", ""))


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)
