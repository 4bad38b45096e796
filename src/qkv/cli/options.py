"""Options that several commands have, so that they read alike everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AsJson", "DataSource", "Device", "Run", "Seed", "Settings", "check_device"]

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
    Path,
    typer.Argument(
        metavar="RUN",
        help="A run directory, a checkpoint folder in one, or a Hugging Face folder.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda or mps.")]


def check_device(name: str) -> str:
    """Return the name of a device that is there.

    Raises:
        ConfigError: unknown, or not on this machine.
    """
    import torch

    from qkv.errors import ConfigError

    there = ["cpu"]
    if torch.cuda.is_available():
        there.append("cuda")
    if torch.backends.mps.is_available():
        there.append("mps")
    if name.partition(":")[0] not in there:
        raise ConfigError(f"--device {name}", f"one of {', '.join(there)}", "see `qkv doctor`")
    return name
