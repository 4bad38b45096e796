"""What pages may look into, by names that links keep: a folder's own and the way from there.

The shelf counts the folders that the lab was opened on: the same number may be another one next
time. Names lead to the shelf's own ids, and so to nothing beside its folders.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from qkv.errors import ConfigError
from qkv.lab.shelf import Item, Shelf

__all__ = ["Catalogue"]

NUMBERED = "./"
"""Before the name of a folder that could be taken for a number."""


class Catalogue:
    """Names for what is on a shelf.

    Args:
        shelf: what may be opened.

    >>> Catalogue(Shelf([Path("/data/runs"), Path("/old/runs"), Path("/data/7")])).places
    ('data/runs', 'old/runs', './7')
    """

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.places = tuple(_name(place, shelf.places) for place in shelf.places)

    def items(self) -> list[dict[str, Any]]:
        """Return what a page is told of all there is, `heads` being false where there are none."""
        return [self.told(item) for item in self.shelf.items()]

    def told(self, item: Item) -> dict[str, Any]:
        """Return what a page is told of one item."""
        return {**item.to_json(), "id": self.name(item), "heads": _has_heads(item)}

    def name(self, item: Item) -> str:
        """Return what a link calls an item."""
        number, _, way = item.id.partition("/")
        if not number.isdecimal():
            return item.id
        return f"{self.places[int(number)]}/{way}" if way else self.places[int(number)]

    def find(self, name: object) -> Item:
        """Return what a name stands for; the shelf's own ids are names as well.

        Raises:
            ConfigError: nothing, or nothing any more.
        """
        try:
            return self.shelf.find(name)
        except ConfigError as error:
            unknown = error
        for number, place in enumerate(self.places):
            way = str(name).removeprefix(place)
            if way != name and way[:1] in ("", "/"):
                try:
                    return self.shelf.find(f"{number}{way}")
                except ConfigError:
                    continue  # of a folder whose name begins alike
        raise unknown


def _name(place: Path, places: tuple[Path, ...]) -> str:
    """As much of a path's end as no other ends in."""
    parts = [part for part in place.parts if part != place.anchor]
    for count in range(1, len(parts) + 1):
        end = parts[-count:]
        if sum(list(other.parts[-count:]) == end for other in places) == 1:
            name = "/".join(end)
            return f"{NUMBERED}{name}" if name.isdecimal() else name
    return "/".join(parts) or NUMBERED


def _has_heads(item: Item) -> bool:
    """Whether a run has attention, as its config says; of all else this isn't known."""
    if item.kind != "run" or item.path is None:
        return True
    config = item.path / "config.json"
    try:
        return _kind_has_heads(config, config.stat().st_mtime_ns)
    except OSError:
        return True


@lru_cache(1024)
def _kind_has_heads(config: Path, _changed: int) -> bool:
    from qkv.models.config import ATTENTION_KINDS

    try:
        kind = json.loads(config.read_bytes())["model"]["kind"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return True  # reading it says what is wrong
    return kind in ATTENTION_KINDS
