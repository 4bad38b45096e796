"""Commands in fresh processes, timed from their start to their end."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from qkv.errors import ConfigError

__all__ = ["failure", "run_fresh", "users_environment"]


def users_environment() -> dict[str, str]:
    """Return the environment as its user has it: without what `qkv` sets for itself.

    A value of the user's own stays.
    """
    environment = dict(os.environ)
    ours = environment.pop("QKV_SPINCOUNT", None)  # by which qkv.__main__ marks what it set
    if ours is not None and environment.get("GOMP_SPINCOUNT") == ours:
        del environment["GOMP_SPINCOUNT"]
    return environment


def run_fresh(
    what: str,
    command: list[str],
    folder: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
) -> tuple[float, str]:
    """Return the wall seconds of a command and what it printed; interrupted, it is killed.

    It finds nothing that torch's compiler has made for an earlier one: its start is cold.

    Args:
        what: it is, for the error.
        command: program and arguments.
        folder: where it runs, unless here.
        environment: that it runs in, unless this process's own.

    Raises:
        ConfigError: it failed, with the last line that it said.
    """
    with tempfile.TemporaryDirectory(prefix="qkv-bench-cold-") as cold:
        around = os.environ if environment is None else environment
        started = time.perf_counter()
        with subprocess.Popen(
            command,
            cwd=folder,
            env={**around, "TORCHINDUCTOR_CACHE_DIR": cold},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        ) as process:
            try:
                told, said = process.communicate()
            except BaseException:
                # Waited for here: Popen itself does not after Ctrl-C, and its folder goes next.
                process.kill()
                process.wait()
                raise
        seconds = time.perf_counter() - started
    if process.returncode:
        raise failure(what, process.returncode, said)
    return seconds, told


def failure(what: str, code: int, said: str) -> ConfigError:
    """Return the error of a process that failed, with the last line it said.

    >>> print(failure("train.py", 1, "Traceback …\\nModuleNotFoundError: No module named 'x'\\n"))
    got train.py with exit code 1 (ModuleNotFoundError: No module named 'x'); expected 0; run it \
by itself to see why
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = f" ({lines[-1][:300]})" if lines else ""
    return ConfigError(f"{what} with exit code {code}{last}", "0", "run it by itself to see why")
