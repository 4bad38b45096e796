"""All heads of a trace in one table: what each does, in numbers, against chance."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qkv.errors import ConfigError
from qkv.lens.heads.head_scores import FORMULAS, Formula, Score, name_of, score_head, strongest
from qkv.lens.heads.layouts import Layout, Layouts
from qkv.lens.heads.reading import MOST_CELLS
from qkv.lens.heads.tables import csv_text, data_frame, html_table, number, plain_table, write_text
from qkv.lens.heads.workers import side_by_side

if TYPE_CHECKING:
    from qkv.lens.maps.attention_map import AttentionMap

__all__ = ["HeadRow", "HeadTable", "score_heads"]

# A table says so many heads when it is shown without being asked to print itself.
SHOWN_HEADS = 40
# What a head can be called: `name_of` tells when.
ROLES = (*(name for name, formula in FORMULAS.items() if formula.named is not None), "mixed", "")
LEGEND = (
    "lift: the role's score from chance (0) to perfect (1), the first token's mass set aside; "
    "chance: what even attention scores on the same queries"
)


@dataclass(frozen=True)
class HeadRow:
    """One head: its name ("L3H7"), its layer and number, what it is called, and its scores.

    `role` is its strongest score above chance, "mixed" where none is strong enough, "" where none
    could be told (see `name_of`).
    """

    name: str
    layer: int | None
    head: int | None
    role: str
    scores: dict[str, Score | None]

    def __getitem__(self, name: str) -> Score | None:
        """The score of a column."""
        return self.scores[_column(name)]

    @property
    def strongest(self) -> tuple[str, float] | None:
        """The score it is called by, or comes closest to being called by, and that score's lift.

        None where no score is above chance.
        """
        return strongest(self.scores, self.role)

    @property
    def lift(self) -> float | None:
        """How far its role's score is from chance (0) to perfect (1); None for a head without."""
        found = self.strongest
        return found[1] if found is not None and found[0] == self.role else None

    def record(self) -> dict[str, Any]:
        """The row as one flat dictionary, as in a CSV file."""
        found: dict[str, Any] = {
            "name": self.name, "layer": self.layer, "head": self.head, "role": self.role,
            "lift": self.lift,
        }  # fmt: skip
        for name, score in self.scores.items():
            found[name] = None if score is None else score.score
            for part in ("chance", "lift", "count", "low", "high"):
                found[f"{name}_{part}"] = None if score is None else getattr(score, part)
        return found


