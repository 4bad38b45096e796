"""How things are timed: several ways of doing one thing, in turn, in one process."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["Measurement", "Timing", "compare", "describe_machine", "peak_bytes", "ratio", "spread"]


@dataclass(frozen=True)
class Timing:
    """Seconds over several rounds.

    >>> Timing([3.0, 1.0, 2.0]).median
    2.0
    """

    seconds: list[float]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.seconds)

    def to_json(self) -> dict[str, float]:
        """Return median and range, in milliseconds."""
        return {
            "median_ms": 1e3 * self.median,
            "min_ms": 1e3 * min(self.seconds),
            "max_ms": 1e3 * max(self.seconds),
        }


@dataclass(frozen=True)
class Measurement:
    """One thing measured: what, on which shape, and the figures.

    Args:
        what: was measured, in words.
        shape: sizes, by name.
        figures: numbers by name, with units in the names.
        rounds: how often.
    """

    what: str
    shape: dict[str, Any]
    figures: dict[str, Any]
    rounds: int
    machine: dict[str, Any] = field(default_factory=lambda: describe_machine())  # noqa: PLW0108 (defined below)

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON-able dictionary."""
        return asdict(self)


def compare(
    ways: Mapping[str, Callable[[], object]],
    rounds: int = 7,
    *,
    warm_ups: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, Timing]:
    """Time each way once a round, in turn, after one round that does not count.

    A slow moment of the machine then strikes all of them.

    Args:
        ways: what to time, by name.
        rounds: that count.
        warm_ups: for ways in processes of their own: what each one's turn starts with, untimed. A
            process that slept through another's turn is slow at first, on whichever side; with
            one for each way, none pays for another's turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            if warm_ups is not None:
                warm_ups[name]()
            started = time.perf_counter()
            way()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: Timing(times) for name, times in seconds.items()}


def ratio(slow: Timing, fast: Timing) -> dict[str, float]:
    """Return how many times faster, as the median over rounds, with its range.

    >>> ratio(Timing([2.0, 4.0, 6.0]), Timing([1.0, 1.0, 2.0]))
    {'median': 3.0, 'min': 2.0, 'max': 4.0}
    """
    return spread([a / b for a, b in zip(slow.seconds, fast.seconds, strict=True)])


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the range.

    >>> spread([2.0, 9.0, 1.0])
    {'median': 2.0, 'min': 1.0, 'max': 9.0}
    """
    return {"median": median(values), "min": min(values), "max": max(values)}


def peak_bytes() -> int:
    """The most memory that this process has held, in bytes.

    Linux's own figure of resources would be that of the parent, if it held more.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, others in KiB
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def describe_machine() -> dict[str, Any]:
    """Return what a figure depends on: processor, threads, versions.

    ``OMP_NUM_THREADS`` and ``GOMP_SPINCOUNT`` are those of this process, ``None`` if unset.
    """
    import numpy as np
    import torch

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        **{name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT")},
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
