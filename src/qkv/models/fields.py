"""Fields of a config class: their names and types, and values from JSON or from text."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from typing import Any, Literal, TypeVar, get_args, get_origin

from qkv.errors import ConfigError

__all__ = ["build", "field_types", "parse_setting", "require_positive", "require_types"]

Config = TypeVar("Config")


def build(cls: type[Config], values: dict[str, Any]) -> Config:
    """Return ``cls(**values)`` with every name and type checked.

    Raises:
        ConfigError: an unknown or missing field, or a value of the wrong type.
    """
    known = field_types(cls)
    for name, value in values.items():
        if name not in known:
            raise ConfigError(
                f"the setting {name!r} of {cls.__name__}",
                f"one of {', '.join(known)}",
                "check its spelling",
            )
        require_fit(name, value, known[name])
    missing = [
        field.name
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
        and field.name not in values
    ]
    if missing:
        raise ConfigError(
            f"no {', '.join(missing)}", f"every field of {cls.__name__}", "add what is missing"
        )
    return cls(**values)


def parse_setting(cls: type[Any], name: str, text: str) -> Any:
    """Return the value that ``name=text`` gives a field of ``cls``.

    Raises:
        ConfigError: an unknown field or a text that is not of its type.

    >>> from qkv.models.config import TransformerConfig
    >>> parse_setting(TransformerConfig, "window", "none") is None
    True
    >>> parse_setting(TransformerConfig, "width", "192")
    192
    """
    known = field_types(cls)
    if name not in known:
        raise ConfigError(f"the setting {name!r}", f"one of {', '.join(known)}", "check its name")
    for candidate in _readings(text):
        if _fits(candidate, known[name]):
            return float(candidate) if known[name] is float else candidate
    raise ConfigError(f"{name}={text}", _describe(known[name]), f"give {name} such a value")


def field_types(cls: type[Any]) -> dict[str, Any]:
    """Return the fields of a config class with their types."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def require_types(config: Any) -> None:
    """Raise a ConfigError where a field's value is not of its declared type."""
    for name, kind in field_types(type(config)).items():
        require_fit(name, getattr(config, name), kind)


def require_fit(name: str, value: Any, kind: Any) -> None:
    """Raise a ConfigError where a value is not of the type that its name asks for."""
    if not _fits(value, kind):
        raise ConfigError(f"{name}={value!r}", _describe(kind), f"give {name} such a value")


def require_positive(config: Any, *names: str, optional: bool = False) -> None:
    """Raise a ConfigError where a named field is not above zero (or ``None``, if optional)."""
    for name in names:
        value = getattr(config, name)
        if value is None and optional:
            continue
        if not value > 0:
            raise ConfigError(f"{name}={value}", "a value above 0", f"raise {name}")


def _readings(text: str) -> list[Any]:
    """What a text may mean, the strictest first."""
    lowered = text.strip().lower()
    named = {"none": None, "true": True, "false": False, "yes": True, "no": False}
    if lowered in named:
        return [named[lowered], text]
    readings: list[Any] = []
    # A comma may group thousands; 0,003 must not be read as 3.
    grouped = re.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+", lowered)
    digits = lowered.replace(",", "") if grouped else lowered
    for convert in (int, float):
        try:
            readings.append(convert(digits))
        except ValueError:
            continue
    return [*readings, text]


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) in (typing.Union, types.UnionType):
        return any(_fits(value, member) for member in get_args(kind))
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) < float("inf")  # not a number is not below
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _describe(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(_describe(member) for member in get_args(kind))
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names.get(kind, "none" if kind is types.NoneType else str(kind))
