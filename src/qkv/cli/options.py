"""Options that several commands have, so that they read alike everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qkv.cli.startup import load_torch
from qkv.errors import ConfigError

__all__ = [
    "AsJson",
    "DataSource",
    "Device",
    "Run",
    "Seed",
    "Settings",
    "Text",
    "TokenizerFile",
    "check_device",
    "require_alone",
]

DataSource = Annotated[
    str,
    typer.Option(
        "--data",
        "-d",
        help="A corpus by name (shakespeare, plays, python), a file, a folder, or - to read text "
        "from standard input.",
    ),
]
Seed = Annotated[int, typer.Option(help="Of weights, batches and samples.", min=0)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any field of the config; may be repeated."),
]
Run = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN",
        help="A run, a checkpoint, a Hugging Face folder, a nanoGPT folder or a GGUF file.",
        show_default="the model that comes with qkv",
    ),
]
Text = Annotated[
    str | None,
    typer.Option("--text", "-t", help="The text to read.", show_default="a passage of its own"),
]
TokenizerFile = Annotated[
    Path | None,
    typer.Option(
        "--tokenizer",
        help="A tokenizer.json or nanoGPT's meta.pkl, in place of the model's own tokenizer.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda or mps.")]


def require_alone(context: typer.Context, *allowed: str) -> None:
    """Raise a ConfigError for options given beside `--resume` that it would have to ignore.

    A run goes on with the settings it was started with.
    """
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        given = source is not None and source.name not in ("DEFAULT", "DEFAULT_MAP")
        if given and name not in ("resume", *allowed):
            option = {"out_folder": "out", "settings": "set"}.get(name, name).replace("_", "-")
            raise ConfigError(
                f"--{option} {value} beside --resume",
                "--resume alone: a run goes on with the settings it was started with",
                f"leave --{option} out, or start a new run",
            )


def check_device(name: str) -> str:
    """Return the name of a device that is there.

    Raises:
        ConfigError: unknown, or not on this machine.
    """
    load_torch()
    import torch

    there = ["cpu"]
    if torch.cuda.is_available():
        there.append("cuda")
    if torch.backends.mps.is_available():
        there.append("mps")
    if name.partition(":")[0] not in there:
        raise ConfigError(f"--device {name}", f"one of {', '.join(there)}", "see `qkv doctor`")
    return name
