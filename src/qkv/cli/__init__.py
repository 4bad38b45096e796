"""The command line: with the bench, the only place that prints.

Commands import what they need when they run: `qkv --help` loads no torch.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from qkv.cli.ablate import ablate_command
from qkv.cli.bench import bench_command
from qkv.cli.cards import cards
from qkv.cli.console import INTERRUPTED, err, out
from qkv.cli.doctor import doctor_command
from qkv.cli.hand import hand_command
from qkv.cli.inspect import inspect_command
from qkv.cli.lab import lab_command
from qkv.cli.ladder import demo_command, ladder_command
from qkv.cli.learn import learn
from qkv.cli.model import eval_command, prove_command, sample_command
from qkv.cli.practice import practice_command
from qkv.cli.steps import steps_command
from qkv.cli.train import train_command
from qkv.errors import QkvError

__all__ = ["app", "main"]

app = typer.Typer(
    name="qkv",
    help="Build, train, watch and inspect causal self-attention.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

START = "Start here"
LEARN = "Learn, and be examined"
MODELS = "Train and use a model"
TOOLS = "Look closer"

app.command("lab", rich_help_panel=START)(lab_command)
app.command("demo", rich_help_panel=START)(demo_command)
app.command("ladder", rich_help_panel=START)(ladder_command)
app.command("steps", rich_help_panel=START)(steps_command)
app.add_typer(learn, rich_help_panel=LEARN)
app.command("practice", rich_help_panel=LEARN)(practice_command)
app.command("hand", rich_help_panel=LEARN)(hand_command)
app.add_typer(cards, rich_help_panel=LEARN)
app.command("train", rich_help_panel=MODELS)(train_command)
app.command("sample", rich_help_panel=MODELS)(sample_command)
app.command("eval", rich_help_panel=MODELS)(eval_command)
app.command("inspect", rich_help_panel=TOOLS)(inspect_command)
app.command("ablate", rich_help_panel=TOOLS)(ablate_command)
app.command("prove", rich_help_panel=TOOLS)(prove_command)
app.command("bench", rich_help_panel=TOOLS)(bench_command)
app.command("doctor", rich_help_panel=TOOLS)(doctor_command)

WELCOME = """\
[bold]qkv[/] builds, trains and looks inside causal self-attention.

  [bold]qkv lab[/]       all of it in your browser: learn, look inside, train
  [bold]qkv learn[/]     the guide in the terminal; then `qkv practice` and `qkv cards`
  [bold]qkv demo[/]      train every model from bigram to Transformer, in a minute or two
  [bold]qkv hand[/]      a step of attention, worked by you; `qkv steps` works it
  [bold]qkv train[/]     one model on your own text:  qkv train --data notes.txt

`qkv --help` lists the rest; every command has examples: `qkv train --help`."""


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Build, train, watch and inspect causal self-attention."""
    if version:
        from qkv import __version__

        out().print(f"qkv {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        out().print(WELCOME)


def main() -> int:
    """Run the command line; return or raise its exit code.

    0: done. 1: done, but something does not hold (a proof, the doctor), or the reader of a pipe
    left. 2: bad input, said in one line. 130: stopped by Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe that knows few characters gets a ? for the others, not a traceback.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    try:
        code = app(standalone_mode=False)
    except QkvError as error:
        return _refuse(str(error))
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        # Of click, or of typer's own copy of it: both say it by this method.
        if (message := getattr(error, "format_message", None)) is None:
            raise
        path = getattr(getattr(error, "ctx", None), "command_path", None) or "qkv"
        return _refuse(f"got {message().strip().rstrip('.')}; see `{path} --help`")
    return code if isinstance(code, int) else 0


def _refuse(line: str) -> int:
    err().print(" ".join(f"qkv: {line}".split()), markup=False, style="bold", soft_wrap=True)
    return 2
