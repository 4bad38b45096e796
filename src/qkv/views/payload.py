"""The one wire format: what a trace's picture needs, as a JSON header and a body of chunks.

Browser, notebook and exported page read the same payload and look things up in it; none computes
attention. The header is told at `of_maps`, how a head is stored in `stored`.
"""

from __future__ import annotations

import hashlib
import math
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from qkv.errors import ConfigError, ResourceError
from qkv.views.stored import BOUNDS, TOP, Seen, StoredHead

if TYPE_CHECKING:
    from qkv.lens import AttentionMap

__all__ = ["Column", "Layer", "Payload", "of_maps", "told_column"]

Array: TypeAlias = "np.ndarray[Any, Any]"

VERSION = 1
# 64 MB of levels before they are deflated; a browser still opens that.
LARGEST_CELLS = 2**27
_HEAD_NAME = re.compile(r"L(\d+)H(\d+)")


@dataclass(frozen=True)
class Layer:
    """The maps of one layer's heads, all of the same two texts.

    Args:
        maps: one for each head, named "L3H7" or not at all.
        module: the layer's module, such as "model.layers.3.self_attn".
        window: how many tokens its heads look back, where that is limited.
    """

    maps: Sequence[AttentionMap]
    module: str = ""
    window: int | None = None


@dataclass(frozen=True)
class Column:
    """One score of every head, for the table.

    Args:
        name: such as "induction".
        values: the score of each head by the head's name; a head left out has none.
        description: what the score says, in a sentence.
        chance: what uniform attention would score, for all heads or for each.
        ceiling: what a perfect head scores.
        count: over how many rows, for all heads or for each.
    """

    name: str
    values: Mapping[str, float]
    description: str = ""
    chance: float | Mapping[str, float] | None = None
    ceiling: float | None = None
    count: int | Mapping[str, int] | None = None


@dataclass(frozen=True, eq=False)
class Payload:
    """A header that JSON holds, and the chunks that it names, deflated, one after another.

    `header["chunks"]` gives each chunk's (offset, length) in `body`. Offsets are multiples of 3,
    so that a chunk can be cut out of the body's base64 as well.
    """

    header: Mapping[str, Any]
    body: bytes

    def chunk(self, name: str) -> bytes:
        """One chunk, inflated."""
        offset, length = self.header["chunks"][name]
        return zlib.decompress(self.body[offset : offset + length])

    def head(self, name: str) -> StoredHead:
        """One head as it is stored.

        Raises:
            ConfigError: where there is no such head.

        >>> from qkv.lens import AttentionMap
        >>> head = AttentionMap.of(np.zeros((1, 2)), np.zeros((4, 2)))
        >>> of_maps([[head]]).head("L0H0").read(0, 3)
        Reading(low=0.15848931924611134, high=0.251188643150958, weight=0.25)
        """
        for layer in self.header["layers"]:
            for head in layer["heads"]:
                if head["name"] == name:
                    seen = self._seen(head["seen"], layer)
                    return StoredHead.unpack(self.chunk(name), seen, error=head["error"])
        raise ConfigError(f"head {name}", "one that was stored", "see header['layers']")

    def _seen(self, name: str, layer: Mapping[str, Any]) -> Seen:
        holes = bool(self.header["holes"][name])
        return Seen.unpack(self.chunk(name), layer["queries"], layer["keys"], holes=holes)


