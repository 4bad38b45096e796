"""What a file says of a trace, each field checked before anything is made of it.

A file may be damaged, or made to harm. So every size is held against the tensors that are there,
every place against the sizes, nesting is bounded, and so is the work of checking. Numbers within
tensors are not looked at, but for places: the file is mapped, and NaN is a number too.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from qkv.lens.traces.described import FLOATS, INTS, LARGEST, WIDE, Lead, Masks
from qkv.lens.traces.rounding import decode
from qkv.lens.traces.sites import Kept, Site
from qkv.lens.traces.told import listed, mapping, member, number, text, whole, wrong

__all__ = ["FORMAT", "Found", "read"]

Array = np.ndarray[Any, Any]

FORMAT = 1
SCALES = (torch.float16, torch.float32)
# Across texts no tensor need be as long as the queries, of which some may be stored.
MOST_QUERIES = 2**24
MOST_HEADS = 2**16


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


class _Reader(Masks):
    """Sites from JSON and tensors."""

    def site(self, told: Any, field: str, layer: int) -> Site:
        given = mapping(told, field)
        q = self.numbers(given, "q", field, FLOATS, (None, None, None, None))
        B, H, Q, C = q.shape
        k = self.numbers(given, "k", field, (q.dtype,), (B, None, None, C))
        G, K = k.shape[1:3]
        if 0 in (B, H, G, K, C):
            wrong(f"{field}.k of shape", tuple(k.shape), "one that holds numbers")
        across = member(given, "at", field) is None
        at = None if across else self.places(given, "at", field, None)
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

    def numbers(
        self,
        given: dict[str, Any],
        name: str,
        field: str,
        kinds: tuple[torch.dtype, ...],
        shape: tuple[int | None, ...],
    ) -> Tensor:
        """Queries or keys; whole numbers become fp32 by the scales of their rows."""
        found = self.tensor(given, name, field, (*kinds, torch.int8), shape)
        if found.dtype is not torch.int8:
            return found
        if torch.float32 not in kinds:
            wrong(f"{field}.{name} of type", found.dtype, " or ".join(map(str, kinds)))
        scales = self.tensor(given, f"{name}_scale", field, SCALES, tuple(found.shape[:-1]))
        # These numbers are copied: what a file can make of its size is bounded.
        self.take(found.numel(), f"{field}.{name}")
        return decode(found, scales)

    def kept(self, given: dict[str, Any], field: str, sizes: _Sizes) -> tuple[Kept, ...]:
        found = []
        for b, one in enumerate(listed(member(given, "kept", field), f"{field}.kept", sizes.B)):
            where = f"{field}.kept[{b}]"
            row, stop, col, end = (whole(n, where, 0, LARGEST) for n in listed(one, where, 4))
            if not (row <= stop <= sizes.queries and col < end <= sizes.K):
                wrong(where, one, f"within {sizes.queries} queries and {sizes.K} keys")
            found.append(Kept(range(row, stop), range(col, end)))
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


def _heads(given: dict[str, Any], field: str, H: int) -> tuple[tuple[int, ...], int]:
    """The stored heads, and how many there are in all; 0 where that isn't known."""
    H_all = whole(given.get("H_all", 0), f"{field}.H_all", 0, MOST_HEADS)
    told = listed(member(given, "heads", field), f"{field}.heads", H)
    heads = tuple(whole(one, f"{field}.heads", 0, (H_all or MOST_HEADS) - 1) for one in told)
    if len(set(heads)) != H:
        wrong(f"{field}.heads", told, "each head once")
    return heads, H_all


def _texts(told: Any, calls: dict[int, list[Site]]) -> dict[int, tuple[str, ...]]:
    most = max(site.B for sites in calls.values() for site in sites)
    found = {}
    for name, tokens in mapping(told, "texts").items():
        field = f"texts[{name[:12]!r}]"
        if not (name.isascii() and name.isdigit() and len(name) < 12 and int(name) < most):
            wrong("texts", name, f"of sequences 0 to {most - 1}")
        found[int(name)] = tuple(text(one, field) for one in listed(tokens, field))
    return found
