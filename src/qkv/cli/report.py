"""What a ladder shows when it is done: the table, the proofs, one trained head, what next."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from qkv.cli.console import count, duration, one_line, short_path
from qkv.cli.proofs import print_proofs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qkv.lens import AttentionMap
    from qkv.models.checkpoint import Checkpoint
    from qkv.training.ladder import Plan, RungResult
    from qkv.training.run import Data

__all__ = ["print_report"]

PASSAGE_TOKENS = 40
FIXED_WIDTH = 74
"""Columns of a terminal that the table needs before its samples."""
SAMPLE_WIDTH = 28
"""Columns below which samples stand under the table."""


def print_report(
    console: Console, folder: Path, plan: Plan, data: Data, results: Sequence[RungResult]
) -> None:
    """Print all that a finished ladder has to say."""
    console.print()
    console.print(ladder_table(plan, results, console.width))
    if console.width - FIXED_WIDTH < SAMPLE_WIDTH:
        _print_samples(console, plan, results)
    best = min(results, key=lambda result: result.loss)
    uniform = math.log(data.tokenizer.size)
    console.print()
    console.print(
        f"Loss: nats a token, over {count(len(data.validation) - 1)} tokens of validation text; "
        f"guessing is {uniform:.3f}. “Looks back” is measured: the farthest token whose change "
        "moves the prediction.",
        style="dim",
    )
    _print_best(console, plan, best)
    shown = next((r for r in reversed(results) if _has_attention(r)), None)
    if shown is not None:
        checkpoint = _load(shown)
        _print_proofs(console, shown, checkpoint, data)
        _print_head(console, shown, checkpoint, data, plan)
    _print_next(console, folder, shown or best)


def ladder_table(plan: Plan, results: Sequence[RungResult], width: int) -> Table:
    """Return the table of rungs; samples stand at the right where there is room, else below."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("rung", no_wrap=True)
    for name in ("parameters", "context", "looks back", "loss", "time"):
        table.add_column(
            name, justify="right", no_wrap=True, style="bold" if name == "loss" else None
        )
    room = width - FIXED_WIDTH
    beside = room >= SAMPLE_WIDTH
    if beside:
        table.add_column(f"after “{escape(one_line(plan.prompt))}”", no_wrap=True)
    for result in results:
        row = [
            result.title,
            f"{result.parameters:,}",
            str(result.context),
            str(result.influence.reach),
            f"{result.loss:.3f}",
            duration(result.seconds),
        ]
        # Cut by the letter, not the word: the lower rungs have no words.
        text = Text(one_line(result.sample)[: min(room, 72)], style="italic")
        table.add_row(*row, *([text] if beside else []))
    return table


def _print_samples(console: Console, plan: Plan, results: Sequence[RungResult]) -> None:
    width = console.width - 2
    console.print(f"\nAfter “{escape(one_line(plan.prompt))}”:")
    for result in results:
        text = one_line(result.sample)
        console.print(Text(result.title, style="bold"))
        for line in (text[:width], text[width : 2 * width]):
            console.print(Text(f"  {line}", style="italic"), soft_wrap=True)


def _print_best(console: Console, plan: Plan, best: RungResult) -> None:
    """Print the best rung's text as text, in its own lines."""
    console.print(f"\n[bold]What the best of them writes: {escape(best.title)}[/]")
    console.print(Text(plan.prompt, style="bold").append(best.sample, style="not bold italic"))


def _has_attention(result: RungResult) -> bool:
    from qkv.models import has_attention
    from qkv.models.assembly import outline
    from qkv.training.rundir import RunDirectory

    return has_attention(outline(RunDirectory(result.run).read_config()[0]))


def _load(result: RungResult) -> Checkpoint:
    from qkv.training.rundir import RunDirectory

    return RunDirectory(result.run).latest()


def _print_proofs(console: Console, result: RungResult, checkpoint: Checkpoint, data: Data) -> None:
    from qkv.training.proofs import prove

    console.print(f"\n[bold]Proved on the trained weights of: {escape(result.title)}[/]")
    print_proofs(console, prove(checkpoint.model, data.validation))


def _print_head(
    console: Console, result: RungResult, checkpoint: Checkpoint, data: Data, plan: Plan
) -> None:
    """Draw the head that looks most decidedly at other tokens, on a passage it has not seen."""
    from qkv.views.terminal import heatmap

    chosen = decided_head(checkpoint, data, plan)
    layer, head = chosen.name[1:].split("H")
    console.print(
        f"\n[bold]One trained head of: {escape(result.title)}[/]  "
        f"[dim]layer {layer}, head {head}, which most picks out single tokens[/]"
    )
    console.print(heatmap(chosen, width=console.width))


def decided_head(checkpoint: Checkpoint, data: Data, plan: Plan) -> AttentionMap:
    """Return the head that gives single other tokens the most weight, on validation text."""
    import torch

    from qkv.lens import capture

    text = data.corpus.split()[1]
    # From the prompt where the text has it, else from the first paragraph that is whole.
    start = max(text.find(plan.prompt), 0) or text.find("\n\n") + 1
    text = text[start:].lstrip()
    ids = data.tokenizer.encode(text[:400])
    ids = ids[: min(PASSAGE_TOKENS, checkpoint.config.context)]
    labels = [data.tokenizer.label(int(token)) for token in ids]
    with torch.inference_mode(), capture() as trace:
        checkpoint.model(torch.from_numpy(ids)[None])
    trace.label(labels)

    def decided(head: AttentionMap) -> float:
        pattern = head.pattern()
        others = [pattern[row, 1:row].max() for row in range(2, len(pattern))]
        return float(sum(others)) / max(1, len(others))

    return max(trace, key=decided)


def _print_next(console: Console, folder: Path, shown: RungResult) -> None:
    run = shlex.quote(short_path(shown.run))
    console.print(f"\nThe run directories are in [bold]{escape(short_path(folder))}[/]. Next:")
    told = {
        f"qkv sample {run}": "more of its text",
        f"qkv prove {run}": "the proofs again, and how far back it looks",
        "qkv steps --help": "one step of attention by hand",
        "qkv demo --data notes.txt": "the same ladder on your own text",
    }
    if _has_attention(shown):
        told = {f"qkv inspect {run}": "where each of its heads looks", **told}
    widest = max(map(len, told))
    for command, why in told.items():
        console.print(Text(f"  {command:<{widest}}").append(f"  {why}", style="dim"))
