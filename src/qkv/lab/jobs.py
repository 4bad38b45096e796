"""Training that the lab starts: a process of its own, which outlives it.

Beside a run's folder lie what it was started with, `NAME.job.json`, what it printed, `NAME.log`,
and a text that was pasted, `NAME.txt`. So a lab that is started again knows what it had started.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from qkv.errors import ConfigError, QkvError, ResourceError, TextError
from qkv.lab.growing import last_line
from qkv.lab.processes import identify

__all__ = ["BusyError", "Job", "Jobs", "Wanted"]

LADDER = "ladder"
LONGEST_TEXT, LONGEST_PROBE = 2_000_000, 20_000
ENDING_SECONDS = 1.0
STOP_SECONDS = 10.0
"""A process that is told to stop saves first; after so long it is killed."""
MARK, LOG, TEXT = ".job.json", ".log", ".txt"
State = Literal["running", "ended"]


@dataclass(frozen=True)
class Wanted:
    """What a page asks to train.

    Args:
        preset: a recipe by name, or ``ladder`` for all rungs.
        corpus: a corpus by name; or
        text: a text that was pasted; or
        file: a path to a text.
        budget: tokens, as 2000000 or 2M; the recipe's own unless given.
        seed: of weights, batches and samples.
        probe: what heads are watched on; chosen from the text unless given.
        beside: whether it may run beside another.
    """

    preset: str
    corpus: str | None = None
    text: str | None = None
    file: str | None = None
    budget: str | None = None
    seed: int = 0
    probe: str | None = None
    beside: bool = False

    @classmethod
    def of(cls, asked: dict[str, Any]) -> Wanted:
        """Return what a page's JSON says.

        Raises:
            ConfigError: fields that are none, of another type, or out of range.
            TextError: a text that is empty or too long.
        """
        kinds: dict[str, type] = dict.fromkeys(("corpus", "text", "file", "budget"), str)
        kinds |= {"preset": str, "probe": str, "seed": int, "beside": bool}
        given = {name: value for name, value in asked.items() if value not in (None, "")}
        for name, value in given.items():
            if name not in kinds or type(value) is not kinds[name]:
                raise ConfigError(f"{name} {str(value)[:40]!r}", "a field of the form", "reload it")
        if asked.get("text") == "":
            raise TextError("an empty text", "text to learn from", "paste some")
        sources = [name for name in ("corpus", "text", "file") if name in given]
        if "preset" not in given or len(sources) != 1:
            raise ConfigError("no text to train on", "a corpus, a text or a file", "choose one")
        wanted = cls(**given)
        for name, longest in (("text", LONGEST_TEXT), ("probe", LONGEST_PROBE)):
            if len(getattr(wanted, name) or "") > longest:
                error = TextError(
                    f"a {name} of {len(given[name]):,} characters", f"at most {longest:,}",
                    "shorten it" if name == "probe" else "save it as a file, and name that",
                )  # fmt: skip
                error.limit = longest  # type: ignore[attr-defined]
                raise error
        if any("\0" in value for value in given.values() if isinstance(value, str)):
            raise TextError("a NUL among the text", "text without", "remove it")
        if wanted.seed < 0 or len(wanted.budget or "") > 20:
            raise ConfigError("a seed or a budget out of range", "numbers from 0 up", "correct it")
        return wanted


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


class Jobs:
    """What the lab started, in one folder.

    Args:
        folder: where runs are made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._known: dict[str, tuple[int, Job]] = {}
        self._lock = threading.RLock()

    def all(self) -> list[Job]:
        """Return every job of the folder, oldest first."""
        found = []
        with self._lock:
            for mark in self.folder.glob(f"*{MARK}"):
                job = self._read(mark)
                if job is not None:
                    found.append(job)
        return sorted(found, key=lambda job: job.started)

    def of(self, path: Path) -> Job | None:
        """Return the job that made a run or a ladder, if one did."""
        for place in (path, path.parent):
            if place.parent == self.folder:
                return self._read(self.folder / f"{place.name}{MARK}")
        return None

    def log(self, job: Job) -> Path:
        """Return the file of what a job printed."""
        return self.folder / f"{job.name}{LOG}"

    def is_running(self, job: Job) -> bool:
        """Return whether a job's process lives."""
        child = self._children.get(job.name)
        if child is not None and child.pid == job.process:
            return child.poll() is None
        return job.identity is not None and identify(job.process) == job.identity

    def running(self) -> list[Job]:
        """Return the jobs whose processes live."""
        return [job for job in self.all() if self.is_running(job)]

    def last_words(self, job: Job) -> str:
        """Return why a job that ended did: its error's line, or the signal that ended it."""
        told = last_line(self.log(job), "qkv: ").removeprefix("qkv: ")
        child = self._children.get(job.name)
        code = None
        if child is not None and child.pid == job.process:
            # Its lock is free, or it is a zombie, a moment before its code can be had.
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = child.wait(ENDING_SECONDS)
        if told or code in (0, None) or code == 130:
            return told
        if code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        return last_line(self.log(job)) or f"its process ended with {code}"

    def start(self, wanted: Wanted) -> Job:
        """Start training, and return at once.

        Raises:
            QkvError: another is running, no such text, or the disk refused.
        """
        with self._lock:
            if not wanted.beside:
                self._require_idle()
            name = self._new_name(wanted.preset)
            arguments = [LADDER, "--json"] if wanted.preset == LADDER else ["train"]
            if wanted.preset != LADDER:
                arguments.append(f"--preset={wanted.preset}")
            arguments += [f"--out={self.folder / name}", f"--seed={wanted.seed}"]
            if wanted.budget:
                arguments.append(f"--budget={wanted.budget}")
            if wanted.probe and wanted.preset != LADDER:
                arguments.append(f"--probe={wanted.probe}")
            arguments.append(f"--data={self._source(name, wanted)}")
            asked = {**asdict(wanted), "text": None, "probe": None, "beside": None}
            return self._run(Job(name, wanted.preset, 0, None, 0.0, asked=asked), arguments)

    def resume(self, job: Job, *, beside: bool = False) -> Job:
        """Go on with a run or a ladder from its last checkpoint.

        Raises:
            QkvError: it is running, or another is.
        """
        with self._lock:
            if self.is_running(job):
                raise ConfigError(f"{job.name}, which is running", "one that isn't", "wait for it")
            if not beside:
                self._require_idle()
            kind = [LADDER, "--json"] if job.preset == LADDER else ["train"]
            return self._run(job, [*kind, f"--resume={self.folder / job.name}"])

    def pause(self, job: Job) -> Job:
        """Have a run saved and ended; it can be gone on with."""
        return self._signal(job, "pause")

    def stop(self, job: Job) -> Job:
        """Have a run saved and ended for good; killed where it does not end soon."""
        told = self._signal(job, "stop")
        watch = threading.Timer(STOP_SECONDS, self._kill, [told])
        watch.daemon = True
        watch.start()
        return told

    def _signal(self, job: Job, wish: str) -> Job:
        with self._lock:
            # A number may have been given to another process since: never signal that one.
            if not self.is_running(job):
                raise ConfigError(f"{job.name}, which is not running", "one that is", "look again")
            told = replace(job, wish=wish)
            self._write(told)
            os.kill(job.process, signal.SIGINT)
            return told

    def _kill(self, job: Job) -> None:
        if self.is_running(job):
            os.kill(job.process, signal.SIGKILL)

    def _require_idle(self) -> None:
        for job in self.running():
            raise BusyError(job.name)

    def _source(self, name: str, wanted: Wanted) -> str:
        if wanted.text is None:
            return wanted.corpus or str(wanted.file)
        from qkv.text import corpus_from_text

        corpus_from_text(wanted.text)
        path = self.folder / f"{name}{TEXT}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted.text, encoding="utf-8", newline="")
        except OSError as error:
            raise _disk_error(path, error) from error
        return str(path)

    def _new_name(self, preset: str) -> str:
        if not re.fullmatch(r"[a-z0-9-]{1,40}", preset):
            raise ConfigError(f"the preset {preset[:40]!r}", "one of the list", "choose one")
        stamp, number = time.strftime("%Y%m%d-%H%M%S"), 1
        name = f"{preset}-{stamp}"
        while (self.folder / name).exists() or (self.folder / f"{name}{MARK}").exists():
            number += 1
            name = f"{preset}-{stamp}-{number}"
        return name

    def _run(self, job: Job, arguments: list[str]) -> Job:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # What an earlier process of the run said is no reason for how this one ends.
            with self.log(job).open("wb") as log:
                child = subprocess.Popen(
                    [sys.executable, "-m", "qkv", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    start_new_session=True,  # the lab's end, or its terminal's, is not the run's
                )
        except (OSError, ValueError) as error:
            raise _disk_error(self.folder, error) from error
        started = replace(
            job, process=child.pid, identity=identify(child.pid), started=time.time(), wish="go"
        )
        self._children[job.name] = child
        try:
            self._write(started)
        except QkvError:
            child.kill()  # one that no lab would know of any more
            raise
        return started

    def _write(self, job: Job) -> None:
        path = self.folder / f"{job.name}{MARK}"
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_text(json.dumps(asdict(job), indent=1) + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise _disk_error(path, error) from error

    def _read(self, mark: Path) -> Job | None:
        """A job's file, read again only when it changed; none where it is torn or a stranger's."""
        try:
            changed = mark.stat().st_mtime_ns
            known = self._known.get(mark.name)
            if known is None or known[0] != changed:
                known = changed, Job(**json.loads(mark.read_text(encoding="utf-8")))
                self._known[mark.name] = known
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        job = known[1]
        right = mark.name == f"{job.name}{MARK}" and type(job.process) is int
        return job if right and isinstance(job.started, int | float) else None


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


def _disk_error(path: Path, error: Exception) -> ResourceError:
    return ResourceError(
        f"{getattr(error, 'strerror', None) or error} for {path}", "a folder that may be written",
        "make room, or start the lab elsewhere",
    )  # fmt: skip
