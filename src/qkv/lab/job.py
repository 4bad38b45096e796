"""One thing that the lab started, as the file beside its folder says it, and what may be wrong."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qkv.errors import ConfigError, QkvError, ResourceError
from qkv.lab.curves import number
from qkv.lab.wanted import Wanted

__all__ = [
    "LADDER",
    "PLAN",
    "BusyError",
    "Job",
    "asked_of",
    "disk_error",
    "is_sound",
    "signal_name",
]

LADDER, PLAN = "ladder", "ladder.json"
WISHES = ("go", "pause", "stop")


@dataclass(frozen=True)
class Job:
    """Something that the lab started.

    Args:
        name: of its folder under the one for runs.
        preset: what it trains.
        process: its number; `identity` tells it from others that had or will have the number.
        identity: see `qkv.lab.processes.identify`.
        started: seconds since the epoch.
        wish: what it was last told to do: "go", "pause" or "stop".
        asked: what it was started with, but for the text.
    """

    name: str
    preset: str
    process: int
    identity: str | None
    started: float
    wish: str = "go"
    asked: dict[str, Any] = field(default_factory=dict)


def is_sound(job: Any) -> bool:
    """Return whether a job that a file describes could be one of the lab's."""
    return (
        isinstance(job.name, str)
        and isinstance(job.preset, str)
        and type(job.process) is int
        and isinstance(job.identity, str | None)
        and number(job.started) is not None
        and job.wish in WISHES
        and isinstance(job.asked, dict)
    )


def asked_of(job: Job) -> Wanted:
    """Return what a job was started with, but for its text."""
    try:
        told = {} if job.asked.get("corpus") or job.asked.get("file") else {"text": "pasted"}
        return Wanted.of({**job.asked, **told})
    except QkvError as error:
        raise ConfigError(
            f"{job.name}, of which it isn't known what it was to train", "one that began",
            "remove it, and start another",
        ) from error  # fmt: skip


def signal_name(code: int) -> str:
    """Return what people call a signal."""
    try:
        return signal.Signals(code).name
    except ValueError:  # of those without a name of their own
        return f"signal {code}"


class BusyError(ResourceError):
    """Another run is training here.

    Args:
        name: of its folder.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} training already",
            "one at a time, since two hold each other up",
            "pause it first, or start this one all the same",
        )


def disk_error(path: Path, error: Exception) -> ResourceError:
    """Return what a disk refused, in one line."""
    return ResourceError(
        f"{getattr(error, 'strerror', None) or error} for {path}", "a folder that may be written",
        "make room, or start the lab elsewhere",
    )  # fmt: skip
