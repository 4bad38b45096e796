"""Numbers as a person writes them: `1/3`, `0,33`, `−∞`, `e^1`, `2/√2`; read, and written back."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from qkv.errors import QkvError

__all__ = ["AnswerError", "parse_number", "parse_numbers", "write_number", "write_vector"]

MOST_CHARACTERS = 60
LARGEST = 1e12
REMEDY = "write it like .33, 1/3, 2/√2, e^1 or -inf"
_TOKEN = re.compile(
    r"(?:\d+[.,]?\d*|[.,]\d+)(?:e[+-]?\d+)?|inf(?:inity)?|∞|sqrt|exp|e|\*\*|[-+*/^()√%]"
)
_ENDLESS = {"∞", "inf", "infinity"}
_PLAIN = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "·": "*",
        "×": "*",
        "⋅": "*",
        "÷": "/",
        "∕": "/",
        "⁄": "/",
        "[": "(",
        "]": ")",
    }
)
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


class AnswerError(QkvError, ValueError):
    """An answer that is no number, or not as many numbers as were asked for."""


def parse_number(text: str) -> float:
    """Return the number that a text says.

    Decimals have a point or a comma; `e`, `√`, `sqrt`, `exp`, powers, products, quotients, sums and
    brackets are worked out; `-inf` and `−∞` are minus infinity, `57 %` is .57.

    Raises:
        AnswerError: where it says none, or one beyond 10^12.

    >>> [round(parse_number(text), 3) for text in ("1/3", "0,33", "e^1", "2/√2", "−∞")]
    [0.333, 0.33, 2.718, 1.414, -inf]
    """
    written = text.strip()
    if not written:
        raise AnswerError("nothing", "a number", REMEDY)
    if len(written) > MOST_CHARACTERS:
        raise AnswerError(f"{len(written)} characters", "a number", REMEDY)
    try:
        tokens = _tokens(written)
        number = _Reader(tokens).read()
    except ZeroDivisionError:
        raise AnswerError(f"“{written}”, a division by 0", "a number", REMEDY) from None
    except (ValueError, OverflowError, RecursionError):
        raise AnswerError(f"“{written}”", "a number", REMEDY) from None
    # Only who writes ∞ has said it: 1e400 is a number too large, as 10^13 is.
    endless = math.isinf(number) and not _ENDLESS.isdisjoint(tokens)
    if math.isnan(number) or (abs(number) > LARGEST and not endless):
        raise AnswerError(f"“{written}”", "a number of at most 10^12", REMEDY)
    return number


def parse_numbers(text: str, count: int) -> tuple[float, ...]:
    """Return so many numbers, split by spaces or semicolons, or by commas where that gives so many.

    Raises:
        AnswerError: more or fewer, or one that is none.

    >>> parse_numbers("1 0,5 -inf", 3), parse_numbers("1, 4, 5", 3), parse_numbers("1,4,5", 3)
    ((1.0, 0.5, -inf), (1.0, 4.0, 5.0), (1.0, 4.0, 5.0))
    """
    bare = text.strip().strip("()").strip()
    spaced = [part.strip(",") for part in re.split(r"[;\s]+", bare)]
    ways = (
        [part for part in spaced if part],
        [part.strip() for part in bare.split(";")],
        [part.strip() for part in re.split(r",\s+|;", bare)],
        [part.strip() for part in bare.split(",")],
    )
    # One number may have spaces in it: "2 / √2".
    parts = [text] if count == 1 and bare else next((w for w in ways if len(w) == count), None)
    if parts is None:
        got = f"{len(ways[0])} numbers" if len(ways[0]) != 1 else "one number"
        raise AnswerError(got if bare else "nothing", f"{count}", "split them by spaces")
    return tuple(parse_number(part) for part in parts)


def write_number(number: float, places: int = 3) -> str:
    """Return a number as the house writes it: no zero before the point, a true minus sign.

    >>> [write_number(x) for x in (1 / 3, 0.5, -2.0, 0.0027, -math.inf, 2980.958)]
    ['.333', '.5', '−2', '.0027', '−∞', '2980.958']
    """
    if math.isnan(number):
        return "_"
    if math.isinf(number):
        return "−∞" if number < 0 else "∞"
    size = abs(number)
    if 0 < size < 0.01:
        text = f"{size:.2g}"
    else:
        exact = (
            n for n in range(places) if math.isclose(size, round(size, n), rel_tol=0, abs_tol=1e-9)
        )
        text = f"{size:.{next(exact, places)}f}"
    text = text.removeprefix("0") if text.startswith("0.") else text
    return f"−{text}" if number < 0 else text


def write_vector(numbers: Sequence[float], places: int = 3) -> str:
    """Return one number, or several in brackets.

    >>> write_vector((0.424, 1.436)), write_vector([3.0])
    ('(.424, 1.436)', '3')
    """
    written = [write_number(float(number), places) for number in numbers]
    return written[0] if len(written) == 1 else f"({', '.join(written)})"


def _tokens(text: str) -> list[str]:
    plain = re.sub(
        r"[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda found: f"^({found[0].translate(_RAISED)})", text.translate(_PLAIN)
    ).lower()
    found, at = [], 0
    while at < len(plain):
        if plain[at].isspace():
            at += 1
            continue
        token = _TOKEN.match(plain, at)
        if token is None:
            raise ValueError(plain[at:])
        found.append(token[0])
        at = token.end()
    return found


@dataclass
class _Reader:
    """Reads sums of products of powers, one token ahead."""

    tokens: list[str]
    at: int = 0

    def read(self) -> float:
        number = self.sum()
        if self.at < len(self.tokens):
            raise ValueError(self.tokens[self.at])
        return number

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def sum(self) -> float:
        number = self.product()
        while self.peek() in ("+", "-"):
            number = number + self.product() if self.take() == "+" else number - self.product()
        return number

    def product(self) -> float:
        number = self.signed()
        while True:
            token = self.peek()
            if token == "*":
                self.take()
                number *= self.signed()
            elif token == "/":
                self.take()
                number /= self.signed()
            elif token in ("√", "sqrt", "exp", "e", "("):
                number *= self.signed()  # 2√2, 3e: a product without its sign
            else:
                return number

    def signed(self) -> float:
        if self.peek() in ("-", "+"):
            return -self.signed() if self.take() == "-" else self.signed()
        return self.power()

    def power(self) -> float:
        number = self.atom()
        while self.peek() == "%":
            self.take()
            number /= 100
        if self.peek() in ("^", "**"):
            self.take()
            raised = number ** self.signed()
            if isinstance(raised, complex):
                raise ValueError("a root of a negative number")
            return float(raised)
        return number

    def atom(self) -> float:
        token = self.take()
        if token == "(":
            number = self.sum()
            if self.take() != ")":
                raise ValueError("a bracket that isn't closed")
            return number
        if token in ("√", "sqrt"):
            return math.sqrt(self.atom())
        if token == "exp":
            return math.exp(self.atom())
        if token == "e":
            return math.e
        if token in _ENDLESS:
            return math.inf
        return float(token.replace(",", "."))
