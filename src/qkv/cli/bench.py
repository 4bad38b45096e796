"""`qkv bench`: measurements that anyone can repeat."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from qkv.cli.console import count, err, out, print_json
from qkv.cli.options import AsJson


def bench_command(
    what: Annotated[
        Literal["attention", "capture", "generate", "map", "memory"],
        typer.Argument(help="What to measure.", show_default=False),
    ],
    rounds: Annotated[
        int | None, typer.Option(help="How often; the median counts.", min=1, show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure on this machine: both sides in turn, medians and ranges.

    [bold]Examples[/]

      qkv bench generate

      qkv bench attention --json
    """
    from qkv.bench import SUITES

    err().print(f"Measuring {what}: half a minute to some minutes …", style="dim")
    found = SUITES[what](**({} if rounds is None else {"rounds": rounds}))
    if as_json:
        print_json([measurement.to_json() for measurement in found])
        return
    console = out()
    for measurement in found:
        sizes = "  ".join(f"{name} {count(size)}" for name, size in measurement.shape.items())
        console.print(f"[bold]{measurement.what}[/]  [dim]{sizes}, {measurement.rounds} rounds[/]")
        for name, figure in measurement.figures.items():
            console.print(f"  {name.replace('_', ' '):<30} {_figure(figure)}", markup=False)


def _figure(figure: Any) -> str:
    if isinstance(figure, dict):
        middle, low, high = figure.values()
        unit = " ms" if "median_ms" in figure else ""
        return f"{middle:,.2f}{unit}  ({low:,.2f} to {high:,.2f})"
    if 0 < abs(figure) < 10:
        return f"{figure:.1e}" if abs(figure) < 0.05 else f"{figure:.3g}"
    return f"{figure:,.1f}"
