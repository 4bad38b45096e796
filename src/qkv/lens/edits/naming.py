"""Heads by name: "L3H7", all of a layer, "L3", a module's own name, or "all"; counted from 0."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Bool

from qkv.errors import ConfigError

__all__ = ["Heads", "HeadsLike", "Named"]

# A name, several with commas between them, (layer, head) as in trace[layer, head], or many of them.
HeadsLike: TypeAlias = (
    "Heads | str | tuple[int | str, int] | Iterable[Named | str | tuple[int | str, int]]"
)

LAYER_HEAD = re.compile(r"L([0-9]{1,6})(?:H([0-9]{1,6}))?")
# What was meant as a layer or a head and is none, such as "L3H", "h7" or "3.7".
MISTYPED = re.compile(r"[LHlh]?[0-9]*(?:[LHlh.,:#-][0-9]*)*")
MODULE = re.compile(r"\w+(?:\.\w+)*(?:#[0-9]+)?")


@dataclass(frozen=True)
class Named:
    """One name as it was given: a head, a whole layer (head None), or everything (layer None)."""

    layer: int | str | None
    head: int | None = None

    def __str__(self) -> str:
        if self.layer is None:
            return "all"
        layer = f"L{self.layer}" if isinstance(self.layer, int) else self.layer
        return layer if self.head is None else f"{layer}H{self.head}"

    def at(self, layer: int, name: str) -> bool:
        """Whether a layer of this number and module name is meant."""
        return self.layer is None or self.layer == (layer if isinstance(self.layer, int) else name)


@dataclass(frozen=True)
class Heads:
    """Some heads of some layers.

    >>> heads = Heads.of(["L0H2", "L1", "model.layers.4.attn"])
    >>> str(heads), heads.chosen(0, "", 3).tolist(), heads.chosen(1, "", 3).tolist()
    ('L0H2, L1, model.layers.4.attn', [False, False, True], [True, True, True])
    """

    names: tuple[Named, ...] = ()

    @classmethod
    def of(cls, heads: HeadsLike) -> Heads:
        """The heads of these names.

        Raises:
            ConfigError: a name that is none.

        >>> Heads.of("L3H")
        Traceback (most recent call last):
        qkv.errors.ConfigError: got the head 'L3H'; expected a name such as L3H7, L3, the name of \
a module, or all; count layers and heads from 0
        """
        if isinstance(heads, Heads):
            return heads
        if isinstance(heads, str):
            return cls(tuple(_read(part.strip()) for part in heads.split(",")))
        if isinstance(heads, tuple) and len(heads) == 2 and isinstance(heads[1], int):
            return cls((_read_pair(heads),))
        each: Any = heads
        if not isinstance(each, Iterable):
            raise _wrong(heads)
        return cls(tuple(name for one in each for name in _parts(one)))

    def __bool__(self) -> bool:
        return bool(self.names)

    def __str__(self) -> str:
        return ", ".join(map(str, self.names))

    def chosen(self, layer: int, name: str, heads: int) -> Bool[np.ndarray, " H"]:
        """Which of the `heads` heads of a layer are meant.

        Raises:
            ConfigError: where the layer has no such head.
        """
        found = np.zeros(heads, dtype=bool)
        for each in self.names:
            if not each.at(layer, name):
                continue
            if each.head is None:
                found[:] = True
            elif each.head < heads:
                found[each.head] = True
            else:
                raise ConfigError(
                    f"the head {each}", f"L{layer}H0 to L{layer}H{heads - 1}", "count heads from 0"
                )
        return found


def _parts(one: Any) -> tuple[Named, ...]:
    if isinstance(one, Named):
        return (one,)
    if isinstance(one, str | tuple):
        return Heads.of(one).names
    raise _wrong(one)


def _read(name: str) -> Named:
    if name == "all":
        return Named(None)
    if found := LAYER_HEAD.fullmatch(name):
        layer, head = found.groups()
        return Named(int(layer), None if head is None else int(head))
    if MISTYPED.fullmatch(name) or not MODULE.fullmatch(name):
        raise _wrong(name)
    return Named(name)


def _read_pair(pair: tuple[Any, ...]) -> Named:
    layer, head = pair
    whole = isinstance(layer, int) and not isinstance(layer, bool) and layer >= 0
    if head < 0 or isinstance(head, bool) or not (whole or isinstance(layer, str)):
        raise _wrong(pair)
    return Named(layer, head)


def _wrong(got: Any) -> ConfigError:
    return ConfigError(
        f"the head {got!r}",
        "a name such as L3H7, L3, the name of a module, or all",
        "count layers and heads from 0",
    )
