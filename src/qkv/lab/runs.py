"""Runs as pages show them: a run directory read again and again, at the cost of what is new.

A reader only reads. What is half-written, damaged or of another version is told in one line.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from qkv.lab.about import read_about
from qkv.lab.curves import Births, Curve, Thinned, number, traits
from qkv.lab.growing import Growing, last_line, last_words
from qkv.lab.processes import is_alive, is_here

__all__ = ["Run", "RunHead", "standing"]

RATED_STEPS = 50
"""Tokens a second are told of so many steps."""
MOST_SAMPLES, MOST_PROBES, MOST_LOSSES = 60, 120, 300
LONGEST_SAMPLE = 2_000
SCORES = ("previous", "first", "induction", "duplicate", "retrieval", "self", "uniform", "entropy")
LISTS = ("losses", "validation", "samples", "probes", "births")
LIVING = ("running", "starting")
SILENT_SECONDS = 900.0
"""After so long without a word, a run of another machine isn't said to train."""
MOST_COUNTED = 2**53
"""Steps or tokens: above it a page can't count."""
LOOK_SECONDS = 1.0
"""Between two looks at whether the process still lives."""

Line = dict[str, Any]


def standing(path: Path, status: Line, log: Path | None = None) -> tuple[str, str]:
    """Return a run's state and, where it did not go as planned, the reason.

    Args:
        path: its directory.
        status: what `status.json` says.
        log: what its process printed, where the lab started it.

    >>> standing(Path("run"), {"state": "failed", "error": "no space left"})
    ('failed', 'no space left')
    """
    state = str(status.get("state") or "")
    if state == "failed":
        return state, str(status.get("error") or "it did not say why")
    if state not in ("", "running"):
        return (state if state in ("finished", "interrupted") else "unreadable"), ""
    alive = is_alive(status, path / "lock") if state else None
    if alive is False:
        said = "" if log is None else last_words(log)
        return "ended", said or "its process was killed, or the machine went down"
    if not state:
        return "waiting", "" if log is None else last_words(log)
    silent = _silence(path) if alive is None else 0.0
    if silent > SILENT_SECONDS:
        return "silent", f"last heard of {_duration(silent)} ago"
    return "running", ""


def _silence(path: Path) -> float:
    """Seconds since a run last wrote anything, by the clock that its files are dated by."""
    times = []
    for name in ("metrics.jsonl", "status.json", "checkpoints"):
        with suppress(OSError):
            times.append((path / name).stat().st_mtime)
    return time.time() - max(times) if times else 0.0


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("h", 3_600)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 60:.0f} min"


class RunHead:
    """The little that a list of runs says of one; read again only when its files change.

    Args:
        path: the run's directory.
        log: what its process printed, where the lab started it.
    """

    def __init__(self, path: Path, log: Path | None = None) -> None:
        self.path, self.log = path, log
        self.about: Line = {}
        self.status: Line = {}
        self.problem = ""
        self._seen: dict[str, tuple[int, int]] = {}
        self._looked = 0.0
        self._standing = ("waiting", "")
        self._tail: Line = {}

    def refresh(self) -> None:
        """Look at the files that say how the run stands."""
        if self._changed("config.json"):
            self.about, self.problem = read_about(self.path)
        changed = self._changed("status.json")
        if changed:
            self.status = _read_object(self.path / "status.json")
        now = time.monotonic()
        if changed or now - self._looked > LOOK_SECONDS:
            self._looked = now
            self._standing = standing(self.path, self.status, self.log)

    def to_json(self) -> Line:
        """Return what a list says of the run."""
        self.refresh()
        if self._changed("metrics.jsonl"):
            self._tail = _parse(last_line(self.path / "metrics.jsonl").encode()) or self._tail
        state, reason = self._standing
        return {
            "state": "unreadable" if self.problem else state,
            "reason": self.problem or reason,
            "step": self._step(self._tail.get("step")),
            "steps": self._steps(self._tail.get("steps")),
            "model": self.about.get("model", ""),
            "host": "" if is_here(self.status) else str(self.status.get("host") or ""),
        }

    def _step(self, last: object) -> int:
        return max(count_of(self.status.get("step")), count_of(last))

    def _steps(self, last: object) -> int:
        told = (self.status.get("steps"), last, self.about.get("steps"))
        return next((value for value in map(count_of, told) if value), 0)

    def _changed(self, name: str) -> bool:
        try:
            found = (self.path / name).stat()
        except OSError:
            return self._seen.pop(name, None) is not None
        mark = (found.st_mtime_ns, found.st_size)
        if self._seen.get(name) == mark:
            return False
        self._seen[name] = mark
        return True


