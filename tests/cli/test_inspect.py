"""`qkv inspect`: a table of heads, one as a map, files on demand, and one line for errors."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from qkv.cli import main
from qkv.lens import capture, load
from qkv.models.loading import load_model

Command = Callable[..., Any]
TEXT = "abcabcabca"


@pytest.fixture(scope="module")
def bigram(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Path:
    run = tmp_path_factory.mktemp("runs") / "bigram"
    arguments = ["--preset", "bigram", "--data", str(text_file), "--out", str(run)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["qkv", "train", *arguments, "--budget", "2k"])
        assert main() == 0
    return run


def seen(run: Path, text: str) -> Any:
    """The same capture, made without the command."""
    checkpoint = load_model(run)
    assert checkpoint.tokenizer is not None
    ids = checkpoint.tokenizer.encode(text)
    with torch.inference_mode(), capture() as trace:
        checkpoint.model(torch.from_numpy(ids)[None])
    return trace.label(text)


def test_a_table_of_heads_and_the_chosen_one_as_a_map(command: Command, trained: Path) -> None:
    ended = command("inspect", trained, "--text", TEXT, "--layer", 0, "--head", 1)
    assert ended.code == 0, ended.err
    one = seen(trained, TEXT)[0, 1]
    assert "1 layer, 1 head · 10 tokens of the text" in ended.out
    assert "L0H1  this token ↓ looks at →" in ended.out
    assert one.sentence() in ended.out
    ended = command("inspect", trained, "--text", TEXT)
    lines = ended.out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("head"))
    assert lines[at].split()[:6] == ["head", "role", "score", "chance", "rows", "entropy"]
    assert lines[at].split()[6:] == ["first", "lift"]
    rows = [line.split() for line in lines[at + 2 : at + 4]]
    assert {row[0] for row in rows} == {"L0H0", "L0H1"}
    table = seen(trained, TEXT).heads()
    for row in rows:
        first = table[row[0]]["first"]
        assert first is not None
        assert row[6] == f"{first.score:.2f}".removeprefix("0")
    assert lines[at + 4].startswith("chance: what even attention scores on the same rows · lift: ")
    assert f"{rows[0][0]}  this token ↓ looks at →" in ended.out  # the first listed is drawn
    assert "more: --top" not in ended.out


def test_sort_top_atlas_and_linear(command: Command, trained: Path) -> None:
    ended = command(
        "inspect", trained, "--text", TEXT, "--sort", "entropy", "--top", 1, "--atlas", "--linear"
    )
    table = seen(trained, TEXT).heads().sort("entropy")
    assert re.search(rf"{table.rows[0].name} +entropy", ended.out)
    assert "and 1 more" in ended.out
    assert "every head" in ended.out
    assert "weight, linear" in ended.out
    assert f"{table.rows[0].name}  this token" in ended.out


@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("columns", [40, 60, 80, 100])
def test_nothing_is_wider_than_the_terminal(
    columns: int, color: bool, command: Command, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    system: Any = "truecolor" if color else None
    console = Console(file=file, width=columns, force_terminal=color, color_system=system)
    monkeypatch.setattr("qkv.cli.inspect.out", lambda: console)
    assert command("inspect", trained, "--text", TEXT, "--atlas").code == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()
    assert "every head  this token ↓ looks at →" in lines
    assert max(cell_len(line) for line in lines) <= columns


def test_json_is_all_there_is(command: Command, trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "head.svg"
    ended = command("inspect", trained, "--text", TEXT, "--head", 0, "--json", "--svg", file)
    told = json.loads(ended.out)
    trace = seen(trained, TEXT)
    one = trace[0, 0]
    assert told["tokens"] == list(TEXT)
    assert [head["name"] for head in told["heads"]] == ["L0H0"]
    assert told["chosen"]["name"] == "L0H0"
    assert told["chosen"]["sentence"] == one.sentence()
    assert told["chosen"]["entropy"] == pytest.approx(one.entropy(), rel=1e-5)
    assert told["chosen"]["received"] == pytest.approx(one.pattern().sum(0), rel=1e-5)
    assert told["written"] == [{"file": str(file), "what": "L0H0", "bytes": file.stat().st_size}]
    previous = trace.heads()["L0H0"]["previous"]
    assert previous is not None
    assert told["heads"][0]["scores"]["previous"]["score"] == pytest.approx(previous.score)


def test_every_export_says_what_was_written(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    names = {
        "html": "page.html", "svg": "head.svg", "png": "head.png", "pdf": "head.pdf",
        "csv": "heads.csv", "save": "trace.safetensors",
    }  # fmt: skip
    options = [part for kind, name in names.items() for part in (f"--{kind}", tmp_path / name)]
    ended = command("inspect", trained, "--text", TEXT, *options)
    assert ended.code == 0, ended.err
    lines = [line for line in ended.out.splitlines() if line.startswith("wrote ")]
    assert len(lines) == len(names)
    for line, name in zip(lines, names.values(), strict=True):
        assert re.search(rf"{name}  .+, \d+ kB$", line), line
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names.values())
    starts = {"head.png": b"\x89PNG", "head.pdf": b"%PDF", "head.svg": b"<?xml", "page.html": b"<!"}
    for name, start in starts.items():
        assert (tmp_path / name).read_bytes().startswith(start)
    with (tmp_path / "heads.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["L0H0", "L0H1"]
    assert float(rows[0]["previous"]) > 0
    again = load(tmp_path / "trace.safetensors")
    assert again.labels == tuple(TEXT)
    np.testing.assert_allclose(
        again[0, 1].pattern(), seen(trained, TEXT)[0, 1].pattern(), atol=1e-6
    )


def test_a_saved_trace_is_inspected_like_its_model(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    file = tmp_path / "trace.safetensors"
    first = command("inspect", trained, "--text", TEXT, "--save", file).out.splitlines()
    second = command("inspect", file).out.splitlines()
    assert second[1:] == first[1 : len(second)]
    for option, value in (("--text", "x"), ("--file", "x"), ("--tokens", "3")):
        ended = command("inspect", file, option, value)
        assert (ended.code, ended.out) == (2, "")
        assert f"{option} with a trace that was saved" in ended.err


def test_a_saved_trace_says_what_it_is(command: Command, trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "trace.safetensors"
    command("inspect", trained, "--text", "a", "--tokens", 1, "--save", file)
    told = command("inspect", file).out.splitlines()[0]
    assert told.endswith("trace.safetensors · a saved trace · 1 layer, 2 heads · 1 token")
    ended = command("ablate", file, "L0H0", "--text", "ab")
    assert (ended.code, ended.out) == (2, "")
    assert "trace.safetensors, a trace, which has no weights; expected a run" in ended.err


def test_files_are_written_before_anything_is_printed(
    command: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise RuntimeError  # for a broken pipe, of which rich closes our own output

    console = Console(file=Gone(), width=80)
    monkeypatch.setattr("qkv.cli.inspect.out", lambda: console)
    csv_file, svg = tmp_path / "heads.csv", tmp_path / "head.svg"
    with pytest.raises(RuntimeError):
        command("inspect", trained, "--text", TEXT, "--csv", csv_file, "--svg", svg)
    assert csv_file.stat().st_size > 0
    assert svg.stat().st_size > 0


def test_a_page_too_large_is_refused_before_the_work(
    command: Command, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qkv.views.payload.LARGEST_CELLS", 60)
    page, picture = tmp_path / "page.html", tmp_path / "head.svg"
    trace = tmp_path / "trace.safetensors"
    assert command("inspect", trained, "--text", TEXT, "--save", trace).code == 0
    for arguments in ((trained, "--text", TEXT), (trace,)):
        ended = command("inspect", *arguments, "--html", page)
        assert (ended.code, ended.out) == (2, "")
        assert "--html of 2 heads with 10 tokens each" in ended.err
        assert "add --head for one head, or --tokens 7 for the start" in ended.err
        assert len(ended.err.splitlines()) == 1
        ended = command("inspect", *arguments, "--html", page, "--svg", picture)
        assert ended.code == 2
        assert "the other files are written" in ended.err
        assert "head.svg" in ended.out
        assert [one.name for one in sorted(tmp_path.iterdir())] == [picture.name, trace.name]
        picture.unlink()
    # One head of them is not too much.
    assert command("inspect", trained, "--text", TEXT, "--head", 0, "--html", page).code == 0
    assert page.exists()


def test_a_folder_of_runs_is_no_model(command: Command, trained: Path, tmp_path: Path) -> None:
    for arguments in (("inspect", trained.parent), ("ablate", trained.parent, "--all")):
        ended = command(*arguments)
        assert (ended.code, ended.out) == (2, "")
        assert "which holds 1 run, no model; expected one of them: tiny; try" in ended.err
    ended = command("inspect", tmp_path)
    assert "which holds no model; expected a run" in ended.err
    assert "or a trace that was saved" in command("inspect", tmp_path / "nope").err
    assert "trace" not in command("ablate", tmp_path / "nope", "--all").err


def test_a_saved_batch_asks_for_one_sequence(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    checkpoint = load_model(trained)
    assert checkpoint.tokenizer is not None
    texts = ["abcabc", "cbacba"]
    ids = np.stack([checkpoint.tokenizer.encode(text) for text in texts])
    with torch.inference_mode(), capture(tokenizer=checkpoint.tokenizer) as trace:
        checkpoint.model(torch.from_numpy(ids))
    file = trace.save(tmp_path / "batch.safetensors")
    ended = command("inspect", file)
    assert (
        ended.err
        == "qkv: got a trace of 2 sequences; expected one of them; add --sequence 0 to 1\n"
    )
    ended = command("inspect", file, "--sequence", 1, "--json")
    assert json.loads(ended.out)["tokens"] == list("cbacba")


def test_text_from_a_file_standard_input_or_the_run_itself(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    file = tmp_path / "long.txt"
    file.write_text("abc\n" * 500, encoding="utf-8")
    for arguments, stdin in ((("--file", file), ""), (("--file", "-"), "abc\n" * 500)):
        ended = command("inspect", trained, *arguments, stdin=stdin)
        assert (ended.code, ended.out) == (2, "")
        assert "got 2,000 tokens of text; expected at most the model's context, 12;" in ended.err
        ended = command("inspect", trained, *arguments, "--tokens", 7, "--json", stdin=stdin)
        assert json.loads(ended.out)["tokens"] == list("abc\nabc")
    ended = command("inspect", trained, "--file", "-", "--tokens", 1, stdin="abc")
    assert "1 token of standard input" in ended.out
    ended = command("inspect", trained)
    assert "12 tokens of its validation text" in ended.out
    ended = command("inspect", trained, "--text", "ab\\nab", "--json")
    assert json.loads(ended.out)["tokens"] == list("ab\nab")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--text", ""], "an empty text"),
        (["--text", "ab", "--layer", "1"], "got layer 1; expected 0; count layers from 0"),
        (["--text", "ab", "--head", "2"], "got head 2; expected 0 to 1; count heads from 0"),
        (["--text", "ab", "--head", "-1"], "got head -1; expected 0 to 1"),
        (["--text", "abcdefgh" * 2], "16 tokens of text; expected at most the model's context, 12"),
        (["--text", "ab", "--file", "x"], "--text and --file"),
        (["--text", "é"], "the character 'é'"),
        (["--file", "no-such-file.txt"], "'No such file or directory' while reading"),
        (["--file", "."], "while reading ."),
        (["--text", "ab", "--sort", "x"], "--sort x; expected one of self, previous"),
        (["--text", "ab", "--sequence", "1"], "--sequence with a model"),
        (["--text", "ab", "--png", "no/such/folder/a.png"], "no folder no/such/folder"),
        (["--text", "ab", "--html", "."], "--html ., a folder"),
        (["--text", "ab", "--png", "a", "--svg", "./a"], "--svg and --png to one file"),
        (["--text", "ab", "--png", "x.jpg"], "--png x.jpg; expected a name that ends in .png"),
        (["--text", "ab", "--html", "x.svg"], "--html x.svg; expected a name that ends in .html"),
        (["--text", "ab", "--csv", "x.xlsx"], "--csv x.xlsx; expected a name that ends in .csv"),
        (["--text", "ab", "--save", "a.pt"], "a name that ends in .safetensors"),
        (["--text", "ab", "--tokenizer", "no-such-file.json"], "no-such-file.json"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(  # noqa: PLR0917 (fixtures have names)
    arguments: list[str],
    line: str,
    command: Command,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = command("inspect", trained, *arguments)
    assert ended.code == 2
    assert ended.out == ""
    assert line in ended.err
    assert len(ended.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_attention_is_said_to_be(command: Command, bigram: Path) -> None:
    ended = command("inspect", bigram, "--text", "ab")
    assert (ended.code, ended.out) == (2, "")
    assert "a model without attention" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_a_model_without_a_tokenizer_asks_for_one(
    command: Command, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = replace(load_model(trained), tokenizer=None)
    monkeypatch.setattr("qkv.models.loading.load_model", lambda *_: bare)
    ended = command("inspect", trained, "--text", "ab")
    assert ended.code == 2
    assert "give its tokenizer.json with --tokenizer" in ended.err


def test_nothing_there_or_something_broken(command: Command, tmp_path: Path) -> None:
    for arguments in ([tmp_path / "nothing", "--text", "ab"], [tmp_path / "nothing"]):
        assert "nothing at" in command("inspect", *arguments).err
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\xff" * 64)
    ended = command("inspect", broken)
    assert (ended.code, len(ended.err.splitlines())) == (2, 1)


def test_a_file_that_is_no_text_or_too_much(
    command: Command, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.bin").write_bytes(b"ab\xff")
    ended = command("inspect", trained, "--file", tmp_path / "a.bin")
    assert "no UTF-8 at byte 2" in ended.err
    with (tmp_path / "big.txt").open("wb") as file:
        file.truncate(2**24 + 1)
    ended = command("inspect", trained, "--file", tmp_path / "big.txt")
    assert "of more than 16.78 M bytes" in ended.err
