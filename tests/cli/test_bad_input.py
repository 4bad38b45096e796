"""Bad input: exit code 2, one line with what was got, expected and to do, nothing half-written."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.fixture
def refused(command: Command) -> Callable[..., str]:
    """Return a function that runs what must be refused, and gives its one line."""

    def run(*arguments: str | Path, stdin: str = "", notices: int = 0) -> str:
        ended = command(*arguments, stdin=stdin)
        assert ended.code == 2, (ended.out, ended.err)
        assert ended.out == ""
        said = [line for line in ended.err.splitlines() if line and not line.endswith("…")]
        assert len(said) == 1 + notices, ended.err
        said = said[notices:]
        assert said[0].startswith("qkv: got ")
        assert "Traceback" not in said[0]
        assert "; " in said[0]
        return str(said[0])

    return run


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"a", "one character"),
        (b"aaaa", "only 'a'"),
        (b"ab\0cd", "NUL"),
        (b"\xff\xfe\x80ab" * 20, "UTF-8"),
        (b"abcdefgh", "at least 20"),
        (b"abcdefghij" * 5, "than the context of"),
    ],
)
@pytest.mark.parametrize("name", ["train", "ladder"])
def test_text_that_is_none(
    name: str, content: bytes, message: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    path, out = tmp_path / "text", tmp_path / "out"
    path.write_bytes(content)
    assert message in refused(name, "--data", path, "--out", out)
    assert not out.exists()


def test_text_that_is_not_there(refused: Callable[..., str], tmp_path: Path, trained: Path) -> None:
    out = tmp_path / "out"
    assert "no file" in refused("train", "--data", tmp_path / "none", "--out", out)
    assert "no file" in refused("eval", trained, "--data", tmp_path / "none")
    assert "empty" in refused("train", "--data", "-", "--out", out, stdin="")
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--set", "heads=7"], "7 heads for width 192"),
        (["train", "--set", "layerz=7"], "layerz"),
        (["train", "--set", "layers"], "name=value"),
        (["train", "--set", "layers=two"], "layers=two"),
        (["train", "--set", "vocab=9"], "vocab"),
        (["train", "--set", "save_every=0"], "save_every=0"),
        (["train", "--budget", "0"], "a budget of '0'"),
        (["train", "--budget", "-5"], "a budget of '-5'"),
        (["train", "--budget", "lots"], "a budget of 'lots'"),
        (["train", "--preset", "huge"], "the preset 'huge'"),
        (["train", "--device", "toaster"], "--device toaster"),
        (["train", "--tokenizer", "words"], "--tokenizer"),
        (["train", "--seed", "-1"], "--seed"),
        (["train", "--vocab-size", "500"], "size 500 for the char tokenizer"),
        (["train", "--flags"], "--flags"),
        (["ladder", "--budget", "0"], "a budget of '0'"),
        (["ladder", "--budget", "0s"], "a budget of '0s'"),
        (["ladder", "--rungs", "bigram,top"], "the rung 'top'"),
        (["ladder", "--rungs", ","], "no rungs"),
        (["ladder", "--set", "layerz=1"], "layerz"),
        (["demo", "--budget", "-3"], "a budget of '-3'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_settings(
    arguments: list[str], message: str, refused: Callable[..., str], text_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert message in refused(*arguments, "--data", text_file, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--temperature", "-1"], "temperature -1"),
        (["--top-k", "0"], "top-k 0"),
        (["--top-p", "1.5"], "top-p 1.5"),
        (["--tokens", "0"], "--tokens"),
        (["--tokens", "many"], "--tokens"),
        (["--seed", "-1"], "--seed"),
        (["--prompt", "Zürich"], "'Z'"),
    ],
    ids=str,
)
def test_wrong_ways_to_sample(
    arguments: list[str], message: str, refused: Callable[..., str], trained: Path
) -> None:
    assert message in refused("sample", trained, *arguments)


@pytest.mark.parametrize("name", ["sample", "eval", "prove"])
def test_what_is_no_run(name: str, refused: Callable[..., str], tmp_path: Path) -> None:
    assert "nothing at" in refused(name, tmp_path / "none")
    refused(name, tmp_path)


def test_what_cannot_be_resumed(refused: Callable[..., str], tmp_path: Path, trained: Path) -> None:
    assert "no config.json" in refused("train", "--resume", tmp_path)
    assert "ladder.json" in refused("ladder", "--resume", tmp_path)
    run = copy(trained, tmp_path)
    note = json.loads((run / "config.json").read_text())
    note["data"]["sha256"] = "0" * 64
    (run / "config.json").write_text(json.dumps(note))
    assert "another text" in refused("train", "--resume", run)
    assert "another text" in refused("eval", run)


def test_out_that_cannot_be_written(
    refused: Callable[..., str], tmp_path: Path, text_file: Path, trained: Path
) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("train", "ladder"):
        line = refused(name, "--data", text_file, "--out", tmp_path / "file" / "out")
        assert "another --out" in line
    assert "already" in refused("train", "--data", text_file, "--out", trained)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def copy(run: Path, folder: Path) -> Path:
    return Path(shutil.copytree(run, folder / "copy"))


@pytest.mark.parametrize(
    "damage", ["truncated", "changed", "pickled", "missing", "swapped", "note"]
)
def test_damaged_checkpoints(  # noqa: PLR0917
    damage: str,
    refused: Callable[..., str],
    command: Command,
    trained: Path,
    text_file: Path,
    tmp_path: Path,
) -> None:
    run = copy(trained, tmp_path)
    (folder,) = (run / "checkpoints").iterdir()
    weights = folder / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "changed":
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    elif damage == "pickled":
        weights.write_bytes(pickle.dumps({"tokens": [1.0]}))
    elif damage == "missing":
        weights.unlink()
    elif damage == "swapped":
        other = tmp_path / "other"
        command("train", "--preset", "bigram", "--data", text_file, "--budget", "500", "--out",
                other)  # fmt: skip
        shutil.copy(next((other / "checkpoints").iterdir()) / "model.safetensors", weights)
    else:
        (folder / "checkpoint.json").write_text('{"format": 1')
    for name in ("sample", "eval", "prove"):
        line = refused(name, run)
        assert "checkpoint" in line or "safetensors" in line
    refused("train", "--resume", run, notices=1)  # what is trained on is said first


def test_no_network_falls_back_and_says_so(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import qkv.text.corpus
    from qkv.errors import ResourceError

    def unreachable(*_: Any, **__: Any) -> Any:
        raise ResourceError("no file from the network", "the file", "check the network")

    monkeypatch.delenv("QKV_DATA_DIR", raising=False)
    monkeypatch.setenv("QKV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(qkv.text.corpus.fetch, "download", unreachable)
    monkeypatch.setattr(qkv.text.corpus, "file_from_index", unreachable)
    run = tmp_path / "run"
    ended = command("train", "--preset", "bigram-counts", "--out", run)
    assert ended.code == 0, ended.err
    assert "taking the corpus plays instead" in ended.err
    assert "taking the corpus python instead" in ended.err
    assert json.loads((run / "config.json").read_text())["data"]["source"] == "python"


@pytest.mark.parametrize(
    "options",
    [
        ("--set", "layers=9"),
        ("--budget", "10M"),
        ("--preset", "gpt2"),
        ("--seed", "3"),
        ("--dry-run",),
    ],
)
def test_resume_takes_no_other_settings(
    options: tuple[str, ...], refused: Callable[..., str], trained: Path
) -> None:
    assert f"{options[0]} " in refused("train", "--resume", trained, *options)


@pytest.mark.parametrize("setting", ["precision=int8", "compile=on"])
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_fast_steps_that_a_rung_does_not_have(
    setting: str, more: tuple[str, ...], refused: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    train = ("train", "--preset", "heads", "--data", "no/such/text", "--out", out, *more)
    assert f"got {setting} for heads;" in refused(*train, "--set", setting)
    assert not out.exists()


@pytest.mark.parametrize("value", ["0,003", "1,5", "1,00"])
def test_a_comma_is_no_decimal_point(
    value: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert "learning_rate" in refused("train", "--set", f"learning_rate={value}", "--out", out)
    assert "budget" in refused("train", "--budget", f"{value}M", "--out", out)
    assert not out.exists()


def test_a_folder_with_other_files_is_left_alone(
    refused: Callable[..., str], tmp_path: Path, text_file: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "tokenizer.json").write_text("mine")
    for name in ("train", "ladder"):
        assert "other files in" in refused(name, "--data", text_file, "--out", mine)
    assert [path.name for path in mine.iterdir()] == ["tokenizer.json"]
    assert (mine / "tokenizer.json").read_text() == "mine"


def test_checkpoints_of_another_run_are_not_taken_up(
    refused: Callable[..., str], command: Command, tmp_path: Path, text_file: Path
) -> None:
    small = ("--set", "layers=1", "--set", "heads=2", "--set", "context=16", "--budget", "640")
    for name, width in (("one", "16"), ("two", "32")):
        ended = command("train", "--data", text_file, "--out", tmp_path / name, *small,
                        "--set", f"width={width}")  # fmt: skip
        assert ended.code == 0, ended.err
    shutil.rmtree(tmp_path / "one" / "checkpoints")
    shutil.copytree(tmp_path / "two" / "checkpoints", tmp_path / "one" / "checkpoints")
    line = refused("train", "--resume", tmp_path / "one", notices=1)
    assert "another model or tokenizer" in line


@pytest.mark.parametrize("setting", ["width=3000000000", "layers=1000000000", "vocab=5"])
def test_a_model_beyond_memory_is_refused_at_once(
    setting: str, refused: Callable[..., str], tmp_path: Path, text_file: Path
) -> None:
    out = tmp_path / "out"
    line = refused("train", "--data", text_file, "--budget", "1k", "--set", setting, "--out", out)
    assert ("memory" in line) == (setting != "vocab=5")
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("config.json", "[" * 100_000),
        ("config.json", '{"model": 5}'),
        ("metrics.jsonl", '{"step": "1"}\n{"a": 1}\n'),
    ],
)
def test_odd_json_in_a_run_is_one_line(
    name: str, edit: str, command: Command, tmp_path: Path, trained: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / name).write_text(edit)
    ended = command("train", "--resume", run)
    assert ended.code == (2 if name == "config.json" else 0), ended.err
    assert "Traceback" not in ended.err
