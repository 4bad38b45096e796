"""What grows while a run trains, kept to a bounded size: losses thinned, births of heads.

All of it is taken in a line at a time and costs the same whether a run is young or old.
"""

from __future__ import annotations

import math
from typing import Any, Generic, TypeVar

__all__ = ["Births", "Curve", "Thinned", "number", "traits"]

MOST_POINTS = 600
SMOOTHED_SHARE = 0.02
"""Of a run's steps, over which its loss is smoothed; and of those taken so far, at most."""
SMOOTHED_PAST = 0.08
T = TypeVar("T")


def number(value: object) -> float | None:
    """Return a finite number, or none for anything else that a file may say.

    >>> number(1), number(float("nan")), number("1"), number(True)
    (1.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


class Curve:
    """A loss by steps: means over so many steps each that there are never many, and smoothed.

    Args:
        steps: of the whole run, which tells how much is smoothed over.
        most: points.

    >>> curve = Curve(steps=8, most=4)
    >>> for step in range(1, 9): curve.add(step, 10.0 - step)
    >>> [point[:2] for point in curve.points]
    [[2, 8.5], [4, 6.5], [6, 4.5], [8, 2.5]]
    """

    def __init__(self, steps: int, most: int = MOST_POINTS) -> None:
        self.most, self.points = most, list[list[float]]()
        self.generation = 0
        self._stride = 1
        self._count = 0  # of steps in the last point
        self._widest = max(1.0, min(100.0, SMOOTHED_SHARE * steps))
        self._taken, self._smooth = 0, 0.0

    def add(self, step: int, loss: float) -> None:
        """Take one step's loss in; points are [last step, mean loss, smoothed loss]."""
        self._taken += 1
        # Over few steps at first, while the loss falls fast, or the curve would lag behind it.
        over = max(1.0, min(SMOOTHED_PAST * self._taken, self._widest))
        self._smooth += (loss - self._smooth) / over
        smooth = self._smooth
        if self._count and self._count < self._stride:
            last = self.points[-1]
            mean = (last[1] * self._count + loss) / (self._count + 1)
            self.points[-1] = [step, mean, smooth]
            self._count += 1
        else:
            if len(self.points) >= self.most:
                self._halve()
            self.points.append([step, loss, smooth])
            self._count = 1

    def _halve(self) -> None:
        pairs = zip(self.points[::2], self.points[1::2], strict=True)
        self.points = [[b[0], (a[1] + b[1]) / 2, b[2]] for a, b in pairs]
        self._stride *= 2
        self.generation += 1


class Thinned(Generic[T]):
    """A list that drops every second of its older items when it grows too long.

    >>> kept = Thinned(4)
    >>> for place in range(7): kept.add(place)
    >>> kept.items
    [0, 4, 6]
    """

    def __init__(self, most: int) -> None:
        self.most, self.items, self.generation = most, list[T](), 0

    def add(self, item: T) -> None:
        """Take one more in."""
        if len(self.items) >= self.most:
            self.items = self.items[::2]
            self.generation += 1
        self.items.append(item)


ROLES = ("previous", "induction", "duplicate", "retrieval")
"""Names of heads that are listed when they are first deserved; to look at itself is no feat."""
SINK = "first"
Head = dict[str, Any]


def traits(head: Head) -> list[str]:
    """Return what a head does by a probe: what it is called there, and whether it is a sink.

    Its name is the inspector's, for which the first key's mass is set aside; so that mass itself
    is none. It is a trait from the same share on: .2 of the way from chance to all.

    Args:
        head: its `role`, and its `scores` by name, each with its chance.

    >>> traits({"role": "previous", "scores": {"first": [0.5, 0.04], "previous": [0.3, 0.04]}})
    ['previous', 'first']
    """
    from qkv.lens.heads.head_scores import NAMED_FROM

    found = [head["role"]] if head.get("role") in ROLES else []
    score, chance = head["scores"].get(SINK) or (None, None)
    if score is None or chance is None or not chance < 1:
        return found
    return [*found, SINK] if score - chance >= NAMED_FROM * (1 - chance) else found


class Births:
    """When heads first did something, each thing once.

    >>> births = Births()
    >>> births.add(8, {"L0H1": {"role": "previous", "scores": {"previous": [0.5, 0.1]}}})
    >>> births.add(16, {"L0H1": {"role": "previous", "scores": {"previous": [0.9, 0.1]}}})
    >>> births.items
    [{'step': 8, 'head': 'L0H1', 'kind': 'previous', 'score': 0.5, 'chance': 0.1}]
    """

    def __init__(self) -> None:
        self.items: list[dict[str, Any]] = []
        self.generation = 0
        self._known: set[tuple[str, str]] = set()

    def add(self, step: int, heads: dict[str, Head]) -> None:
        """Take in what heads do by one probe."""
        for name, head in heads.items():
            for kind in traits(head):
                if (name, kind) in self._known:
                    continue
                self._known.add((name, kind))
                score, chance = head["scores"].get(kind) or (None, None)
                born = {"step": step, "head": name, "kind": kind, "score": score, "chance": chance}
                self.items.append(born)
