"""Whether a process still lives and whether a lock is held, told without touching either.

A number alone names no process: numbers are given anew. So a process is known by when it started.
"""

from __future__ import annotations

import os
import platform
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from qkv.lab.curves import number

__all__ = ["holds_lock", "identify", "is_alive", "is_here"]

PROC = Path("/proc")
CLOCK_SLACK_SECONDS = 5.0
"""A status is written after its process began; clocks are set meanwhile."""


def identify(process: int) -> str | None:
    """Return what tells a living process from all others that had or will have its number.

    >>> identify(os.getpid()) == identify(os.getpid()), identify(2**22 + 1)
    (True, None)
    """
    if process <= 0:
        return None
    if not PROC.is_dir():
        return _identify_by_ps(process)
    ticks = _start_ticks(process)
    if ticks is None:
        return None
    with suppress(OSError):
        return f"{(PROC / 'sys/kernel/random/boot_id').read_text().strip()} {ticks}"
    return str(ticks)


def is_here(status: dict[str, Any]) -> bool:
    """Return whether a run's status was written on this machine."""
    return status.get("host") == platform.node()


def is_alive(status: dict[str, Any], lock: Path) -> bool | None:
    """Return whether the process that wrote a status still trains; None for another machine's.

    Args:
        status: of a run, as its directory says it.
        lock: the run's lock file, which the system frees when the process ends.
    """
    process = status.get("process")
    if not is_here(status) or not isinstance(process, int):
        return None
    if identify(process) is None:
        return False
    held = holds_lock(lock, process)
    if held is not None:
        return held
    began = _began(process)
    told = number(status.get("time")) or 0.0
    return began is None or began <= told + CLOCK_SLACK_SECONDS


def holds_lock(path: Path, process: int) -> bool | None:
    """Return whether a process holds a lock file; None where the system doesn't tell.

    Taking the lock to see would, for a moment, keep a process from it that starts just then.
    """
    try:
        file = path.stat().st_ino
        listed = (PROC / "locks").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    for line in listed:  # 1: FLOCK  ADVISORY  WRITE 4242 08:01:131073 0 EOF
        words = line.split()
        ours = "FLOCK" in words and len(words) > 5 and words[4] == str(process)
        if ours and words[5].rpartition(":")[2] == str(file):
            return True
    return False


def _start_ticks(process: int) -> int | None:
    try:
        told = (PROC / str(process) / "stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The name stands in brackets and may hold anything; what follows is the state, then numbers.
    words = told.rpartition(")")[2].split()
    if len(words) < 20 or words[0] in ("Z", "X"):  # ended, and not yet taken note of
        return None
    return int(words[19])


def _began(process: int) -> float | None:
    """When a process started, in seconds since the epoch."""
    ticks = _start_ticks(process)
    if ticks is None:
        return None
    with suppress(OSError, ValueError, IndexError):
        told = (PROC / "stat").read_text(encoding="ascii")
        booted = int(next(line for line in told.splitlines() if line[:5] == "btime").split()[1])
        return booted + ticks / os.sysconf("SC_CLK_TCK")
    return None


def _identify_by_ps(process: int) -> str | None:
    try:
        told = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(process)],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        ).stdout.split(None, 1)
    except (OSError, subprocess.SubprocessError):
        return None
    return None if len(told) < 2 or told[0].startswith("Z") else told[1].strip()
