"""What a file says of a trace, each field checked before anything is made of it.

A file may be damaged, or made to harm. So every size is held against the tensors that are there,
every place against the sizes, nesting is bounded, and so is the work of checking. Numbers within
tensors are not looked at, but for places: the file is mapped, and NaN is a number too.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qkv.attention import ALiBi, Both, Causal, Full, Given, Mask, Padding, Prefix, Window
from qkv.lens.seeing.masks import Cut, Stitched, TopLeft
from qkv.lens.traces.sites import Kept, Site
from qkv.lens.traces.stitching import StitchedBias
from qkv.lens.traces.told import listed, mapping, member, number, text, whole, wrong

__all__ = ["FORMAT", "RULES", "Found", "read"]

Array = np.ndarray[Any, Any]
# Sequences and heads that a mask or a bias tells apart; 1 where it doesn't.
Lead = tuple[int, int]

FORMAT = 1
RULES: dict[str, type[Mask]] = {
    rule.__name__: rule for rule in (Full, Causal, TopLeft, Window, Prefix, Padding)
}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WIDE = (torch.float32, torch.float64)
INTS = (torch.int32, torch.int64)
NUMBERS = (*FLOATS, *INTS, torch.int16, torch.int8, torch.uint8)
# Masks within masks; a captured one has a few.
DEEPEST = 16
# Across texts no tensor need be as long as the queries, of which some may be stored.
MOST_QUERIES = 2**24
MOST_HEADS = 2**16
LARGEST = 2**40


@dataclass(frozen=True)
class Found:
    """A trace as its file describes it."""

    calls: dict[int, list[Site]]
    unseen: dict[str, str]
    texts: dict[int, tuple[str, ...]]
    partial: str


def read(told: Any, tensors: dict[str, Tensor]) -> Found:
    """The trace that JSON and tensors describe.

    Raises:
        ValueError: one line that names the field that can't be.
    """
    given = mapping(told, "the description")
    if type(given.get("format")) is not int or given["format"] != FORMAT:
        wrong("format", given.get("format"), FORMAT)
    reader, calls = _Reader(tensors), {}
    for at, one in enumerate(listed(member(given, "calls", ""), "calls")):
        layer, sites = listed(one, f"calls[{at}]", 2)
        number_of = whole(layer, f"calls[{at}][0]", 0, LARGEST)
        if number_of in calls:
            wrong(f"calls[{at}][0]", layer, "a layer of its own")
        found = listed(sites, f"calls[{at}][1]")
        calls[number_of] = [
            reader.site(site, f"layer {number_of}[{i}]", number_of) for i, site in enumerate(found)
        ]
        if not found:
            wrong(f"calls[{at}][1]", found, "one call or more")
    if not calls:
        wrong("calls", [], "one layer or more")
    unseen = mapping(member(given, "unseen", ""), "unseen")
    for name, kind in unseen.items():
        text(kind, f"unseen[{name!r}]")
    texts = _texts(member(given, "texts", ""), calls)
    return Found(calls, unseen, texts, text(given.get("partial", ""), "partial"))


class _Sizes(NamedTuple):
    """What the parts of a site are held against."""

    B: int
    G: int
    Q: int
    K: int
    queries: int
    heads: tuple[int, ...]
    H_all: int

    def lead(self, lead: Lead, field: str, sequences: int) -> None:
        """Checks that a mask or bias has an axis of 1 or of the full size."""
        batch, heads = lead
        full = heads == self.H_all if self.H_all else heads > max(self.heads)
        if batch not in (1, sequences) or not (heads == 1 or full):
            expected = f"1 or {sequences} sequences, 1 or {self.H_all or 'all'} heads"
            wrong(f"{field}, its sequences and heads,", lead, expected)


class _Reader:
    """Sites from JSON and tensors."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        # A file may name one tensor many times; what is read of all is bounded by its size.
        self._left = 10**7 + 8 * sum(x.numel() for x in tensors.values())

    def site(self, told: Any, field: str, layer: int) -> Site:
        given = mapping(told, field)
        q = self.tensor(given, "q", field, FLOATS, (None, None, None, None))
        B, H, Q, C = q.shape
        k = self.tensor(given, "k", field, (q.dtype,), (B, None, None, C))
        G, K = k.shape[1:3]
        if 0 in (B, H, G, K, C):
            wrong(f"{field}.k of shape", tuple(k.shape), "one that holds numbers")
        at = self.places(given, "at", field, None) if member(given, "at", field) else None
        most = MOST_QUERIES if at is None else len(at)
        queries = whole(member(given, "queries", field), f"{field}.queries", max(1, Q), most)
        if at is not None and len(at) != queries:
            wrong(f"{field}.at, its length,", len(at), queries)
        heads, H_all = _heads(given, field, H)
        sizes = _Sizes(B, G, Q, K, queries, heads, H_all)
        rows = self.places(given, "rows", field, Q)
        self.within(rows, f"{field}.rows", 0, queries)
        if at is not None:
            # Where a prompt has more queries than keys, the first stand before all keys.
            self.within(at, f"{field}.at", -queries, max(K, queries))
        groups = listed(member(given, "groups", field), f"{field}.groups", H)
        kept = self.kept(given, field, sizes)
        cap = member(given, "softcap", field)
        others: dict[str, Any] = self.masks(given, field, sizes, kept)
        others |= self.optional(given, field, sizes)
        return Site(
            index=whole(member(given, "index", field), f"{field}.index", layer, layer),
            name=text(member(given, "name", field), f"{field}.name"),
            q=q,
            k=k,
            lse=self.tensor(given, "lse", field, WIDE, (B, H, Q)),
            kept=kept,
            at=at,
            scale=number(member(given, "scale", field), f"{field}.scale"),
            heads=heads,
            H_all=H_all,
            groups=tuple(whole(one, f"{field}.groups", 0, G - 1) for one in groups),
            rows=rows,
            queries=queries,
            softcap=None if cap is None else number(cap, f"{field}.softcap", sys.float_info.min),
            error=number(member(given, "error", field), f"{field}.error", 0.0),
            note=text(member(given, "note", field), f"{field}.note"),
            **others,
        )

    def kept(self, given: dict[str, Any], field: str, sizes: _Sizes) -> tuple[Kept, ...]:
        found = []
        for b, one in enumerate(listed(member(given, "kept", field), f"{field}.kept", sizes.B)):
            where = f"{field}.kept[{b}]"
            a, b, c, d = (whole(place, where, 0, LARGEST) for place in listed(one, where, 4))
            if not (a <= b <= sizes.queries and c < d <= sizes.K):
                wrong(where, one, f"within {sizes.queries} queries and {sizes.K} keys")
            found.append(Kept(range(a, b), range(c, d)))
        return tuple(found)

    def masks(
        self, given: dict[str, Any], field: str, sizes: _Sizes, kept: tuple[Kept, ...]
    ) -> dict[str, Any]:
        """The mask of all, those of each sequence, and the bias."""
        queries, K, where = sizes.queries, sizes.K, f"{field}.mask"
        mask, lead = self.mask(member(given, "mask", field), where, queries, K)
        sizes.lead(lead, where, sizes.B)
        bias, lead = self.bias(member(given, "bias", field), f"{field}.bias", queries, K)
        sizes.lead(lead, f"{field}.bias", sizes.B)
        masks = []
        told = listed(member(given, "masks", field), f"{field}.masks", sizes.B)
        for b, (one, of) in enumerate(zip(told, kept, strict=True)):
            where = f"{field}.masks[{b}]"
            own, lead = self.mask(one, where, len(of.rows), len(of.cols))
            sizes.lead(lead, where, 1)
            masks.append(own)
        return {"mask": mask, "bias": bias, "masks": tuple(masks)}

    def optional(self, given: dict[str, Any], field: str, sizes: _Sizes) -> dict[str, Any]:
        """What a site has only where it was seen."""
        found: dict[str, Any] = dict.fromkeys(("v", "w_o", "sink", "query_ids", "key_ids"))
        has = {name: member(given, name, field) is not None for name in found}
        B, G, K, H = sizes.B, sizes.G, sizes.K, len(sizes.heads)
        if has["v"]:
            found["v"] = self.tensor(given, "v", field, FLOATS, (B, G, K, None))
        if has["w_o"]:
            w_o = found["w_o"] = self.tensor(given, "w_o", field, FLOATS, (None, None))
            width = found["v"].shape[3] if has["v"] else 1
            wanted = (sizes.H_all or max(sizes.heads) + 1) * width
            if 0 in w_o.shape or w_o.shape[1] < wanted or w_o.shape[1] % max(1, width):
                wrong(f"{field}.w_o of shape", tuple(w_o.shape), f"(D, {wanted})")
        if has["sink"]:
            found["sink"] = self.tensor(given, "sink", field, FLOATS, (H,))
        for name, size in (("query_ids", sizes.queries), ("key_ids", K)):
            if has[name]:
                ids = self.tensor(given, name, field, INTS, (None, size))
                if not 1 <= len(ids) <= B:
                    wrong(f"{field}.{name}, its length,", len(ids), f"1 to {B}")
                found[name] = ids.numpy()
        return found

    def mask(
        self, told: Any, field: str, queries: int, keys: int, depth: int = 0
    ) -> tuple[Mask, Lead]:
        """A mask over some queries and keys."""
        kind, *rest = _kind(told, field, depth)
        if kind in RULES and len(rest) == 1:
            return _rule(RULES[kind], rest[0], field, keys)
        if kind == "Given" and len(rest) == 1:
            table = self.table(rest[0], field, (torch.bool,), queries, keys, least=1)
            return Given(table.numpy()), _lead(table)
        if kind == "Both" and len(rest) == 2:
            (left, a), (right, b) = (self.mask(m, field, queries, keys, depth + 1) for m in rest)
            return Both(left, right), _common(a, b, field)
        if kind == "Stitched" and len(rest) == 1:
            parts, lead = self.parts(rest[0], field, queries, keys, self.mask, depth)
            return Stitched(parts), lead
        if kind == "Cut" and len(rest) == 7:
            return self.cut(rest, field, queries, keys, depth)
        wrong(field, told, "a mask of a known kind")

    def cut(
        self, told: list[Any], field: str, queries: int, keys: int, depth: int
    ) -> tuple[Mask, Lead]:
        within = (whole(told[5], field, 1, LARGEST), whole(told[6], field, 1, LARGEST))
        inner, lead = self.mask(told[0], field, *within, depth + 1)
        sequence = whole(
            told[1], f"{field}, its sequence,", 0, lead[0] - 1 if lead[0] > 1 else LARGEST
        )
        several = isinstance(told[2], list)
        most = lead[1] - 1 if lead[1] > 1 else MOST_HEADS
        heads = [
            whole(h, f"{field}, its head,", 0, most) for h in (told[2] if several else told[2:3])
        ]
        places = []
        for name, count, size in zip(told[3:5], (queries, keys), within, strict=True):
            found = self.places({"places": name}, "places", field, count)
            self.within(found, f"{field}.places", 0, size)
            places.append(found)
        own = len(heads) if several and lead[1] > 1 else 1
        head = tuple(heads) if several else heads[0]
        return Cut(inner, sequence, head, places[0], places[1], *within), (1, own)

    def bias(
        self, told: Any, field: str, queries: int, keys: int, depth: int = 0
    ) -> tuple[Any, Lead]:
        """A bias over some queries and keys."""
        if told is None:
            return None, (1, 1)
        kind, *rest = _kind(told, field, depth)
        if kind == "table" and len(rest) == 1:
            least = 2 if depth else 0
            table = self.table(rest[0], field, NUMBERS, queries, keys, least=least)
            return table, _lead(table)
        if kind == "ALiBi" and len(rest) == 1 and rest[0]:
            slopes = listed(rest[0], field)
            return ALiBi(tuple(number(one, field) for one in slopes)), (1, len(slopes))
        if kind == "Stitched" and len(rest) == 1:
            parts, lead = self.parts(rest[0], field, queries, keys, self.bias, depth)
            return StitchedBias(parts), lead
        wrong(field, told, "a bias of a known kind")

    def parts(
        self, told: Any, field: str, queries: int, keys: int, of: Any, depth: int
    ) -> tuple[tuple[Any, ...], Lead]:
        """Masks or biases one below the other, which together have all queries."""
        found: list[Any] = []
        lead, rows = (1, 1), 0
        for i, one in enumerate(listed(told, field)):
            part, *sizes = listed(one, f"{field}, part {i},", 4)
            count, first, size = (whole(n, f"{field}, part {i},", 0, LARGEST) for n in sizes)
            if not size or first + size > keys:
                wrong(f"{field}, part {i},", sizes, f"within {keys} keys")
            own, its = of(part, field, count, size, depth + 1)
            lead, rows = _common(lead, its, field), rows + count
            found.append((own, count, first, size))
        if rows != queries:
            wrong(f"{field}, the queries of its parts,", rows, queries)
        return tuple(found), lead

    def tensor(
        self,
        given: dict[str, Any],
        name: str,
        field: str,
        kinds: Collection[torch.dtype],
        shape: tuple[int | None, ...],
    ) -> Tensor:
        found = self.named(member(given, name, field), f"{field}.{name}", kinds)
        pairs = zip(found.shape, shape, strict=False)
        if found.dim() != len(shape) or any(w not in (None, size) for size, w in pairs):
            expected = "(" + ", ".join("any" if w is None else str(w) for w in shape) + ")"
            wrong(f"{field}.{name} of shape", tuple(found.shape), expected)
        return found

    def named(self, name: Any, field: str, kinds: Collection[torch.dtype]) -> Tensor:
        found = self.tensors.get(name) if isinstance(name, str) else None
        if found is None:
            wrong(field, name, "a tensor of the file")
        if found.dtype not in kinds:
            wrong(f"{field} of type", found.dtype, " or ".join(map(str, kinds)))
        return found

    def table(
        self, name: Any, field: str, kinds: Any, queries: int, keys: int, *, least: int
    ) -> Tensor:
        """A table whose axes of queries and keys are whole, or 1 for all."""
        found = self.named(name, field, kinds)
        sizes = ((1,) * 4 + tuple(found.shape))[-2:]
        fits = sizes[0] in (1, queries) and sizes[1] in (1, keys)
        if not least <= found.dim() <= 4 or not fits:
            wrong(f"{field} of shape", tuple(found.shape), f"(..., {queries}, {keys})")
        return found

    def places(self, given: dict[str, Any], name: str, field: str, count: int | None) -> Array:
        found: Array = self.tensor(given, name, field, INTS, (count,)).numpy()
        return found

    def within(self, places: Array, field: str, low: int, high: int) -> None:
        self._left -= places.size
        if self._left < 0:
            wrong(field, places.size, "a file that names each tensor a few times")
        if places.size and not (places.min() >= low and places.max() < high):
            worst = places.min() if places.min() < low else places.max()
            wrong(field, int(worst), f"from {low} to {high - 1}")


