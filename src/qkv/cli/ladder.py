"""`qkv ladder` and `qkv demo`: every model from bigram to Transformer, one command, one table."""

from __future__ import annotations

import shlex
import signal
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qkv.cli.console import (
    INTERRUPTED,
    count,
    duration,
    err,
    notice,
    out,
    parse_settings,
    print_json,
    short_path,
)
from qkv.cli.options import AsJson, DataSource, Seed, Settings, require_alone
from qkv.cli.train import new_folder, remember_source, require_writable

if TYPE_CHECKING:
    from qkv.training.ladder import Plan, RungResult
    from qkv.training.run import Data

TOKENS = 1_000_000
AT_MOST_SECONDS = 135.0
AT_LEAST_TOKENS = 300_000
"""With fewer nothing is learnt worth seeing: a slow machine takes longer instead."""

Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        "-b",
        help="Tokens for each rung (500k, 2M), or time for the whole ladder (60s, 5min).",
        show_default=f"{TOKENS:,} tokens, or what {AT_MOST_SECONDS:.0f} s allow",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder for the run directories.", show_default="runs/…"),
]


def demo_command(
    data: DataSource = "shakespeare",
    budget: Budget = None,
    out_folder: Out = None,
    seed: Seed = 0,
) -> None:
    """Train every model from bigram to Transformer on Shakespeare, and show what attention gives.

    This is `qkv ladder` with its defaults: the same text and the same number of tokens for each
    rung, then one table, the proofs on the trained weights, and one trained head.

    [bold]Examples[/]

      qkv demo

      qkv demo --data notes.txt --budget 60s
    """
    from qkv.training.budgets import parse_budget

    if budget is not None:
        parse_budget(budget)  # a wrong one is told before anything else
    err().print("[dim]qkv demo is `qkv ladder` with its defaults.[/]")
    _ladder(None, data, "char", budget, out_folder, None, None, seed, as_json=False)


