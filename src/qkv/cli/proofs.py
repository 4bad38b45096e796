"""How proofs and measured influence are shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from qkv.training.proofs import Influence, Proof

__all__ = ["print_influence", "print_proofs"]


def print_proofs(console: Console, proofs: Sequence[Proof]) -> None:
    """Print each law with the largest breach that was found: a weight, a change, a difference."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("largest\nbreach", justify="right", vertical="bottom")
    table.add_column("pairs\ntried", justify="right", vertical="bottom")
    for proof in proofs:
        worst = "0" if proof.worst == 0 else f"{proof.worst:.1e}"
        if proof.holds:
            mark = "[bold]✓[/]"
        elif proof.worst <= proof.bound:  # nothing breaks it, yet nothing could have
            mark, worst = "[bold]?[/]", "–"
        else:
            mark = "[bold reverse] FAILS [/]"
        table.add_row(f"{mark} {proof.claim}", f"[bold]{worst}[/]", f"{proof.tried:,}")
    console.print(table)
    for proof in proofs:
        if proof.note:
            console.print(f"  [dim]({proof.name}: {proof.note})[/]")
    if all(proof.name != "lower-triangular" for proof in proofs):
        console.print("  [dim](no attention in this model: nothing to read its weights from)[/]")


def print_influence(console: Console, influence: Influence) -> None:
    """Print how much a token moves the last prediction, by its distance back: total variation."""
    tokens = "one" if influence.reach == 1 else f"{influence.reach} tokens"
    console.print(
        f"It looks at the last {tokens}. Changing one, so far back, moves the next token's "
        "probabilities by (0: not at all, 1: wholly)"
    )
    widest = max(filter(math.isfinite, influence.effects), default=0.0) or 1.0
    for distance, effect in zip(influence.distances, influence.effects, strict=True):
        bar = "━" * round(32 * effect / widest) if math.isfinite(effect) else ""
        console.print(f"  {distance:>5} back  {effect:.5f}  {bar}", markup=False)
