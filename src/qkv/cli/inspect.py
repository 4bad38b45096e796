"""`qkv inspect`: what each head of a model does on a text, and one head's map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qkv.cli.console import count, counted, err, lines_of, out, print_json, short_path
from qkv.cli.exports import Exports, check_page, write_exports
from qkv.cli.head_list import head_table
from qkv.cli.options import AsJson, Text, TokenizerFile
from qkv.cli.startup import load_torch
from qkv.cli.tracing import Seen, Source
from qkv.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from rich.console import Console

    from qkv.lens import AttentionMap, Trace
    from qkv.views.gather import Gathered

__all__ = ["inspect_command"]

SHOWN_HEADS = 10


def inspect_command(  # noqa: PLR0917 (options have names)
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL",
            help="A run, a checkpoint, a Hugging Face folder, a nanoGPT folder, a GGUF file, or a "
            "trace that was saved with --save.",
            show_default="the model that comes with qkv",
        ),
    ] = None,
    text: Text = None,
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
        typer.Option(help="The head to draw, counted from 0.", show_default="the first listed"),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="SCORE",
            help="Order heads by one score: induction, previous, first, entropy, ...",
            show_default="each head's own lift above chance",
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
            metavar="FILE",
            help="Write every head as one page, offline: up to 268 million weights, as of 144 "
            "heads and 1,365 tokens.",
            show_default=False,
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
    step: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="What heads looked at after N steps of training, of a run or of the model that "
            "comes with qkv: the nearest probe.",
            show_default=False,
            min=0,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """See what each head of a model looks at: a table of all, and one head as a map.

    A Hugging Face folder that our own code can't compute runs in transformers (extra hf).

    [bold]Examples[/]

      qkv inspect --text "ROMEO: Romeo, wherefore art thou Romeo?"

      qkv inspect --step 87

      qkv inspect runs/six --text "ROMEO: But soft, what light"

      qkv inspect runs/six --layer 3 --head 1 --file scene.txt --svg L3H1.svg

      qkv inspect model.gguf --text "one two one two" --sort induction --html heads.html

      qkv inspect runs/six --save six.safetensors

      qkv inspect six.safetensors --atlas

      qkv inspect runs/six --step 100
    """
    from qkv.views.gather import gather
    from qkv.views.heads import ranked

    exports = Exports(html, svg, png, pdf, csv, save)
    exports.check()
    load_torch()
    _check_sort(sort)
    source = Source(model, text, file, tokens, tokenizer_file, sequence, step)
    page = _Page(exports, layer, head)
    trace, seen = source.trace(values=sort == "norm", quiet=as_json, before=page.check)
    gathered = gather(trace, layer=layer, head=head, title=seen.title, note=seen.note)
    for each in gathered.layers:
        page.check(max(each.maps[0].Q, each.maps[0].K), len(gathered.layers), len(each.maps))
    with _progress("scoring heads", quiet=as_json or gathered.quick) as progress:
        gathered = gathered.scored(progress)
    assert gathered.table is not None
    if sort is not None and not (layer is not None and head is not None):
        gathered = replace(gathered, telling=ranked(gathered.table, sort).rows[0].name)
    chosen = gathered.maps[gathered.telling]
    # Files come first: whoever reads the rest may leave early, as `head` does.
    written = write_exports(page.exports, trace, gathered, atlas=atlas, log=not linear, dark=dark)
    if not as_json:
        console = out()
        for line in _heading(seen, gathered, console.width):
            console.print(line, style="dim", markup=False)
        if len(gathered.maps) > 1 and top:
            _print_table(console, gathered, sort, top, light=light)
        _print_maps(console, gathered, chosen, atlas=atlas, log=not linear, light=light)
    if as_json:
        print_json(_as_data(seen, trace, gathered, chosen, written))
    else:
        for path, what, size in written:
            out().print(f"wrote {short_path(path)}  {what}, {size}", markup=False, soft_wrap=True)
    if page.left_out:
        raise typer.Exit(2)


@dataclass
class _Page:
    """The page among the files, which is left out where it would be too large."""

    exports: Exports
    layer: int | None
    head: int | None
    left_out: bool = False

    def check(self, tokens: int, layers: int, heads: int) -> None:
        """Leave the page out where it would be too large, and say so before the work is done.

        Raises:
            ResourceError: where nothing else was to be written.
        """
        if self.exports.html is None:
            return
        try:
            check_page(
                tokens, layers if self.layer is None else 1, heads if self.head is None else 1
            )
        except ResourceError as error:
            self.exports = replace(self.exports, html=None)
            if not self.exports.wanted():
                raise
            self.left_out = True
            line = f"qkv: {error}; the other files are written"
            err().print(line, style="bold", markup=False, soft_wrap=True)


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


def _heading(seen: Seen, gathered: Gathered, width: int) -> list[str]:
    """What was read, in lines that end where a part ends."""
    heads, layers = len(gathered.maps), len(gathered.layers)
    parts = [
        seen.title,
        seen.note,
        f"{counted(layers, 'layer')}, {counted(heads, 'head')}",
        seen.tokens or counted(max(one.K for one in gathered.maps.values()), "token"),
    ]
    return lines_of([part for part in parts if part], " · ", width)


def _print_table(
    console: Console, gathered: Gathered, sort: str | None, top: int, *, light: bool
) -> None:
    from qkv.views.heads import head_legend

    assert gathered.table is not None
    console.print()
    console.print(head_table(gathered.table, gathered.telling, sort, top, console, light=light))
    for line in lines_of(head_legend(gathered.table, top, sort), " · ", console.width):
        console.print(line, style="dim", markup=False)
    more = len(gathered.table) - top
    if more > 0:
        console.print(f"and {count(more)} more: --top, --sort, --csv", style="dim", markup=False)
    for note in gathered.table.notes:
        console.print(note, style="dim", markup=False)


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
