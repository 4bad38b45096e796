"""One entry for all that can be loaded, and one line for all that cannot; no `transformers`."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from qkv.errors import CheckpointError
from qkv.models import RungConfig, Transformer, build_model, to_json
from qkv.models.checkpoint import save_checkpoint
from qkv.models.loading import config_from_huggingface, load_model
from qkv.text import ByteTokenizer, CharTokenizer, train_tokenizer

from .conftest import GPT2, LLAMA, PLAIN, their_weights, write_folder
from .gguf_writing import written_llama
from .test_nanogpt import content, meta


def write_checkpoint(folder: Path, step: int) -> Path:
    """A checkpoint of ours, of a bigram."""
    config, tokenizer = RungConfig("bigram", vocab=3), CharTokenizer("abc")
    weights = build_model(config).state_dict()
    save_checkpoint(folder, config=config, weights=weights, tokenizer=tokenizer, step=step)
    return folder


def write_run(path: Path, *steps: int) -> Path:
    """A run directory with checkpoints."""
    path.mkdir()
    config = to_json(RungConfig("bigram", vocab=3))
    (path / "config.json").write_text(json.dumps({"model": config, "training": {}, "data": {}}))
    for step in steps:
        write_checkpoint(path / "checkpoints" / f"step-{step:08d}", step)
    return path


def line_of(path: Path | str, tokenizer: Path | None = None) -> str:
    """The one line with which loading fails."""
    with pytest.raises(CheckpointError) as caught:
        load_model(path, tokenizer)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("got ")
    assert caught.value.remedy
    return line


# What loads -------------------------------------------------------------------------------------


def test_a_checkpoint_of_ours(tmp_path: Path) -> None:
    loaded = load_model(str(write_checkpoint(tmp_path / "one", 7)))
    assert (loaded.step, loaded.config.kind) == (7, "bigram")


def test_of_a_run_the_newest_checkpoint(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", 5, 200, 30)
    shutil.copytree(
        run / "checkpoints" / "step-00000005", run / "checkpoints" / ".step-00000900.partial-1"
    )
    assert load_model(run).step == 200


@pytest.mark.parametrize("family", PLAIN)
def test_a_folder_of_theirs(tmp_path: Path, family: str) -> None:
    loaded = load_model(write_folder(tmp_path, PLAIN[family]))
    assert isinstance(loaded.model, Transformer)
    assert loaded.config == config_from_huggingface(PLAIN[family])
    assert (loaded.tokenizer, loaded.step, loaded.metrics) == (None, 0, {})
    assert loaded.model(torch.zeros(1, 13, dtype=torch.long)).isfinite().all()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(tmp_path: Path, kind: torch.dtype) -> None:
    weights = {name: tensor.to(kind) for name, tensor in their_weights(GPT2).items()}
    loaded = load_model(write_folder(tmp_path, {**GPT2, "torch_dtype": "float16"}, **weights))
    assert all(parameter.dtype is torch.float32 for parameter in loaded.model.parameters())


def test_the_tokenizer_is_read_where_it_is_byte_level(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("bpe", "the cat sat on the mat " * 5, size=270)
    model = tokenizer.to_json()["model"]
    cut = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    path = write_folder(tmp_path, GPT2)
    (path / "tokenizer.json").write_text(json.dumps({**model, "truncation": cut}))
    loaded = load_model(path)
    assert loaded.tokenizer is not None
    text = "the cat sat on the mat"
    assert loaded.tokenizer.decode(loaded.tokenizer.encode(text)) == text
    (path / "tokenizer.json").write_text(json.dumps({**model, "decoder": {"type": "Fuse"}}))
    assert load_model(path).tokenizer is None
    (path / "tokenizer.json").write_text("{")
    assert "tokenizer.json: " in line_of(path)
    (path / "tokenizer.json").write_text(json.dumps(model))
    (path / "config.json").write_text(json.dumps({**GPT2, "vocab_size": 260}))
    weights = {**their_weights(GPT2), "wte.weight": torch.randn(260, 15)}
    save_file(weights, path / "model.safetensors")
    assert f"a tokenizer of {tokenizer.size} tokens beside a model of 260" in line_of(path)


def test_shards_are_read_by_their_names_alone(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "one", LLAMA)
    weights = their_weights(LLAMA)
    (path / "model.safetensors").unlink()
    index = path / "model.safetensors.index.json"
    halves = {name: f"model-0000{at % 2}.safetensors" for at, name in enumerate(weights)}
    for half in set(halves.values()):
        save_file({name: weights[name] for name in weights if halves[name] == half}, path / half)
    index.write_text(json.dumps({"weight_map": halves}))
    loaded = load_model(path)
    assert torch.equal(loaded.model.state_dict()["tokens"], weights["model.embed_tokens.weight"])
    (path / "model-00001.safetensors").unlink()
    assert "no model-00001.safetensors" in line_of(path)
    for wrong in ({}, {"weight_map": {"a": "../out.safetensors"}}, {"weight_map": {"a": 3}}, []):
        index.write_text(json.dumps(wrong))
        line_of(path)


def test_a_gguf_file_or_a_folder_with_one(transformers: Any, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="GGUF files need the extra `gguf`")
    folder = tmp_path / "one"
    folder.mkdir()
    path = written_llama(transformers, folder / "model.gguf")
    shutil.copy(path, tmp_path / "unnamed")  # known by how it starts
    for place in (path, folder, tmp_path / "unnamed"):
        loaded = load_model(place)
        assert loaded.tokenizer is not None
        assert (loaded.config.vocab, loaded.tokenizer.size) == (300, 300)
    # Often published beside them: the config of what they were made from.
    (folder / "config.json").write_text(json.dumps(LLAMA))
    assert load_model(folder).path == path
    shutil.copy(path, folder / "another.gguf")
    assert "2 models in" in line_of(folder)
    assert "another.gguf, model.gguf" in line_of(folder)
    save_file(their_weights(LLAMA), folder / "model.safetensors")
    assert load_model(folder).path == folder
    path.write_bytes(b"GGML" + path.read_bytes()[4:])
    assert "no GGUF file" in line_of(path)


def test_a_nanogpt_checkpoint_or_its_folder(tmp_path: Path) -> None:
    torch.save(content(), tmp_path / "ckpt.pt")
    for place in (tmp_path, tmp_path / "ckpt.pt"):
        loaded = load_model(place)
        assert (loaded.step, loaded.config.vocab, loaded.tokenizer) == (40, 97, None)
    (tmp_path / "ckpt.pt").rename(tmp_path / "mine.pt")
    assert "name it ckpt.pt if nanoGPT wrote it" in line_of(tmp_path / "mine.pt")


def test_another_tokenizer(tmp_path: Path) -> None:
    named = tmp_path / "meta.pkl"
    named.write_bytes(pickle.dumps(meta("xyz")))
    theirs = write_folder(tmp_path / "theirs", GPT2)
    (theirs / "tokenizer.json").write_text("{")  # in whose place another is given
    torch.save(content(), tmp_path / "ckpt.pt")
    for path in (
        write_checkpoint(tmp_path / "one", 7),
        write_run(tmp_path / "run", 5),
        theirs,
        tmp_path / "ckpt.pt",
    ):
        assert load_model(path, str(named)).tokenizer == CharTokenizer("xyz")
    bytewise = tmp_path / "bytes.json"
    bytewise.write_text(json.dumps(ByteTokenizer().to_json()))
    assert load_model(theirs, bytewise).tokenizer == ByteTokenizer()
    for path, vocab in ((tmp_path / "run", 3), (tmp_path / "ckpt.pt", 97)):
        line = line_of(path, bytewise)
        assert f"a tokenizer of 256 tokens beside a model of {vocab} in {path}" in line
    assert "no file at" in line_of(theirs, tmp_path / "none")


# What is nothing of all that --------------------------------------------------------------------


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    assert "nothing at" in line_of(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "neither checkpoint.json nor a config.json" in line_of(tmp_path / "empty")
    (tmp_path / "text.txt").write_text("text")
    assert "give the folder that it lies in" in line_of(tmp_path / "text.txt")
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    assert "give the folder that it lies in" in line_of(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "last.ckpt"])
@pytest.mark.parametrize("config", [GPT2, {"architectures": []}, None])
def test_pickles_are_never_opened(tmp_path: Path, name: str, config: Any) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / name)
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    assert "convert it with safetensors" in line_of(tmp_path)
    assert "got a pickle" in line_of(tmp_path / name)
    (tmp_path / name).rename(tmp_path / "weights")
    assert "got a pickle" in line_of(tmp_path / "weights")


def test_folders_of_theirs_that_are_not_whole(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "one", GPT2)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    assert "download the model again" in line_of(path)
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "Git LFS" in line_of(path)
    weights.unlink()
    assert "no model.safetensors in" in line_of(path)
    for wrong in ("{", "[]", "\udcff"):
        (path / "config.json").write_text(wrong, errors="surrogateescape")
        assert "config.json: " in line_of(path)


def test_runs_that_cannot_be_used(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert "no checkpoint yet in" in line_of(run)
    folders = [write_checkpoint(run / "checkpoints" / f"step-{at}", at) for at in (1, 2)]
    (folders[1] / "model.safetensors").write_bytes(b"")
    assert f"the one before is {folders[0]}" in line_of(run)
    shutil.rmtree(folders[0])
    assert "use an earlier checkpoint" in line_of(run)


# Safetensors that lie ---------------------------------------------------------------------------


def lying(header: bytes | dict[str, Any], length: int | None = None, data: bytes = b"") -> bytes:
    """A safetensors file of a header, its length as announced, and data."""
    if isinstance(header, dict):
        header = json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def tensor(shape: list[int], ends: list[int], kind: str = "F32") -> dict[str, Any]:
    """A header of one tensor."""
    return {"wte.weight": {"dtype": kind, "shape": shape, "data_offsets": ends}}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        lying(b"{}", 2**63),
        lying(b"{}", 2**40),
        lying(b"{}", 3),
        lying(b"{" * 100_000),
        lying(b"[]"),
        lying(b"\xff\xfe"),
        lying(tensor([2, 2], [0, 16])),
        lying(tensor([2**32, 2**32], [0, 0])),
        lying(tensor([2**62, 2**62], [0, 16]), data=bytes(16)),
        lying(tensor([2**63], [0, 16]), data=bytes(16)),
        lying(tensor([2, 2], [0, 2**63]), data=bytes(16)),
        lying(tensor([2, 2], [16, 0]), data=bytes(16)),
        lying(tensor([2, 2], [-16, 0]), data=bytes(16)),
        lying(tensor([2, 2], [0, 16], "F99"), data=bytes(16)),
        lying(tensor([4, 2], [0, 16]), data=bytes(16)),
        lying({**tensor([2], [0, 8]), "wpe.weight": tensor([2], [4, 12])["wte.weight"]},
              data=bytes(12)),
    ],
)  # fmt: skip
def test_safetensors_that_lie(tmp_path: Path, data: bytes) -> None:
    path = write_folder(tmp_path, GPT2)
    (path / "model.safetensors").write_bytes(data)
    tracemalloc.start()
    assert len(line_of(path)) < 1000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize("size", [10**12, 2**62, 10**30])
def test_configs_of_theirs_that_lie(tmp_path: Path, size: int) -> None:
    for family in PLAIN:
        path = write_folder(tmp_path / family, PLAIN[family])
        for name, value in PLAIN[family].items():
            if isinstance(value, int):
                (path / "config.json").write_text(json.dumps({**PLAIN[family], name: size}))
                assert len(line_of(path)) < 600


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damage_anywhere_is_one_line_or_a_load(tmp_path: Path, name: str, full: bool) -> None:
    path = write_folder(tmp_path, LLAMA)
    whole = (path / name).read_bytes()
    end = whole.index(b"}}") + 12 if b"}}" in whole else len(whole)
    rng = np.random.default_rng(3)
    loads = 0
    tracemalloc.start()
    for _ in range(2000 if full else 200):
        data = bytearray(whole)
        data[rng.integers(end if rng.random() < 0.8 else len(data))] ^= 1 << rng.integers(8)
        if rng.random() < 0.1:
            del data[rng.integers(len(data)) :]
        (path / name).write_bytes(data)
        try:
            load_model(path)
            loads += 1
        except CheckpointError as error:
            if "\n" in str(error):
                pytest.fail(str(error))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6
    assert loads > 0
