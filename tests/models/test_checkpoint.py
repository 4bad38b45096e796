"""Checkpoints: whole or not at all, and one line for every way in which one can be wrong."""

from __future__ import annotations

import errno
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from qkv.errors import CheckpointError, ResourceError
from qkv.models import RUNGS, ModelConfig, RungConfig, TransformerConfig, build_model
from qkv.models import checkpoint as module
from qkv.models.checkpoint import (
    load_checkpoint,
    read_tensors,
    read_training_state,
    save_checkpoint,
    write_atomically,
)
from qkv.text import ByteTokenizer, CharTokenizer, Tokenizer, train_tokenizer

from .conftest import scramble, tokens

TOKENIZER = CharTokenizer("abcdefghijk")
CONFIG = TransformerConfig(vocab=11, context=7, layers=2, width=12, heads=3)


def save(folder: Path, config: ModelConfig = CONFIG, **more: Any) -> nn.Module:
    """Save a model with random weights; return it."""
    model = scramble(build_model(config))
    values: dict[str, Any] = {"tokenizer": TOKENIZER, "step": 3, "weights": model.state_dict()}
    save_checkpoint(folder, config=config, **{**values, **more})
    return model


def change(folder: Path, **values: Any) -> None:
    """Replace entries of the description; a value of ``...`` removes one."""
    path = folder / "checkpoint.json"
    description = {**json.loads(path.read_text()), **values}
    kept = {name: value for name, value in description.items() if value is not ...}
    path.write_text(json.dumps(kept))


