"""Short dialogues: a question, an answer turned over, a grade; in a terminal or from a pipe."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from qkv.cli.console import err, out

if TYPE_CHECKING:
    from qkv.learn.progress import Progress
    from qkv.learn.schedule import Queue
    from qkv.learn.sheets import Entry

__all__ = ["Dialogue", "open_progress", "review"]

WIDTH = 76
LONGEST_ANSWER = 2_000
GRADES = {
    "card": ("again", "hard", "good", "easy"),
    "question": ("missed", "hard", "good", "easy"),
}


def open_progress() -> Progress:
    """Return the person's progress; what became of a damaged file is said."""
    from qkv.learn.progress import Progress

    progress = Progress()
    if progress.notice:
        err().print(progress.notice, style="bold", markup=False, soft_wrap=True)
    return progress


@dataclass(frozen=True)
class Dialogue:
    """What is asked in a round.

    Args:
        kind: "card" or "question".
        entries: what may be asked, in the order in which to begin.
        new: how many may be begun in a day, unless the usual number.
        prompt: what is asked for before the back is shown.
        titles: the sections' by id.
        written: the ids of what this round wrote into the log; nothing else is undone from it.
    """

    kind: str
    entries: Sequence[Entry]
    new: int | None
    prompt: str
    titles: dict[str, str]
    written: list[int] = field(default_factory=list)

    def queue(self, progress: Progress) -> Queue:
        """Return what is to be done now."""
        from qkv.learn.schedule import due

        names = [entry.id for entry in self.entries]
        return due(progress.entries(), names, _now(), kind=self.kind, new_a_day=self.new)


def review(dialogue: Dialogue, progress: Progress) -> None:
    """Ask what is due until nothing is, the person stops, or a pipe ends."""
    from qkv.learn.schedule import until

    queue = dialogue.queue(progress)
    if not queue.items:
        _say(_nothing_due(queue))
        return
    _say(f"{queue.says()}. Enter turns over, q stops.")
    by_id = {entry.id: entry for entry in dialogue.entries}
    done = 0
    while queue.items:
        item = queue.items[0]
        step = _ask_one(dialogue, by_id[item], progress, len(queue.items))
        if step is None:
            break
        done += step
        queue = dialogue.queue(progress)
    said = f"{done} {dialogue.kind}{'s' * (done != 1)} done"
    if queue.items:
        said += f", {len(queue.items)} left"
    elif queue.next_at:
        said += f", the next is due in {until(queue.next_at - _now())}"
    _say(f"\n{said}. What you graded is kept in {progress.path}.")


def _nothing_due(queue: Queue) -> str:
    from qkv.learn.schedule import until

    said = f"No {queue.kind}s are due"
    if queue.next_at:
        said += f"; the next is in {until(queue.next_at - _now())}"
    if queue.waiting:
        said += f". {queue.waiting} wait for another day; --new {queue.waiting} begins them now"
    return said + "."


def _ask_one(dialogue: Dialogue, entry: Entry, progress: Progress, left: int) -> int | None:
    """Ask one; return whether it was graded, or None to stop."""
    from qkv.learn.prose import as_text
    from qkv.learn.schedule import after, until

    started = time.monotonic()
    section = str(entry.fields.get("section", ""))
    _say(f"\n{left} left · {dialogue.titles.get(section, section)}", style="dim")
    _show(as_text(entry.parts[0]), style="bold")
    said = _read(dialogue.prompt)
    if said is None or said.strip().lower() == "q":
        return None
    _show(as_text(entry.parts[1]))
    rests = after(progress.entries(), entry.id, _now(), kind=dialogue.kind)
    named = GRADES[dialogue.kind]
    for number, (name, rest) in enumerate(zip(named, rests, strict=True), 1):
        _say(f"  {number} {name} ({until(rest)})", end="")
    _say("   u undo  s suspend  q stop" if dialogue.kind == "card" else "   u undo  q stop")
    return _grade(dialogue, entry, progress, said.strip()[:LONGEST_ANSWER], started)


def _grade(
    dialogue: Dialogue, entry: Entry, progress: Progress, answer: str, started: float
) -> int | None:
    """Take a grade, or what else may be done; None to stop."""
    from qkv.learn.schedule import after, until

    named = GRADES[dialogue.kind]
    while (said := _read("grade")) is not None and (word := said.strip().lower()) != "q":
        if word in {"1", "2", "3", "4", *named}:
            rating = named.index(word) + 1 if word in named else int(word)
            rest = after(progress.entries(), entry.id, _now(), kind=dialogue.kind)[rating - 1]
            detail: dict[str, Any] = {"seconds": round(time.monotonic() - started, 1)}
            detail |= {"answer": answer} if answer else {}
            written = progress.append(dialogue.kind, entry.id, rating, _now(), detail)
            dialogue.written.append(written)
            # Said once it is on the disk, and not before.
            _say(f"{named[rating - 1]}: again in {until(rest)}", style="dim")
            return 1
        if word == "u":
            undone = progress.undo(_now(), among=dialogue.written)
            _say(f"undone: {undone.item}" if undone else "nothing to undo", style="dim")
            return -1 if undone and undone.kind == dialogue.kind else 0
        if word == "s" and dialogue.kind == "card":
            dialogue.written.append(progress.append("suspend", entry.id, 0, _now()))
            _say(f"suspended: `qkv cards unsuspend {entry.id}` brings it back", style="dim")
            return 0
        _say("1, 2, 3 or 4 grades it; u undoes the last one, q stops")
    return None


def _read(prompt: str) -> str | None:
    """Read a line; None where there are no more."""
    _say(f"{prompt} ▸ ", end="")
    line = sys.stdin.readline()
    if not sys.stdin.isatty():
        _say("")  # nobody pressed Enter there
    return line.rstrip("\n") if line else None


def _show(text: str, style: str = "") -> None:
    width = min(WIDTH, out().width)
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()))
        hanging = indent + (
            "   " if line.lstrip()[:2] in {"• ", *(f"{n}." for n in range(10))} else ""
        )
        _say(
            textwrap.fill(line, width, subsequent_indent=hanging, break_on_hyphens=False),
            style=style,
        )


def _say(words: str, style: str = "", end: str = "\n") -> None:
    out().print(words, style=style, end=end, markup=False, soft_wrap=True)
    sys.stdout.flush()  # who reads a pipe knows at once


def _now() -> datetime:
    return datetime.now(UTC)
