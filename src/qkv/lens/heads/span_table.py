"""The answer to `trace.spans`: what each head gives from one span of the text to another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from qkv.errors import ConfigError
from qkv.lens.heads.tables import csv_text, data_frame, html_table, number, plain_table, write_text

__all__ = ["REST", "SINK", "SpanTable"]

Array: TypeAlias = "np.ndarray[Any, Any]"

# Spans that are added: tokens that no other has, and the share of a learned sink.
REST = "(rest)"
SINK = "(sink)"
SHOWN_ROWS = 40


@dataclass(frozen=True, eq=False)
class SpanTable:
    """The mass from span to span for every head: each query's weights, meaned over its span.

    Args:
        heads: their names, such as "L3H7".
        ranges: the spans by name; the tokens that none has are the span "(rest)".
        names: what mass can go to: the spans, "(rest)", and "(sink)" where a head has one.
        mass: (heads, from, to); each row sums to 1, and is not a number where the span has no
            query that may look at anything.
        chance: what uniform attention over the allowed keys gives, likewise.
        counts: how many queries are meaned, (heads, from).
        skipped: layers that could not be asked ("L4"), and why.
    """

    heads: tuple[str, ...]
    ranges: dict[str, range]
    names: tuple[str, ...]
    mass: Float[Array, "heads from to"]
    chance: Float[Array, "heads from to"]
    counts: Float[Array, "heads from"]
    skipped: dict[str, str]

    def __len__(self) -> int:
        return len(self.heads)

    def __getitem__(self, head: str) -> Float[Array, "from to"]:
        """The mass of one head.

        Raises:
            ConfigError: where there is no such head.
        """
        if head not in self.heads:
            ends = f"{self.heads[0]} to {self.heads[-1]}" if self.heads else "none"
            raise ConfigError(f"the head {head!r}", f"one of this table: {ends}", "count from 0")
        found: Array = self.mass[self.heads.index(head)]
        return found

    @property
    def asking(self) -> tuple[str, ...]:
        """The spans whose queries were asked: all but the sink, which asks nothing."""
        return tuple(name for name in self.names if name != SINK)

    def between(self, start: str, end: str) -> list[tuple[str, float, float]]:
        """Every head's name, its mass from one span to another, and chance; the most first.

        Raises:
            ConfigError: where there is no such span.
        """
        at = (slice(None), self._place(start, self.asking), self._place(end, self.names))
        rows = zip(self.heads, self.mass[at].tolist(), self.chance[at].tolist(), strict=True)
        return sorted((row for row in rows if row[1] == row[1]), key=lambda row: -row[1])

    def top(self, n: int, start: str | None = None, end: str | None = None) -> SpanTable:
        """The n heads whose mass is the farthest above chance, the farthest first.

        Args:
            n: how many.
            start: only mass from this span; from any unless given.
            end: only mass to this span; to any unless given.

        Raises:
            ConfigError: where there is no such span.
        """
        rows, cols = slice(None), slice(None)
        if start is not None:
            at = self._place(start, self.asking)
            rows = slice(at, at + 1)
        if end is not None:
            at = self._place(end, self.names)
            cols = slice(at, at + 1)
        above = (self.mass - self.chance)[:, rows, cols].reshape(len(self.heads), -1)
        # A span without queries says nothing of a head.
        farthest = np.where(np.isnan(above), -np.inf, above).max(axis=1, initial=-np.inf)
        order = np.argsort(-farthest, kind="stable")[: max(0, n)]
        return replace(
            self,
            heads=tuple(self.heads[place] for place in order),
            mass=self.mass[order],
            chance=self.chance[order],
            counts=self.counts[order],
        )

    def _place(self, name: str, names: tuple[str, ...]) -> int:
        if name not in names:
            raise ConfigError(f"the span {name!r}", f"one of {', '.join(names)}", "choose one")
        return names.index(name)

    def records(self) -> Iterator[dict[str, Any]]:
        """Every head, span and span, as in a CSV file; None where a span has no query."""
        for place, head in enumerate(self.heads):
            for first, start in enumerate(self.asking):
                count = int(self.counts[place, first])
                for last, end in enumerate(self.names):
                    at = place, first, last
                    yield {
                        "head": head,
                        "from": start,
                        "to": end,
                        "mass": float(self.mass[at]) if count else None,
                        "chance": float(self.chance[at]) if count else None,
                        "count": count,
                    }

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain dictionaries, lists, strings and numbers."""
        ranges = {name: [span.start, span.stop] for name, span in self.ranges.items()}
        return {"spans": ranges, "mass": list(self.records()), "skipped": dict(self.skipped)}

    def to_json(self, path: str | Path | None = None) -> str:
        """The table as JSON, written to a file too where a path is given.

        Raises:
            ResourceError: where the file can't be written.
        """
        return write_text(json.dumps(self.to_dict(), allow_nan=False, indent=1) + "\n", path)

    def to_csv(self, path: str | Path | None = None) -> str:
        """A line for each head, span and span, written to a file too where a path is given.

        Raises:
            ResourceError: where the file can't be written.
        """
        return write_text(csv_text(list(self.records())), path)

    def to_pandas(self) -> Any:
        """The same as a DataFrame, by the names of the heads.

        Raises:
            ResourceError: where pandas isn't installed.
        """
        return data_frame(list(self.records()), "head")

    def _cells(self, most: int) -> list[list[str]]:
        return [
            [head, start, *map(number, self.mass[place, first].tolist())]
            for place, head in enumerate(self.heads)
            for first, start in enumerate(self.asking)
        ][:most]

    def __str__(self) -> str:
        return self._text(len(self.heads) * len(self.asking))

    def __repr__(self) -> str:
        return self._text(SHOWN_ROWS)

    def _text(self, most: int) -> str:
        lines = [plain_table(["head", "from ↓ to →", *self.names], self._cells(most), left=2)]
        more = len(self.heads) * len(self.asking) - most
        if more > 0:
            lines.append(f"and {more} more rows: print() shows them all")
        lines += [f"{layer} left out: {reason}" for layer, reason in self.skipped.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = self._cells(len(self.heads) * len(self.asking))
        return html_table("mass from span to span", ["head", "from ↓ to →", *self.names], rows)
