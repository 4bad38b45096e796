"""Masks, biases and tensors as a file describes them, each held against the sizes it must fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qkv.attention import ALiBi, Both, Causal, Full, Given, Mask, Padding, Prefix, Window
from qkv.lens.seeing.masks import Cut, Stitched, TopLeft
from qkv.lens.traces.stitching import StitchedBias
from qkv.lens.traces.told import listed, mapping, member, number, whole, wrong

__all__ = ["FLOATS", "INTS", "LARGEST", "RULES", "WIDE", "Lead", "Masks"]

Array = np.ndarray[Any, Any]
# Sequences and heads that a mask or a bias tells apart; 1 where it doesn't.
Lead = tuple[int, int]

RULES: dict[str, type[Mask]] = {
    rule.__name__: rule for rule in (Full, Causal, TopLeft, Window, Prefix, Padding)
}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WIDE = (torch.float32, torch.float64)
INTS = (torch.int32, torch.int64)
NUMBERS = (*FLOATS, *INTS, torch.int16, torch.int8, torch.uint8)
# Masks within masks; a captured one has a few.
DEEPEST = 16
LARGEST = 2**40


class Masks:
    """Masks and biases from JSON and tensors."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        # A file may name one tensor many times; what is read of all is bounded by its size.
        self._left = 10**7 + 8 * sum(x.numel() for x in tensors.values())

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
            parts, lead = self.parts(rest[0], field, queries, keys, of=self.mask, depth=depth)
            return Stitched(parts), lead
        if kind == "Cut" and len(rest) == 7:
            return self.cut(rest, field, queries, keys, depth)
        return wrong(field, told, "a mask of a known kind")

    def cut(
        self, told: list[Any], field: str, queries: int, keys: int, depth: int
    ) -> tuple[Mask, Lead]:
        within = (whole(told[5], field, 1, LARGEST), whole(told[6], field, 1, LARGEST))
        inner, lead = self.mask(told[0], field, *within, depth + 1)
        most = [size - 1 if size > 1 else LARGEST for size in lead]
        sequence = whole(told[1], f"{field}, its sequence,", 0, most[0])
        several = isinstance(told[2], list)
        named = told[2] if several else told[2:3]
        heads = [whole(one, f"{field}, its head,", 0, most[1]) for one in named]
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
            parts, lead = self.parts(rest[0], field, queries, keys, of=self.bias, depth=depth)
            return StitchedBias(parts), lead
        return wrong(field, told, "a bias of a known kind")

    def parts(
        self, told: Any, field: str, queries: int, keys: int, *, of: Any, depth: int
    ) -> tuple[tuple[Any, ...], Lead]:
        """Masks or biases one below the other, which together have all queries."""
        found: list[Any] = []
        lead, rows = (1, 1), 0
        for i, one in enumerate(listed(told, field)):
            part, *sizes = listed(one, f"{field}, part {i},", 4)
            where = f"{field}, part {i},"
            count, size = (whole(n, where, 0, LARGEST) for n in sizes[::2])
            # Padding before the first key that is kept makes a part begin before it.
            first = whole(sizes[1], where, -size, keys - size)
            if not size:
                wrong(where, sizes, "a part with keys")
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

    def take(self, count: int, field: str) -> None:
        """Accounts for numbers that are read or copied."""
        self._left -= count
        if self._left < 0:
            wrong(field, count, "a file that names each tensor a few times")

    def within(self, places: Array, field: str, low: int, high: int) -> None:
        self.take(places.size, field)
        if places.size and not (places.min() >= low and places.max() < high):
            worst = places.min() if places.min() < low else places.max()
            wrong(field, int(worst), f"from {low} to {high - 1}")


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
