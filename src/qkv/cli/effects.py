"""How the effect of an edit is shown, and the table of heads, each taken out alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from qkv.cli.console import one_line

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from qkv.lens.edits.effects import Effect, HeadEffect, HeadEffects
    from qkv.text import Tokenizer

__all__ = ["print_effect", "print_heads"]

SHOWN_TOKENS, SHOWN_HURT, SHOWN_HEADS = 8, 3, 16
"""Rows of tables that fit a screen."""
BEFORE_SHOWN = 24
"""Characters of the text that are shown before a token."""
TOKEN_WIDTH = 14


def print_effect(
    console: Console, done: Effect, windows: np.ndarray, words: Tokenizer, read: str
) -> None:
    """Print what an edit did to the loss on `windows` (B, T), and to what comes next."""
    console.print(Text(done.edits[:1].upper() + done.edits[1:], "bold"))
    console.print(Text(f"over {read}", "dim"))
    console.print(
        f"\nloss  {done.loss_before:.4f} → [bold]{done.loss_after:.4f}[/] nats a token  "
        f"[bold]{_signed(done.change)}[/] [dim]± {_plain(done.error)}[/]"
    )
    _print_hurt(console, done, windows, words)
    before = _shown_before(windows[-1], windows.shape[1], words)
    console.print(Text(f"\nWhat comes next, after “{before}”", "bold"))
    console.print(_next_table(done, words, console.width))
    console.print(f"[dim]KL(before, after): {_plain(done.divergence)} nats[/]")


def print_heads(console: Console, found: HeadEffects, read: str) -> None:
    """Print what each head is worth: the loss without it, less the loss with it."""
    how = "replaced by its mean" if found.how == "mean" else "taken out"
    console.print(f"[bold]Each head alone, {how}[/]")
    console.print(Text(f"over {read}", "dim"))
    console.print(f"\nloss  [bold]{found.loss:.4f}[/] nats a token with all of them\n")
    console.print(_heads_table(found, console.width))
    rest = " --json or --csv FILE has the rest." if len(found) > SHOWN_HEADS else ""
    console.print(f"[dim]±: the standard error, as if tokens were independent.{rest}[/]")


def _print_hurt(console: Console, done: Effect, windows: np.ndarray, words: Tokenizer) -> None:
    """Print the tokens whose loss rose the most, each after what it follows."""
    rise = done.losses_after - done.losses_before
    worst = (-rise).ravel().argsort(kind="stable")[:SHOWN_HURT]
    places = [divmod(int(place), rise.shape[1]) for place in worst]
    places = [(row, col) for row, col in places if rise[row, col] > 1e-4]
    for index, (row, col) in enumerate(places):
        line = Text("hurt most  " if index == 0 else " " * 11, "dim")
        line.append(f"{_signed(rise[row, col])}  ", "not dim")
        line.append(_shown_before(windows[row], col + 1, words))
        line.append(words.label(int(windows[row, col + 1])), "not dim bold underline")
        console.print(line, no_wrap=True, overflow="ellipsis")


def _shown_before(ids: np.ndarray, stop: int, words: Tokenizer) -> str:
    """The end of what stands before a token, on one line."""
    shown = one_line(words.decode(ids[max(0, stop - BEFORE_SHOWN) : stop]))
    return ("…" if stop > BEFORE_SHOWN or len(shown) > BEFORE_SHOWN else "") + shown[-BEFORE_SHOWN:]


def _next_table(done: Effect, words: Tokenizer, width: int) -> Table:
    """The tokens whose probability moved the most: before, after, and the change."""
    moved = done.moved(SHOWN_TOKENS)
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    labels = [words.label(one.token) for one in moved]
    named = min(TOKEN_WIDTH, max(len("token"), *map(cell_len, labels)))
    table.add_column("token", no_wrap=True, max_width=named, overflow="ellipsis")
    for name in ("before", "after"):
        table.add_column(name, justify="right", no_wrap=True)
        table.add_column("", no_wrap=True, style="dim" if name == "before" else None)
    table.add_column("change", justify="right", no_wrap=True)
    room = max(4, min(24, (width - named - 28) // 2))
    most = max(max(one.before, one.after) for one in moved)
    for label, one in zip(labels, moved, strict=True):
        cells: list[Text] = []
        for chance in (one.before, one.after):
            cells += [Text(_chance(chance)), Text("━" * round(room * chance / most))]
        change = Text(_signed(one.change, 3), "bold")
        table.add_row(Text(label), *cells, change)
    return table


def _heads_table(found: HeadEffects, width: int) -> Table:
    """The heads that are needed most, and where there are many, the few that are needed least."""
    rows: list[HeadEffect | None] = list(found)
    if len(rows) > SHOWN_HEADS:
        rows = [*rows[: SHOWN_HEADS - 4], None, *rows[-3:]]
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("without", no_wrap=True)
    table.add_column("loss rises by", justify="right", no_wrap=True)
    table.add_column("±", justify="right", style="dim", no_wrap=True)
    table.add_column("", no_wrap=True)
    room = max(4, min(40, width - 38))
    most = max(abs(row.change) for row in found) or 1.0
    for row in rows:
        if row is None:
            table.add_row(Text(f"{len(found) - len(rows) + 1} more", "dim"))
            continue
        # A head without which the model is better has a thin bar.
        bar = ("━" if row.change > 0 else "╌") * round(room * abs(row.change) / most)
        table.add_row(Text(row.name, "bold"), _signed(row.change), _plain(row.error), Text(bar))
    return table


def _signed(number: float, digits: int = 4) -> str:
    """A number with its sign, typographic, and 0 without one.

    >>> _signed(0.25), _signed(-0.00312), _signed(-1e-9)
    ('+.2500', '−.0031', '0')
    """
    if round(abs(number), digits) == 0:
        return "0"
    return ("+" if number > 0 else "−") + f"{abs(number):.{digits}f}".removeprefix("0")


def _plain(number: float) -> str:
    """A number in four digits, a dot where there is none.

    >>> _plain(0.25), _plain(1.5), _plain(math.nan)
    ('.2500', '1.5000', '·')
    """
    if not math.isfinite(number):
        return "·"
    return f"{number:.4f}".removeprefix("0")


def _chance(chance: float) -> str:
    """A probability in three digits.

    >>> _chance(0.25), _chance(1.0), _chance(1e-7)
    ('.250', '1', '0')
    """
    told = f"{chance:.3f}"
    return told[0] if float(told) in (0, 1) else told.removeprefix("0")
