"""Numbers as people write them are read; what is none is said to be none."""

from __future__ import annotations

import math
import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkv.learn.answers import AnswerError, parse_number, parse_numbers, write_number, write_vector


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1/3", 1 / 3), (".33", 0.33), ("0,33", 0.33), (",5", 0.5), ("3.", 3), (" 2 ", 2),
        ("-inf", -math.inf), ("−inf", -math.inf), ("-∞", -math.inf), ("− ∞", -math.inf),
        ("e", math.e), ("e^1", math.e), ("e¹", math.e), ("e⁻¹", 1 / math.e), ("exp(2)", math.e**2),
        ("e^.707", math.e**0.707), ("e^(1/√2)", math.e ** (1 / 2**0.5)), ("2e^1", 2 * math.e),
        ("sqrt(2)", 2**0.5), ("√2", 2**0.5), ("2/√2", 2**0.5), ("2 / √2", 2**0.5), ("2√2", 8**0.5),
        ("1e-3", 0.001), ("2*3", 6), ("2·3", 6), ("2×3", 6), ("6÷4", 1.5), ("57.6%", 0.576),
        ("(1+2)/4", 0.75), ("1 - 2.5", -1.5), ("2^3", 8), ("2**-1", 0.5), ("--3", 3),
        ("[1]", 1), ("+4", 4),
    ],
)  # fmt: skip
def test_numbers_are_read(text: str, number: float) -> None:
    assert parse_number(text) == pytest.approx(number, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    ["x", "nan", "1..2", "1,2,3", "(1", "1)", "1 2", "e^999", "__import__('os')", "(-1)^.5", "√-1x",
     "√(-1)", "2+", "*3", "()", "²"],
)  # fmt: skip
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(AnswerError, match=f"^got “{re.escape(text)}”; expected a number; write"):
        parse_number(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "got nothing"), ("  ", "got nothing"), ("1/0", "a division by 0"),
        ("0^-1", "a division by 0"), ("1e400", "at most 10^12"), ("10^13", "at most 10^12"),
        ("inf-inf", "at most 10^12"), ("1" * 99, "99 characters"), ("(" * 60, "expected a number"),
    ],
)  # fmt: skip
def test_why_is_said(text: str, says: str) -> None:
    with pytest.raises(AnswerError, match=re.escape(says)):
        parse_number(text)


@given(st.text(max_size=80))
def test_no_text_does_worse(text: str) -> None:
    with suppress(AnswerError):
        assert isinstance(parse_number(text), float)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("1 4 5", (1, 4, 5)), ("1, 4, 5", (1, 4, 5)), ("1,4,5", (1, 4, 5)), ("1;4;5", (1, 4, 5)),
        ("0,5 1,5 2", (0.5, 1.5, 2)), ("(1, 4, 5)", (1, 4, 5)),
        ("1/3 √2 -inf", (1 / 3, 2**0.5, -math.inf)),
        ("1 / 3; 2; 3", (1 / 3, 2, 3)),
    ],
)  # fmt: skip
def test_rows_are_split(text: str, numbers: tuple[float, ...]) -> None:
    assert parse_numbers(text, 3) == pytest.approx(numbers)


def test_a_single_number_may_have_spaces() -> None:
    assert parse_numbers("2 / √2", 1) == pytest.approx((2**0.5,))


@pytest.mark.parametrize(
    ("text", "got"), [("1 2", "2 numbers"), ("7", "one number"), ("", "nothing")]
)
def test_too_many_or_too_few_are_counted(text: str, got: str) -> None:
    with pytest.raises(AnswerError, match=f"got {got}; expected 3; split them by spaces"):
        parse_numbers(text, 3)


@given(st.floats(-1e6, 1e6))
def test_what_is_written_is_read_again(number: float) -> None:
    assert parse_number(write_number(number)) == pytest.approx(number, abs=6e-4)


def test_numbers_are_written_as_the_house_does() -> None:
    assert [write_number(x) for x in (0, 0.1 + 0.2, 2 / 3, -0.5, math.inf, math.nan, 0.0012)] == [
        "0", ".3", ".667", "−.5", "∞", "_", ".0012",
    ]  # fmt: skip
    assert write_vector([1, -2]) == "(1, −2)"
