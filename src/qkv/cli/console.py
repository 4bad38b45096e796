"""What every command shares: where to print, how numbers look, how a command ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console

from qkv.errors import ConfigError

__all__ = [
    "INTERRUPTED",
    "count",
    "counted",
    "duration",
    "err",
    "lines_of",
    "notice",
    "one_line",
    "out",
    "parse_settings",
    "print_json",
    "short_path",
]

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


def out() -> Console:
    """Return the console for results, on standard output."""
    return Console(highlight=False, soft_wrap=False, emoji=False)  # ":-1:" is a user's own


def err() -> Console:
    """Return the console for progress and notices, on standard error."""
    return Console(stderr=True, highlight=False, emoji=False)


def notice(quiet: bool = False) -> Callable[[str], None]:
    """Return a function that tells the user something in passing."""
    console = err()

    def tell(message: str) -> None:
        if not quiet:
            console.print(message, style="dim", markup=False)

    return tell


def print_json(data: Any) -> None:
    """Print data as JSON to standard output."""
    plain = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=plain) + "\n")


def count(number: float) -> str:
    """Return a number as a person reads it.

    >>> count(804480), count(10_650_000), count(65)
    ('804,480', '10.65 M', '65')
    """
    if number >= 10_000_000_000:
        return f"{number / 1e9:,.1f} G"
    if number >= 10_000_000:
        return f"{number / 1e6:,.2f} M"
    return f"{number:,.0f}"


def counted(number: float, word: str) -> str:
    """Return how many of something there are.

    >>> counted(1, "token"), counted(2048, "token")
    ('1 token', '2,048 tokens')
    """
    return f"{count(number)} {word}{'s' * (number != 1)}"


def duration(seconds: float) -> str:
    """Return a time as a person reads it.

    >>> duration(0.42), duration(75), duration(7260)
    ('0.4 s', '1:15', '2:01:00')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def one_line(text: str) -> str:
    r"""Return a text on one line, its newlines shown.

    >>> one_line("a\n\nb")
    'a⏎⏎b'
    """
    shown = text.replace("\n", "⏎").replace("\t", "⇥")
    return "".join(char if char.isprintable() else "·" for char in shown)


def lines_of(parts: list[str], between: str, width: int) -> list[str]:
    """Return parts put together in lines no wider than `width`, where that can be.

    >>> lines_of(["one", "two", "three"], ", ", 8)
    ['one, two', 'three']
    """
    lines: list[str] = []
    for part in parts:
        if lines and cell_len(joined := lines[-1] + between + part) <= width:
            lines[-1] = joined
        else:
            lines.append(part)
    return lines


def short_path(path: Path | str) -> str:
    """Return a path relative to the current folder where it lies below it."""
    path = Path(path)
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def parse_settings(pairs: list[str] | None) -> dict[str, str]:
    """Return ``name -> value`` of `--set name=value` options.

    Raises:
        ConfigError: one without an equals sign.
    """
    settings = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set {pair}", "name=value", "try --set layers=6")
        settings[name.strip()] = value.strip()
    return settings
