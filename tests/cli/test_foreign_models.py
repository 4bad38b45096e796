"""Models from elsewhere on the command line: GGUF, nanoGPT, and what runs in `transformers`."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as Engine
from tokenizers.decoders import WordPiece as WordPieceDecoder
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing
from torch.nn.functional import cross_entropy

from qkv.lens import capture
from qkv.models.foreign import load_any
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


# In transformers ---------------------------------------------------------------------------------


def published(folder: Path, name: str, **settings: Any) -> tuple[Path, Any]:
    """A small random model of `transformers` with a tokenizer of words, and the model itself."""
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    sizes = {"vocab_size": 31, "hidden_size": 30, "intermediate_size": 41, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 3, "max_position_embeddings": 23}
    model_class = getattr(transformers, name)
    torch.manual_seed(3)
    model = model_class(model_class.config_class(**sizes, **settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # patterns far from uniform
                parameter.mul_(12)
    model.save_pretrained(folder)
    words = ["[UNK]", "[CLS]", "[SEP]", *"abcdefgh", *(f"##{letter}" for letter in "abcdefgh")]
    engine = Engine(WordPiece({word: at for at, word in enumerate(words)}))
    engine.pre_tokenizer = BertPreTokenizer()
    engine.decoder = WordPieceDecoder()
    engine.post_processor = BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    engine.save(str(folder / "tokenizer.json"))
    return folder, model


GROUPED = {"num_key_value_heads": 1, "head_dim": 10}
KINDS: dict[str, dict[str, Any]] = {
    "Qwen3ForCausalLM": GROUPED,
    "Gemma3ForCausalLM": {
        **GROUPED,
        "sliding_window": 5,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "BertForMaskedLM": {},
}


@pytest.mark.parametrize("name", KINDS)
def test_inspect_by_transformers(name: str, command: Command, tmp_path: Path) -> None:
    folder, model = published(tmp_path / "one", name, **KINDS[name])
    text = "abc cab fed gab had"
    ended = command("inspect", folder, "--text", text, "--head", 1, "--layer", 0, "--json")
    assert (ended.code, ended.err) == (0, "")
    told = json.loads(ended.out)
    shown = ["[CLS]", "a", "##b", "##c", "c", "##a", "##b", "f", "##e", "##d", "g", "##a", "##b"]
    assert told["tokens"] == [*shown, "h", "##a", "##d", "[SEP]"]
    words = Engine.from_file(str(folder / "tokenizer.json"))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(torch.tensor([words.encode(text).ids]), output_attentions=True)
    eager = output.attentions[0][0, 1].double().numpy()
    assert told["chosen"]["name"] == "L0H1"
    assert told["chosen"]["received"] == pytest.approx(eager.sum(0), abs=1e-5)
    loaded = load_any(folder)
    with torch.inference_mode(), capture() as trace:
        loaded.model(torch.tensor([words.encode(text).ids]))
    for layer, weights in enumerate(output.attentions):
        for head in range(3):
            found = trace[layer, head].pattern()
            np.testing.assert_allclose(found, weights[0, head].numpy(), atol=1e-6)
    ended = command("inspect", folder, "--text", text)
    assert (ended.code, ended.err) == (0, "")
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    assert f" · {kind} in transformers, " in ended.out
    assert "2 layers, 6 heads · 17 tokens of the text" in ended.out


def test_ablate_by_transformers(command: Command, tmp_path: Path) -> None:
    folder, model = published(tmp_path / "one", "Qwen3ForCausalLM", **GROUPED)
    text = "abc cab fed gab had"
    ended = command("ablate", folder, "L1H2", "--text", text, "--json")
    assert (ended.code, ended.err) == (0, "")
    told = json.loads(ended.out)
    words = Engine.from_file(str(folder / "tokenizer.json"))
    ids = torch.tensor([words.encode(text).ids])

    def loss() -> float:
        with torch.no_grad():
            return float(cross_entropy(model(ids).logits[0, :-1], ids[0, 1:]))

    assert told["loss_before"] == pytest.approx(loss(), abs=1e-5)
    with torch.no_grad():  # by hand: what the head adds comes through these columns alone
        model.model.layers[1].self_attn.o_proj.weight[:, 20:30] = 0
    assert told["loss_after"] == pytest.approx(loss(), abs=1e-5)
    ended = command("ablate", folder, "--all", "--text", text)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("L0H") == ended.out.count("L1H") == 3
    (tmp_path / "long.txt").write_text(text * 40, encoding="utf-8")
    ended = command("ablate", folder, "L0", "--file", tmp_path / "long.txt", "--tokens", 60)
    assert "in 2 windows of 23" in ended.out


def test_one_line_for_what_transformers_cannot(command: Command, tmp_path: Path) -> None:
    def line(*arguments: str | Path) -> str:
        ended = command(*arguments)
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.startswith("qkv: got ")
        assert ended.err.count("\n") == 1
        return str(ended.err)

    bert, _ = published(tmp_path / "bert", "BertForMaskedLM")
    assert "predicts no next token" in line("ablate", bert, "L0", "--text", "abc")
    qwen, _ = published(tmp_path / "qwen", "Qwen3ForCausalLM", **GROUPED)
    for name in ("inspect", "ablate"):
        more = ["L0"] if name == "ablate" else []
        long = line(name, qwen, *more, "--text", "abcd " * 9)
        assert "at most the model's context, 23" in long
        assert "no text to read" in line(name, qwen, *more)
    for name in ("sample", "eval", "prove"):
        more = ["--prompt", "a"] if name == "sample" else ["--data", "-"]
        assert "model_type='qwen3'" in line(name, qwen, *more)
    (qwen / "tokenizer.json").rename(tmp_path / "words.json")
    assert "with --tokenizer" in line("inspect", qwen, "--text", "abc")
    ended = command("inspect", qwen, "--text", "abc", "--tokenizer", tmp_path / "words.json")
    assert ended.code == 0
    (qwen / "model.safetensors").rename(qwen / "model.bin")
    assert "got a pickle" in line("inspect", qwen, "--text", "abc")
