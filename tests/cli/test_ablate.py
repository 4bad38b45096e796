"""`qkv ablate`: the effect of an edit, the table of heads, and what it refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from qkv.cli.ablate import ablate_command
from qkv.lens.edits.edits import Edits
from qkv.lens.edits.effects import effect, effects
from qkv.models.loading import load_model

Command = Callable[..., Any]


def told(command: Command, *arguments: str | Path) -> dict[str, Any]:
    ended = command("ablate", *arguments, "--json")
    assert ended.code == 0, ended.err
    return dict(json.loads(ended.out))


def test_json_is_what_python_gives(command: Command, trained: Path) -> None:
    found = told(command, trained, "L0H1", "--scale", "off", "--text", "abc de fg")
    loaded = load_model(trained)
    assert loaded.tokenizer is not None
    ids = loaded.tokenizer.encode("abc de fg")
    expected = effect(loaded.model, ids, Edits(ablate="L0H1", scale="off"))
    assert found["edits"] == "without L0H1; scale off"
    assert found["tokens"] == len(ids)
    for name in ("loss_before", "loss_after", "change", "error", "divergence"):
        assert found[name] == pytest.approx(getattr(expected, name), abs=1e-6)
    assert found["losses"]["after"] == [pytest.approx(expected.losses_after[0].tolist(), abs=1e-6)]
    assert [one["id"] for one in found["next"]][:5] == [one.token for one in expected.moved(5)]


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_every_head_alone(command: Command, trained: Path, tmp_path: Path, how: str) -> None:
    mean = ["--mean"] if how == "mean" else []
    path = tmp_path / "heads.csv"
    found = told(command, trained, "--all", "--text", "abc de fg", "--csv", path, *mean)
    loaded = load_model(trained)
    assert loaded.tokenizer is not None
    expected = effects(loaded.model, loaded.tokenizer.encode("abc de fg"), how=how)  # type: ignore[arg-type]
    assert [row["name"] for row in found["heads"]] == [row.name for row in expected]
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [row["name"] for row in rows] == [row.name for row in expected]
    one = told(command, trained, "L0H1", "--all", "--text", "abc de fg", *mean)
    assert [row["name"] for row in one["heads"]] == ["L0H1"]


def test_long_texts_are_read_in_windows(command: Command, trained: Path, text_file: Path) -> None:
    # The context is of 12 tokens.
    found = told(command, trained, "L0", "--file", text_file, "--tokens", "40")
    assert (found["windows"], found["tokens"]) == (3, 36)
    assert len(found["losses"]["before"]) == 3
    found = told(command, trained, "L0", "--file", text_file, "--tokens", "5")
    assert (found["windows"], found["tokens"]) == (1, 5)
    # Without a text, the run's own validation text.
    assert told(command, trained, "L0")["text"].endswith("(validation)")


@pytest.mark.parametrize("width", [100, 60])
def test_what_is_shown_fits(trained: Path, width: int) -> None:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(ablate_command)

    def shown(*arguments: str) -> str:
        given = [str(trained), *arguments, "--text", "abc de\\nfg"]
        ended = CliRunner(env={"COLUMNS": str(width)}).invoke(app, given)
        assert ended.exit_code == 0, ended.output
        lines = ended.output.splitlines()
        assert max(map(len, lines)) <= width
        assert len(lines) <= 24
        return ended.output

    text = shown("L0H1", "--temperature", "2")
    assert text.startswith("Without L0H1; temperature 2.0\nover 9 tokens of the text\n")
    assert " nats a token  " in text
    assert "What comes next, after “abc de⏎fg”" in text
    assert "KL(before, after): " in text
    table = shown("--all")
    assert table.startswith("Each head alone, taken out\n")
    assert table.count("L0H") == 2


def test_two_tokens_are_enough(command: Command, trained: Path) -> None:
    found = told(command, trained, "L0H1", "--text", "ab")
    assert (found["tokens"], found["error"]) == (2, None)
    assert told(command, trained, "--all", "--text", "ab")["heads"][0]["error"] is None
    assert "± ·" in command("ablate", trained, "L0", "--text", "ab").out


def test_an_edit_that_changes_nothing_says_so(command: Command, trained: Path) -> None:
    ended = command("ablate", trained, "--temperature", "1", "--text", "abc de")
    assert "nats a token  0 ±" in ended.out
    assert "hurt most" not in ended.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "got nothing to change"),
        (("L3H",), "head 'L3H'"),
        (("3.7",), "head '3.7'"),
        (("L0H9",), "head L0H9; expected L0H0 to L0H1"),
        (("L4",), "L4, a layer that wasn't seen; expected L0"),
        (("L0", "--text", "a"), "1 token of text"),
        (("L0", "--text", ""), "0 tokens of text"),
        (("L0", "--text", "abcdefgh" * 3), "at most the model's context, 12"),
        (("L0", "--text", "abc", "--file", "x"), "leave one out"),
        (("L0", "--file", "nowhere.txt"), "no file"),
        (("--mean",), "--mean without a head"),
        (("--all", "--mask", "off"), "--all beside another change"),
        (("L0", "--csv", "x.csv"), "add --all"),
        (("--all", "--csv", "no/such/folder/x.csv"), "can't be written"),
        (("--scale", "big"), "--scale big"),
        (("--mask", "on"), "mask 'on'"),
        (("--temperature", "0"), "temperature 0.0"),
        (("L0", "--only", "L0"), "nothing to change there"),
        (("--uniform", "L0", "--sharpen", "L0H1"), "uniform and sharpen for L0H1"),
        (("L0", "--text", "ABC"), "'A'"),
    ],
)
def test_bad_input_is_one_line(
    command: Command, trained: Path, arguments: tuple[str, ...], says: str
) -> None:
    ended = command("ablate", trained, *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == 1
    assert ended.err.startswith("qkv: got ")
    assert says in ended.err


def test_a_model_without_attention_and_one_without_a_text(
    command: Command, text_file: Path, tmp_path: Path, trained: Path
) -> None:
    run = tmp_path / "bigram"
    small = ("--preset", "bigram", "--budget", "1k", "--set", "context=12")
    assert command("train", "--data", text_file, "--out", run, *small).code == 0
    ended = command("ablate", run, "L0H0", "--text", "abc")
    assert ended.code == 2
    assert "no attention call to edit" in ended.err
    newest = sorted((trained / "checkpoints").iterdir())[-1]
    assert command("ablate", newest, "L0H0", "--text", "abc").code == 0
    ended = command("ablate", tmp_path / "nothing", "L0H0")
    assert ended.code == 2
    assert "nothing at" in ended.err


def test_help_has_examples_to_copy(command: Command) -> None:
    assert "qkv ablate runs/six L3H1 --text" in command("ablate", "--help").out
