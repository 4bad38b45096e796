"""Tokenizers from files that somebody names."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from qkv.errors import CheckpointError
from qkv.models.tokenizer_files import read_tokenizer, require_fitting
from qkv.text import ByteTokenizer, CharTokenizer, train_tokenizer

META = {"itos": {0: "a", 1: "b"}, "stoi": {"a": 0, "b": 1}}


def line_of(path: Path) -> str:
    """The one line with which reading fails."""
    with pytest.raises(CheckpointError) as caught:
        read_tokenizer(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_published_one_alone_or_in_its_folder(tmp_path: Path) -> None:
    trained = train_tokenizer("bpe", "the cat sat on the mat " * 5, size=270)
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**trained.to_json()["model"], "truncation": cut}))
    for place in (path, tmp_path):
        assert (
            read_tokenizer(place).encode("the mat").tolist() == trained.encode("the mat").tolist()
        )


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_ours(tmp_path: Path, kind: str) -> None:
    tokenizer = train_tokenizer(kind, "the cat sat on the mat")
    (tmp_path / "own.json").write_text(json.dumps(tokenizer.to_json()))
    assert read_tokenizer(tmp_path / "own.json") == tokenizer


def test_nanogpts(tmp_path: Path) -> None:
    for name in ("meta.pkl", "other"):  # known by its name, or by how it starts
        (tmp_path / name).write_bytes(pickle.dumps(META))
        assert read_tokenizer(tmp_path / name) == CharTokenizer("ab")
    assert read_tokenizer(tmp_path) == CharTokenizer("ab")
    (tmp_path / "tokenizer.json").write_text(json.dumps(ByteTokenizer().to_json()))
    assert read_tokenizer(tmp_path) == ByteTokenizer()


def test_what_is_none(tmp_path: Path) -> None:
    assert "neither tokenizer.json nor meta.pkl in" in line_of(tmp_path)
    assert "no file at" in line_of(tmp_path / "none")
    path = tmp_path / "tokenizer.json"
    for content, line in {
        "": "tokenizer.json: Expecting value",
        "[]": "no JSON object",
        "[" * 100_000: "tokenizer.json: ",
        "{}": "another tokenizer than a byte-level BPE",
        '{"model": {"type": "Unigram"}, "decoder": {"type": "Metaspace"}}': "another tokenizer",
        '{"model": {"type": "BPE"}, "decoder": {"type": "ByteLevel"}}': "a BPE that can't be read",
        '{"kind": "words"}': "kind 'words'",
    }.items():
        path.write_text(content)
        assert line in line_of(path)
    path.write_bytes(b"{\xff}")
    assert "tokenizer.json: " in line_of(path)
    with path.open("wb") as file:
        file.truncate(2**26 + 1)
    assert "bytes of JSON" in line_of(path)


def test_ids_that_a_model_lacks() -> None:
    require_fitting(None, 3, Path("here"))
    require_fitting(CharTokenizer("abc"), 3, Path("here"))
    require_fitting(CharTokenizer("abc"), 64, Path("here"))
    with pytest.raises(
        CheckpointError, match="a tokenizer of 3 tokens beside a model of 2 in here"
    ):
        require_fitting(CharTokenizer("abc"), 2, Path("here"))