@dataclass(frozen=True)
class HeadTable:
    """The heads of a trace and their scores; sort, filter, and hand it on.

    Args:
        rows: one for each head.
        notes: what a reader should know of how it was made.

    >>> HeadTable(()).columns["induction"].source
    'Olsson et al. 2022'
    """

    rows: tuple[HeadRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, Formula]:
        """Each score's definition, source, eligible queries, chance level and ceiling."""
        return FORMULAS

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[HeadRow]:
        return iter(self.rows)

    def __getitem__(self, name: str) -> HeadRow:
        """The row of one head, by its name.

        Raises:
            ConfigError: where there is no such head.
        """
        for row in self.rows:
            if row.name == name:
                return row
        ends = f"{self.rows[0].name} to {self.rows[-1].name}" if self.rows else "none"
        raise ConfigError(
            f"the head {name!r}", f"one of this table: {ends}", "count layers and heads from 0"
        )

    def sort(self, by: str, *, ascending: bool = False) -> HeadTable:
        """The table by one score, or by "lift", the largest first; heads without it come last.

        Args:
            by: a column.
            ascending: the smallest first.

        Raises:
            ConfigError: where there is no such column.
        """
        if by != "lift":
            _column(by)

        def key(row: HeadRow) -> tuple[bool, float]:
            score = None if by == "lift" else row.scores[by]
            value = row.lift if score is None else score.score
            if value is None or (score is None and by != "lift"):
                return True, 0.0
            return False, value if ascending else -value

        return replace(self, rows=tuple(sorted(self.rows, key=key)))

    def top(self, n: int, by: str | None = None) -> HeadTable:
        """The first n heads, by a score where one is given.

        Raises:
            ConfigError: where there is no such column.
        """
        table = self if by is None else self.sort(by)
        return replace(table, rows=table.rows[: max(0, n)])

    def filter(
        self, wanted: Callable[[HeadRow], bool] | str | None = None, *, role: str | None = None
    ) -> HeadTable:
        """The heads that a function wants, or that bear a role such as "induction".

        Raises:
            ConfigError: where there is no such role.
        """
        if isinstance(wanted, str):
            wanted, role = None, wanted
        if role is not None and role not in ROLES:
            known = ", ".join(repr(name) for name in ROLES)
            way = f"order by that column with sort({role!r})" if role in FORMULAS else "choose one"
            raise ConfigError(f"the role {role!r}", f"one of {known}", way)
        rows = (row for row in self.rows if role is None or row.role == role)
        return replace(self, rows=tuple(row for row in rows if wanted is None or wanted(row)))

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain dictionaries, lists, strings and numbers."""
        told = ("name", "definition", "source", "eligible", "chance", "ceiling", "lift")
        return {
            "columns": [{key: getattr(f, key) for key in told} for f in self.columns.values()],
            "heads": [{**asdict(row), "lift": row.lift} for row in self.rows],
            "notes": list(self.notes),
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """The table as JSON, written to a file too where a path is given.

        Raises:
            ResourceError: where the file can't be written.
        """
        return write_text(json.dumps(self.to_dict(), allow_nan=False, indent=1) + "\n", path)

    def to_csv(self, path: str | Path | None = None) -> str:
        """A line for each head: each score, its chance level, count and interval.

        Raises:
            ResourceError: where the file can't be written.
        """
        return write_text(csv_text([row.record() for row in self.rows]), path)

    def to_pandas(self) -> Any:
        """The same as a DataFrame, by the names of the heads.

        Raises:
            ResourceError: where pandas isn't installed.
        """
        return data_frame([row.record() for row in self.rows], "name")

    def __str__(self) -> str:
        return self._text(len(self.rows))

    def __repr__(self) -> str:
        return self._text(SHOWN_HEADS)

    def _text(self, most: int) -> str:
        head, rows = ["head", "role", "lift", *self.columns], self._cells(most)
        lines = [plain_table(head, [*rows, *self._feet()], left=2)]
        if len(self.rows) > most:
            lines.append(f"and {len(self.rows) - most} more heads: print() shows them all")
        return "\n".join([*lines, LEGEND, *self.notes])

    def _cells(self, most: int) -> list[list[str]]:
        return [
            [row.name, row.role or "–", number(row.lift)]
            + [number(None if score is None else score.score) for score in row.scores.values()]
            for row in self.rows[:most]
        ]

    def _feet(self) -> list[list[str]]:
        """What uniform attention scores, and how many queries were averaged, where heads agree."""
        chance: list[list[str]] = [[], []]
        for name in self.columns:
            scores = [score for row in self.rows if (score := row.scores[name]) is not None]
            for line, said in zip(
                chance,
                ({number(s.chance) for s in scores}, {f"{s.count:,}" for s in scores}),
                strict=True,
            ):
                line.append(said.pop() if len(said) == 1 else "varies" if said else "·")
        return (
            [["chance", "", "", *chance[0]], ["queries", "", "", *chance[1]]] if self.rows else []
        )

    def _repr_html_(self) -> str:
        titles = ["", "its strongest score above chance, the first key's mass set aside"]
        titles.append("how far that score is from chance (0) to perfect (1), likewise")
        titles += [f"{f.definition} ({f.source})" for f in self.columns.values()]
        rows = [*self._cells(len(self.rows)), *self._feet()]
        caption = "; ".join([f"{len(self.rows)} heads, each score against chance", *self.notes])
        return html_table(
            f"{caption}; {LEGEND}", ["head", "role", "lift", *self.columns], rows, titles
        )


def _column(name: str) -> str:
    if name not in FORMULAS:
        raise ConfigError(f"the column {name!r}", f"one of {', '.join(FORMULAS)}", "choose one")
    return name


def score_heads(
    maps: Iterable[AttentionMap],
    *,
    cells: int | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> HeadTable:
    """The table of all heads of a trace, or of any maps.

    Args:
        maps: a trace of one sequence, or maps.
        cells: of a head with more cells than this (4,096² unless given), scores that need all of a
            row are those of a seeded sample of its rows; their counts say of how many.
        seed: of that sample.
        progress: is called with the fraction done, from 0 to 1.

    >>> import numpy as np
    >>> from qkv.attention import Causal
    >>> from qkv.lens import AttentionMap
    >>> x = np.zeros((8, 2))
    >>> table = score_heads([AttentionMap.of(x, x, mask=Causal(), name="L0H0")])
    >>> table["L0H0"].role, table["L0H0"]["previous"].count
    ('uniform', 7)
    """
    layouts, rows, notes = Layouts(seed), [], dict[str, None]()
    total = 0
    if progress is not None:
        from qkv.lens.traces.trace import Trace

        # A trace makes its maps as it goes; only of other maps a list must be kept to count them.
        sites = maps.sites() if isinstance(maps, Trace) else None
        maps = list(maps) if sites is None else maps
        total = len(list(maps)) if sites is None else sum(len(site.heads) for site in sites)

    def asked() -> Iterator[tuple[AttentionMap, Layout]]:
        for head in maps:
            # What heads share is made once, before they go their ways.
            layout = layouts.of(head)
            notes.update(dict.fromkeys(_notes(head, layout, cells, seed)))
            yield head, layout

    def scored(one: tuple[AttentionMap, Layout]) -> HeadRow:
        head, layout = one
        scores = score_head(head, layout=layout, cells=cells)
        found = re.fullmatch(r"L(\d+)H(\d+)", head.name)
        layer, number = (int(part) for part in found.groups()) if found else (None, None)
        return HeadRow(head.name, layer, number, name_of(scores), scores)

    for done, row in enumerate(side_by_side(scored, asked()), 1):
        rows.append(row)
        if progress is not None:
            progress(done / total)
    return HeadTable(tuple(rows), tuple(notes))


def _notes(head: AttentionMap, layout: Layout, cells: int | None, seed: int) -> Iterator[str]:
    if head.note:
        yield head.note
    most = (MOST_CELLS if cells is None else cells) // head.K
    if most < head.Q:
        yield (
            f"uniform, retrieval, entropy, confidence, distance and norm are of {max(1, most):,} of"
            f" {head.Q:,} queries, drawn with seed {seed}"
        )
    for name, targets in layout.targets.items():
        if targets.sampled:
            yield f"{name} is of {len(targets.rows):,} queries, drawn with seed {seed}"
