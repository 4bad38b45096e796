"""What is due follows from the log alone, whatever the clock did."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from qkv.learn.library import own_library
from qkv.learn.log_file import LogEntry
from qkv.learn.schedule import after, due, in_order, settled, until

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ITEMS = ("a", "b", "c", "d", "e", "f", "g", "h", "i")


@pytest.fixture
def ids() -> Iterator[int]:
    return iter(range(1, 10_000))


def log(*rows: tuple[str, str, int, datetime]) -> list[LogEntry]:
    return [
        LogEntry(at + 1, moment, kind, item, rating)
        for at, (kind, item, rating, moment) in enumerate(rows)
    ]


def test_seven_are_begun_on_the_first_day_and_more_on_the_next() -> None:
    assert due([], ITEMS, NOW).new == ITEMS[:7]
    begun = log(*(("card", item, 4, NOW) for item in ITEMS[:7]))
    later = due(begun, ITEMS, NOW + timedelta(hours=3))
    assert (later.items, later.waiting) == ((), 2)
    assert later.says() == "no cards due"
    assert due(begun, ITEMS, NOW + timedelta(hours=3), new_a_day=9).new == ITEMS[7:]
    assert due(begun, ITEMS, NOW + timedelta(days=1, minutes=1)).new == ITEMS[7:]


def test_what_was_missed_comes_back_before_what_was_known() -> None:
    entries = log(("card", "a", 1, NOW), ("card", "b", 4, NOW), ("card", "c", 3, NOW))
    at_once = due(entries, ITEMS[:3], NOW)
    assert (at_once.due, at_once.soon) == ((), ("a", "c"))
    assert due(entries, ITEMS[:3], NOW + timedelta(minutes=2)).due == ("a",)
    assert at_once.next_at is not None
    assert at_once.next_at - NOW == after([], "b", NOW)[3]
    assert due(entries, ITEMS[:3], NOW + timedelta(days=9)).due == ("a", "c", "b")


def test_a_better_grade_never_rests_shorter_and_knowing_rests_ever_longer() -> None:
    entries: list[LogEntry] = []
    moment, rests = NOW, []
    for at in range(8):
        four = after(entries, "a", moment)
        assert list(four) == sorted(four)
        assert four[0] > timedelta(0)
        rests.append(four[2])
        entries.append(LogEntry(at + 1, moment, "card", "a", 3))
        moment += four[2]
    assert rests == sorted(rests)
    assert rests[-1] > timedelta(days=60)


def test_the_same_log_gives_the_same_answer() -> None:
    entries = log(("card", "a", 3, NOW), ("card", "a", 3, NOW + timedelta(days=30)))
    moment = NOW + timedelta(days=90)
    assert after(entries, "a", moment) == after(entries, "a", moment)
    assert due(entries, ITEMS, moment) == due(entries, ITEMS, moment)


def test_suspended_cards_stay_out_until_they_are_brought_back() -> None:
    entries = log(("suspend", "a", 0, NOW))
    assert due(entries, ("a", "b"), NOW).new == ("b",)
    assert due(entries, ("a", "b"), NOW).suspended == ("a",)
    entries += [LogEntry(2, NOW, "unsuspend", "a", 0)]
    assert due(entries, ("a", "b"), NOW).new == ("a", "b")


def test_questions_and_cards_of_one_id_are_two_things() -> None:
    entries = log(("card", "a", 4, NOW))
    assert due(entries, ("a",), NOW, kind="question").new == ("a",)


def test_with_clocks_that_jump_no_interval_is_negative(rng: np.random.Generator) -> None:
    for _ in range(30):
        jumps = rng.normal(0, 400, size=40)  # hours
        entries = log(
            *(
                (
                    "card",
                    str(rng.choice(ITEMS[:3])),
                    int(rng.integers(1, 5)),
                    NOW + timedelta(hours=h),
                )
                for h in jumps
            )
        )
        now = NOW + timedelta(hours=float(rng.normal(0, 400)))
        times = [at for at, _ in settled(entries, now, "card")]
        assert times == sorted(times)
        assert all(at <= now for at in times)
        for item in ITEMS[:4]:
            assert all(rest > timedelta(0) for rest in after(entries, item, now))
        queue = due(entries, ITEMS, now)
        assert queue.next_at is None or queue.next_at > now


def test_a_clock_that_was_years_ahead_does_no_harm_for_years() -> None:
    ahead = NOW + timedelta(days=3_000)
    entries = log(("card", "a", 3, ahead), ("card", "a", 3, NOW), ("card", "b", 1, NOW))
    assert "a" in due(entries, ("a", "b"), NOW + timedelta(days=30)).due


def test_cards_graded_by_a_clock_years_ahead_come_back() -> None:
    ahead = NOW + timedelta(days=365 * 50)
    entries = log(*(("card", item, 4, ahead) for item in ITEMS[:7]))
    queue = due(entries, ITEMS, NOW)
    assert (sorted(queue.due), queue.new) == (sorted(ITEMS[:7]), ITEMS[7:])
    entries.append(LogEntry(8, NOW, "card", "a", 4))  # by a clock set right: they rest from here
    assert due(entries, ITEMS, NOW + timedelta(days=1)).due == ()
    assert set(due(entries, ITEMS, NOW + timedelta(days=9)).due) >= set(ITEMS[1:7])


def test_a_clock_a_little_ahead_or_back_at_zero_for_a_moment_changes_nothing() -> None:
    many = tuple(f"card-{at}" for at in range(40))
    cards = [("card", item, 4, NOW) for item in many]
    zero = datetime(1970, 1, 1, tzinfo=UTC)
    later = NOW + timedelta(days=2)
    for odd in (("read", "mask", 0, zero), ("card", "card-3", 4, zero)):
        assert due(log(*cards, odd), many, later).items == ()
        assert due(log(*cards, odd, ("card", "card-5", 4, later)), many, later).items == ()
    soon = NOW + timedelta(hours=2)
    assert due(log(*cards, ("card", "card-3", 4, soon)), many, NOW).items == ()


def test_the_time_a_round_takes_is_measured_on_the_person() -> None:
    slow = [
        LogEntry(at, NOW, "card", f"x{at}", 4, {"seconds": 30 if at % 2 else 32})
        for at in range(1, 12)
    ]
    queue = due(slow, ITEMS, NOW + timedelta(days=2))
    assert queue.seconds == 30
    assert queue.says() == "7 cards, about 4 minutes"
    assert due([], ITEMS, NOW).says() == "7 cards, about a minute"
    assert due([], (*ITEMS, "j", "k", "l"), NOW, new_a_day=12).says() == "12 cards, about a minute"


def test_the_seven_first_cards_come_first() -> None:
    cards = in_order(own_library().cards)
    assert [bool(card.fields.get("first")) for card in cards] == [True] * 7 + [False] * 33


def test_intervals_are_short_words() -> None:
    assert until(timedelta(seconds=-5)) == "1 min"
    assert until(timedelta(minutes=59.6)) == "1 h"
    assert until(timedelta(hours=23.9)) == "1 day"
