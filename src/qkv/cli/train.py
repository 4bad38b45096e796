"""`qkv train`: one model, from a text to a run directory."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qkv.cli.console import notice, parse_settings
from qkv.cli.estimate import print_estimate
from qkv.cli.options import (
    AsJson,
    DataSource,
    Device,
    Seed,
    Settings,
    check_device,
    require_alone,
)
from qkv.cli.watching import watch_run
from qkv.errors import ResourceError

if TYPE_CHECKING:
    from qkv.training.run import Data
    from qkv.training.rundir import RunDirectory


def train_command(  # noqa: PLR0917 (options have names)
    context: typer.Context,
    preset: Annotated[
        str, typer.Option(help="The recipe: tiny, small, gpt2, or a rung of the ladder.")
    ] = "small",
    data: DataSource = "shakespeare",
    tokenizer: Annotated[
        Literal["char", "byte", "bpe"], typer.Option(help="How text becomes tokens.")
    ] = "char",
    vocab_size: Annotated[
        int | None, typer.Option(help="For bpe: tokens in the vocabulary.", min=257)
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Tokens to train on, as 2000000 or 2M.", show_default=False)
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The run directory to write.", show_default=False),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(help="Go on with this run, from its last checkpoint.", show_default=False),
    ] = None,
    settings: Settings = None,
    seed: Seed = 0,
    probe: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What heads are watched on while they learn; `qkv inspect RUN --step N` shows it.",
            show_default="how a paragraph of validation text begins",
        ),
    ] = None,
    device: Device = "cpu",
    dry_run: Annotated[
        bool,
        typer.Option(help="Say parameters, memory, FLOPs and time, and write nothing."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train one model on a text, into a run directory.

    Ctrl-C saves and says how to go on. Any field of the config can be set:
    layers, width, heads, context, learning_rate, batch, tokens, save_every, ...

    [bold]Examples[/]

      qkv train --data notes.txt

      qkv train --preset tiny --data notes.txt

      qkv train --dry-run

      qkv train --preset transformer --set layers=6 --set context=128 --out runs/six

      qkv train --tokenizer bpe --vocab-size 1024 --data ./books

      qkv train --resume runs/six
    """
    tell = notice(quiet=as_json)
    if resume is not None:
        require_alone(context, "device", "data", "as_json")
        run, prepared = _reopen(resume, data, tell)
        source = context.get_parameter_source("device")
        if source is not None and source.name == "DEFAULT":
            device = str(run.read_config()[2].get("device", device))
        check_device(device)
    else:
        check_device(device)
        run, prepared = _open(
            preset, data, tokenizer, vocab_size, budget, out_folder, settings, seed, probe,
            device, dry_run, as_json, tell,
        )  # fmt: skip
        if run is None:
            return
    watch_run(run, prepared, device, as_json)


def _open(  # noqa: PLR0917 (options have names)
    preset: str,
    source: str,
    kind: Literal["char", "byte", "bpe"],
    vocab_size: int | None,
    budget: str | None,
    out_folder: Path | None,
    pairs: list[str] | None,
    seed: int,
    probe: str | None,
    device: str,
    dry_run: bool,
    as_json: bool,
    tell: Any,
) -> tuple[Any, Data]:
    """Load the text, settle the configs, and start the run directory (none for a dry run)."""
    from qkv.text import load_corpus
    from qkv.training.budgets import parse_tokens
    from qkv.training.precision import require_fast_steps
    from qkv.training.probes import require_passage
    from qkv.training.recipes import configure, find_preset, require_enough
    from qkv.training.run import Data, start
    from qkv.training.rundir import RunDirectory

    recipe = find_preset(preset)
    settings = parse_settings(pairs)
    over: dict[str, Any] = {"seed": seed}
    if budget is not None:
        over["tokens"] = parse_tokens(budget)
    if out_folder is not None and not dry_run:
        require_writable(out_folder)
        RunDirectory(out_folder).require_new()
    # Settings are checked before the text is fetched; the vocabulary is not known yet.
    model, training = configure(recipe, 256, settings, **over)
    require_fast_steps(training, model, device)
    data = Data.prepare(load_corpus(source, notice=tell), kind, vocab_size)
    model, training = configure(recipe, data.tokenizer.size, settings, **over)
    if probe is not None:
        probe = probe.replace("\\n", "\n")
        require_passage(probe, data.tokenizer, model, training)
    if budget is None and "tokens" not in settings:
        data.require(model.context)
        require_enough(recipe, training.tokens, data)
    if dry_run:
        print_estimate(recipe, model, training, data, as_json)
        return None, data
    run = RunDirectory(out_folder or new_folder(Path("runs"), preset, time.time()))
    start(run, model, training, data, device, source=remember_source(source, data), probe=probe)
    return run, data


def remember_source(source: str, data: Data) -> str:
    """Return what finds the same text again, from any folder.

    A name stands for what it gave: where `shakespeare` could not be had, `plays`.
    """
    from qkv.text import available_corpora

    if source == "-":
        return source
    return data.corpus.name if source in available_corpora() else str(Path(source).resolve())


def _reopen(folder: Path, source: str, tell: Any) -> tuple[RunDirectory, Data]:
    """Return a run that was begun, with the very text it was begun with."""
    from qkv.errors import CheckpointError
    from qkv.text import load_corpus, tokenizer_from_json
    from qkv.training.run import Data
    from qkv.training.rundir import RunDirectory

    run = RunDirectory(folder)
    _, _, described = run.read_config()
    noted = described.get("source", source)
    corpus = load_corpus(source if noted == "-" else noted, notice=tell)
    if corpus.sha256 != described.get("sha256"):
        raise CheckpointError(
            f"another text at {noted} than the run was started with",
            f"sha256 {str(described.get('sha256'))[:12]}…",
            "restore the text, or start a new run",
        )
    return run, Data.prepare(corpus, tokenizer=tokenizer_from_json(run.read_tokenizer()))


def require_writable(folder: Path) -> None:
    """Raise a ResourceError where a folder cannot be made or written, before any work is done."""
    try:
        there = next(
            (path for path in (folder, *folder.absolute().parents) if path.exists()), folder
        )
    except OSError as error:
        raise ResourceError(
            f"{error.strerror!r} for {str(folder)[:80]}…", "a path", "choose another --out"
        ) from error
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ResourceError(
            f"{there}, where nothing can be written",
            "a folder that may be written",
            "choose another --out",
        )


def new_folder(parent: Path, name: str, now: float) -> Path:
    """Return a folder that is not there yet, named by what and when."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    folder, number = parent / f"{name}-{stamp}", 1
    while folder.exists():
        number += 1
        folder = parent / f"{name}-{stamp}-{number}"
    return folder
