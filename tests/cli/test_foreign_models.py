"""Models from elsewhere on the command line: GGUF files and nanoGPT's checkpoints."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from qkv.text import ByteTokenizer

SIZES = {"vocab_size": 61, "block_size": 32, "n_layer": 1, "n_embd": 24, "n_head": 2}
LETTERS = "abcdefgh \n"

Command = Callable[..., Any]


@pytest.fixture
def nanogpt(tmp_path: Path) -> Path:
    """A folder as nanoGPT writes it, without `meta.pkl`."""
    D = SIZES["n_embd"]
    shapes = {"wte": (61, D), "wpe": (32, D), "ln_f": (D,), "h.0.ln_1": (D,), "h.0.ln_2": (D,)}
    shapes |= {"h.0.attn.c_attn": (3 * D, D), "h.0.attn.c_proj": (D, D)}
    shapes |= {"h.0.mlp.c_fc": (4 * D, D), "h.0.mlp.c_proj": (D, 4 * D)}
    generator = torch.Generator().manual_seed(1)
    state = {
        f"transformer.{name}.weight": torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }
    folder = tmp_path / "out"
    folder.mkdir()
    data = {"model": state, "model_args": {**SIZES, "bias": False}, "iter_num": 5}
    torch.save(data, folder / "ckpt.pt")
    return folder


@pytest.fixture
def letters(tmp_path: Path) -> Path:
    """The characters of a text, as nanoGPT writes them."""
    path = tmp_path / "letters.pkl"
    itos = dict(enumerate(LETTERS))
    path.write_bytes(pickle.dumps({"itos": itos, "stoi": {b: a for a, b in itos.items()}}))
    return path


def small_gguf(path: Path, **others: str) -> Path:
    """A GPT-2 of one layer, written by hand, whose logits are zero: the lowest id is likeliest."""
    D, words = 8, [chr(256 + at) for at in range(33)]
    words += [chr(at) for at in [*range(33, 127), *range(161, 173), *range(174, 256)]]
    words += [chr(256 + at) for at in range(33, 68)]

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def strings(values: list[str]) -> bytes:
        return struct.pack("<IQ", 8, len(values)) + b"".join(map(text, values))

    entries = [
        (name, 8, text(value))
        for name, value in {
            "general.architecture": "gpt2",
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "gpt-2",
            **{name.replace("_", "."): value for name, value in others.items()},
        }.items()
    ]
    sizes = {"context_length": 16, "block_count": 1, "embedding_length": D}
    sizes |= {"feed_forward_length": 12, "attention.head_count": 2}
    entries += [(f"gpt2.{name}", 4, struct.pack("<I", size)) for name, size in sizes.items()]
    entries += [("gpt2.attention.layer_norm_epsilon", 6, struct.pack("<f", 1e-5))]
    entries += [("tokenizer.ggml.tokens", 9, strings(words))]
    entries += [("tokenizer.ggml.merges", 9, strings([]))]
    shapes = {"token_embd.weight": (256, D), "position_embd.weight": (16, D)}
    for name, rows, columns in (
        ("blk.0.attn_qkv", 3 * D, D),
        ("blk.0.attn_output", D, D),
        ("blk.0.ffn_up", 12, D),
        ("blk.0.ffn_down", D, 12),
    ):
        shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        shapes |= {f"{name}.weight": (D,), f"{name}.bias": (D,)}
    header = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(entries))
    header += b"".join(
        text(name) + struct.pack("<I", kind) + value for name, kind, value in entries
    )
    offset = 0
    for name, shape in shapes.items():
        axes = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        header += text(name) + axes + struct.pack("<IQ", 0, offset)
        offset += 4 * int(torch.tensor(shape).prod())
    path.write_bytes(header + bytes(-len(header) % 32 + offset))
    return path


def test_a_gguf_file_writes_and_is_scored(command: Command, tmp_path: Path) -> None:
    path = small_gguf(tmp_path / "model.gguf")
    ended = command("sample", path, "--prompt", "naïve ☃", "--tokens", 3, "-t", 0)
    assert (ended.code, ended.out) == (0, "naïve ☃\0\0\0\n"), ended.err
    (tmp_path / "text.txt").write_text("some words, and some more words", encoding="utf-8")
    ended = command("eval", path, "--data", tmp_path / "text.txt", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["loss"] == pytest.approx(5.545177)  # ln 256
    assert "a text; name one with --data" in command("eval", path).err


def test_a_nanogpt_folder_with_a_tokenizer_named(
    command: Command, nanogpt: Path, letters: Path, tmp_path: Path
) -> None:
    ended = command("sample", nanogpt, "--prompt", "abc", "--tokens", 3)
    assert ended.code == 2
    assert "--tokenizer" in ended.err
    # Of the model's 61 ids ten have a character: the likeliest must be one of those.
    ended = command("eval", nanogpt, "--tokenizer", letters, "--data", "-", stdin="abc def\n" * 9)
    assert ended.code == 0, ended.err
    assert "in windows of 32" in ended.out
    (nanogpt / "meta.pkl").write_bytes(letters.read_bytes())
    assert command("eval", nanogpt, "--data", "-", stdin="abc def\n" * 9).code == 0


@pytest.mark.parametrize("name", ["sample", "eval"])
def test_one_line_for_what_cannot_be_used(
    name: str, command: Command, nanogpt: Path, letters: Path, tmp_path: Path
) -> None:
    def line(*arguments: str | Path) -> str:
        ended = command(name, *arguments)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.startswith("qkv: got ")
        assert ended.err.count("\n") == 1
        return str(ended.err)

    whole = small_gguf(tmp_path / "model.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:-1])
    assert "is cut off" in line(tmp_path / "cut.gguf")
    (tmp_path / "cut.gguf").write_bytes(whole[:300])
    line(tmp_path / "cut.gguf")
    assert "'mamba'" in line(small_gguf(tmp_path / "x.gguf", general_architecture="mamba"))
    assert "no tokenizer" in line(small_gguf(tmp_path / "x.gguf", tokenizer_ggml_model="llama"))
    assert "no file at" in line(nanogpt, "--tokenizer", tmp_path / "none")
    other = tmp_path / "bytes.json"
    other.write_text(json.dumps(ByteTokenizer().to_json()))
    assert "256 tokens beside a model of 61" in line(nanogpt, "--tokenizer", other)
    (nanogpt / "meta.pkl").write_bytes(pickle.dumps(print))
    assert "where plain values are expected" in line(nanogpt)
    (nanogpt / "ckpt.pt").write_bytes(pickle.dumps(print))
    assert "nanoGPT" in line(nanogpt, "--tokenizer", letters)
