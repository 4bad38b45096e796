"""`qkv inspect`: what each head of a model does on a text, and one head's map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qkv.cli.console import count, err, out, print_json, short_path
from qkv.cli.exports import Exports, write_exports
from qkv.cli.options import AsJson, TokenizerFile
from qkv.cli.tracing import Seen, Source
from qkv.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from qkv.lens import AttentionMap, Trace
    from qkv.lens.heads.head_table import HeadTable
    from qkv.views.gather import Gathered

__all__ = ["inspect_command"]

SHOWN_HEADS = 10
BAR = 12
WIDE = 72
"""Columns of a terminal from which there is room for bars."""


def inspect_command(  # noqa: PLR0917 (options have names)
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A run, a checkpoint, a Hugging Face folder, a nanoGPT folder, a GGUF file, or a "
            "trace that was saved with --save.",
            show_default=False,
        ),
    ],
    text: Annotated[
        str | None,
        typer.Option(
            "--text", "-t", help="The text to read.", show_default="the run's own validation text"
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", metavar="FILE", help="Read a file, or - standard input."),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Read only the first so many tokens.", min=1)
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Only this layer, counted from 0.", show_default=False)
    ] = None,
    head: Annotated[
        int | None,
        typer.Option(help="The head to draw, counted from 0.", show_default="the most telling one"),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="SCORE",
            help="Order heads by one score: induction, previous, first, entropy, ...",
            show_default="each head's strongest above chance",
        ),
    ] = None,
    top: Annotated[int, typer.Option(help="How many heads to list.", min=0)] = SHOWN_HEADS,
    atlas: Annotated[
        bool, typer.Option("--atlas", help="Draw every head, not only the chosen one.")
    ] = False,
    linear: Annotated[
        bool, typer.Option("--linear", help="Colours by the weight, not by its logarithm.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write every head as one page, offline.", show_default=False
        ),
    ] = None,
    svg: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the head's picture.", show_default=False),
    ] = None,
    png: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The same, as PNG.", show_default=False)
    ] = None,
    pdf: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The same, as PDF.", show_default=False)
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write every score of every head.", show_default=False),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the trace, to be inspected again.", show_default=False
        ),
    ] = None,
    tokenizer_file: TokenizerFile = None,
    light: Annotated[bool, typer.Option("--light", help="Colours for a light terminal.")] = False,
    dark: Annotated[bool, typer.Option("--dark", help="Pictures on a dark page.")] = False,
    sequence: Annotated[
        int | None, typer.Option(help="Of a saved batch, the sequence to read, from 0.", min=0)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """See what each head of a model looks at: a table of all, and one head as a map.

    A Hugging Face folder that our own code can't compute runs in transformers (extra hf).

    [bold]Examples[/]

      qkv inspect runs/six --text "ROMEO: But soft, what light"

      qkv inspect runs/six --layer 3 --head 1 --file scene.txt --svg L3H1.svg

      qkv inspect model.gguf --text "one two one two" --sort induction --html heads.html

      qkv inspect runs/six --save six.safetensors

      qkv inspect six.safetensors --atlas
    """
    from qkv.views.gather import gather
    from qkv.views.heads import ranked

    exports = Exports(html, svg, png, pdf, csv, save)
    exports.check()
    _check_sort(sort)
    source = Source(model, text, file, tokens, tokenizer_file, sequence)
    trace, seen = source.trace(values=sort == "norm", quiet=as_json)
    gathered = gather(trace, layer=layer, head=head, title=seen.title, note=seen.note)
    with _progress("scoring heads", quiet=as_json or gathered.quick) as progress:
        gathered = gathered.scored(progress)
    assert gathered.table is not None
    if sort is not None and not (layer is not None and head is not None):
        gathered = replace(gathered, telling=ranked(gathered.table, sort).rows[0].name)
    chosen = gathered.maps[gathered.telling]
    if not as_json:
        console = out()
        console.print(_heading(seen, gathered), style="dim", markup=False)
        if len(gathered.maps) > 1 and top:
            _print_table(console, gathered, sort, top, light=light)
        _print_maps(console, gathered, chosen, atlas=atlas, log=not linear, light=light)
    written = write_exports(exports, trace, gathered, atlas=atlas, log=not linear, dark=dark)
    if as_json:
        print_json(_as_data(seen, trace, gathered, chosen, written))
        return
    for path, what, size in written:
        out().print(f"wrote {short_path(path)}  {what}, {size}", markup=False, soft_wrap=True)


def _check_sort(sort: str | None) -> None:
    from qkv.lens.heads.head_scores import FORMULAS

    if sort is not None and sort not in FORMULAS:
        raise ConfigError(f"--sort {sort}", f"one of {', '.join(FORMULAS)}", "choose one")


@contextmanager
def _progress(what: str, *, quiet: bool) -> Iterator[Callable[[float], None] | None]:
    """A bar on standard error, for what takes more than a moment."""
    from rich.progress import Progress

    console = err()
    if quiet or not console.is_terminal:
        yield None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        yield lambda done: bar.update(task, completed=done)


def _heading(seen: Seen, gathered: Gathered) -> str:
    heads, layers = len(gathered.maps), len(gathered.layers)
    parts = [
        seen.title,
        seen.note,
        f"{layers} layer{'s' * (layers != 1)}, {heads} head{'s' * (heads != 1)}",
        seen.tokens,
    ]
    return " · ".join(part for part in parts if part)


def _print_table(
    console: Console, gathered: Gathered, sort: str | None, top: int, *, light: bool
) -> None:
    assert gathered.table is not None
    console.print()
    console.print(head_table(gathered.table, gathered.telling, sort, top, console, light=light))
    more = len(gathered.table) - top
    if more > 0:
        console.print(f"and {count(more)} more: --top, --sort, --csv", style="dim", markup=False)
    for note in gathered.table.notes:
        console.print(note, style="dim", markup=False)


def head_table(
    table: HeadTable,
    marked: str,
    sort: str | None,
    top: int,
    console: Console,
    *,
    light: bool = False,
) -> Table:
    """Return the first heads as a table, with bars from chance to perfect where there is room."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from qkv.views import DARK, LIGHT
    from qkv.views.heads import head_lines, lift_of, ranked

    colors = LIGHT if light else DARK
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    names, lines = head_lines(table, top, sort)
    for place, name in enumerate(names):
        shown.add_column(name, justify="left" if place < 2 else "right", no_wrap=True)
    bars = console.width >= WIDE
    if bars:
        shown.add_column("chance to perfect" if console.width >= WIDE + 20 else "", no_wrap=True)
    for row, line in zip(ranked(table, sort), lines, strict=False):
        cells: list[Any] = [Text(cell) for cell in line]
        if bars:
            lift = lift_of(row, sort)
            width = max(0, round(min(lift or 0.0, 1.0) * BAR))
            sign = "#" if console.options.ascii_only else "━"
            cells.append(Text(sign * width, style=colors.shade(0.72)))
        shown.add_row(*cells, style="bold" if row.name == marked else None)
    return shown