def of_maps(
    layers: Sequence[Layer | Sequence[AttentionMap]],
    *,
    title: str = "",
    note: str = "",
    columns: Sequence[Column] = (),
    kinds: Mapping[str, str] | None = None,
    begin: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Payload:
    """The payload of some layers' heads.

    Args:
        layers: the maps of each layer; all heads of a layer have the same two texts.
        title: what was looked at, such as the model's name.
        note: a line more about it, such as "step 500 · loss 1.64".
        columns: scores of the heads, for the table.
        kinds: what a head is called by its strongest score, such as "previous token", by its name.
        begin: the name of the head to show first.
        progress: told (heads done, heads in all).

    Raises:
        ConfigError: where there is no head, a name comes twice, or heads of a layer differ in size.
        ResourceError: where it would be too much for a page.

    The header holds: format, version, title, note, begin; `bounds`, the borders of the 16 levels;
    `top`, how many exact weights a row has; `texts`, each a size and its tokens' labels or null;
    `layers`, each with its index, module, window, cross, queries, keys, the numbers of its two
    texts, the places of its queries among the keys (null where they are no tokens of that text),
    and its heads: name, layer, head, kind, note, `strongest` (query, key, weight), `error` of the
    worst row's sum, `seen` (the chunk of its mask), `thumb` (rows and columns of its thumbnail;
    all stand in one chunk); `table`, the columns of scores in the order of the heads; `holes`,
    which masks have some; `chunks`. A page may be told more: `cell`, where to begin in that head,
    and `log`, whether its colours follow the logarithm.

    >>> from qkv.attention import Causal
    >>> from qkv.lens import AttentionMap
    >>> x = np.zeros((3, 2))
    >>> payload = of_maps([[AttentionMap.of(x, x, mask=Causal(), labels="abc")]])
    >>> payload.header["texts"], payload.header["layers"][0]["heads"][0]["strongest"]
    ([{'size': 3, 'labels': ['a', 'b', 'c']}], [2, 1, 0.3333333333333333])
    """
    given = [layer if isinstance(layer, Layer) else Layer(layer) for layer in layers]
    names = _names(given)
    _check(given)
    writer = _Writer()
    described: list[dict[str, Any]] = []
    thumbnails: list[bytes] = []
    done = 0
    for layer, numbers in zip(given, names, strict=True):
        heads = []
        for head, number in zip(layer.maps, numbers, strict=True):
            entry, thumbnail = writer.head(head, number, (kinds or {}).get(_name(number), ""))
            heads.append(entry)
            thumbnails.append(thumbnail)
            done += 1
            if progress is not None:
                progress(done, sum(len(each.maps) for each in given))
        described.append(writer.layer(layer, numbers[0][0], heads))
    writer.add("thumbnails", b"".join(thumbnails))
    flat = [_name(number) for numbers in names for number in numbers]
    header: dict[str, Any] = {
        "format": "qkv payload",
        "version": VERSION,
        "title": title,
        "note": note,
        "begin": begin,
        "bounds": list(BOUNDS),
        "top": TOP,
        "texts": writer.texts,
        "layers": described,
        "table": [told_column(column, flat) for column in columns],
        "holes": writer.holes,
        "chunks": writer.chunks,
    }
    return Payload(header, bytes(writer.body))


@dataclass
class _Writer:
    """Gathers chunks; a mask or a text that comes again is stored once."""

    body: bytearray = field(default_factory=bytearray)
    chunks: dict[str, tuple[int, int]] = field(default_factory=dict)
    holes: dict[str, bool] = field(default_factory=dict)
    texts: list[dict[str, Any]] = field(default_factory=list)
    masks: dict[Any, tuple[str, Seen]] = field(default_factory=dict)
    digests: dict[bytes, str] = field(default_factory=dict)

    def add(self, name: str, data: bytes) -> None:
        """Deflate a chunk, matching repeats or not, whichever is smaller."""
        found = []
        for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY):
            # Level 9 gains 4 % and takes ten times as long.
            packer = zlib.compressobj(6, zlib.DEFLATED, 15, 9, strategy)
            found.append(packer.compress(data) + packer.flush())
        best = min(found, key=len)
        self.chunks[name] = (len(self.body), len(best))
        self.body += best + b"\0" * (-len(best) % 3)

    def head(
        self, head: AttentionMap, number: tuple[int, int], kind: str
    ) -> tuple[dict[str, Any], bytes]:
        """Store one head; its entry in the header, and its thumbnail."""
        mask, seen = self.seen(head)
        stored = StoredHead.of(head, seen)
        self.add(_name(number), stored.pack())
        picture = np.zeros((0, 0), np.uint8) if stored.thumbnail is None else stored.thumbnail
        entry = {
            "name": _name(number),
            "layer": number[0],
            "head": number[1],
            "kind": kind,
            "note": head.note,
            "strongest": None if stored.strongest is None else list(stored.strongest),
            "error": stored.error,
            "seen": mask,
            "thumb": list(picture.shape),
        }
        return entry, picture.tobytes()

    def seen(self, head: AttentionMap) -> tuple[str, Seen]:
        """What a map's mask allows, and the name of its chunk."""
        hashable = type(head.mask).__hash__ is not None
        key = (head.mask if hashable else id(head.mask), head.Q, head.K)
        if key not in self.masks:
            seen = Seen.of(head)
            data = seen.pack()
            # Equal masks of different objects are stored once as well.
            digest = hashlib.sha256(repr((head.Q, head.K)).encode() + data).digest()
            name = self.digests.setdefault(digest, f"mask {len(self.digests)}")
            if name not in self.chunks:
                self.add(name, data)
                self.holes[name] = seen.holes is not None
            self.masks[key] = (name, seen)
        return self.masks[key]

    def text(self, labels: Sequence[str], size: int) -> int:
        """The number of a text among the header's."""
        entry = {"size": size, "labels": list(labels) or None}
        if entry not in self.texts:
            self.texts.append(entry)
        return self.texts.index(entry)

    def layer(self, layer: Layer, index: int, heads: list[dict[str, Any]]) -> dict[str, Any]:
        """A layer's entry in the header."""
        first = layer.maps[0]
        return {
            "index": index,
            "module": layer.module,
            "window": layer.window,
            "cross": first.cross,
            "queries": first.Q,
            "keys": first.K,
            "query_text": self.text(first.query_labels, first.Q),
            "key_text": self.text(first.key_labels, first.K),
            "places": _places(first),
            "heads": heads,
        }


