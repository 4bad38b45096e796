"""Values as JSON has them, each checked; what is wrong is said in one line that names the field."""

from __future__ import annotations

import reprlib
import sys
from typing import Any, NoReturn

__all__ = ["listed", "mapping", "member", "number", "text", "whole", "wrong"]


def member(given: dict[str, Any], name: str, field: str) -> Any:
    if name not in given:
        raise ValueError(f"{field}{'.' if field else ''}{name} is missing")
    return given[name]


def mapping(value: Any, field: str) -> dict[str, Any]:
    return value if isinstance(value, dict) else wrong(field, value, "an object")


def listed(value: Any, field: str, count: int | None = None) -> list[Any]:
    if not isinstance(value, list):
        wrong(field, value, "a list")
    if count is not None and len(value) != count:
        wrong(f"{field}, its length,", len(value), count)
    return value


def text(value: Any, field: str) -> str:
    return value if isinstance(value, str) else wrong(field, value, "a text")


def whole(value: Any, field: str, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        wrong(field, value, f"a whole number from {low} to {high}")
    return value


def number(value: Any, field: str, low: float = -sys.float_info.max) -> float:
    # NaN is not within any range.
    if type(value) not in (int, float) or not low <= value <= sys.float_info.max:
        wrong(field, value, "a finite number" if low < 0 else f"a finite number, at least {low}")
    return float(value)


def wrong(field: str, value: Any, expected: Any) -> NoReturn:
    raise ValueError(f"{field} is {reprlib.repr(value)}, not {expected}")
