"""What a page asks to see: a model or a run, a text or a step of it, and what is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qkv.errors import ConfigError

if TYPE_CHECKING:
    from qkv.lens.edits.edits import Edits

__all__ = ["Asked"]

LAST_STEP = 10**12
SMALLEST, LARGEST = 1e-3, 1e3
"""Numbers that change the attention: beyond these float32 runs over, and nothing is to be seen."""
CHANGES = ("ablate", "mean", "uniform", "sharpen", "mask", "scale", "temperature", "only")


@dataclass(frozen=True)
class Asked:
    """What a page asked to see.

    Args:
        item: the id of a model, a run or a trace.
        text: what to read; none for the model's own passage.
        step: of a run's probes, in place of a text.
        changes: of the attention, by the names of `qkv.edit`.
        cut: whether a text beyond the context may be cut.
    """

    item: str
    text: str | None = None
    step: int | None = None
    changes: tuple[tuple[str, Any], ...] = ()
    cut: bool = False

    @classmethod
    def of(cls, asked: dict[str, Any]) -> Asked:
        """Return what a page's JSON says.

        Raises:
            ConfigError: fields that are none, or of another type.
        """
        text, step, changes = asked.get("text"), asked.get("step"), asked.get("changes") or {}
        right = (
            isinstance(asked.get("item"), str)
            and (text is None or isinstance(text, str))
            and (step is None or (type(step) is int and 0 <= step <= LAST_STEP))
            and isinstance(changes, dict)
        )
        if not right or not set(changes) <= set(CHANGES) or not all(map(_plain, changes.values())):
            raise ConfigError(
                f"{str(asked)[:80]}", "a model, and a text or a step", "reload the page"
            )
        for name in ("temperature", "scale"):
            _check_number(name, changes.get(name))
        frozen = tuple(
            (name, tuple(value) if isinstance(value, list) else value)
            for name, value in sorted(changes.items())
            if value not in (None, [], "")
        )
        return cls(asked["item"], text, step, frozen, bool(asked.get("cut")))

    def edits(self) -> Edits:
        """Return the changes as `qkv.lens` takes them.

        Raises:
            ConfigError: heads that are none, or numbers out of range.
        """
        from qkv.lens.edits.edits import Edits

        listed: dict[str, Any] = {
            n: list(v) if isinstance(v, tuple) else v for n, v in self.changes
        }
        try:
            return Edits(**listed)
        except TypeError as error:
            raise ConfigError(f"changes {listed}", "heads or numbers", "reload it") from error


def _check_number(name: str, value: Any) -> None:
    """A number that can be reckoned with; words are left to `Edits`."""
    if not isinstance(value, int | float):
        return
    # NaN is in no range.
    if not (SMALLEST <= abs(value) <= LARGEST or (name == "scale" and value == 0)):
        raise ConfigError(
            f"a {name} out of range", f"{SMALLEST:g} to {LARGEST:g}", "take one in between"
        )


def _plain(value: Any) -> bool:
    """Whether a change is a word, a number, or a list of words: what can be compared and kept."""
    if isinstance(value, list):
        return all(isinstance(one, str) for one in value)
    return value is None or isinstance(value, str | int | float)