def _places(head: AttentionMap) -> list[int] | None:
    """The key at which each query stands; None where queries aren't tokens of the keys' text."""
    if head.cross:
        return None
    places: list[int] = head.places.tolist()
    return places if min(places) >= 0 and max(places) < head.K else None


def _names(layers: Sequence[Layer]) -> list[list[tuple[int, int]]]:
    """The layer and the head that each map's name says; counted where it has none."""
    found: list[list[tuple[int, int]]] = []
    for index, layer in enumerate(layers):
        matches = [_HEAD_NAME.fullmatch(head.name) for head in layer.maps]
        found.append(
            [
                (int(match[1]), int(match[2])) if match else (index, place)
                for place, match in enumerate(matches)
            ]
        )
    flat = [number for numbers in found for number in numbers]
    twice = next((number for number in flat if flat.count(number) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"two heads named {_name(twice)}", "a name for each", "give each head once"
        )
    return found


def _name(number: tuple[int, int]) -> str:
    return f"L{number[0]}H{number[1]}"


def _check(layers: Sequence[Layer]) -> None:
    if not layers or not all(layer.maps for layer in layers):
        got = "a layer without heads" if layers else "no layers"
        raise ConfigError(got, "one head or more", "choose others")
    for index, layer in enumerate(layers):
        sizes = {(head.Q, head.K) for head in layer.maps}
        if len(sizes) > 1:
            raise ConfigError(
                f"heads of {sorted(sizes)} queries and keys in layer {index}",
                "one size for a layer",
                "give maps of one text at a time",
            )
    cells = sum(head.Q * head.K for layer in layers for head in layer.maps)
    if cells > 2 * LARGEST_CELLS:
        heads = sum(len(layer.maps) for layer in layers)
        raise ResourceError(
            f"{heads} heads of {cells / heads:,.0f} cells each",
            f"at most {2 * LARGEST_CELLS:,} cells for a page",
            "choose fewer layers, heads or tokens",
        )


def told_column(column: Column, heads: Sequence[str]) -> dict[str, Any]:
    """A column as a header has it, its values in the order of the heads."""

    def listed(values: Any) -> Any:
        if not isinstance(values, Mapping):
            return _number(values)
        return [_number(values.get(name)) for name in heads]

    return {
        "name": column.name,
        "description": column.description,
        "values": listed(dict(column.values)),
        "chance": listed(column.chance),
        "ceiling": _number(column.ceiling),
        "count": listed(column.count),
    }


def _number(value: Any) -> float | int | None:
    """A plain number for JSON, which has none for NaN."""
    if value is None or not math.isfinite(value):
        return None
    return int(value) if isinstance(value, int | np.integer) else float(value)