def rewrite(path: Path, edit: Callable[[bytes], bytes]) -> None:
    """Change the bytes of a file."""
    path.write_bytes(edit(path.read_bytes()))


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        TransformerConfig(vocab=11, width=12, heads=3, tied=True, positions="learned", bias=True),
        *(RungConfig(kind, vocab=11, context=7, width=6, heads=3) for kind in RUNGS),
    ],
)
def test_a_model_comes_back_as_it_was(tmp_path: Path, config: ModelConfig) -> None:
    model = save(tmp_path / "one", config, metrics={"loss": 1.5})
    loaded = load_checkpoint(tmp_path / "one")
    assert (loaded.config, loaded.step, loaded.metrics) == (config, 3, {"loss": 1.5})
    assert loaded.tokenizer == TOKENIZER
    assert not loaded.model.training
    assert torch.equal(loaded.model(tokens(2, 7, 11)), model(tokens(2, 7, 11)))
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize(
    "tokenizer", [ByteTokenizer(), CharTokenizer("añ→𝄞"), train_tokenizer("bpe", "ababab" * 9)]
)
def test_the_tokenizer_comes_back(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save(tmp_path / "one", RungConfig("bigram", vocab=tokenizer.size), tokenizer=tokenizer)
    assert load_checkpoint(tmp_path / "one").tokenizer == tokenizer


def test_the_training_state_lies_beside(tmp_path: Path) -> None:
    state = {"momentum": torch.randn(5, 3).T, "step": torch.tensor(3)}  # not contiguous
    save(tmp_path / "one", training=state)
    back = read_training_state(tmp_path / "one")
    assert back.keys() == state.keys()
    assert torch.equal(back["momentum"], state["momentum"])
    save(tmp_path / "two")
    assert read_training_state(tmp_path / "two") == {}


def test_saving_again_replaces(tmp_path: Path) -> None:
    save(tmp_path / "one", training={"old": torch.ones(1)})
    model = save(tmp_path / "one", step=4)
    loaded = load_checkpoint(tmp_path / "one")
    assert loaded.step == 4
    assert torch.equal(loaded.model(tokens(1, 7, 11)), model(tokens(1, 7, 11)))
    assert read_training_state(tmp_path / "one") == {}
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@pytest.mark.parametrize("rows", range(1, 40))
def test_no_length_of_header_looks_like_a_pickle(tmp_path: Path, rows: int) -> None:
    # The file starts with the length of its header, which may begin as a pickle does.
    path = tmp_path / "model.safetensors"
    save_file({f"{row:04}": torch.ones(1) for row in range(rows)}, path)
    assert len(read_tensors(path)) == rows


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (
        lambda folder: rewrite(folder / "model.safetensors", lambda data: data[:-9]),
        "bytes; expected the file as it was saved",
    ),
    "empty": (
        lambda folder: rewrite(folder / "model.safetensors", lambda data: b""),
        "0 of ",
    ),
    "a flipped bit": (
        lambda folder: rewrite(
            folder / "model.safetensors", lambda data: data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
        ),
        "other bytes than were written",
    ),
    "a pickle": (
        lambda folder: (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1})),
        "got a pickle at",
    ),
    "a torch pickle": (
        lambda folder: torch.save({"a": torch.ones(2)}, folder / "model.safetensors"),
        "convert it with safetensors.torch.save_file",
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "no model.safetensors in",
    ),
    "no description": (
        lambda folder: (folder / "checkpoint.json").unlink(),
        "no checkpoint.json in",
    ),
    "half a description": (
        lambda folder: rewrite(folder / "checkpoint.json", lambda data: data[:99]),
        "checkpoint.json: ",
    ),
    "a description in no encoding": (
        lambda folder: rewrite(folder / "checkpoint.json", lambda data: b"\xff" + data),
        "checkpoint.json: ",
    ),
    "a list for a description": (
        lambda folder: rewrite(folder / "checkpoint.json", lambda data: b"[]"),
        "no JSON object",
    ),
    "a later format": (lambda folder: change(folder, format=2), "format 2 in"),
    "no format": (lambda folder: change(folder, format=...), "format None in"),
    "no config": (lambda folder: change(folder, model=...), "what cannot be used: KeyError"),
    "a config that is none": (lambda folder: change(folder, model=3), "what cannot be used"),
    "an unknown setting": (
        lambda folder: change(folder, model={"kind": "transformer", "vocab": 11, "depth": 3}),
        "the setting 'depth'",
    ),
    "an unknown kind": (
        lambda folder: change(folder, model={"kind": "trigram", "vocab": 11}),
        "a model of kind 'trigram'",
    ),
    "no tokenizer": (lambda folder: change(folder, tokenizer=...), "KeyError('tokenizer')"),
    "a tokenizer that is none": (lambda folder: change(folder, tokenizer={}), "a tokenizer with"),
    "another tokenizer": (
        lambda folder: change(folder, tokenizer=ByteTokenizer().to_json()),
        "a tokenizer of 256 tokens beside a model of 11",
    ),
    "no step": (lambda folder: change(folder, step=...), "KeyError('step')"),
    "metrics that are none": (lambda folder: change(folder, metrics=7), "what cannot be used"),
    "no hashes": (lambda folder: change(folder, files=...), "no sizes and hashes"),
    "hashes that are none": (lambda folder: change(folder, files=[1]), "no sizes and hashes"),
    "a hash missing": (lambda folder: change(folder, files={}), "hash of model.safetensors"),
    "a hash that is none": (
        lambda folder: change(folder, files={"model.safetensors": 5}),
        "hash of model.safetensors",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_told_in_one_line(tmp_path: Path, damage: str) -> None:
    save(tmp_path / "one")
    act, line = DAMAGE[damage]
    act(tmp_path / "one")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "one")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all((caught.value.got, caught.value.expected, caught.value.remedy))


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"width": 24}, "got blocks.0.attention.gain: (6, 1, 4)"),
        ({"layers": 3}, "blocks.2"),
        ({"layers": 1}, "expected nothing, from its config"),
        ({"bias": True}, "got blocks.0.attention.output.bias: nothing"),
        ({"tied": True}, "got unembed.weight: (11, 12)"),
    ],
)
def test_weights_of_another_config_are_refused(
    tmp_path: Path, other: dict[str, Any], line: str
) -> None:
    config = TransformerConfig(
        **{"vocab": 11, "context": 7, "layers": 2, "width": 12, "heads": 3, **other}
    )
    model = build_model(CONFIG)
    save_checkpoint(
        tmp_path / "one", config=config, weights=model.state_dict(), tokenizer=TOKENIZER, step=0
    )
    with pytest.raises(CheckpointError, match="weights are from another config") as caught:
        load_checkpoint(tmp_path / "one")
    assert line in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^got no checkpoint.json in"):
        load_checkpoint(tmp_path / "none")


def full_disk(*_: Any) -> None:
    """What a write does on a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", ["save_file", "_flush", "_replace_folder"])
def test_a_full_disk_leaves_the_earlier_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model = save(tmp_path / "one")
    monkeypatch.setattr(module, name, full_disk)
    for folder in ("one", "two"):
        with pytest.raises(ResourceError, match="No space left on device") as caught:
            save(tmp_path / folder, step=9)
        assert "free some space" in caught.value.remedy
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    loaded = load_checkpoint(tmp_path / "one")
    assert loaded.step == 3
    assert torch.equal(loaded.model(tokens(1, 7, 11)), model(tokens(1, 7, 11)))


def test_a_rename_that_fails_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "one")
    rename = Path.rename

    def fail_for_the_new(self: Path, target: Path) -> Path:
        if ".partial-" in self.name:
            full_disk()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new)
    with pytest.raises(ResourceError):
        save(tmp_path / "one", step=9)
    assert load_checkpoint(tmp_path / "one").step == 3
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_text_file_is_written_whole_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / "status.json"
    write_atomically(path, "old")
    monkeypatch.setattr(module, "_flush", full_disk)
    with pytest.raises(ResourceError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in path.parent.iterdir()] == ["status.json"]
