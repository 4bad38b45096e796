"""How much memory there is, and a sentence about what something takes."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["free_bytes", "sized"]


def free_bytes() -> int | None:
    """Bytes that can be taken without swapping; None where the system doesn't tell."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def sized(count: float) -> str:
    """A number of bytes as a person reads it.

    >>> sized(10.7e9), sized(35e6), sized(1200), sized(73)
    ('10.7 GB', '35 MB', '1 kB', '73 bytes')
    """
    if count >= 1e9:
        return f"{count / 1e9:.1f} GB"
    if count < 1e3:
        return f"{count:.0f} byte{'s' * (count != 1)}"
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
