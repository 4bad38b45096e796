"""All runs that the lab can show, with what it started among them; read when they are asked for."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from qkv.lab.jobs import LADDER, BusyError, Job, Jobs
from qkv.lab.own_run import OwnRun
from qkv.lab.runs import LIVING, Line, Run, RunHead
from qkv.lab.shelf import OWN, Shelf

__all__ = ["Following"]

MOST_RUNS = 40
"""Kept with all their losses; others are read again when they are asked for."""
PLAN = "ladder.json"


class Following:
    """Runs on the shelf and what was started, by the ids of pages.

    Args:
        shelf: what may be opened.
        jobs: what the lab started.
    """

    def __init__(self, shelf: Shelf, jobs: Jobs) -> None:
        self.shelf, self.jobs = shelf, jobs
        self._heads: dict[str, RunHead] = {}
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._lock = threading.RLock()

    def listing(self) -> list[Line]:
        """Return every run and ladder, the newest first, with how each stands."""
        items = [item for item in self.shelf.items() if item.kind == "run"]
        jobs = {self.jobs.folder / job.name: job for job in self.jobs.all()}
        found: list[tuple[float, Line]] = []
        ladders: dict[Path, list[Line]] = {}
        with self._lock:
            for item in items:
                assert item.path is not None
                group = self._ladder_of(item.path)
                job = jobs.get(item.path) or (jobs.get(group) if group else None)
                log = None if job is None else self.jobs.log(job)
                head = self._heads.setdefault(item.id, RunHead(item.path, log))
                head.log = log
                told = {"id": item.id, "kind": "run", "title": item.path.name, **head.to_json()}
                told["group"] = self._id(group) if group else None
                self._say_job(told, None if group else job, item.path)
                if group:
                    ladders.setdefault(group, []).append(told)
                found.append((_time(item.path), told))
            for path in [*ladders, *(p for p in jobs if not _is_run(p) and p not in ladders)]:
                found.append((_time(path), self._tell_ladder(path, ladders.get(path, []), jobs)))
        return [told for _, told in sorted(found, key=lambda one: -one[0])]

    def read(self, name: object) -> tuple[Run, Line]:
        """Return a run with all that it has so far, and how it stands.

        Raises:
            ConfigError: no such run.
        """
        with self._lock:
            run, job, grouped = self._find(name)
        with run.lock:
            run.follow()
            head = {"id": str(name), **run.head()}
        if job is not None:
            self._say_job(head, job, run.path, alone=not grouped)
        return run, head

    def require_idle(self) -> None:
        """Raise where a run trains on this machine, whoever started it.

        Raises:
            BusyError: one does.
        """
        for told in self.listing():
            if told["kind"] == "run" and told["state"] in LIVING and not told["host"]:
                raise BusyError(told["title"])

    def find_job(self, name: object) -> Job | None:
        """Return the job that made what an id names; none for what was started elsewhere."""
        path = self.shelf.locate(name)
        return None if path is None else self.jobs.of(path)

    def id_of(self, job: Job) -> str:
        """Return what pages call the run or the ladder that a job makes."""
        return self._id(self.jobs.folder / job.name)

    def _find(self, name: object) -> tuple[Run, Job | None, bool]:
        key = str(name)
        path = None if key == OWN else self.shelf.locate(name)
        job = None if path is None else self.jobs.of(path)
        if job is None or path is None or _is_run(path):
            path = self.shelf.find(name).path  # else it was started just now, and isn't one yet
        run = self._runs.get(key)
        log = None if job is None else self.jobs.log(job)
        if run is None:
            run = OwnRun() if path is None else Run(path, log)
            self._runs[key] = run
            while len(self._runs) > MOST_RUNS:
                self._runs.popitem(last=False)
        self._runs.move_to_end(key)
        run.log = log
        return run, job, path is not None and self._ladder_of(path) is not None

    def _say_job(self, told: Line, job: Job | None, path: Path, *, alone: bool = True) -> None:
        """Say what may be done with a run, and put its state as one who started it would."""
        told["can"] = []
        if job is None:
            return
        running = self.jobs.is_running(job)
        if running and told["state"] not in LIVING:
            if alone and told["state"] in ("waiting", "ended", "interrupted"):
                told["state"], told["reason"] = "starting", ""
        elif not running and told["state"] in ("waiting", "running"):
            told["state"], told["reason"] = "ended", self.jobs.last_words(job)
        elif not running and told["state"] == "ended":
            told["reason"] = self.jobs.last_words(job) or told["reason"]
        if job.wish != "go":
            wished = {"pause": ("pausing", "paused"), "stop": ("stopping", "stopped")}[job.wish]
            if running and told["state"] in LIVING:
                told["state"] = wished[0]
            elif told["state"] in ("interrupted", "ended"):
                told["state"] = wished[1]
                told["reason"] = "" if told["state"] == "paused" else told["reason"]
        if not alone:
            return
        if told["state"] == "finished" or (running and told["state"] == "failed"):
            return  # the process is about to end
        if running:
            told["can"] = ["pause", "stop"] if job.wish == "go" else ["stop"]
        elif _is_run(path) or (path / PLAN).is_file():
            told["can"] = ["resume"]

    def _tell_ladder(self, path: Path, rungs: list[Line], jobs: dict[Path, Job]) -> Line:
        job = jobs.get(path)
        states = [rung["state"] for rung in rungs]
        planned = _planned(path) or len(rungs)
        under_way = next((rung for rung in rungs if rung["state"] not in ("finished",)), None)
        state, reason = "waiting", ""
        if states and len(rungs) >= planned and set(states) == {"finished"}:
            state = "finished"
        elif under_way is not None:
            state, reason = under_way["state"], under_way["reason"]
        elif states and job is None:
            state = "interrupted"
        told = {
            "id": self._id(path),
            "kind": LADDER if rungs or job is None or job.preset == LADDER else "run",
            "title": path.name,
            "state": state,
            "reason": reason,
            "step": states.count("finished"),
            "steps": planned,
            "model": "",
            "host": "",
            "group": None,
        }
        self._say_job(told, job, path)
        if job is not None and self.jobs.is_running(job) and states and job.wish == "go":
            told["state"] = "running"  # between two rungs
        return told

    def _id(self, path: Path) -> str:
        for number, place in enumerate(self.shelf.places):
            if path == place:
                return str(number)
            if path.is_relative_to(place):
                return f"{number}/{path.relative_to(place).as_posix()}"
        return ""

    def _ladder_of(self, path: Path) -> Path | None:
        ladder = path.parent
        return ladder if self._id(ladder) and (ladder / PLAN).is_file() else None


def _is_run(path: Path) -> bool:
    return (path / "config.json").is_file()


def _time(path: Path) -> float:
    """When something was begun, for the order of a list."""
    for name in ("tokenizer.json", "config.json", PLAN, ""):
        try:
            return (path / name).stat().st_mtime
        except OSError:
            continue
    return float("inf")  # just started: nothing is there yet


def _planned(path: Path) -> int:
    try:
        plan: Any = json.loads((path / PLAN).read_text(encoding="utf-8"))
        return len(plan["plan"]["rungs"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
