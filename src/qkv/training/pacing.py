"""When to do what costs time: at steps spaced by logarithm, within a share of a run's time."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from itertools import count as counting

__all__ = ["Pace", "probe_steps"]

FIRST_SECONDS, FIRST_STEPS = 0.02, 0.1
"""What a probe is taken to cost until one was made: so many seconds, and so much of a step."""
RESERVE = 0.5
"""Kept back for the last, as a part of its cost: times differ."""
RECENT = 3
"""The next is expected to cost as much as the dearest of so many."""


def probe_steps(steps: int, count: int = 40) -> tuple[int, ...]:
    """Return step 0 and steps spaced by logarithm, the last among them; at most ``count``.

    Step 1 is left out: what a step takes is known only after the second, since the first warms up.
    Where whole numbers lie too far apart for the spacing, each is taken.

    Args:
        steps: of the run.
        count: how many, if there are as many; 2 or more, since both ends are always there.

    >>> probe_steps(1000, 8)
    (0, 2, 6, 16, 45, 126, 355, 1000)
    >>> probe_steps(4)
    (0, 2, 3, 4)
    """
    most = min(count, steps)  # 0 and 2 to `steps`
    if most < 3:
        return (0, steps) if steps else (0,)
    # As whole numbers coincide at the start, more are asked for until there are enough.
    for asked in counting(most - 1):
        ratio = (steps / 2) ** (1 / (asked - 1))
        found = {round(2 * ratio**i) for i in range(asked)} | {0, steps}
        if len(found) >= most:
            return tuple(sorted(found))
    raise AssertionError("endless")


class Pace:
    """Spreads something over a run's planned steps so that it stays within a share of its time.

    Where all that is planned fits, all is done. Where it does not, what fits is spaced evenly by
    the logarithm of the step, anew each time, so that the last step keeps its place.

    Args:
        plan: steps at which it may be done, in order; the last is the run's last.
        share: of the time that all of the run's steps take.
        least_seconds: what it may take in all, however short the run.
        ends: whether the first and the last are done whatever they cost.
    """

    def __init__(
        self,
        plan: Iterable[int],
        share: float,
        *,
        least_seconds: float = 0.0,
        ends: bool = False,
    ) -> None:
        self.plan, self.share, self.ends = tuple(plan), share, ends
        self.least_seconds = least_seconds
        self.done: dict[int, float] = {}  # seconds each took, by step

    def note(self, step: int, seconds: float) -> None:
        """Account for what was done."""
        self.done[step] = seconds

    def due(self, step: int, step_seconds: float) -> bool:
        """Return whether it is to be done at a step.

        Args:
            step: 0, or one that was just taken.
            step_seconds: what a step takes.

        >>> pace = Pace(probe_steps(1000, 8), share=0.02)
        >>> [step for step in range(1001) if pace.due(step, 1.0) and not pace.note(step, 4.0)]
        [0, 16, 355, 1000]
        """
        at = bisect_left(self.plan, step)
        if step in self.done or self.plan[at : at + 1] != (step,):
            return False
        if self.ends and step in (self.plan[0], self.plan[-1]):
            return True
        recent = list(self.done.values())[-RECENT:]
        cost = max(recent) if recent else FIRST_SECONDS + FIRST_STEPS * step_seconds
        most = max(self.least_seconds, self.share * step_seconds * self.plan[-1])
        left = most - sum(self.done.values())
        last = step == self.plan[-1]
        fitting = left / max(cost, 1e-9) - (0 if last else RESERVE)
        if fitting >= len(self.plan) - at:
            return True
        if fitting < 1 or last:
            return fitting >= 1
        if not self.done:
            return fitting >= 2
        before = self._place(max(self.done))
        return self._place(step) - before >= (1 - before) / math.floor(fitting)

    def _place(self, step: int) -> float:
        """Where a step stands in the run, from 0 to 1, by logarithm."""
        return math.log1p(step) / math.log1p(self.plan[-1])
