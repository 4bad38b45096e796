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
from dataclasses import asdict, replace
from pathlib import Path

from qkv.errors import ConfigError, QkvError, ResourceError
from qkv.lab.growing import last_line, last_words
from qkv.lab.job import (
    LADDER,
    PLAN,
    BusyError,
    Job,
    asked_of,
    disk_error,
    is_sound,
    signal_name,
)
from qkv.lab.processes import identify
from qkv.lab.wanted import Wanted

__all__ = ["LADDER", "PLAN", "BusyError", "Job", "Jobs"]

ENDING_SECONDS = 1.0
STOP_SECONDS = 10.0
"""A process that is told to stop saves first; after so long it is killed."""
MARK, LOG, TEXT = ".job.json", ".log", ".txt"
TRASH = ".trash"
PROBES = 40
"""Of a ladder's rungs with heads, to watch them form: their time isn't counted as training's."""
MOST_AT_ONCE = 4


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
        told = last_words(self.log(job))
        child = self._children.get(job.name)
        code = None
        if child is not None and child.pid == job.process:
            # Its lock is free, or it is a zombie, a moment before its code can be had.
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = child.wait(ENDING_SECONDS)
        if told or code in (0, None) or code == 130:
            return told
        if code < 0:
            return f"its process was killed by {signal_name(-code)}"
        return last_line(self.log(job)) or f"its process ended with {code}"

    def start(self, wanted: Wanted) -> Job:
        """Start training, and return at once.

        Raises:
            QkvError: another is running, or too many, no such text, or the disk refused.
        """
        with self._lock:
            self._require_room(beside=wanted.beside)
            name = self._new_name(wanted.preset)
            source = self._source(name, wanted)
            asked = {**asdict(wanted), "text": None, "beside": False}
            job = Job(name, wanted.preset, 0, None, 0.0, asked=asked)
            try:
                return self._run(job, self._arguments(name, wanted, source))
            except QkvError:
                self._clear(name)
                raise

    def _arguments(self, name: str, wanted: Wanted, source: str) -> list[str]:
        """What a new run's process is told."""
        if wanted.preset == LADDER:
            arguments = [LADDER, "--json", f"--set=probes={PROBES}"]
        else:
            arguments = ["train", f"--preset={wanted.preset}"]
        arguments += [f"--out={self.folder / name}", f"--seed={wanted.seed}"]
        if wanted.budget:
            arguments.append(f"--budget={wanted.budget}")
        arguments += [f"--set={name}={value}" for name, value in wanted.settings.items()]
        if wanted.probe and wanted.preset != LADDER:
            arguments.append(f"--probe={wanted.probe}")
        return [*arguments, f"--data={source}"]

    def has_begun(self, job: Job) -> bool:
        """Return whether there is a run or a ladder to go on with."""
        return any((self.folder / job.name / name).is_file() for name in ("config.json", PLAN))

    def resume(self, job: Job, *, beside: bool = False) -> Job:
        """Go on with a run or a ladder from its last checkpoint, or begin it where it did not.

        Raises:
            QkvError: it is running, or another is, or too many are.
        """
        with self._lock:
            if self.is_running(job):
                raise ConfigError(f"{job.name}, which is running", "one that isn't", "wait for it")
            self._require_room(beside=beside)
            if not self.has_begun(job):
                wanted = asked_of(job)
                pasted = self.folder / f"{job.name}{TEXT}"
                source = wanted.corpus or wanted.file or str(pasted)
                return self._run(job, self._arguments(job.name, wanted, source))
            kind = [LADDER, "--json"] if job.preset == LADDER else ["train"]
            return self._run(job, [*kind, f"--resume={self.folder / job.name}"])

    def pause(self, job: Job) -> Job:
        """Have a run saved and ended; it can be gone on with."""
        return self._signal(job, "pause")

    def stop(self, job: Job) -> Job:
        """Have a run saved and ended for good; killed where it does not end soon.

        One that is paused is only said to be stopped.
        """
        with self._lock:
            if job.wish == "pause" and not self.is_running(job):
                told = replace(job, wish="stop")
                self._write(told)
                return told
        told = self._signal(job, "stop")
        watch = threading.Timer(STOP_SECONDS, self._kill, [told])
        watch.daemon = True
        watch.start()
        return told

    def remove(self, job: Job) -> Path:
        """Move a run and what lies beside it to the folder `.trash`, and return where it is.

        Raises:
            QkvError: it is running, or the disk refused.
        """
        with self._lock:
            if self.is_running(job):
                raise ConfigError(
                    f"{job.name}, which is running", "one that isn't", "stop it first"
                )
            trash = self.folder / TRASH / job.name
            again = 1
            while trash.exists():
                again += 1
                trash = trash.with_name(f"{job.name}-{again}")
            try:
                trash.mkdir(parents=True)
                # The mark goes last: until then the lab knows of it.
                for end in ("", LOG, TEXT, MARK):
                    path = self.folder / f"{job.name}{end}"
                    if path.exists():
                        path.rename(trash / path.name)
            except OSError as error:
                raise disk_error(trash, error) from error
            return trash

    def _clear(self, name: str) -> None:
        """Leave nothing beside a run that could not be started."""
        for end in (LOG, TEXT, MARK):
            with contextlib.suppress(OSError):
                (self.folder / f"{name}{end}").unlink()

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

    def _require_room(self, *, beside: bool) -> None:
        running = self.running()
        if running and not beside:
            raise BusyError(running[0].name)
        if len(running) >= MOST_AT_ONCE:
            raise ResourceError(
                f"{len(running)} runs training already",
                f"fewer than {MOST_AT_ONCE}, since they share this machine",
                "pause or stop one first",
            )

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
            self._clear(name)
            raise disk_error(path, error) from error
        return str(path)

    def _new_name(self, preset: str) -> str:
        if not re.fullmatch(r"[a-z0-9-]{1,40}", preset):
            raise ConfigError(f"the preset {preset[:40]!r}", "one of the list", "choose one")
        # Short, for it is the run's name wherever it is told of.
        stamp, again = time.strftime("%m%d-%H%M"), 1
        name = f"{preset}-{stamp}"
        while (self.folder / name).exists() or (self.folder / f"{name}{MARK}").exists():
            again += 1
            name = f"{preset}-{stamp}-{again}"
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
            raise disk_error(self.folder, error) from error
        started = replace(
            job, process=child.pid, identity=identify(child.pid), started=time.time(), wish="go"
        )
        self._children[job.name] = child
        try:
            self._write(started)
        except QkvError:
            child.kill()  # one that no lab would know of any more
            child.wait()
            del self._children[job.name]
            raise
        return started

    def _write(self, job: Job) -> None:
        path = self.folder / f"{job.name}{MARK}"
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_text(json.dumps(asdict(job), indent=1) + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise disk_error(path, error) from error

    def _read(self, mark: Path) -> Job | None:
        """A job's file, read again only when it changed; none where it is torn or a stranger's."""
        try:
            changed = mark.stat().st_mtime_ns
            known = self._known.get(mark.name)
            if not mark.is_file():
                return None
            if known is None or known[0] != changed:
                known = changed, Job(**json.loads(mark.read_text(encoding="utf-8")))
                self._known[mark.name] = known
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        job = known[1]
        return job if mark.name == f"{job.name}{MARK}" and is_sound(job) else None
