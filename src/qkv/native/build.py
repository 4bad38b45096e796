"""Compiles the kernels: run when qkv is installed, or as ``python -m qkv.native.build``.

One library from one source, compiled once for each kind of processor; which of them runs is settled
when it is loaded. It is built against nothing: no torch, no Python. Where no compiler is found, or
it fails, there is no library, and qkv does the same with torch's operations.

Only the standard library is used here, since this runs before qkv is installed.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = ("decode.cpp", "target.cpp")
LIBRARY = "kernels.so"
LONGEST_SECONDS = 60

FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd")
TARGETS = {"portable": ()} | (
    {
        "avx2": ("-mavx2", "-mfma"),
        "avx512": (
            *("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mfma"),
            "-mprefer-vector-width=512",
        ),
    }
    if platform.machine() in ("x86_64", "AMD64")
    else {}
)


def source_hash() -> str:
    """Return what tells this source from any other: a library made from another isn't loaded."""
    text = b"\0".join((HERE / name).read_bytes() for name in (*SOURCES, Path(__file__).name))
    return hashlib.sha256(text).hexdigest()


def find_compiler() -> list[str] | None:
    """Return the C++ compiler's command: ``$CXX``, or the first of the usual ones.

    Raises:
        RuntimeError: a ``$CXX`` that is no command.
    """
    if os.environ.get("CXX", "").strip():
        try:
            return shlex.split(os.environ["CXX"])
        except ValueError as error:
            raise RuntimeError(f"CXX={os.environ['CXX']}: {error}") from error
    found = (shutil.which(name) for name in ("c++", "g++", "clang++"))
    return next(([path] for path in found if path), None)


def build(folder: Path = HERE) -> Path:
    """Compile the library into a folder and return its path.

    Raises:
        RuntimeError: no compiler, or one that fails; says which.
    """
    compiler = find_compiler()
    if compiler is None or sys.platform == "win32":
        raise RuntimeError("no C++ compiler that takes GCC's options was found")
    name = f'-DQKV_SOURCE="{source_hash()}"'
    with tempfile.TemporaryDirectory() as scratch:
        objects = [Path(scratch) / f"{target}.o" for target in TARGETS]
        for (target, flags), made in zip(TARGETS.items(), objects, strict=True):
            named = [*flags, f"-DQKV_TARGET={target}"]
            run([*compiler, *FLAGS, *named, "-c", str(HERE / "decode.cpp"), "-o", str(made)])
        linked = Path(scratch) / LIBRARY
        rest = [name, str(HERE / "target.cpp"), *map(str, objects)]
        run([*compiler, *FLAGS, "-shared", *rest, "-o", str(linked), "-lm"])
        # Into place in one step: another process may be about to load it.
        beside = folder / f".{LIBRARY}.{os.getpid()}"
        try:
            shutil.copy(linked, beside)
            return beside.replace(folder / LIBRARY)
        except OSError as error:
            raise RuntimeError(f"{folder / LIBRARY} can't be written: {error}") from error
        finally:
            beside.unlink(missing_ok=True)


def run(command: list[str]) -> None:
    """Run a command; its errors become ours."""
    try:
        # In a session of its own, so that what it started ends with it.
        done = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise RuntimeError(f"{command[0]} did not run: {error}") from error
    try:
        said, _ = done.communicate(timeout=LONGEST_SECONDS)
    except subprocess.TimeoutExpired as error:
        os.killpg(done.pid, signal.SIGKILL)
        done.communicate()
        raise RuntimeError(f"{command[0]} took more than {LONGEST_SECONDS} s") from error
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {said.strip()[:2000]}")
    if not Path(command[command.index("-o") + 1]).is_file():
        raise RuntimeError(f"{command[0]} wrote nothing")


if __name__ == "__main__":
    sys.stdout.write(f"{build()}\n")
