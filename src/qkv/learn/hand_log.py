"""What a person answered by hand, as the log of progress keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from qkv.learn.exercises import Exercise, stages
from qkv.learn.hand import Verdict
from qkv.learn.progress import LogEntry, Progress

__all__ = ["keep_answer", "next_worked"]

MISSED, GOOD = 1, 3
MOST_CHARACTERS = 200


def keep_answer(  # noqa: PLR0917 (all that the log holds)
    progress: Progress, exercise: Exercise, stage: str, answer: str, verdict: Verdict, now: datetime
) -> None:
    """Append an answer to one stage with what was said of it.

    Raises:
        ProgressError: where the log can't be written.
    """
    detail = {
        "seed": exercise.seed,
        "stage": stage,
        "answer": answer[:MOST_CHARACTERS],
        "mistake": verdict.mistake.id if verdict.mistake else None,
    }
    progress.append("hand", exercise.id, GOOD if verdict.done else MISSED, now, detail)


def next_worked(exercises: Sequence[Exercise], entries: Iterable[LogEntry]) -> Exercise | None:
    """Return the first exercise whose last stage nobody has done yet; None where all are."""
    done = {
        (entry.item, str(entry.detail.get("stage")))
        for entry in entries
        if entry.kind == "hand" and entry.rating == GOOD
    }
    left = (one for one in exercises if (one.id, stages(one)[-1]) not in done)
    return next(left, None)
