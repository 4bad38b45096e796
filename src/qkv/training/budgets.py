"""Budgets as people write them: so many tokens, or so much time."""

from __future__ import annotations

import re

from qkv.errors import ConfigError

__all__ = ["MOST_TOKENS", "parse_budget", "parse_tokens"]

MOST_TOKENS = 10**15
"""A thousand times what the largest models are trained on: more is a slip."""


def parse_tokens(text: str) -> int:
    """Return a number of tokens from `2000000`, `2_000_000`, `500k` or `2M`.

    Raises:
        ConfigError: not such a number, or not above 0.

    >>> parse_tokens("1.5M")
    1500000
    """
    units = {"k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}
    plain = text.strip().lower()
    if re.fullmatch(r"[1-9]\d{0,2}(,\d{3})+", plain):  # 2,000,000; but 2,5M is not 25M
        plain = plain.replace(",", "")
    factor = units.get(plain[-1:], 1.0)
    try:
        tokens = round(float(plain[:-1] if factor != 1.0 else plain) * factor)
    except (ValueError, OverflowError):
        tokens = 0
    if tokens > MOST_TOKENS:
        raise ConfigError(
            f"a budget of {text!r} tokens", f"at most {MOST_TOKENS:.0e}", "try 500k or 2M"
        )
    if tokens < 1:
        raise ConfigError(f"a budget of {text!r} tokens", "a number above 0", "try 500k or 2M")
    return tokens


def parse_budget(text: str) -> tuple[int | None, float | None]:
    """Return (tokens, None) or (None, seconds) from `500k`, `2M`, `90s`, `5min`, `1h`.

    Raises:
        ConfigError: neither, or not above 0.

    >>> parse_budget("2M"), parse_budget("5min")
    ((2000000, None), (None, 300.0))
    """
    plain = text.strip().lower()
    for unit, seconds in (("min", 60.0), ("sec", 1.0), ("s", 1.0), ("h", 3600.0)):
        if plain.endswith(unit):
            try:
                value = float(plain.removesuffix(unit)) * seconds
            except ValueError:
                value = 0.0
            if not 0 < value < 1e9:
                raise ConfigError(f"a budget of {text!r}", "a time above 0", "try 60s or 5min")
            return None, value
    try:
        return parse_tokens(text), None
    except ConfigError as error:
        remedy = "try 500k or 2M tokens, or a time: 60s, 5min"
        raise ConfigError(error.got, error.expected, remedy) from None