def _heads(given: dict[str, Any], field: str, H: int) -> tuple[tuple[int, ...], int]:
    """The stored heads, and how many there are in all; 0 where that isn't known."""
    H_all = whole(given.get("H_all", 0), f"{field}.H_all", 0, MOST_HEADS)
    told = listed(member(given, "heads", field), f"{field}.heads", H)
    heads = tuple(whole(one, f"{field}.heads", 0, (H_all or MOST_HEADS) - 1) for one in told)
    if len(set(heads)) != H:
        wrong(f"{field}.heads", told, "each head once")
    return heads, H_all


def _rule(rule: type[Mask], told: Any, field: str, keys: int) -> tuple[Mask, Lead]:
    given = mapping(told, field)
    names = [one.name for one in dataclasses.fields(rule)]  # type: ignore[arg-type]
    if sorted(given) != sorted(names):
        wrong(f"{field}, its {rule.__name__},", given, f"{names}")
    if rule is Padding:
        lengths = listed(given["lengths"], field)
        if not lengths:
            wrong(f"{field}, its lengths,", lengths, "one or more")
        return Padding(tuple(whole(n, field, 0, keys) for n in lengths)), (len(lengths), 1)
    low = 1 if rule is Window else 0
    return rule(**{n: whole(given[n], f"{field}.{n}", low, 2**62) for n in names}), (1, 1)