def ladder_command(  # noqa: PLR0917 (options have names)
    context: typer.Context,
    rungs: Annotated[
        str | None,
        typer.Option(help="Some of the rungs, by name and comma.", show_default="all of them"),
    ] = None,
    data: DataSource = "shakespeare",
    tokenizer: Annotated[
        Literal["char", "byte", "bpe"], typer.Option(help="How text becomes tokens.")
    ] = "char",
    budget: Budget = None,
    out_folder: Out = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with the ladder in this folder.", show_default=False),
    ] = None,
    settings: Settings = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Train the rungs of the ladder under one equal budget, and print one table.

    Rungs: uniform, bigram-counts, bigram, average, rnn, wavenet, one-head, heads, feed-forward,
    residual, norm, transformer. What `--set` names is laid over every rung that has it.

    [bold]Examples[/]

      qkv ladder --rungs one-head,heads,transformer --budget 2M

      qkv ladder --data ./books --budget 5min --set context=128 --json

      qkv ladder --resume runs/ladder-20260101-120000
    """
    if resume is not None:
        require_alone(context, "data", "as_json")
    _ladder(rungs, data, tokenizer, budget, out_folder, resume, settings, seed, as_json=as_json)


def _ladder(  # noqa: PLR0917 (options have names)
    rungs: str | None,
    source: str,
    kind: Literal["char", "byte", "bpe"],
    budget: str | None,
    out_folder: Path | None,
    resume: Path | None,
    pairs: list[str] | None,
    seed: int,
    *,
    as_json: bool,
) -> None:
    from qkv.cli.report import print_report
    from qkv.training.budgets import parse_budget
    from qkv.training.ladder import estimate_seconds, read_plan, time_rungs
    from qkv.training.recipes import find_preset

    tell = notice(quiet=as_json)
    tokens, seconds = parse_budget(budget) if budget is not None else (None, None)
    if resume is not None:
        folder, plan = resume, read_plan(resume)
        data = load_data(plan.source, plan.tokenizer, tell)  # type: ignore[arg-type]
        presets = [find_preset(name) for name in plan.rungs]
        costs = time_rungs(presets, data, plan.settings)
    else:
        folder = out_folder or new_folder(Path("runs"), "ladder", time.time())
        plan, data, costs = _plan(
            rungs, source, kind, tokens, seconds, parse_settings(pairs), seed, folder, tell
        )
    expected = estimate_seconds(costs, plan.tokens, data)
    err().print(
        f"{data.corpus.name}: {count(len(data.corpus.text))} characters, vocabulary "
        f"{data.tokenizer.size}; {count(plan.tokens)} tokens for each of {len(plan.rungs)} rungs; "
        f"seed {plan.seed}; about {duration(sum(expected))}",
        markup=False,
    )
    results = _climb(folder, plan, data, expected)
    if as_json:
        print_json({"plan": asdict(plan), "results": [asdict(result) for result in results]})
        return
    print_report(out(), folder, plan, data, results)


def load_data(source: str, kind: Literal["char", "byte", "bpe"], tell: Any) -> Data:
    """Load, split and encode a corpus."""
    from qkv.text import load_corpus
    from qkv.training.run import Data

    return Data.prepare(load_corpus(source, notice=tell), kind)


def _plan(  # noqa: PLR0917 (options have names)
    rungs: str | None,
    source: str,
    kind: Literal["char", "byte", "bpe"],
    tokens: int | None,
    seconds: float | None,
    settings: dict[str, str],
    seed: int,
    folder: Path,
    tell: Any,
) -> tuple[Plan, Data, list[float]]:
    """Choose the rungs, load the text, time the rungs, settle the budget."""
    from qkv.training.ladder import (
        Plan,
        check_settings,
        estimate_seconds,
        fit_budget,
        select_rungs,
        time_rungs,
    )
    from qkv.training.run import choose_prompt

    chosen = select_rungs(rungs)
    check_settings(chosen, settings)
    check_new(folder)
    require_writable(folder)
    data = load_data(source, kind, tell)
    started = time.perf_counter()
    with err().status(f"Timing {len(chosen)} rungs, a second each at most …"):
        costs = time_rungs(chosen, data, settings)
    spent = time.perf_counter() - started
    if tokens is None:
        tokens = fit_budget(costs, (seconds or AT_MOST_SECONDS) - spent, data)
        if seconds is not None and sum(estimate_seconds(costs, tokens, data)) > seconds + 1:
            tell(f"{seconds:g} s are too short to see anything: {tokens:,} tokens a rung it is.")
        if seconds is None:
            tokens = min(TOKENS, max(AT_LEAST_TOKENS, tokens))
            if tokens < TOKENS:
                tell(
                    f"This machine is slow or busy: {tokens:,} tokens a rung, not {TOKENS:,}, to "
                    f"end within {AT_MOST_SECONDS:.0f} s"
                    + ("." if tokens > AT_LEAST_TOKENS else ", or later: fewer show nothing.")
                )
        if tokens < AT_LEAST_TOKENS:
            tell(f"With {tokens:,} tokens the deeper rungs learn little yet: counting may win.")
    plan = Plan(
        rungs=[rung.name for rung in chosen],
        tokens=tokens,
        seed=seed,
        source=remember_source(source, data),
        tokenizer=kind,
        prompt=choose_prompt(data),
        settings=settings,
    )
    return plan, data, costs


def check_new(folder: Path) -> None:
    """Raise a CheckpointError where a ladder, or anything else, is in the folder already."""
    from qkv.errors import CheckpointError
    from qkv.training.rundir import RunDirectory

    if (folder / "ladder.json").exists():
        raise CheckpointError(
            f"a ladder at {folder} already",
            "a new folder",
            f"go on with `qkv ladder --resume {folder}`, or choose another --out",
        )
    RunDirectory(folder).require_new()


def _climb(folder: Path, plan: Plan, data: Data, expected: list[float]) -> list[RungResult]:
    """Train the rungs with a live display; Ctrl-C saves and tells the way back."""
    from qkv.cli.progress import LadderProgress
    from qkv.training.ladder import Climbed, climb

    results = []
    try:
        with (
            LadderProgress(err(), plan, data, expected) as display,
            closing(climb(folder, plan, data)) as events,
        ):
            for event in events:
                display.show(event)
                if isinstance(event, Climbed):
                    results.append(event.result)
    except KeyboardInterrupt:
        # Later ones would only tear this line: all that had to be saved is.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        err().print(
            f"Saved. Go on with:  qkv ladder --resume {shlex.quote(short_path(folder))}",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(INTERRUPTED) from None
    return results
