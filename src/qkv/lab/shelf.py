"""What the lab may open: the model that comes with qkv, and what lies under the folders named.

A page names things by an id, never by a path: ``own``, or the number of a folder and the way from
there. What an id leads to is resolved first, and must still lie under that folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from qkv.errors import ConfigError

__all__ = ["OWN", "Item", "Shelf"]

OWN = "own"
Kind = Literal["own", "run", "model", "trace"]
MOST_ITEMS = 500
MOST_LOOKED_AT = 5_000
DEEPEST = 3
_NUMBER = re.compile("[0-9]{1,4}", re.ASCII)
TRACE, GGUF = ".safetensors", ".gguf"


@dataclass(frozen=True)
class Item:
    """Something to open.

    Args:
        id: what a page calls it.
        kind: ``own`` for the model that comes with qkv, ``run``, ``model`` or ``trace``.
        title: what people call it.
        path: where it lies; none for the model that comes with qkv.
    """

    id: str
    kind: Kind
    title: str
    path: Path | None

    def to_json(self) -> dict[str, Any]:
        """Return what a page is told of it."""
        return {**asdict(self), "path": None if self.path is None else str(self.path)}


class Shelf:
    """What may be opened.

    Args:
        places: files and folders that were named at the start, and all that lies under them.

    >>> shelf = Shelf([])
    >>> [item.title for item in shelf.items()]
    ['the model that comes with qkv']
    """

    def __init__(self, places: Sequence[Path]) -> None:
        self.places = tuple(dict.fromkeys(place.resolve() for place in places))

    def items(self) -> list[Item]:
        """Return what there is, each thing once, the model that comes with qkv first.

        Where there is too much, the newest.
        """
        found: dict[Path, tuple[int, Item]] = {}
        for number, place in enumerate(self.places):
            looked_at = [0]
            for path in _look(place, DEEPEST, looked_at):
                if path not in found:  # of two places one may lie in the other
                    found[path] = number, self._item(number, place, path)
        if len(found) >= MOST_ITEMS:
            newest = sorted(found, key=_changed, reverse=True)[: MOST_ITEMS - 1]
            found = {path: found[path] for path in newest}
        listed = sorted((number, path, item) for path, (number, item) in found.items())
        own = Item(OWN, "own", "the model that comes with qkv", None)
        return [own, *(item for _, _, item in listed)]

    def find(self, name: object) -> Item:
        """Return what an id stands for.

        Raises:
            ConfigError: nothing, or nothing any more.
        """
        if name == OWN:
            return Item(OWN, "own", "the model that comes with qkv", None)
        path = self.locate(name)
        number = int(str(name).split("/", 1)[0])
        if path is None or kind_of(path) is None:
            raise _unknown(name)
        return self._item(number, self.places[number], path)

    def locate(self, name: object) -> Path | None:
        """Return the path that an id leads to, where that lies under its folder; else nothing."""
        number, _, way = str(name).partition("/")
        if not _NUMBER.fullmatch(number) or int(number) >= len(self.places):
            raise _unknown(name)
        place = self.places[int(number)]
        try:
            path = (place / way).resolve() if way else place
        except (OSError, ValueError, RuntimeError):  # a NUL, a loop of links, a name too long
            return None
        return path if path.is_relative_to(place) else None

    def _item(self, number: int, place: Path, path: Path) -> Item:
        way = path.relative_to(place).as_posix()
        kind = kind_of(path)
        assert kind is not None
        name = str(number) if way == "." else f"{number}/{way}"
        return Item(name, kind, place.name if way == "." else way, path)


def kind_of(path: Path) -> Kind | None:
    """Return what lies at a path, told by names of files alone."""
    try:
        if path.is_file():
            return {TRACE: "trace", GGUF: "model"}.get(path.suffix)  # type: ignore[return-value]
        if not path.is_dir():
            return None
        if (path / "config.json").is_file():
            run = (path / "tokenizer.json").is_file() and not _weights(path)
            return "run" if run else ("model" if _weights(path) else None)
        alone = ("ckpt.pt", "checkpoint.json")  # nanoGPT's, and one checkpoint of a run
        return "model" if any((path / name).is_file() for name in alone) else None
    except OSError:
        return None


def _weights(folder: Path) -> bool:
    kinds = ("*.safetensors", "*.bin", "*.gguf", "*.pt")
    return any(next(folder.glob(kind), None) is not None for kind in kinds)


def _look(path: Path, deep: int, looked_at: list[int]) -> Iterator[Path]:
    """Yield what can be opened at a path and under it; links aren't followed.

    What was changed last comes first, for there may be more than is looked at.
    """
    looked_at[0] += 1
    if looked_at[0] > MOST_LOOKED_AT:
        return
    if kind_of(path) is not None:
        yield path
        return
    if deep == 0 or not path.is_dir():
        return
    try:
        inside = [one for one in path.iterdir() if not one.name.startswith(".")]
    except OSError:
        return
    for one in sorted(inside, key=_changed, reverse=True):
        if not one.is_symlink():
            yield from _look(one, deep - 1, looked_at)


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _unknown(name: object) -> ConfigError:
    return ConfigError(f"{str(name)[:80]!r}", "something the lab was opened on", "choose another")
