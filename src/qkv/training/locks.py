"""One process at a time: a file that is held while a run is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from qkv.errors import CheckpointError

__all__ = ["locked"]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file; the system lets go of it when the process ends, however it ends.

    Systems without such locks (Windows) do without.

    Raises:
        CheckpointError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CheckpointError(
                f"a run at {path.parent} that another process is training",
                "a run that is not under way",
                "wait until it ends, or stop that process",
            ) from None
        yield