class Run(RunHead):
    """A run that is watched: its losses, samples, probes and births so far.

    Args:
        path: its directory.
        log: what its process printed, where the lab started it.
    """

    def __init__(self, path: Path, log: Path | None = None) -> None:
        super().__init__(path, log)
        self.lock = threading.RLock()
        self._files = [Growing(path / "metrics.jsonl"), Growing(path / "samples.jsonl")]
        self._files.append(Growing(path / "probes" / "index.jsonl"))
        self.generation = 0
        self._begin()

    def _begin(self) -> None:
        self.generation += 1
        self._curve: Curve | None = None
        self._lists: dict[str, Any] = {
            "validation": Thinned[list[float]](MOST_LOSSES),
            "samples": Thinned[Line](MOST_SAMPLES),
            "probes": Thinned[Line](MOST_PROBES),
            "births": Births(),
        }
        self._recent: deque[tuple[int, float]] = deque(maxlen=RATED_STEPS + 1)
        self._last: Line = {}

    def follow(self) -> None:
        """Take in what is new; costs a few looks at files where nothing is."""
        self.refresh()
        takers = (self._take_metrics, self._take_sample, self._take_probe)
        while True:
            found = [file.read() for file in self._files]
            if any(anew for _, anew in found):  # cut back on resuming: all is read again
                self._begin()
                for file in self._files:
                    file.reset()
                continue
            for (lines, _), take in zip(found, takers, strict=True):
                for line in filter(None, map(_parse, lines)):
                    take(line)
            if not any(lines for lines, _ in found):
                return

    def head(self) -> Line:
        """Return how the run stands, without its lists."""
        state, reason = self._standing
        rate, left = self._pace()
        return {
            "state": "unreadable" if self.problem else state,
            "reason": self.problem or reason,
            "step": self._step(self._last.get("step")),
            "steps": self._steps(self._last.get("steps")),
            "tokens": count_of(self._last.get("tokens")),
            "rate": rate,
            "left_s": left if state in LIVING else None,
            "host": "" if is_here(self.status) else str(self.status.get("host") or ""),
            "about": self.about,
        }

    def lists(self, seen: Line | None = None) -> tuple[Line, Line]:
        """Return what is new in each list since it was last seen, and what is seen now.

        Each is {"from": place, "items": […]}: what stood from that place on is replaced.
        """
        told: Line = {}
        now: Line = {}
        for name in LISTS:
            generation, items = self._list(name)
            place = [generation, len(items)]
            now[name] = place
            before = (seen or {}).get(name) or [None, 0]
            start = before[1] if before[0] == generation else 0
            if name == "losses" and start:
                start -= 1  # the last point may still grow
                if items[start:] == (seen or {}).get("last"):
                    start = len(items)
            if before[0] != generation or start < len(items):
                told[name] = {"from": start, "items": items[start:]}
        now["last"] = self._list("losses")[1][-1:]
        return told, now

    def _list(self, name: str) -> tuple[str, list[Any]]:
        if name == "losses":
            found: Any = self._curve
            items = [] if found is None else found.points
        else:
            found = self._lists[name]
            items = found.items
        return f"{self.generation}.{0 if found is None else found.generation}", items

    def _pace(self) -> tuple[float | None, float | None]:
        """Tokens a second over the last steps, and seconds left."""
        if len(self._recent) < 2:
            return None, None
        steps = list(self._recent)
        seconds = sum(took for _, took in steps[1:])
        if not seconds > 0:
            return None, None
        rate = (steps[-1][0] - steps[0][0]) / seconds
        ahead = self._steps(self._last.get("steps")) - self._step(self._last.get("step"))
        left = max(0, ahead) * seconds / (len(steps) - 1)
        return number(rate), number(left)

    def _take_metrics(self, line: Line) -> None:
        step, loss = line["step"], number(line.get("loss"))
        validation = number(line.get("validation_loss"))
        if validation is not None:
            self._lists["validation"].add([step, validation])
        if loss is None:
            return
        if self._curve is None:
            self._curve = Curve(count_of(line.get("steps")))
        self._curve.add(step, loss)
        self._last = line
        tokens, seconds = line.get("tokens"), number(line.get("seconds"))
        if number(tokens) is not None and seconds is not None:
            self._recent.append((count_of(tokens), seconds))

    def _take_sample(self, line: Line) -> None:
        text = line.get("text")
        if isinstance(text, str):
            told = {"step": line["step"], "prompt": str(line.get("prompt") or "")[:LONGEST_SAMPLE]}
            self._lists["samples"].add({**told, "text": text[:LONGEST_SAMPLE]})

    def _take_probe(self, line: Line) -> None:
        heads = _heads(line.get("heads"))
        told = {name: {**head["scores"], "does": traits(head)} for name, head in heads.items()}
        sample = line.get("sample")
        self._lists["probes"].add(
            {
                "step": line["step"],
                "loss": number(line.get("passage_loss")),
                "sample": sample[:LONGEST_SAMPLE] if isinstance(sample, str) else None,
                "heads": told,
            }
        )
        self._lists["births"].add(line["step"], heads)


def _heads(told: object) -> dict[str, Line]:
    """Each head's role, and scores with their chance, as far as a line has them in that form."""
    found: dict[str, Line] = {}
    for name, head in told.items() if isinstance(told, dict) else ():
        scores = head.get("scores") if isinstance(head, dict) else None
        if not isinstance(scores, dict):
            continue
        pairs = ((kind, scores[kind]) for kind in SCORES if isinstance(scores.get(kind), list))
        found[str(name)[:40]] = {
            "role": head.get("role"),
            "scores": {
                kind: [number(pair[0]), number(pair[1])] for kind, pair in pairs if len(pair) == 2
            },
        }
    return found


def count_of(value: object) -> int:
    """Return a count that a file tells, or 0 for what is none.

    >>> count_of(7), count_of(-1), count_of(10**400), count_of("7"), count_of(True)
    (7, 0, 0, 0, 0)
    """
    return value if type(value) is int and 0 <= value <= MOST_COUNTED else 0


def _parse(line: bytes) -> Line | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = found.get("step") if isinstance(found, dict) else None
    return found if type(step) is int and 0 <= step <= MOST_COUNTED else None


def _read_object(path: Path) -> Line:
    try:
        found = json.loads(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
