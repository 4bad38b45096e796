"""Practice as the page asks for it: what is next, what a grade does, what may be downloaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from qkv.errors import ConfigError
from qkv.learn.library import own_library
from qkv.learn.progress import LogEntry, Progress
from qkv.learn.prose import as_html
from qkv.learn.schedule import NEW_A_DAY, RATINGS, after, due, in_order, until
from qkv.learn.sheets import Entry

__all__ = ["Round", "download", "grade", "next_up", "suspend", "tell", "undo"]

MOST_MORE = 1_000
LONGEST_ANSWER = 2_000
UNDONE = {"card": ("card", "suspend", "unsuspend"), "question": ("question",)}


@dataclass(frozen=True)
class Round:
    """What a page asks for.

    Args:
        kind: "card" or "question".
        more: how many new ones are wanted today beyond the usual number.
        section: the id of the only section that is wanted, or none.
    """

    kind: str
    more: int = 0
    section: str | None = None

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Round:
        """Return what a query or a body says.

        Raises:
            ConfigError: another kind, a number out of range, a section that isn't there.
        """
        kind, more, section = asked.get("kind"), asked.get("more") or 0, asked.get("section")
        try:
            more = int(more)
        except (TypeError, ValueError, OverflowError):
            more = -1
        if not isinstance(kind, str) or kind not in NEW_A_DAY or not 0 <= more <= MOST_MORE:
            raise ConfigError(f"{str(dict(asked))[:80]}", "cards or questions", "reload the page")
        if section and own_library().find("section", str(section)) is None:
            raise ConfigError(
                f"the section {str(section)[:40]!r}", "one of the guide", "choose one"
            )
        return cls(kind, more, str(section) if section else None)

    def entries(self) -> list[Entry]:
        """Return what may be asked, in order."""
        library = own_library()
        found = library.cards if self.kind == "card" else library.questions
        return [e for e in in_order(found) if self.section in {None, e.fields["section"]}]

    def find(self, name: object) -> Entry:
        """Return one by its id, of whatever section: another may be wanted by now.

        Raises:
            ConfigError: there is none.
        """
        for entry in Round(self.kind).entries():
            if entry.id == name:
                return entry
        raise ConfigError(f"the {self.kind} {str(name)[:40]!r}", "one that is there", "reload it")


def next_up(asked: Round, now: datetime) -> dict[str, Any]:
    """Return how much there is to do, and the first of it with both sides."""
    with Progress() as progress:
        return _next(asked, progress, now)


def grade(asked: Round, body: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Write a grade down; return what is next. What is answered is on the disk."""
    entry, rating = asked.find(body.get("item")), body.get("rating")
    if isinstance(rating, bool) or rating not in RATINGS:
        raise ConfigError(f"the rating {str(rating)[:20]!r}", "1, 2, 3 or 4", "reload the page")
    detail: dict[str, Any] = {}
    seconds, answer = body.get("seconds"), body.get("answer")
    if isinstance(seconds, int | float) and 0 < seconds < 1e6:
        detail["seconds"] = round(float(seconds), 1)
    if isinstance(answer, str) and answer.strip():
        detail["answer"] = answer.strip()[:LONGEST_ANSWER]
    with Progress() as progress:
        rest = after(progress.entries(), entry.id, now, kind=asked.kind)[int(rating) - 1]
        progress.append(asked.kind, entry.id, int(rating), now, detail)
        return {**_next(asked, progress, now), "rest": until(rest)}


def suspend(asked: Round, body: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Take a card out; return what is next.

    Raises:
        ConfigError: a question, which nothing would bring back.
    """
    entry = asked.find(body.get("item"))
    if asked.kind != "card":
        raise ConfigError("a question to take out", "a card", "grade it easy, and it rests")
    with Progress() as progress:
        progress.append("suspend", entry.id, 0, now)
        return _next(asked, progress, now)


def undo(asked: Round, now: datetime) -> dict[str, Any]:
    """Undo the last grade or suspension; return what it was of, and that item as what is next."""
    with Progress() as progress:
        undone = progress.undo(now, kinds=UNDONE[asked.kind])
        entry = next((e for e in asked.entries() if undone and e.id == undone.item), None)
        return {**_next(asked, progress, now, entry), "undone": undone and undone.item}


def tell(now: datetime) -> dict[str, Any]:
    """Return in a line each what is due, and whether anything was begun."""
    with Progress() as progress:
        log = progress.entries()
    queues = {
        kind: due(log, [entry.id for entry in Round(kind).entries()], now, kind=kind)
        for kind in NEW_A_DAY
    }
    told = {kind: {"count": len(q.items), "says": q.says()} for kind, q in queues.items()}
    return {**told, "begun": any(entry.kind in told for entry in log)}


def download(name: str, paper: str, now: datetime) -> tuple[bytes, str]:
    """Return a file and its media type: cards to print, cards for Anki, all that was done.

    Raises:
        ConfigError: another name or paper.
    """
    if name == "cards.pdf":
        from qkv.learn.printing import print_cards

        return print_cards(Round("card").entries(), paper), "application/pdf"
    if name == "qkv.apkg":
        from qkv.learn.anki import export_anki

        return export_anki(Round("card").entries(), now), "application/octet-stream"
    if name == "progress.jsonl":
        with Progress() as progress:
            lines = [json.dumps(entry, ensure_ascii=False) + "\n" for entry in progress.export()]
        return "".join(lines).encode(), "application/jsonl"
    raise ConfigError(f"{name[:40]!r}", "cards.pdf, qkv.apkg or progress.jsonl", "choose one")


def _next(
    asked: Round, progress: Progress, now: datetime, first: Entry | None = None
) -> dict[str, Any]:
    entries, log = asked.entries(), progress.entries()
    most = NEW_A_DAY[asked.kind] + asked.more
    queue = due(log, [entry.id for entry in entries], now, kind=asked.kind, new_a_day=most)
    entry = first
    if entry is None and queue.items:
        entry = asked.find(queue.items[0])
    return {
        "says": queue.says(),
        "left": len(queue.items),
        "waiting": queue.waiting,
        "suspended": len(queue.suspended),
        "next": until(queue.next_at - now.astimezone(UTC)) if queue.next_at else None,
        "undoable": any(each.kind in UNDONE[asked.kind] for each in log),
        "notice": progress.notice,
        "sections": [[each.id, each.fields["title"]] for each in own_library().sections],
        "item": entry and _item(asked.kind, entry, log, now),
    }


def _item(kind: str, entry: Entry, log: list[LogEntry], now: datetime) -> dict[str, Any]:
    section = own_library().find("section", str(entry.fields["section"]))
    rests = after(log, entry.id, now, kind=kind)
    return {
        "id": entry.id,
        "section": entry.fields["section"],
        "title": section.fields["title"] if section else entry.fields["section"],
        "front": as_html(entry.parts[0]),
        "back": as_html(entry.parts[1]),
        "rests": [until(rest) for rest in rests],
    }
