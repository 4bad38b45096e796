"""One family of errors: what was got, what was expected, what to do.

Everything that a user can cause raises a :class:`QkvError`; the command line prints its one line
and ends with exit code 2. ``assert`` is kept for our own invariants.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConfigError",
    "QkvError",
    "ResourceError",
    "ShapeError",
    "TextError",
    "TrainingError",
]


class QkvError(Exception):
    """Base of every error a user can cause.

    Args:
        got: what was found, with its value ("width 64 with 7 heads").
        expected: what would have been right ("a number of heads that divides the width").
        remedy: what to do now, in the imperative ("choose 8 heads").

    >>> print(QkvError("7 heads for width 64", "a number that divides 64", "choose 8 heads"))
    got 7 heads for width 64; expected a number that divides 64; choose 8 heads
    """

    def __init__(self, got: str, expected: str, remedy: str) -> None:
        self.got, self.expected, self.remedy = got, expected, remedy
        line = f"got {got}; expected {expected}; {remedy}"
        super().__init__(" ".join(line.split()))

    def __reduce__(self) -> tuple[type[QkvError], tuple[str, str, str]]:
        return type(self), (self.got, self.expected, self.remedy)


class ShapeError(QkvError, ValueError):
    """Arrays whose shapes or types do not fit together."""


class ConfigError(QkvError, ValueError):
    """A setting that is unknown, out of range, or at odds with another."""


class TextError(QkvError, ValueError):
    """Text that is empty, too short, not text, or has characters the tokenizer does not know."""


class CheckpointError(QkvError):
    """A run or checkpoint that is missing, damaged, unsafe, or from another config."""


class ResourceError(QkvError):
    """The disk, the network or the memory said no."""


class TrainingError(QkvError):
    """Training that cannot go on, such as a loss that is not a number."""
