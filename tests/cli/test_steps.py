"""`qkv steps` gives every worked number of the design, and says what was mistyped."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from qkv.cli.steps import steps_command
from qkv.errors import QkvError

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="rich")
app.command()(steps_command)

TOKEN_3_OF_4 = ("--affinities", "1,1,1,8", "--values", "3,6,0,_", "--token", "3")
TOKEN_2_OF_3 = ("--q", "1,2", "--k", "1,0; .5,.25; 1,2", "--v", "2; 4; _", "--token", "2")
SCALED = ("--q", "1,1", "--k", "1,0; 2,1; 1,1", "--v", "1,0; 0,2; 1,1")


def run(*arguments: str, width: int = 100, **environment: str) -> str:
    result = CliRunner(env={"COLUMNS": str(width), **environment}).invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0
    return result.output


def lines(text: str) -> dict[str, str]:
    """The lines of a worksheet by their name, spaces made single."""
    return {
        line.split()[0]: " ".join(line.split()) for line in text.splitlines() if line.strip() != ""
    }


def row(*arguments: str) -> dict[str, Any]:
    rows = json.loads(run(*arguments, "--json"))["rows"]
    assert len(rows) == 1
    return dict(rows[0])


def test_masked_step_token_3_of_4() -> None:
    text = run(*TOKEN_3_OF_4)
    found = lines(text)
    assert found["scores"] == "scores as given 1 1 1 8"
    assert found["masked"] == "masked −∞: forbidden 1 1 1 −∞"
    assert found["exponentials"] == "exponentials eˣ 2.718 2.718 2.718 0 sum 8.155"
    assert found["weights"] == "weights eˣ / sum .333 .333 .333 0 sum 1"
    assert found["v"] == "v 3 6 0 _"
    assert found["mixed"] == "mixed weight·v .333·3 .333·6 .333·0 0 sum 3"
    assert text.splitlines()[-1] == (
        "Token 3 gives .333 to each of tokens 1, 2 and 3, and takes in 3."
    )
    data = row(*TOKEN_3_OF_4)
    assert data["weights"] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])
    assert data["sum"] == pytest.approx(8.155, abs=5e-4)
    assert data["mixed"] == pytest.approx(3)
    assert data["masked"] == [1, 1, 1, None]
    assert data["values"] == [3, 6, 0, None]
    assert data["scale"] == 1


@pytest.mark.parametrize("scale", [(), ("--scale", "none")])
def test_masked_step_token_2_of_3(scale: tuple[str, ...]) -> None:
    found = lines(run(*TOKEN_2_OF_3, *scale))
    assert found["scores"] == "scores q·k 1 1 5"
    assert ("scaled" in found) == (not scale)
    assert found["weights"] == "weights eˣ / sum .5 .5 0 sum 1"
    assert found["mixed"].endswith("sum 3")
    data = row(*TOKEN_2_OF_3, *scale)
    assert data["scores"] == pytest.approx([1, 1, 5])
    assert data["weights"] == pytest.approx([0.5, 0.5, 0])
    assert data["mixed"] == pytest.approx(3)


def test_scaled_step() -> None:
    text = run(*SCALED)
    found = lines(text)
    assert "1·1 + 1·0 1·2 + 1·1 1·1 + 1·1" in " ".join(text.split())
    assert found["scores"] == "scores q·k 1 3 2"
    assert found["scaled"] == "scaled × 1/√2 .707 2.121 1.414"
    assert found["weights"] == "weights eˣ / sum .140 .576 .284 sum 1"
    assert found["mixed"].endswith("sum (.424, 1.436)")
    assert "Token 3 gives most, .576, to token 2, and takes in (.424, 1.436)." in text


def test_forgetting_the_scale_gives_335_and_1_575() -> None:
    assert lines(run(*SCALED, "--scale", "none"))["mixed"].endswith("sum (.335, 1.575)")


def test_no_mask_gives_the_future_token_997() -> None:
    text = run("--affinities", "1 1 1 8", "--values", "3 6 0 9", "--token", "1", "--mask", "none")
    assert ".997" in lines(text)["weights"]


def test_every_token_with_its_own_query() -> None:
    text = run("--q", "1,0;0,1", "--k", "1,0;0,1", "--v", "1;2", "--all", "--scale", "none")
    assert "token 1 of 2 asks" in text
    assert "Token 1 can look at token 1 only, and takes in its value, 1." in text
    assert "Token 2 gives most, .731, to token 2" in text
    rows = json.loads(run("--affinities", "0,9;0,0", "--v", "1,2", "--all", "--json"))["rows"]
    assert [r["weights"] for r in rows] == [[1, 0], [0.5, 0.5]]


@pytest.mark.parametrize(
    ("mask", "allowed"),
    [
        ("causal", [1, 1, 0, 0]),
        ("none", [1, 1, 1, 1]),
        ("prefix:3", [1, 1, 1, 0]),
        ("window:1", [0, 1, 0, 0]),
    ],
)
def test_masks(mask: str, allowed: list[int]) -> None:
    found = row("--affinities", "0,0,0,0", "--v", "1,2,3,4", "--token", "2", "--mask", mask)
    assert found["allowed"] == [bool(x) for x in allowed]


def test_softcap_and_bias_stand_between_scale_and_mask() -> None:
    found = lines(run(*SCALED, "--softcap", "5", "--bias", "0,0,1"))
    assert found["capped"] == "capped 5·tanh(x/5) .702 2.003 1.378"
    assert found["biased"] == "biased + bias .702 2.003 2.378"


def test_a_narrow_terminal_has_the_keys_below_each_other() -> None:
    text = run(*SCALED, width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert "sum (.424, 1.436)" in text


def test_scores_out_of_range_still_have_their_weights() -> None:
    text = run("--affinities", "800,800", "--v", "2,4")
    assert "Token 2 gives .5 to each of tokens 1 and 2, and takes in 3." in text
    assert "out of a computer's range" in " ".join(text.split())
    assert row("--affinities", "800,800", "--v", "2,4")["sum"] is None


def test_colours_carry_their_letters() -> None:
    text = run(*SCALED, FORCE_COLOR="1", COLORTERM="truecolor", TERM="xterm-256color")
    blue, vermilion, green = "86;180;233", "230;159;0", "43;196;138"
    for color, letter in ((blue, "q"), (vermilion, "k"), (green, "v")):
        assert re.search(rf"\x1b\[[0-9;]*38;2;{color}m{letter} ", text), letter


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "neither --affinities nor both"),
        (("--q", "1"), "neither --affinities nor both"),
        (("--affinities", "1,1"), "no --v"),
        (("--affinities", "1,x", "--v", "1,2"), "--affinities 'x'; expected a finite number"),
        (("--affinities", "1,_", "--v", "1,2"), "--affinities '_'"),
        (("--affinities", "1,inf", "--v", "1,2"), "finite number"),
        (("--affinities", " ", "--v", "1,2"), "expected numbers"),
        (("--affinities", "1,1", "--v", "3,_"), "no value for token 2"),
        (("--affinities", "1,1", "--v", "3,4,5"), "one value for each affinity"),
        (("--affinities", "1,1", "--v", "3,4", "--q", "1"), "one or the other"),
        (("--affinities", "1,1", "--v", "3,4", "--token", "3"), "1 to 2"),
        (("--affinities", "1,1", "--v", "3,4", "--token", "0"), "count tokens from 1"),
        (("--affinities", "1,1", "--v", "3,4", "--all"), "1 queries for --all of 2 tokens"),
        (("--affinities", "1;1", "--v", "3", "--all", "--token", "1"), "leave one out"),
        (("--affinities", "1,1", "--v", "3,4", "--mask", "future"), "window:N"),
        (("--affinities", "1,1", "--v", "3,4", "--scale", "big"), "--scale 'big'"),
        (("--affinities", "1,1", "--v", "3,4", "--bias", "1,2,3"), "bias of shape"),
        (("--q", "1,2", "--k", "1;2", "--v", "1;2"), "--q of width 2, --k of width 1"),
        (("--q", "1,2", "--k", "1,2;3", "--v", "1;2"), "with 1 numbers in row 2"),
        (("--q", "1;2", "--k", "1;2;3", "--v", "1;2;3"), "2 queries for 3 tokens"),
        ((*SCALED, "--softcap", "-1"), "softcap -1"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(arguments: tuple[str, ...], says: str) -> None:
    with pytest.raises(QkvError, match=re.escape(says)) as caught:
        run(*arguments)
    assert "\n" not in str(caught.value)


def test_help_has_examples_to_copy() -> None:
    text = " ".join(run("--help", width=200).split())
    assert 'qkv steps --affinities "1,1,1,8" --values "3,6,0,_" --token 3' in text
