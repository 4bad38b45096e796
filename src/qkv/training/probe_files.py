"""The folder of a run's probes: one saved trace a step, and a line about each.

::

    RUN/probes/
      index.jsonl               a line a probe: losses, head scores, a sample, seconds
      step-00000123.safetensors q, k and lse of every head (`qkv.load` reads it)

A line is written when its file is whole, so that who follows the lines finds every file.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qkv.models.checkpoint import disk_error
from qkv.training.lines import LineFile

if TYPE_CHECKING:
    from qkv.lens import Trace

__all__ = ["INDEX", "ProbeFiles", "Probes", "file_name"]

INDEX = "index.jsonl"
LAST_STEP = 10**12
"""No run has more; names of files have no room for any number."""


def file_name(step: int) -> str:
    """Return the name of one step's trace.

    >>> file_name(123)
    'step-00000123.safetensors'
    """
    return f"step-{step:08d}.safetensors"


class Probes(ABC):
    """Probes of a run, wherever they are kept."""

    @abstractmethod
    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the lines, in the order in which probes were made; a torn one is left out."""

    @abstractmethod
    def trace(self, step: int) -> Trace:
        """Return what each head looked at after a step that has a probe.

        Raises:
            CheckpointError: it has none, or a damaged one.
        """

    @abstractmethod
    def has(self, step: int) -> bool:
        """Return whether a step's trace is there."""

    def steps(self) -> list[int]:
        """Return the steps that have a probe, in order."""
        found = {line["step"] for line in self.read() if 0 <= line["step"] <= LAST_STEP}
        return sorted(step for step in found if self.has(step))

    def nearest(self, step: int) -> int | None:
        """Return the probed step that is nearest, the earlier of two; ``None`` without probes."""
        return min(self.steps(), key=lambda one: (abs(one - step), one), default=None)


class ProbeFiles(Probes):
    """Probes on disk.

    Args:
        folder: where they are; it is made with the first probe.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index = LineFile(folder / INDEX)

    def path(self, step: int) -> Path:
        """Return the file of one step's probe.

        >>> ProbeFiles(Path("probes")).path(123).name
        'step-00000123.safetensors'
        """
        return self.folder / file_name(step)

    def make_folder(self) -> None:
        """Make the folder, where it isn't there yet.

        Raises:
            ResourceError: the disk refused.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(self.folder, error) from error

    def append(self, line: Mapping[str, Any]) -> None:
        """Add one probe's line; its file must be there, and ``step`` among its fields."""
        self._index.append(line)

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the lines, in the order in which probes were made; a torn one is left out."""
        return self._index.read()

    def has(self, step: int) -> bool:
        """Return whether a step's trace is there."""
        return self.path(step).is_file()

    def trace(self, step: int) -> Trace:
        """Return what each head looked at after a step that has a probe; tensors are mapped.

        Raises:
            CheckpointError: it has none, or a damaged one.
        """
        from qkv.lens import load

        return load(self.path(step))

    def cut(self, step: int) -> None:
        """Drop what is past a step, and files that no line speaks of."""
        if not self.folder.is_dir():
            return
        self._index.cut(step)
        kept = {self._index.path, *map(self.path, self.steps())}
        for path in self.folder.iterdir():
            if path not in kept:
                with contextlib.suppress(OSError):
                    path.unlink()

    def flush(self) -> None:
        """Wait until the disk has every line."""
        self._index.flush()
