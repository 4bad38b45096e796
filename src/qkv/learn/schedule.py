"""What is due, from the log alone: FSRS, with nothing random and no clock of its own.

Source: the Free Spaced Repetition Scheduler, version 6, by the package `fsrs` with its published
weights. Every function is pure: entries, items and `now` in, answers out.
"""

from __future__ import annotations

import statistics
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

from qkv.learn.log_file import LogEntry
from qkv.learn.sheets import Entry

if TYPE_CHECKING:
    from fsrs import Card, Scheduler

__all__ = ["NEW_A_DAY", "RATINGS", "Queue", "about", "after", "due", "in_order", "settled", "until"]

RATINGS = (1, 2, 3, 4)
"""Again, hard, good, easy."""
NEW_A_DAY = {"card": 7, "question": 5}
"""How many are begun in a day, unless one asks for more; on the first, the seven first cards."""
AHEAD = timedelta(minutes=20)
"""What is due so soon needn't be waited for, once nothing else is left."""
WRONG_CLOCK = timedelta(days=1)
"""What lies in the future by less counts as now; by more, its time says nothing."""
LONG_AGO = timedelta(days=365)
ASSUMED_SECONDS = {"card": 7.0, "question": 45.0}
LONGEST_SECONDS = 120.0
"""Whoever took longer did something else meanwhile."""
TIMED = 100


@dataclass(frozen=True)
class Queue:
    """What there is to do.

    Args:
        kind: "card" or "question".
        due: items whose time has come, what was missed lately first.
        new: items never seen, as many as the day still has room for.
        soon: items due within minutes, to be done when nothing else is left.
        waiting: how many items were never seen and wait for another day.
        suspended: items taken out.
        next_at: when the next item falls due, if one does.
        seconds: what one takes, measured on this person or assumed.
    """

    kind: str
    due: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    soon: tuple[str, ...] = ()
    waiting: int = 0
    suspended: tuple[str, ...] = ()
    next_at: datetime | None = None
    seconds: float = ASSUMED_SECONDS["card"]

    @property
    def items(self) -> tuple[str, ...]:
        """All that is to be done now, in order."""
        return self.due + self.new + self.soon

    def says(self) -> str:
        """Return how many there are and how long they take.

        >>> Queue("card", new=("a",) * 12).says()
        '12 cards, about a minute'
        """
        count = len(self.items)
        if not count:
            return f"no {self.kind}s due"
        return f"{count} {self.kind}{'s' * (count != 1)}, {about(count * self.seconds)}"


def due(
    entries: Iterable[LogEntry],
    items: Sequence[str],
    now: datetime,
    *,
    kind: str = "card",
    new_a_day: int | None = None,
) -> Queue:
    """Return what is to be done now.

    Args:
        entries: what stands in the log, of all kinds (`Progress.entries()`).
        items: the ids of the cards or questions there are, in the order in which to begin them.
        new_a_day: how many may be begun within 24 hours; :data:`NEW_A_DAY` unless given.
    """
    now = now.astimezone(UTC)
    entries = list(entries)
    log = settled(entries, now, kind)
    cards = _cards(log)
    out = _suspended(entries)
    known = [item for item in items if item in cards and item not in out]
    fresh = [item for item in items if item not in cards and item not in out]
    begun = _begun_lately(log, now)
    most = NEW_A_DAY[kind] if new_a_day is None else new_a_day
    new = fresh[: max(0, most - begun)]
    by_time = sorted(known, key=lambda item: cards[item].due)
    later = [cards[item].due for item in by_time if cards[item].due > now + AHEAD]
    return Queue(
        kind,
        due=tuple(item for item in by_time if cards[item].due <= now),
        new=tuple(new),
        soon=tuple(item for item in by_time if now < cards[item].due <= now + AHEAD),
        waiting=len(fresh) - len(new),
        suspended=tuple(item for item in items if item in out),
        next_at=later[0] if later else None,
        seconds=_seconds([entry for _, entry in log], kind),
    )


