"""`qkv doctor`: what this machine has, what is fast on it, and what is off."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import typer

from qkv.cli.options import AsJson

__all__ = ["Check", "doctor_command", "examine"]

State = Literal["good", "off", "broken"]
MARKS = {"good": "✓", "off": "!", "broken": "✗"}
ASCII_MARKS = {"good": "ok", "off": "!", "broken": "x"}
STYLES = {"good": "bold", "off": "bold reverse", "broken": "bold reverse"}

PACKAGES = ("torch", "numpy", "safetensors", "tokenizers")
# Flags of /proc/cpuinfo, by the names people know them by.
FEATURES = {
    "AVX2": "avx2",
    "AVX-512": "avx512f",
    "AVX512_BF16": "avx512_bf16",
    "AMX": "amx_tile",
    "NEON": "asimd",
}
GB = 1e9
SLOW_GFLOPS = 10.0
LITTLE_GB = 1.0


@dataclass(frozen=True)
class Check:
    """One thing looked at: what it is, whether it is as it should be, and what to do if not.

    `state` is "good", "off" (works, but not as well as it could) or "broken" (something essential).
    `data` is the same for a program.
    """

    name: str
    state: State
    said: str
    remedy: str = ""
    data: dict[str, Any] = field(default_factory=dict)


def doctor_command(as_json: AsJson = False) -> None:
    """Look at this machine: versions, processor, what is fast, devices, memory, disk, folders.

    Ends with 0 unless something essential is broken. To copy:

    [bold]qkv doctor[/]

    [bold]qkv doctor --json[/]
    """
    from qkv.cli.console import out, print_json

    checks: list[Check] = []
    console = out()
    marks = ASCII_MARKS if console.options.ascii_only else MARKS
    for check in examine():
        checks.append(check)
        if as_json:
            continue
        console.print(f"[{STYLES[check.state]}]{marks[check.state]:>2}[/] ", end="")
        console.print(f"{check.name:<11} {check.said}", markup=False, soft_wrap=True)
        if check.remedy:
            console.print(f"{'':>15}{check.remedy}", style="italic", markup=False, soft_wrap=True)
    broken = any(check.state == "broken" for check in checks)
    if as_json:
        print_json({"healthy": not broken, "checks": [asdict(check) for check in checks]})
    raise typer.Exit(1 if broken else 0)


def examine() -> Iterator[Check]:
    """Yields every check in turn; one that fails says so and doesn't stop the others."""
    yield _python()
    for name in PACKAGES:
        yield _package(name)
    looks: list[tuple[str, Callable[[], Check]]] = [
        ("processor", _processor),
        ("compiler", _compiler),
        ("kernels", _kernels),
        ("precision", _precision),
        ("threads", _threads),
        ("devices", _devices),
        ("memory", _memory),
        ("disk", _disk),
        ("cache", _cache),
        ("data", _data_folder),
    ]
    for name, look in looks:
        try:
            yield look()
        except Exception as error:
            # Whatever a broken installation raises is what the doctor is here to tell.
            line = " ".join(str(error).split()) or type(error).__name__
            yield Check(name, "off", f"could not be looked at: {line}", "see the lines above")


def _python() -> Check:
    from qkv import __version__

    version = platform.python_version()
    said = f"qkv {__version__} on Python {version}, {platform.system()} {platform.machine()}"
    data = {"qkv": __version__, "python": version, "system": platform.system()}
    return Check("qkv", "good", said, data=data)


def _package(name: str) -> Check:
    try:
        version = metadata.version(name)
        __import__(name)
    except metadata.PackageNotFoundError:
        return Check(name, "broken", "not installed", f"pip install {name}", {"version": None})
    except (ImportError, OSError) as error:
        line = " ".join(str(error).split())
        return Check(name, "broken", f"{version} cannot be imported: {line}", f"reinstall {name}")
    data = {"version": version}
    numbers = version.split("+")[0].split(".")[:2]
    release = tuple(int(part) for part in numbers if part.isdecimal())
    if name == "torch" and not (2, 9) <= release < (2, 14):
        advice = 'pip install "torch>=2.9,<2.14": 2.13 is what is tested'
        return Check(name, "off", version, advice, data)
    return Check(name, "good", version, data=data)


