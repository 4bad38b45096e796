"""A text that a model has read: what it became, and what answers questions about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qkv.attention.threads import one_thread
from qkv.errors import ConfigError, ResourceError
from qkv.lab.asked import Asked

if TYPE_CHECKING:
    from qkv.lens import AttentionMap, Trace
    from qkv.views.gather import Gathered
    from qkv.views.widget import Answers, Reply

__all__ = ["MOST_SCORED", "Opened", "Read", "heads_left_out", "tell_left_out"]

MOST_SCORED = 2**30
"""Weights of all heads together that are read to score them."""
UNSAFE = "[^A-Za-z0-9._-]+"
"""What names of files are better without."""


@dataclass(frozen=True, eq=False)
class Read:
    """What a text became: where each head looked, and in words what read it."""

    trace: Trace
    title: str
    note: str
    step: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, eq=False)
class Opened:
    """A text that was read, and what answers questions about it.

    Args:
        name: what a page calls it.
        asked, model: what was asked for, and what tells the model that read it from others.
        step: after how many steps of training, where that is known.
        tokens: how many the text has in all, where it was cut.
        left_out: heads of which the model was given nothing.
    """

    name: str
    asked: Asked
    model: object
    trace: Trace
    gathered: Gathered
    answers: Answers
    wire: tuple[dict[str, Any], bytes]
    step: int | None = None
    tokens: int | None = None
    left_out: frozenset[str] = frozenset()

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, but for what is pooled on demand."""
        return self.trace.bytes + len(self.wire[1])

    @property
    def file_name(self) -> str:
        """What files begin with that are made of it: the model, its step, and whether it's changed.

        >>> re.sub(UNSAFE, "-", "runs/six heads").strip("-.")
        'runs-six-heads'
        """
        parts = [
            self.gathered.title,
            "" if self.step is None else f"step-{self.step}",
            "changed" if self.asked.changes else "",
        ]
        named = "-".join(part for part in parts if part)
        return re.sub(UNSAFE, "-", named).strip("-.") or "attention"

    def head(self, name: object) -> AttentionMap:
        """Return a head by its name.

        Raises:
            ConfigError: there is none.
        """
        found = self.gathered.maps.get(str(name))
        if found is None:
            raise ConfigError(f"head {str(name)[:40]!r}", "one of this text's", "choose another")
        return found

    def answer(self, question: dict[str, Any]) -> Reply:
        """Return what is answered to a page: of a head that is left out, that it adds nothing."""
        reply, numbers = self.answers(question)
        adds = (reply.get("arithmetic") or {}).get("adds")
        if adds is not None and question.get("head") in self.left_out:
            adds |= {"mixed": 0.0, "output": 0.0, "left_out": True}
        return reply, numbers

    def scores(self) -> dict[str, Any]:
        """Return the scores of heads that came without them.

        Raises:
            ResourceError: too many weights to be read in some seconds.
        """
        if self.gathered.cells > MOST_SCORED:
            raise ResourceError(
                f"{self.gathered.cells:,} weights",
                f"at most {MOST_SCORED:,}",
                "take a shorter text",
            )
        return self.gathered.scores()

    def thumbnails(self, names: Sequence[str]) -> tuple[list[list[int]], list[bytes]]:
        """Return the sizes of some heads' thumbnails, and their levels, a byte each.

        Raises:
            ConfigError: no such head.
        """
        sizes, parts = [], []
        # Several replies are made at once: that is how processors are shared here.
        with one_thread():
            for name in names:
                self.head(name)
                reply, (levels,) = self.answers({"kind": "thumbnail", "head": name})
                sizes.append([reply["rows"], reply["cols"]])
                parts.append(np.frombuffer(levels, "<f4").astype(np.uint8).tobytes())
        return sizes, parts


def heads_left_out(found: Gathered, asked: Asked) -> frozenset[str]:
    """The heads that the changes leave out, by the names that the views give them."""
    from qkv.views.atlas import grid_of

    names = asked.edits().ablate.names  # type: ignore[union-attr]
    return frozenset(
        head.name
        for layer in found.layers
        for (number, place), head in grid_of(layer.maps).items()
        if any(one.at(number, layer.module) and one.head in (None, place) for one in names)
    )


def tell_left_out(header: dict[str, Any], left_out: frozenset[str]) -> None:
    """What is left out adds nothing, whatever its weights and values would."""
    names = [head["name"] for layer in header["layers"] for head in layer["heads"]]
    for column in header.get("table", []):
        if column["name"] == "norm":
            column["values"] = [
                0.0 if name in left_out else value
                for name, value in zip(names, column["values"], strict=True)
            ]