def after(
    entries: Iterable[LogEntry], item: str, now: datetime, *, kind: str = "card"
) -> tuple[timedelta, timedelta, timedelta, timedelta]:
    """Return how long an item rests after each of the four ratings, if it is rated now."""
    from fsrs import Rating

    now = now.astimezone(UTC)
    card = _cards(settled(entries, now, kind), item).get(item) or _new_card(now)
    again, hard, good, easy = (
        _scheduler().review_card(card, Rating(rating), now)[0].due - now for rating in RATINGS
    )
    return again, hard, good, easy


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Return cards or questions in the order in which to begin them: the first ones first."""
    return sorted(entries, key=lambda entry: not entry.fields.get("first", False))


def settled(
    entries: Iterable[LogEntry], now: datetime, kind: str
) -> list[tuple[datetime, LogEntry]]:
    """Return the entries of a kind with times that never fall: clocks are set wrong and right.

    What was written later happened later. So the times believed are the longest run that never
    falls, of those not in the future; an entry outside it counts as having happened with the next
    one of the run, or else with the last. No interval is negative, and a clock that was years off
    for a moment, either way, does no harm for years. Where no time can be believed, all was long
    ago: it is due, and the first grade by a right clock gives the others their time.
    """
    log = [entry for entry in entries if entry.kind == kind]
    times = [min(entry.at, now) if entry.at <= now + WRONG_CLOCK else None for entry in log]
    run = _longest_run(times)
    latest = max((times[at] or now for at in run), default=now - LONG_AGO)
    settled_times: list[datetime] = []
    for at in reversed(range(len(log))):
        if at in run:
            latest = times[at] or now
        settled_times.append(latest)
    return list(zip(reversed(settled_times), log, strict=True))


def _longest_run(times: Sequence[datetime | None]) -> set[int]:
    """The places of a longest run of times that never falls; by patience, in n·log n."""
    ends: list[datetime] = []
    places: list[int] = []
    before: list[int] = []
    for at, time in enumerate(times):
        length = 0 if time is None else bisect_right(ends, time)
        before.append(places[length - 1] if length else -1)
        if time is not None:
            ends[length : length + 1] = [time]
            places[length : length + 1] = [at]
    run: set[int] = set()
    at = places[-1] if places else -1
    while at >= 0:
        run.add(at)
        at = before[at]
    return run


@cache
def _scheduler() -> Scheduler:
    from fsrs import Scheduler

    return Scheduler(enable_fuzzing=False)


def _new_card(at: datetime) -> Card:
    from fsrs import Card

    return Card(card_id=0, due=at)


def _cards(log: Iterable[tuple[datetime, LogEntry]], only: str | None = None) -> dict[str, Card]:
    """The state of every item that was rated, after all of its ratings."""
    from fsrs import Rating

    cards: dict[str, Card] = {}
    for at, entry in log:
        if entry.rating in RATINGS and only in {None, entry.item}:
            card = cards.get(entry.item) or _new_card(at)
            cards[entry.item], _ = _scheduler().review_card(card, Rating(entry.rating), at)
    return cards


def _suspended(entries: Iterable[LogEntry]) -> set[str]:
    out: set[str] = set()
    for entry in entries:
        if entry.kind == "suspend":
            out.add(entry.item)
        elif entry.kind == "unsuspend":
            out.discard(entry.item)
    return out


def _begun_lately(log: Iterable[tuple[datetime, LogEntry]], now: datetime) -> int:
    """How many items were seen for the first time in the last 24 hours."""
    first: dict[str, datetime] = {}
    for at, entry in log:
        first.setdefault(entry.item, at)
    return sum(now - at < timedelta(days=1) for at in first.values())


def _seconds(log: Sequence[LogEntry], kind: str) -> float:
    """The median time of the last ones; what is assumed, before there are a few."""
    told = [entry.detail.get("seconds") for entry in log]
    measured = [float(s) for s in told if isinstance(s, int | float) and 0 < s < LONGEST_SECONDS]
    return statistics.median(measured[-TIMED:]) if len(measured) > 4 else ASSUMED_SECONDS[kind]


def about(seconds: float) -> str:
    """Return a time as one says it beforehand.

    >>> about(20), about(65), about(200)
    ('less than a minute', 'about a minute', 'about 3 minutes')
    """
    minutes = round(seconds / 60)
    if seconds < 45:
        return "less than a minute"
    return "about a minute" if minutes < 2 else f"about {minutes} minutes"


def until(rest: timedelta) -> str:
    """Return an interval as the buttons have it.

    >>> [until(timedelta(minutes=m)) for m in (1, 5.5, 90, 1440, 60 * 24 * 45, 60 * 24 * 800)]
    ['1 min', '6 min', '2 h', '1 day', '6 weeks', '2.2 years']
    """
    minutes = max(0.0, rest.total_seconds() / 60)
    days = minutes / 1440
    if minutes < 59.5:
        return f"{max(1, round(minutes + 1e-9))} min"
    if days < 0.98:
        return f"{round(minutes / 60 + 1e-9)} h"
    for size, name, limit in ((1, "day", 14), (7, "week", 60), (30.44, "month", 365)):
        if days < limit:
            count = round(days / size)
            return f"{count} {name}{'s' * (count != 1)}"
    return f"{days / 365.25:.1f} years"
