"""`qkv ablate`: what a model loses without some of its heads, its scale or its mask."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qkv.cli.console import count, err, out, print_json
from qkv.cli.effects import print_effect, print_heads
from qkv.cli.model import need_tokenizer, run_note, validation_ids
from qkv.cli.named import load_named, require_model
from qkv.cli.options import AsJson, Run, Text, TokenizerFile
from qkv.cli.startup import load_torch
from qkv.errors import CheckpointError, ConfigError, TextError

if TYPE_CHECKING:
    import numpy as np

    from qkv.lens.edits.edits import Edits
    from qkv.lens.edits.effects import Moved
    from qkv.models.foreign import AnyModel
    from qkv.text import Tokenizer

__all__ = ["ablate_command"]


def ablate_command(  # noqa: PLR0917 (options have names)
    model: Run = None,
    heads: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="HEAD",
            help="What to take out: L3H7, a whole layer L3, a module's name, or all. Counted "
            "from 0.",
            show_default=False,
        ),
    ] = None,
    text: Text = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            "--data",
            metavar="FILE",
            help="A file to read instead, in windows of the model's context; - is standard input.",
        ),
    ] = None,
    tokens: Annotated[
        int, typer.Option(help="How many tokens of a file to read, spread over it.", min=2)
    ] = 512,
    mean: Annotated[
        bool,
        typer.Option("--mean", help="Replace what heads pass on by its mean, not by 0."),
    ] = False,
    scale: Annotated[
        str | None, typer.Option(metavar="off|NUMBER", help="Drop the 1/√C, or give another.")
    ] = None,
    mask: Annotated[
        str | None, typer.Option(metavar="off", help="Let every token see the future too.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Divide what enters softmax: above 1 flatter, below 1 sharper."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="HEADS", help="Change scale, mask and temperature in these alone."),
    ] = None,
    uniform: Annotated[
        str | None,
        typer.Option(metavar="HEADS", help="Let these weigh all that they may see alike."),
    ] = None,
    sharpen: Annotated[
        str | None,
        typer.Option(metavar="HEADS", help="Let these see their strongest token alone."),
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="Take out each head alone, one after another: a table."),
    ] = False,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --all: write the table to a file.")
    ] = None,
    tokenizer_file: TokenizerFile = None,
    as_json: AsJson = False,
) -> None:
    """Take heads out of a model, or change its attention, and see what it costs.

    Heads are named L3H7: layer 3, head 7, both counted from 0. Several go with commas between.

    A Hugging Face folder that our own code can't compute runs in transformers (extra hf).

    [bold]Examples[/]

      qkv ablate L3H1

      qkv ablate runs/six L3H1 --text "ROMEO: But soft, what light"

      qkv ablate runs/six --all

      qkv ablate runs/six --scale off --file notes.txt

      qkv ablate runs/six --uniform L0 --mask off --only L1H0,L1H2
    """
    load_torch()
    from qkv.lens.edits.edits import Edits

    if model is not None and _names_heads(model):
        model, heads = None, [str(model), *(heads or [])]
    asked = Edits(
        ablate=() if mean else (heads or ()),
        mean=(heads or ()) if mean else (),
        uniform=uniform or (),
        sharpen=sharpen or (),
        mask=mask,  # type: ignore[arg-type]  # checked by Edits
        scale=_number(scale),
        temperature=temperature,
        only=only,
    )
    _check(asked, heads, every=every, mean=mean, csv=csv)
    require_model(model)
    if text is not None and file is not None:
        raise ConfigError("--text and --file", "one text", "leave one out")
    if (
        text is None
        and file is None
        and model is not None
        and run_note(model, "source") in (None, "-")
        and model.exists()
    ):
        raise ConfigError("no text to read", "--text or --file", 'add --text "..."')
    loaded = load_named(model, tokenizer_file)
    if not loaded.causal:
        raise CheckpointError(
            f"{loaded.made_by}, which predicts no next token",
            "a causal language model: what a head is worth is told by its loss",
            "see its heads with `qkv inspect`",
        )
    windows, name = _windows(model, loaded, text, file, tokens, quiet=as_json)
    if every:
        _each_alone(loaded, windows, name, heads, mean=mean, csv=csv, as_json=as_json)
    else:
        _together(loaded, windows, name, asked, as_json=as_json)


def _number(scale: str | None) -> Any:
    try:
        return float(scale) if scale not in (None, "off") else scale
    except ValueError:
        raise ConfigError(f"--scale {scale}", "off or a number", "try --scale off") from None


def _check(
    asked: Edits, heads: list[str] | None, *, every: bool, mean: bool, csv: Path | None
) -> None:
    """Raise a ConfigError for options that say nothing, or contradict each other."""
    if every:
        others = (asked.uniform, asked.sharpen, asked.scale, asked.mask, asked.temperature)
        if any(others):
            raise ConfigError(
                "--all beside another change",
                "--all, which takes out each head alone, with nothing but names and --mean",
                "leave the other options out",
            )
        return
    if csv is not None:
        raise ConfigError("--csv without --all", "the table that --all makes", "add --all")
    if mean and not heads:
        raise ConfigError("--mean without a head", "heads to replace", "name some, such as L0H0")
    if not asked:
        raise ConfigError(
            "nothing to change",
            "a head such as L0H0, --all, --scale off, --mask off, --temperature, --uniform or "
            "--sharpen",
            "name one",
        )


def _names_heads(path: Path) -> bool:
    """Whether what stands where a model would is the name of heads, and no file.

    >>> _names_heads(Path("L0H1,L2")), _names_heads(Path("all")), _names_heads(Path("runs/six"))
    (True, True, False)
    """
    return re.fullmatch(r"all|L\d+(H\d+)?(,L\d+(H\d+)?)*", str(path)) is not None and (
        not path.exists()
    )


def _windows(
    run: Path | None,
    loaded: AnyModel,
    text: str | None,
    file: str | None,
    tokens: int,
    *,
    quiet: bool,
) -> tuple[np.ndarray, str]:
    """The ids (B, T) to read, and what the text is called.

    Raises:
        TextError: less than two tokens, or a --text longer than the context.
    """
    import numpy as np

    context = loaded.context
    if text is None and file is None and run is None:
        ids, name = need_tokenizer(loaded).encode(run_note(None, "probe") or ""), "its probe"
    elif text is None:
        ids, _, name = validation_ids(run, loaded, file, quiet)
    else:
        ids, name = need_tokenizer(loaded).encode(text.replace("\\n", "\n")), "the text"
        if len(ids) > context:
            raise TextError(
                f"{count(len(ids))} tokens of --text",
                f"at most the model's context, {context}",
                "shorten it, or give it by --file, which is read in windows",
            )
        tokens = len(ids)
    if len(ids) < 2:
        raise TextError(
            f"{len(ids)} token{'s' * (len(ids) != 1)} of text", "at least 2", "give more text"
        )
    length = min(context, len(ids), max(2, tokens))
    many = max(1, min(len(ids), tokens) // length)
    starts = np.linspace(0, len(ids) - length, many).astype(int)
    return np.stack([ids[start : start + length] for start in starts]), name


def _read_over(windows: np.ndarray, name: str) -> str:
    """How much was read, in words."""
    many, length = windows.shape
    if many == 1:
        return f"{count(length)} tokens of {name}"
    return f"{count(many * length)} tokens of {name}, in {many} windows of {length}"


def _together(
    loaded: AnyModel, windows: np.ndarray, name: str, asked: Edits, *, as_json: bool
) -> None:
    """Make all the changes at once, and show their effect on the loss and on the next token."""
    from qkv.lens.edits.effects import effect

    done, words = effect(loaded.model, windows, asked), need_tokenizer(loaded)
    if as_json:
        moved = [_as_data(one, words) for one in done.moved(20)]
        told = {"edits": done.edits, "text": name, "windows": len(windows), "tokens": windows.size}
        numbers: dict[str, float | None] = {
            "loss_before": done.loss_before,
            "loss_after": done.loss_after,
        }
        error = done.error if math.isfinite(done.error) else None
        numbers |= {"change": done.change, "error": error, "divergence": done.divergence}
        each = {"before": done.losses_before.tolist(), "after": done.losses_after.tolist()}
        print_json({**told, **numbers, "next": moved, "losses": each})
        return
    print_effect(out(), done, windows, words, _read_over(windows, name))


def _as_data(one: Moved, words: Tokenizer) -> dict[str, Any]:
    probabilities = {"before": one.before, "after": one.after, "change": one.change}
    return {"id": one.token, "token": words.label(one.token), **probabilities}


def _each_alone(
    loaded: AnyModel,
    windows: np.ndarray,
    name: str,
    heads: list[str] | None,
    *,
    mean: bool,
    csv: Path | None,
    as_json: bool,
) -> None:
    """Take out each head alone, and show what that costs."""
    from qkv.lens.edits.effects import effects
    from qkv.lens.heads.tables import write_text

    if csv is not None and not csv.exists():
        write_text("", csv)  # what can't be written is said before the work, not after
    with _progress(quiet=as_json) as progress:
        found = effects(
            loaded.model,
            windows,
            heads or "all",
            how="mean" if mean else "zero",
            progress=progress,
        )
    if csv is not None:
        found.to_csv(csv)
    if as_json:
        sys.stdout.write(found.to_json())
        return
    print_heads(out(), found, _read_over(windows, name))


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[float], None] | None]:
    """A bar on standard error while heads are taken out, gone when it is done."""
    console = err()
    if quiet or not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("one head after another"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("heads", total=1.0)
        yield lambda done: shown.update(task, completed=done)
