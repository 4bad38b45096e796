"""All runs that the lab can show, with what it started among them; read when they are asked for."""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from qkv.lab.curves import number
from qkv.lab.jobs import LADDER, PLAN, BusyError, Job, Jobs
from qkv.lab.own_run import OwnRun
from qkv.lab.runs import LIVING, Line, Run, RunHead
from qkv.lab.shelf import OWN, Shelf, kind_of

__all__ = ["Following"]

MOST_RUNS, MOST_RUNGS = 40, 40
"""Kept with all their losses; others are read again when they are asked for."""
LOG = logging.getLogger(__name__)


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
        jobs = {self.jobs.folder / job.name: job for job in self.jobs.all()}
        found: list[tuple[float, Line]] = []
        ladders: dict[Path, list[Line]] = {}
        with self._lock:
            for name, path in self._paths(jobs).items():
                group = self._ladder_of(path)
                job = jobs.get(path) or (jobs.get(group) if group else None)
                told = self._tell_run(name, path, job, alone=group is None)
                told["group"] = self._id(group) if group else None
                if group:
                    ladders.setdefault(group, []).append(told)
                found.append((_time(path), told))
            for path in [*ladders, *(p for p in jobs if not _is_run(p) and p not in ladders)]:
                found.append((_time(path), self._tell_ladder(path, ladders.get(path, []), jobs)))
        return [told for _, told in sorted(found, key=lambda one: -one[0])]

    def _paths(self, jobs: dict[Path, Job]) -> dict[str, Path]:
        """The runs by id: of many only the newest, but all that the lab started."""
        items = (item for item in self.shelf.items() if item.kind == "run")
        found = {item.id: item.path for item in items if item.path is not None}
        known = set(found.values())
        for path, job in jobs.items():
            inside = path.glob("*/") if job.preset == LADDER else (path,)
            new = (one for one in inside if one not in known and kind_of(one) == "run")
            found |= {self._id(one): one for one in new}
        return found

    def _tell_run(self, name: str, path: Path, job: Job | None, *, alone: bool) -> Line:
        log = None if job is None else self.jobs.log(job)
        head = self._heads.setdefault(name, RunHead(path, log))
        head.log = log
        told: Line = {"id": name, "kind": "run", "title": path.name, "can": []}
        try:
            told |= head.to_json()
            self._say_job(told, job if alone else None)
        except Exception as error:  # one that is damaged must not hide the others
            LOG.exception("reading %s failed", path)
            reason = f"the lab failed on it ({type(error).__name__})"
            told |= {"state": "unreadable", "reason": reason, "step": 0, "steps": 0}
            told |= {"model": "", "host": ""}
        return told

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
            self._say_job(head, job, alone=not grouped)
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

    def _say_job(self, told: Line, job: Job | None, *, alone: bool = True) -> None:
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
        begun = self.jobs.has_begun(job) or not alone
        if not (begun or running) and (job.wish != "go" or not told["reason"]):
            told["state"], told["reason"] = "waiting", ""
        elif job.wish != "go":
            _say_wish(told, job.wish, running=running)
        if alone:
            told["can"] = _acts(told["state"], job.wish, running=running)

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
            "rungs": _climbed(path),
        }
        self._say_job(told, job)
        if job is not None and self.jobs.is_running(job) and states and job.wish == "go":
            told["state"] = "running"  # between two rungs
        return told

    def _id(self, path: Path) -> str:
        for at, place in enumerate(self.shelf.places):
            if path == place:
                return str(at)
            if path.is_relative_to(place):
                return f"{at}/{path.relative_to(place).as_posix()}"
        return ""

    def _ladder_of(self, path: Path) -> Path | None:
        ladder = path.parent
        return ladder if self._id(ladder) and (ladder / PLAN).is_file() else None


def _say_wish(told: Line, wish: str, *, running: bool) -> None:
    now, then = {"pause": ("pausing", "paused"), "stop": ("stopping", "stopped")}[wish]
    if running and told["state"] in LIVING:
        told["state"] = now
    elif told["state"] in ("interrupted", "ended"):
        told["state"] = then
        told["reason"] = "" if then == "paused" else told["reason"]


def _acts(state: str, wish: str, *, running: bool) -> list[str]:
    """What may be done with what the lab started."""
    if running and state in ("finished", "failed"):
        return []  # the process is about to end
    if running:
        return ["pause", "stop"] if wish == "go" else ["stop"]
    if state == "finished":
        return ["remove"]
    return ["resume", *(["stop"] if state == "paused" and wish == "pause" else []), "remove"]


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


def _climbed(path: Path) -> list[Line]:
    """What the ladder's table says of each rung that is done, in its order."""
    try:
        plan: Any = json.loads((path / PLAN).read_text(encoding="utf-8"))
        return [
            {
                "name": str(one["name"])[:80],
                "title": str(one["title"])[:80],
                **{name: number(one[name]) for name in ("parameters", "loss", "seconds")},
            }
            for one in plan["results"][:MOST_RUNGS]
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _planned(path: Path) -> int:
    try:
        plan: Any = json.loads((path / PLAN).read_text(encoding="utf-8"))
        return len(plan["plan"]["rungs"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0
