"""What a view needs of a trace or of maps: the heads by layer, their scores, and where to begin."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from qkv.errors import ConfigError, QkvError
from qkv.views.atlas import grid_of
from qkv.views.payload import Column, Layer, Payload, of_maps, told_column

if TYPE_CHECKING:
    from qkv.lens import AttentionMap, Trace
    from qkv.lens.heads.head_table import HeadRow, HeadTable

    # What can be shown: a trace of one sequence, one map, or some.
    Showable: TypeAlias = "Trace | AttentionMap | Iterable[AttentionMap]"

__all__ = ["Gathered", "gather", "telling", "telling_head"]

# To look at oneself, or at everything alike, tells little of what a head looks for.
DULL = ("self", "uniform")
KINDS = {"previous": "previous token", "duplicate": "duplicate token", "mixed": ""}
LIFT = (
    "how far the score that a head is called by is from chance (0) to perfect (1), "
    "the first token's mass set aside"
)
# Heads of more cells than this in all take more than a few seconds to store or to score.
QUICK_CELLS = 2**27


@dataclass(frozen=True, eq=False)
class Gathered:
    """The heads of a view, by layer.

    Args:
        layers: the heads, as a payload takes them.
        table: their scores, where they were asked for.
        telling: the name of the head to begin with.
        title, note: as of a payload.
    """

    layers: tuple[Layer, ...]
    table: HeadTable | None = None
    telling: str = ""
    title: str = ""
    note: str = ""
    maps: dict[str, AttentionMap] = field(init=False)

    def __post_init__(self) -> None:
        heads = {head.name: head for layer in self.layers for head in layer.maps}
        object.__setattr__(self, "maps", heads)

    @property
    def cells(self) -> int:
        """How many weights all heads have together."""
        return sum(head.Q * head.K for head in self.maps.values())

    @property
    def quick(self) -> bool:
        """Whether all weights can be read in a few seconds."""
        return self.cells <= QUICK_CELLS

    def scored(self, progress: Callable[[float], None] | None = None) -> Gathered:
        """The same with a table of scores, and the most telling head to begin with.

        >>> import numpy as np
        >>> from qkv.attention import Causal
        >>> from qkv.lens import AttentionMap
        >>> x = np.eye(5) * 9
        >>> heads = [AttentionMap.of(x, y, mask=Causal()) for y in (x, np.roll(x, -1, axis=0))]
        >>> found = gather(heads).scored()
        >>> found.telling, found.table[found.telling].role
        ('L0H1', 'previous')
        """
        from qkv.lens.heads.head_table import score_heads

        table = score_heads(list(self.maps.values()), progress=progress)
        return replace(self, table=table, telling=self.telling or telling_head(table))

    def payload(self, progress: Callable[[int, int], None] | None = None) -> Payload:
        """All of it in the one wire format.

        Raises:
            ResourceError: where it would be too much for a page.
        """
        table = self.table
        kinds = {} if table is None else {row.name: _kind(row.role) for row in table}
        columns = () if table is None else _columns(table)
        return of_maps(
            self.layers,
            title=self.title,
            note=self.note,
            columns=columns,
            kinds=kinds,
            begin=self.telling,
            progress=progress,
        )

    def scores(self) -> dict[str, Any]:
        """What a header says of scores: its table, what each head is called, where to begin.

        For heads that are too many for a payload, and were scored later.
        """
        table = self.scored().table if self.table is None else self.table
        assert table is not None
        names = list(self.maps)
        return {
            "table": [told_column(column, names) for column in _columns(table)],
            "kinds": [_kind(table[name].role) for name in names],
            "begin": self.telling or telling_head(table),
        }

    def wire(self) -> tuple[dict[str, Any], bytes]:
        """A header and a body for a view with Python behind it.

        The body is empty, and the header has no chunks, where there is too much to be stored.
        """
        if self.quick:
            payload = self.payload()
            return dict(payload.header), payload.body
        texts: list[dict[str, Any]] = []

        def text(labels: tuple[str, ...], size: int) -> int:
            entry = {"size": size, "labels": list(labels) or None}
            if entry not in texts:
                texts.append(entry)
            return texts.index(entry)

        layers = []
        for layer in self.layers:
            first = layer.maps[0]
            heads = [
                {
                    "name": head.name,
                    "layer": number,
                    "head": place,
                    "kind": "" if self.table is None else _kind(self.table[head.name].role),
                    "note": head.note,
                    "strongest": None,
                }
                for (number, place), head in grid_of(layer.maps).items()
            ]
            layers.append(
                {
                    "index": heads[0]["layer"],
                    "module": layer.module,
                    "window": layer.window,
                    "cross": first.cross,
                    "queries": first.Q,
                    "keys": first.K,
                    "query_text": text(first.query_labels, first.Q),
                    "key_text": text(first.key_labels, first.K),
                    "places": None if first.cross else [int(place) for place in first.places],
                    "heads": heads,
                }
            )
        header = {"title": self.title, "note": self.note, "texts": texts, "layers": layers}
        return header, b""


def gather(
    thing: Showable,
    *,
    layer: int | str | None = None,
    head: int | None = None,
    title: str = "",
    note: str = "",
) -> Gathered:
    """The heads of a trace, of one map, or of some, in layers.

    Args:
        layer, head: only this layer, only heads of this number.
        title, note: what was looked at, in words.

    Raises:
        QkvError: where there is nothing to show, or no such head.

    >>> import numpy as np
    >>> from qkv.lens import AttentionMap
    >>> x = np.zeros((3, 1))
    >>> gather(AttentionMap.of(x, x, name="L3H7")).telling
    'L3H7'
    """
    layers = _layers(thing)
    if layer is not None or head is not None:
        layers = _chosen(layers, layer, head)
    heads = [each for one in layers for each in one.maps]
    return Gathered(
        tuple(layers), telling=heads[0].name if len(heads) == 1 else "", title=title, note=note
    )


def _layers(thing: Any) -> list[Layer]:
    if hasattr(thing, "sites"):
        pairs = zip(thing.sites(), thing.maps(), strict=True)
        return [Layer(maps, site.name, site.window) for site, maps in pairs]
    some = isinstance(thing, Iterable) and not hasattr(thing, "lse")
    maps = list(thing) if some else [thing]
    if not all(hasattr(each, "lse") for each in maps):
        raise ConfigError(
            f"a {type(thing).__name__}", "a trace or a map", "give what capture() yields"
        )
    rows: dict[int, list[AttentionMap]] = {}
    for (number, place), each in grid_of(maps).items():
        named = each if each.name else replace(each, name=f"L{number}H{place}")
        rows.setdefault(number, []).append(named)
    return [Layer(rows[number]) for number in sorted(rows)]


def _chosen(layers: list[Layer], layer: int | str | None, head: int | None) -> list[Layer]:
    """The layers and heads that are asked for."""
    numbers = [next(iter(grid_of(each.maps)))[0] for each in layers]
    modules = [each.module for each in layers]
    if layer is not None and layer not in numbers + modules:
        known = f"one of {', '.join(map(str, numbers))}" if len(numbers) > 1 else str(numbers[0])
        if numbers == list(range(len(numbers))) and len(numbers) > 1:
            known = f"0 to {numbers[-1]}"
        raise QkvError(f"layer {layer}", known, "count layers from 0, in order of first use")
    found = []
    for number, each in zip(numbers, layers, strict=True):
        if layer is not None and layer not in (number, each.module):
            continue
        places = {place: one for (_, place), one in grid_of(each.maps).items()}
        if head is None:
            found.append(each)
        elif head in places:
            found.append(replace(each, maps=[places[head]]))
    if not found:
        wanted = f"head {head}" + (f" of layer {layer}" if layer is not None else "")
        most = max(place for each in layers for _, place in grid_of(each.maps))
        raise QkvError(wanted, f"0 to {most}", "count heads from 0")
    return found


def telling(row: HeadRow) -> tuple[int, float]:
    """What puts the most telling head first: the key by which heads are listed.

    First come heads with a role by their lift, then those that look at themselves or at everything
    alike, then those without a role, by the lift that comes closest to one.
    """
    found = row.strongest
    if found is None:
        return 3, 0.0
    named = found[0] == row.role
    return (1 if row.role in DULL else 0) if named else 2, -found[1]


def telling_head(table: HeadTable) -> str:
    """The head that is listed first: it most clearly looks for something."""
    return min(table, key=telling).name


def _kind(role: str) -> str:
    return KINDS.get(role, role)


def _columns(table: HeadTable) -> list[Column]:
    lifts = {row.name: lift for row in table if (lift := row.lift) is not None}
    found = [Column("lift", lifts, LIFT, None, 1.0)] if lifts else []
    for name, formula in table.columns.items():
        scores = {row.name: score for row in table if (score := row.scores[name]) is not None}
        if not scores:
            continue
        found.append(
            Column(
                name,
                {head: score.score for head, score in scores.items()},
                formula.definition,
                {head: score.chance for head, score in scores.items() if score.chance is not None},
                formula.ceiling,
                {head: score.count for head, score in scores.items()},
            )
        )
    return found