def _print_maps(
    console: Console,
    gathered: Gathered,
    chosen: AttentionMap,
    *,
    atlas: bool,
    log: bool,
    light: bool,
) -> None:
    from qkv.views.terminal import heatmap, thumbnails

    console.print()
    if atlas:
        console.print(thumbnails(gathered.maps.values(), log=log, light=light, marked=chosen.name))
        console.print()
    console.print(heatmap(chosen, log=log, light=light))


def _as_data(
    seen: Seen,
    trace: Trace,
    gathered: Gathered,
    chosen: AttentionMap,
    written: list[tuple[Path, str, str]],
) -> dict[str, Any]:
    """Everything that was found, for a program."""
    assert gathered.table is not None
    strongest, row = chosen.strongest(), gathered.table[chosen.name]
    return {
        "model": seen.title,
        "tokens": [text.encode("utf-8", "replace").decode() for text in trace.texts],
        **gathered.table.to_dict(),
        "chosen": {
            "name": chosen.name,
            "role": row.role,
            "queries": chosen.Q,
            "keys": chosen.K,
            "sentence": chosen.sentence(),
            "strongest": None if strongest is None else strongest._asdict(),
            "entropy": [float(x) for x in chosen.entropy()],
            "received": [float(x) for x in chosen.received()],
        },
        "written": [{"file": str(path), "what": what, "bytes": path.stat().st_size}
                    for path, what, _ in written],
    }  # fmt: skip
