"""Which heads carry weight from one token to another, over all layers at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch

from qkv.errors import ConfigError, QkvError
from qkv.lens.heads.one_text import one_text
from qkv.lens.heads.tables import csv_text, data_frame, html_table, number, plain_table, write_text

if TYPE_CHECKING:
    from qkv.lens.traces.sites import Site
    from qkv.lens.traces.trace import Trace

__all__ = ["RankedHead", "Ranking", "rank"]

Array: TypeAlias = "np.ndarray[Any, Any]"

SHOWN_HEADS = 20


@dataclass(frozen=True)
class RankedHead:
    """What one head carries from a query to a key.

    Args:
        name: such as "L3H7".
        weight: what the query gives to the key; 0 where the mask forbids it.
        chance: 1/n where the query may look at n keys; 0 where it may not look at this one.
        output_norm: ‖weight · v W_O‖, what of it reaches the model; None where v or W_O aren't
            known.
    """

    name: str
    weight: float
    chance: float
    output_norm: float | None


@dataclass(frozen=True)
class Ranking:
    """All heads by what they carry from one token to another, the most first.

    Args:
        query, key: the two tokens, as places in the text.
        heads: of all layers that could be asked.
        skipped: layers that couldn't ("L4"), and why.
    """

    query: int
    key: int
    heads: tuple[RankedHead, ...]
    skipped: dict[str, str]

    def __len__(self) -> int:
        return len(self.heads)

    def __iter__(self) -> Iterator[RankedHead]:
        return iter(self.heads)

    def __getitem__(self, at: int) -> RankedHead:
        return self.heads[at]

    def top(self, n: int) -> Ranking:
        """The first n heads."""
        return Ranking(self.query, self.key, self.heads[: max(0, n)], self.skipped)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain dictionaries, lists, strings and numbers."""
        return asdict(self)

    def to_json(self, path: str | Path | None = None) -> str:
        """The ranking as JSON, written to a file too where a path is given.

        Raises:
            ResourceError: where the file can't be written.
        """
        return write_text(json.dumps(self.to_dict(), allow_nan=False, indent=1) + "\n", path)

    def to_csv(self, path: str | Path | None = None) -> str:
        """A line for each head, written to a file too where a path is given.

        Raises:
            ResourceError: where the file can't be written.
        """
        return write_text(csv_text([asdict(head) for head in self.heads]), path)

    def to_pandas(self) -> Any:
        """The same as a DataFrame, by the names of the heads.

        Raises:
            ResourceError: where pandas isn't installed.
        """
        return data_frame([asdict(head) for head in self.heads], "name")

    def _cells(self, most: int) -> list[list[str]]:
        return [
            [
                head.name,
                number(head.weight, 3),
                # To have no chance is no small chance.
                number(head.chance, 3) if head.chance else "masked",
                number(head.output_norm, 3),
            ]
            for head in self.heads[:most]
        ]

    def __str__(self) -> str:
        return self._text(len(self.heads))

    def __repr__(self) -> str:
        return self._text(SHOWN_HEADS)

    def _text(self, most: int) -> str:
        lines = [f"from token {self.query} to token {self.key}"]
        lines.append(plain_table(["head", "weight", "chance", "output norm"], self._cells(most)))
        if len(self.heads) > most:
            lines.append(f"and {len(self.heads) - most} more heads: print() shows them all")
        lines += [f"{layer} left out: {reason}" for layer, reason in self.skipped.items()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return html_table(
            f"from token {self.query} to token {self.key}",
            ["head", "weight", "chance", "output norm"],
            self._cells(len(self.heads)),
            [
                "",
                "what the query gives to the key",
                "1/n for n allowed keys; masked where this is none of them",
                "‖weight · v W_O‖",
            ],
        )


def rank(
    trace: Trace, query: int, key: int, *, by: Literal["weight", "output_norm"] = "weight"
) -> Ranking:
    """All heads by the weight that one token gives to another, one gathered key a head.

    Args:
        trace: of one sequence.
        query, key: places of the two tokens in the text, from 0, padding not counted.
        by: sort by weight, or by what of it reaches the model, where v and W_O are known.

    Layers across texts, and those that did not store the query, are left out and listed.

    Raises:
        QkvError: where there is no such token.
        ConfigError: where there is no such column to sort by.

    >>> from qkv.attention import Causal, attend
    >>> from qkv.lens import capture
    >>> x = torch.zeros(1, 2, 3, 2)  # B 1, H 2, T 3, C 2
    >>> with capture() as trace:
    ...     mixed = attend(x, x, x, mask=Causal())
    >>> [(head.name, round(head.weight, 6), head.chance) for head in rank(trace, 1, 0)]
    [('L0H0', 0.5, 0.5), ('L0H1', 0.5, 0.5)]
    """
    if by not in ("weight", "output_norm"):
        raise ConfigError(f"by={by!r}", "'weight' or 'output_norm'", "choose one")
    text = one_text(trace)
    for kind, place in (("query", query), ("key", key)):
        if text.tokens and not 0 <= place < text.tokens:
            raise QkvError(f"{kind} {place}", f"0 to {text.tokens - 1}", "count tokens from 0")
    heads: list[RankedHead] = []
    skipped = dict(text.skipped)
    for site in text.sites:
        found = _of_site(site, query, key, text.sequence)
        if found is None:
            skipped[f"L{site.index}"] = f"query {query} isn't stored"
        else:
            heads += found
    heads.sort(key=lambda head: -(getattr(head, by) or 0.0))
    return Ranking(query, key, tuple(heads), skipped)


def _of_site(site: Site, query: int, key: int, sequence: int) -> list[RankedHead] | None:
    """The heads of one layer; None where it didn't store the query."""
    kept = site.kept[sequence]
    assert site.at is not None
    places = site.at[site.rows] - kept.cols.start
    inside = (site.rows >= kept.rows.start) & (site.rows < kept.rows.stop)
    stored = np.flatnonzero((places == query) & inside)
    if not stored.size:
        return None
    row = int(stored[0])
    count, allowed = _allowed(site, row, key, sequence)
    weights = np.where(allowed, _weights(site, row, key, sequence), 0.0)
    norms = site.value_norms([key], sequence)
    return [
        RankedHead(
            name=f"L{site.index}H{head}",
            weight=float(weights[place]),
            chance=float(allowed[place] / count[place]) if allowed[place] else 0.0,
            output_norm=None if norms is None else float(weights[place] * norms[place, 0]),
        )
        for place, head in enumerate(site.heads)
    ]


def _allowed(site: Site, row: int, key: int, sequence: int) -> tuple[Array, Array]:
    """How many keys the query may look at, and whether this is one, for each stored head."""
    kept, mask = site.kept[sequence], site.masks[sequence]
    seen = mask.allowed(
        [int(site.rows[row]) - kept.rows.start],
        range(len(kept.cols)),
        queries=len(kept.rows),
        keys=len(kept.cols),
    )
    seen = seen.reshape((1,) * (4 - seen.ndim) + seen.shape)[0, :, 0]
    # Heads share an axis of size 1.
    of = [head % len(seen) for head in site.heads]
    return seen.sum(-1)[of], seen[of, key]


def _weights(site: Site, row: int, key: int, sequence: int) -> Array:
    """The weight of one cell for each stored head, (H,), whatever the mask says.

    Only one query and one key of each head are read: to make maps of 100,000 tokens for one cell
    each would take a hundred times as long.
    """
    kept = site.kept[sequence]
    if site.score_mod is not None or not (site.bias is None or isinstance(site.bias, torch.Tensor)):
        inside = np.flatnonzero((site.rows >= kept.rows.start) & (site.rows < kept.rows.stop))
        cells: Array = site.weights([int(np.searchsorted(inside, row))], [key], sequence)[:, 0, 0]
        return cells
    col = kept.cols[key]
    q = site.q[sequence, :, row].double()
    k = site.k[sequence, list(site.groups), col].double()
    scores = (q * k).sum(-1) * site.scale
    if site.softcap is not None:
        scores = torch.tanh(scores / site.softcap) * site.softcap
    if site.bias is not None:
        table = site.bias.reshape((1,) * (4 - site.bias.dim()) + tuple(site.bias.shape))
        # An axis of size 1 stands for all.
        at = (sequence, int(site.rows[row]), col)
        first, query, last = (
            place % size for place, size in zip(at, (table.shape[0], *table.shape[2:]), strict=True)
        )
        heads = [head % table.shape[1] for head in site.heads]
        scores = scores + table[first, heads, query, last].double()
    return np.asarray((scores - site.lse[sequence, :, row].double()).exp().numpy())