def _texts(told: Any, calls: dict[int, list[Site]]) -> dict[int, tuple[str, ...]]:
    most = max(site.B for sites in calls.values() for site in sites)
    found = {}
    for name, tokens in mapping(told, "texts").items():
        field = f"texts[{name[:12]!r}]"
        if not (name.isascii() and name.isdigit() and len(name) < 12 and int(name) < most):
            wrong("texts", name, f"of sequences 0 to {most - 1}")
        found[int(name)] = tuple(text(one, field) for one in listed(tokens, field))
    return found


def _lead(table: Tensor) -> Lead:
    sizes = (1,) * 4 + tuple(table.shape)
    return sizes[-4], sizes[-3]


def _common(one: Lead, other: Lead, field: str) -> Lead:
    for a, b in zip(one, other, strict=True):
        if a != b and 1 not in (a, b):
            wrong(f"{field}, its sequences and heads,", other, one)
    return max(one[0], other[0]), max(one[1], other[1])


def _kind(told: Any, field: str, depth: int) -> list[Any]:
    found = listed(told, field)
    if depth > DEEPEST:
        wrong(f"{field}, its depth,", depth, f"at most {DEEPEST}")
    if not found or not isinstance(found[0], str):
        wrong(field, told, "a kind and what it is made of")
    return found