def _processor() -> Check:
    """The processor's name and the features that matrix products profit from."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    known = {
        key.strip().lower(): value.strip()
        for key, colon, value in (line.partition(":") for line in reversed(lines))
        if colon
    }
    name = known.get("model name", name)
    flags = set(known.get("flags", known.get("features", "")).split())
    has = [title for title, flag in FEATURES.items() if flag in flags]
    if not flags:  # no Linux: torch says which of its kernels it takes
        import torch

        has = [torch.backends.cpu.get_cpu_capability()]
    said = f"{name}; {', '.join(has) or 'no vector features known'}"
    return Check("processor", "good", said, data={"model": name, "features": has})


def _compiler() -> Check:
    from qkv.training.fusing import compiler_found

    found = compiler_found()
    data = {"found": found}
    if not found:
        said = "none that torch can use: training isn't compiled"
        return Check("compiler", "off", said, "install g++ and Python's header files", data)
    return Check("compiler", "good", "torch can use it: long runs are compiled", data=data)


def _kernels() -> Check:
    from qkv.native import load_kernels, missing

    kernels = load_kernels()
    if kernels is None:
        said = f"none, {missing()}: generation takes about twice as long"
        return Check("kernels", "off", said, "see CONTRIBUTING.md", {"target": None})
    said = f"compiled, those for {kernels.target} run here: text is generated with them"
    return Check("kernels", "good", said, data={"target": kernels.target})


def _precision() -> Check:
    from qkv.training.fusing import compiler_found
    from qkv.training.precision import choose_precision, measure_precisions

    speeds = measure_precisions()
    chosen = choose_precision("cpu", speeds=speeds)
    measured = ", ".join(f"{kind} {speed:,.0f} GFLOP/s" for kind, speed in speeds.items())
    long = choose_precision("cpu", fused=compiler_found(), speeds=speeds)
    takes = chosen if long == chosen else f"{chosen}, and {long} for long runs"
    said = f"matrix products {measured}: on the CPU, auto takes {takes}"
    data = {"gflops": speeds, "auto": chosen, "auto_compiled": long}
    if max(speeds.values()) < SLOW_GFLOPS:
        return Check("precision", "off", said, "see if other programs keep the CPU busy", data)
    return Check("precision", "good", said, data=data)


def _threads() -> Check:
    import torch

    threads = torch.get_num_threads()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    said = f"{threads} for torch, {usable or 'unknown'} usable processors"
    data = {"torch": threads, "processors": usable}
    if usable and threads > usable:
        advice = f"set OMP_NUM_THREADS={usable}: more threads than processors slow each other down"
        return Check("threads", "off", said, advice, data)
    return Check("threads", "good", said, data=data)


def _devices() -> Check:
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found += [
            f"cuda:{index} ({torch.cuda.get_device_name(index)})"
            for index in range(torch.cuda.device_count())
        ]
    if torch.backends.mps.is_available():
        found.append("mps")
    return Check("devices", "good", ", ".join(found), data={"devices": found})


def _memory() -> Check:
    total, free = _memory_gb()
    data = {"total_gb": total, "free_gb": free}
    if total is None:
        return Check("memory", "good", "unknown on this system", data=data)
    said = f"{total:,.1f} GB" + (f", {free:,.1f} GB of it free" if free is not None else "")
    if free is not None and free < LITTLE_GB:
        return Check("memory", "off", said, "close other programs", data)
    return Check("memory", "good", said, data=data)


def _memory_gb() -> tuple[float | None, float | None]:
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()}
        return kilobytes["MemTotal"] * 1024 / GB, kilobytes["MemAvailable"] * 1024 / GB
    except (OSError, KeyError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GB, None
    except (AttributeError, OSError, ValueError):
        return None, None


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next((path for path in (folder, *folder.parents) if path.is_dir()), Path.cwd())


def _disk() -> Check:
    from qkv.text.fetch import cache_folder

    here = Path.cwd()
    free = {
        "here": shutil.disk_usage(here).free / GB,
        "cache": shutil.disk_usage(_there(cache_folder())).free / GB,
    }
    said = f"{free['here']:,.1f} GB free here, {free['cache']:,.1f} GB in the cache's place"
    data = {"free_gb": free}
    if not os.access(here, os.W_OK):
        return Check("disk", "off", "this folder cannot be written to", "go to another one", data)
    if min(free.values()) < LITTLE_GB:
        return Check("disk", "off", said, "remove old runs, or set QKV_CACHE_DIR", data)
    return Check("disk", "good", said, data=data)


def _cache() -> Check:
    from qkv.text.fetch import cache_folder

    folder = cache_folder()
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
    inside = f"{len(files)} files, {sum(sizes.values()) / 1e6:,.1f} MB" if files else "empty"
    if len(files) == 1:
        inside = inside.replace("files", "file")
    data = {"folder": str(folder), "files": sizes}
    if not os.access(_there(folder), os.W_OK):
        advice = "set QKV_CACHE_DIR to a folder of your own"
        return Check("cache", "off", f"{folder} cannot be written to", advice, data)
    return Check("cache", "good", f"{folder}: {inside}", data=data)


def _data_folder() -> Check:
    given = os.environ.get("QKV_DATA_DIR", "")
    data = {"folder": given or None}
    if not given:
        return Check("data", "good", "QKV_DATA_DIR is not set: texts are fetched", data=data)
    if not Path(given).is_dir():
        return Check("data", "off", f"QKV_DATA_DIR is {given}: no such folder", "correct it", data)
    names = sorted(path.name for path in Path(given).iterdir() if path.is_file())
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    data_found = data | {"files": names}
    return Check("data", "good", f"QKV_DATA_DIR is {given}: {shown or 'empty'}", data=data_found)
