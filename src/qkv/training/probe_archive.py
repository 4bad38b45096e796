"""A run's probes in one zip file, read in place: the timeline of the model that comes with qkv.

The members are those of a run's folder of probes (`qkv.training.probe_files`), deflated. All lines
are kept; traces are thinned to what fits, evenly by the logarithm of the step, the first and the
last always among them.
"""

from __future__ import annotations

import io
import json
import math
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qkv.errors import CheckpointError, ConfigError
from qkv.models.checkpoint import disk_error
from qkv.models.embedded import FOLDER, TIMELINE, read_embedded
from qkv.training.lines import parse_lines
from qkv.training.probe_files import INDEX, ProbeFiles, Probes, file_name

if TYPE_CHECKING:
    from qkv.lens import Trace

__all__ = ["ProbeArchive", "embedded_timeline", "thinned", "write_archive"]

LARGEST_NUMBERS = (127, 90, 63, 45, 31)
"""Of rounded q and k, the finest first: each is worth half a bit a number."""
MEMBER_BYTES = 2 * (46 + len(file_name(0)))
"""Of a zip file, beside each member's data, at most."""


class ProbeArchive(Probes):
    """Probes in a zip file.

    Args:
        data: the zip file.
        source: what to call it where it is damaged.

    Raises:
        CheckpointError: it is damaged.
    """

    def __init__(self, data: bytes, source: object) -> None:
        self.source = source
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise self._damaged(error) from error
        self._names = set(self._zip.namelist())

    @cached_property
    def lines(self) -> list[dict[str, Any]]:
        """Every probe's line: step, tokens, losses, sample, head scores.

        Raises:
            CheckpointError: damage.
        """
        text = self._member(INDEX).decode("utf-8", "replace")
        return list(parse_lines(text.splitlines()))

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the lines, in the order in which probes were made."""
        return iter(self.lines)

    def has(self, step: int) -> bool:
        """Return whether a step's trace is there."""
        return file_name(step) in self._names

    def trace(self, step: int) -> Trace:
        """Return what each head looked at after a step that has a probe.

        Raises:
            CheckpointError: it has none, or a damaged one.
        """
        from qkv.lens.traces.storing import load_bytes

        return load_bytes(self._member(file_name(step)), f"{self.source}: {file_name(step)}")

    def _member(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        # A damaged entry may claim encryption or a method that is not known.
        except (
            zipfile.BadZipFile, zlib.error, KeyError, OSError, EOFError, ValueError, RuntimeError,
            NotImplementedError,
        ) as error:  # fmt: skip
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> CheckpointError:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return CheckpointError(
            f"{self.source}: {reason[:200]}", "the file as it was written", "install qkv again"
        )


def embedded_timeline() -> ProbeArchive:
    """Return the probes of the model that comes with qkv: how its heads learnt, step by step.

    Raises:
        CheckpointError: the file is missing or damaged.

    >>> timeline = embedded_timeline()
    >>> "".join(timeline.trace(timeline.steps()[-1]).texts).partition(":")[0]
    'GREMIO'
    """
    return ProbeArchive(read_embedded(TIMELINE), FOLDER / TIMELINE)


def write_archive(files: ProbeFiles, path: Path, bytes_allowed: int, wished: int) -> int:
    """Write a run's probes into a zip file of at most so many bytes; return its largest number.

    Where fewer traces than wished fit as they are, q and k are rounded to fewer whole numbers, and
    their lse and scores taken anew, down to 31 either way; then traces are left out.

    Args:
        files: the run's probes.
        path: the file to write; one that is there is replaced.
        bytes_allowed: for the file.
        wished: how many traces, if the run has as many.

    Raises:
        ConfigError: no probes, or not room for two.
        ResourceError: the disk refused.
    """
    steps, largest = files.steps(), LARGEST_NUMBERS[0]
    if not steps:
        raise ConfigError(f"no probes in {files.folder}", "a run with probes", "train with them")
    wished = min(wished, len(steps))
    for largest in LARGEST_NUMBERS:
        members = _members(files, steps, largest)
        kept = _fitting(members, steps, bytes_allowed)
        if len(kept) >= wished:
            break
    if len(kept) < min(2, len(steps)):
        raise ConfigError(
            f"room for {bytes_allowed:,} bytes of probes", "for two at least", "allow more"
        )
    try:
        with zipfile.ZipFile(path, "w") as archive:
            for name in (INDEX, *map(file_name, kept)):
                # A date of its own would make each writing another file.
                entry = zipfile.ZipInfo(name)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, members[name], compresslevel=9)
    except OSError as error:
        raise disk_error(path, error) from error
    return largest


def thinned(steps: Sequence[int], count: int) -> list[int]:
    """Return so many of the steps, the first and the last among them, evenly by logarithm.

    >>> thinned([0, 2, 3, 4, 6, 9, 10, 16, 30, 33, 64], 5)
    [0, 2, 6, 16, 64]
    """
    kept, count = sorted(steps), max(count, 2)
    places = {step: math.log1p(step) for step in kept}
    # Where steps lie apart, places between them fall on one: more are asked for until enough.
    for asked in range(count, 3 * count if len(kept) > count else 0):
        wanted = [max(places.values()) * i / (asked - 1) for i in range(asked)]
        near = {min(kept, key=lambda step, to=one: abs(places[step] - to)) for one in wanted}  # type: ignore[misc]
        if len(near) >= count:
            kept = sorted(near)
            break
    while len(kept) > count:
        gaps = [
            places[after] - places[before] for before, after in zip(kept, kept[2:], strict=False)
        ]
        del kept[1 + gaps.index(min(gaps))]
    return kept


def _fitting(members: dict[str, bytes], steps: Sequence[int], bytes_allowed: int) -> list[int]:
    """As many steps, thinned, as a zip file of so many bytes holds with all lines."""
    sizes = {name: _deflated(data) + MEMBER_BYTES for name, data in members.items()}
    room = bytes_allowed - sizes[INDEX] - 22  # bytes that end a zip file
    for count in range(len(steps), 0, -1):
        kept = thinned(steps, count)
        if sum(sizes[file_name(step)] for step in kept) <= room:
            return kept
        if count <= 2:
            break
    return []


def _members(files: ProbeFiles, steps: Sequence[int], largest: int) -> dict[str, bytes]:
    """The files of the archive by name, with q and k rounded to whole numbers up to `largest`."""
    lines = {line["step"]: line for line in files.read()}
    found = {}
    for step in steps:
        path = files.path(step)
        data = path.read_bytes()
        if largest != LARGEST_NUMBERS[0]:
            data, heads = _rounded(files.trace(step), largest)
            lines[step] = {**lines[step], "heads": heads}
        found[path.name] = data
        lines[step] = {**lines[step], "bytes": len(data)}
    return {INDEX: _told(lines.values()), **found}


def _rounded(trace: Trace, largest: int) -> tuple[bytes, dict[str, Any]]:
    """A trace's file with coarser numbers, and the scores of its heads."""
    from qkv.lens import load
    from qkv.lens.traces.storing import save
    from qkv.training.probes import told_scores

    with tempfile.TemporaryDirectory() as folder:
        path = save(trace, Path(folder) / file_name(0), "int8", largest)
        return path.read_bytes(), told_scores(load(path).heads())


def _told(lines: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def _deflated(data: bytes) -> int:
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return len(squeezed.compress(data)) + len(squeezed.flush())
