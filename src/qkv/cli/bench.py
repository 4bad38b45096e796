"""`qkv bench`: measurements that anyone can repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from qkv.cli.console import count, err, notice, out, parse_settings, print_json
from qkv.cli.options import AsJson
from qkv.errors import ConfigError


def bench_command(  # noqa: PLR0917 (options have names)
    what: Annotated[
        Literal["attention", "capture", "generate", "lab", "map", "memory", "train"],
        typer.Argument(help="What to measure.", show_default=False),
    ],
    rounds: Annotated[
        int | None,
        typer.Option(
            help="How often; the median counts. For train: how many seeds.",
            min=1,
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="For train: the recipe.", show_default="tiny")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="For train: any field of the config; may be repeated.",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            help="For train: a corpus by name (shakespeare, plays, python), a file or a folder.",
            show_default="shakespeare",
        ),
    ] = None,
    nanogpt: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="For train and generate: a checkout of nanoGPT, to run in turn with ours.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure on this machine: both sides in turn, medians and ranges.

    A checkout of nanoGPT is only read: a copy of it runs, on the same text, with its own command
    and its published settings for a CPU; one evaluator scores both sides.

    [bold]Examples[/]

      qkv bench generate

      qkv bench attention --json

      qkv bench train --rounds 3 --nanogpt ../nanoGPT

      qkv bench train --data notes.txt --set tokens=100000
    """
    options = _options(
        what,
        rounds=rounds,
        preset=preset,
        settings=parse_settings(settings) or None,
        source=source,
        nanogpt=nanogpt,
    )
    from qkv.bench import SUITES

    err().print(f"Measuring {what}: half a minute to some minutes …", style="dim")
    found = SUITES[what](**options)
    if as_json:
        print_json([measurement.to_json() for measurement in found])
        return
    console = out()
    for measurement in found:
        sizes = "  ".join(f"{name} {count(size)}" for name, size in measurement.shape.items())
        console.print(f"[bold]{measurement.what}[/]  [dim]{sizes}, {measurement.rounds} rounds[/]")
        for name, figure in measurement.figures.items():
            if not isinstance(figure, list):  # the single runs are for --json
                shown = _figure(figure, 4 if name.endswith("loss") else 2)
                console.print(f"  {name.replace('_', ' '):<30} {shown}", markup=False)


def _options(what: str, **given: Any) -> dict[str, Any]:
    """Return what a suite is asked with: only what it knows, and only what was given."""
    for name, option, where in (
        ("preset", "--preset", ("train",)),
        ("settings", "--set", ("train",)),
        ("source", "--data", ("train",)),
        ("nanogpt", "--nanogpt", ("train", "generate")),
    ):
        if given[name] is not None and what not in where:
            raise ConfigError(
                f"{option} with {what}", f"it with {' or '.join(where)} alone", "leave it out"
            )
    options: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if what == "train":
        options["notice"] = notice()
    return options


def _figure(figure: Any, digits: int) -> str:
    if isinstance(figure, bool):
        return "yes" if figure else "no"
    if isinstance(figure, str):
        return figure
    if isinstance(figure, dict):
        middle, low, high = (f"{value:,.{digits}f}" for value in figure.values())
        unit = " ms" if "median_ms" in figure else ""
        return f"{middle}{unit}  ({low} to {high})"
    if 0 < abs(figure) < 10:
        return f"{figure:.1e}" if abs(figure) < 0.05 else f"{figure:.3g}"
    return f"{figure:,.1f}"
