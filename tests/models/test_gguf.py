"""Llama and GPT-2 from GGUF files: what `transformers` computes from the same numbers."""

from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qkv.errors import CheckpointError
from qkv.models import Transformer
from qkv.models.gguf import config_from_gguf, load_gguf, unpermute
from qkv.models.gguf_file import GGUFFile, Stored

from .conftest import scramble, tokens
from .gguf_writing import dequantised, interleaved, write_gguf, written_llama

gguf = pytest.importorskip("gguf", reason="GGUF files need the extra `gguf`")

TOLERANCE = 1e-5
"""Largest difference of a logit allowed, in float32 on the CPU; logits are about 1 to 10."""

LLAMA: dict[str, Any] = {
    "vocab_size": 97,
    "max_position_embeddings": 31,
    "hidden_size": 30,
    "intermediate_size": 37,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "rms_norm_eps": 1e-3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    "tie_word_embeddings": False,
}
GPT2: dict[str, Any] = {
    "vocab_size": 97,
    "n_positions": 31,
    "n_embd": 35,
    "n_layer": 3,
    "n_head": 5,
    "layer_norm_epsilon": 1e-3,
}
BLOCKS = {"hidden_size": 96, "intermediate_size": 64, "head_dim": 32, "num_attention_heads": 6}
"""Sizes that blocks of 32 numbers divide."""


def their_llama(transformers: Any, **settings: Any) -> Any:
    return scramble(transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA | settings)))


def their_gpt2(transformers: Any, **settings: Any) -> Any:
    return scramble(transformers.GPT2LMHeadModel(transformers.GPT2Config(**GPT2 | settings)))


def largest_difference(mine: nn.Module, their: nn.Module, ids: Tensor) -> float:
    with torch.no_grad():
        found, wanted = mine(ids), their(ids).logits
    assert found.shape == wanted.shape
    assert wanted.std() > 0.1
    return float((found - wanted).abs().max())


def line_of(path: Path) -> str:
    """The one line with which loading fails."""
    with pytest.raises(CheckpointError) as caught:
        load_gguf(path)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 600
    assert caught.value.remedy
    return line


# What loads -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tie_word_embeddings": True, "num_key_value_heads": 6},
        {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
    ],
    ids=["plain", "tied", "biases"],
)
def test_llama_equals_transformers(
    transformers: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    their = their_llama(transformers, **settings)
    path = write_gguf(tmp_path / "x.gguf", their.state_dict(), their.config)
    before = torch.random.get_rng_state()
    loaded = load_gguf(path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert isinstance(loaded.model, Transformer)
    assert not loaded.model.training
    assert (loaded.path, loaded.tokenizer, loaded.step) == (path, None, 0)
    ids = tokens(3, loaded.config.context, loaded.config.vocab)
    assert largest_difference(loaded.model, their, ids) < TOLERANCE


@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": False, "n_inner": 41}])
def test_gpt2_equals_transformers(
    transformers: Any, tmp_path: Path, settings: dict[str, Any]
) -> None:
    their = their_gpt2(transformers, **settings)
    loaded = load_gguf(write_gguf(tmp_path / "x.gguf", their.state_dict(), their.config))
    ids = tokens(3, loaded.config.context, loaded.config.vocab)
    assert largest_difference(loaded.model, their, ids) < TOLERANCE


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
def test_quantised_weights_are_what_they_stand_for(
    transformers: Any, tmp_path: Path, kind: str
) -> None:
    their = their_llama(transformers, **BLOCKS)
    exact = their.state_dict()
    path = write_gguf(tmp_path / "x.gguf", exact, their.config, kind=kind)
    loaded = load_gguf(path)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 3)
    stored, rounded = dequantised(path), {}
    for name, tensor in exact.items():
        rows = stored[names.get_name(name, try_suffixes=(".weight",))]
        for part, heads in (("q_proj", 6), ("k_proj", 2)):
            if part in name:
                # Where each row came from, so that it can be put back.
                origin = interleaved(np.arange(len(rows)), heads)
                rows = rows[np.argsort(origin)]
        assert rows.shape == tensor.shape
        rounded[name] = rows
    assert any(not torch.equal(rounded[name], exact[name]) for name in exact)
    their.load_state_dict(rounded)
    ids = tokens(3, loaded.config.context, loaded.config.vocab)
    assert largest_difference(loaded.model, their, ids) < TOLERANCE


def test_rows_of_q_and_k_are_put_back() -> None:
    rows = np.random.default_rng(1).standard_normal((5 * 14, 3))
    back = unpermute(torch.from_numpy(interleaved(rows, 5)), 14)
    assert torch.equal(back, torch.from_numpy(rows))


def test_its_tokenizer_and_another(transformers: Any, tmp_path: Path) -> None:
    path = written_llama(transformers, tmp_path / "x.gguf")
    loaded = load_gguf(path)
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.size == 300
    text = "the cat's hat\n\n  and 12 mats<|end|>"
    ids = loaded.tokenizer.encode(text)
    assert loaded.tokenizer.decode(ids) == text
    assert ids[-1] == 299
    assert loaded.model(torch.from_numpy(ids[:13])[None]).isfinite().all()
    from qkv.text import ByteTokenizer

    assert load_gguf(path, ByteTokenizer()).tokenizer == ByteTokenizer()


# What does not ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        ({"general.architecture": "mamba"}, "the architecture 'mamba'"),
        ({"general.architecture": ["llama"]}, "the architecture \"['llama']\""),
        ({"split.count": 2}, "one part of a model"),
        ({"llama.expert_count": 8}, "'llama.expert_count' = '8'"),
        ({"llama.attention.sliding_window": 4096}, "'llama.attention.sliding_window' = '4096'"),
        ({"llama.rope.scaling.type": "yarn"}, "'llama.rope.scaling.type' = 'yarn'"),
        ({"llama.rope.scaling.factor": 2.0}, "'llama.rope.scaling.factor' = '2.0'"),
        ({"llama.rope.dimension_count": 4}, "'llama.rope.dimension_count' = '4'"),
        ({"llama.attention.value_length": 4}, "'llama.attention.value_length' = '4'"),
        ({"llama.attention.causal": False}, "'llama.attention.causal' = 'False'"),
        ({"llama.vocab_size": 96}, "97 rows in token_embd.weight"),
        ({"llama.context_length": None}, "no llama.context_length in its metadata"),
        ({"llama.block_count": 2**31}, "2147483648 layers in 30 tensors"),
        ({"llama.block_count": 2}, "the tensor 'blk.2.attn_k.weight'"),
        ({"llama.block_count": 4}, "no tensor blk.3.attn_k.weight"),
        ({"llama.block_count": "3"}, "layers='3'"),
        ({"llama.attention.head_count": 5}, "2 key/value heads for 5 heads"),
        ({"llama.attention.head_count": [6, 6, 6]}, "heads=[6, 6, 6]"),
        ({"llama.attention.head_count": 0}, "heads=0"),
        ({"llama.attention.head_count_kv": 3}, "[60, 20, 20] rows in blk.0.attn_q.weight"),
        ({"llama.attention.layer_norm_rms_epsilon": -1.0}, "norm_eps=-1.0"),
        ({"llama.embedding_length": 2**31}, "sizes that its"),
        ({"llama.embedding_length": 29}, "blocks.0.attention.output.weight: (30, 60)"),
        ({"llama.feed_forward_length": 41}, "blocks.0.feed_forward.down.weight: (30, 37)"),
        ({"llama.context_length": 2**31}, "a context of 2147483648 tokens"),
        ({"llama.rope.freq_base": -1.0}, "rotary_theta=-1.0"),
    ],
)
def test_metadata_that_we_cannot_honour(
    transformers: Any, tmp_path: Path, extra: dict[str, Any], line: str
) -> None:
    their = their_llama(transformers)
    path = write_gguf(tmp_path / "x.gguf", their.state_dict(), their.config, extra=extra)
    assert line in line_of(path)


@pytest.mark.parametrize(
    ("name", "tensor", "line"),
    [
        ("token_embd.weight", None, "no tensor token_embd.weight"),
        ("blk.1.ffn_up.weight", None, "no tensor blk.1.ffn_up.weight"),
        ("rope_freqs.weight", torch.ones(5), "the tensor 'rope_freqs.weight' (5,)"),
        ("blk.1.attn_q.weight", torch.ones(30, 30), "[30, 20, 20] rows in blk.1.attn_q.weight"),
        ("blk.1.attn_q.weight", torch.ones(60, 31), "[60, 20, 20] rows in blk.1.attn_q.weight"),
        ("blk.1.attn_q.bias", torch.ones(60), "the tensor 'blk.1.attn_q.bias'"),
        ("blk.0.attn_q.bias", torch.ones(60), "no tensor blk.0.attn_k.bias"),
        ("output_norm.weight", torch.tensor([float("nan")] * 30), "infinite or none"),
        ("output_norm.weight", torch.ones(30, 1), "norm.weight: (30, 1)"),
    ],
)
def test_tensors_that_do_not_fit(  # noqa: PLR0917
    transformers: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    tensor: Tensor | None,
    line: str,
) -> None:
    their = their_llama(transformers)
    add = gguf.GGUFWriter.add_tensor

    def others(self: Any, own_name: str, *rest: Any, **named: Any) -> None:
        if own_name != name:
            add(self, own_name, *rest, **named)

    path = tmp_path / "x.gguf"
    with monkeypatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "add_tensor", others)
        write = gguf.GGUFWriter.write_header_to_file

        def with_another(self: Any) -> None:
            if tensor is not None:
                add(self, name, tensor.numpy())
            write(self)

        patch.setattr(gguf.GGUFWriter, "write_header_to_file", with_another)
        write_gguf(path, their.state_dict(), their.config)
    assert line in line_of(path)


def test_a_model_for_another_tokenizer(transformers: Any, tmp_path: Path) -> None:
    their = their_llama(transformers)
    extra = {"tokenizer.ggml.tokens": ["a", "b"]}
    path = write_gguf(tmp_path / "x.gguf", their.state_dict(), their.config, extra=extra)
    assert "a tokenizer of 2 tokens beside a model of 97" in line_of(path)


def test_without_the_package(
    transformers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    their = their_llama(transformers, **BLOCKS)
    paths = {
        kind: write_gguf(tmp_path / f"{kind}.gguf", their.state_dict(), their.config, kind=kind)
        for kind in ("F32", "F16", "Q8_0")
    }
    for module in [name for name in sys.modules if name.partition(".")[0] == "gguf"]:
        monkeypatch.setitem(sys.modules, module, None)
    assert "pip install 'qkv[gguf]'" in line_of(paths["Q8_0"])
    for plain in ("F32", "F16"):  # of these nothing has to be undone
        assert load_gguf(paths[plain]).model(torch.zeros(1, 3, dtype=torch.long)).isfinite().all()


def test_a_config_is_read_without_the_weights() -> None:
    metadata = {
        "general.architecture": "gpt2",
        "gpt2.context_length": 7,
        "gpt2.block_count": 2,
        "gpt2.embedding_length": 15,
        "gpt2.feed_forward_length": 41,
        "gpt2.attention.head_count": 3,
        "gpt2.attention.head_count_kv": 3,
        "gpt2.attention.layer_norm_epsilon": 1e-5,
    }
    table = {"token_embd.weight": Stored((11, 15), 0, 0, 660)}
    config = config_from_gguf(GGUFFile(Path("x.gguf"), metadata, table))
    assert (config.vocab, config.context, config.layers, config.hidden) == (11, 7, 2, 41)
    assert (config.positions, config.norm, config.activation) == ("learned", "layer", "gelu_tanh")
    assert config.tied
    metadata["gpt2.attention.head_count_kv"] = 1
    with pytest.raises(CheckpointError, match="head_count_kv' = '1'"):
        config_from_gguf(GGUFFile(Path("x.gguf"), metadata, table))


@pytest.mark.slow
def test_damage_anywhere_is_one_line_or_a_load(
    transformers: Any, tmp_path: Path, full: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = written_llama(transformers, tmp_path / "x.gguf").read_bytes()
    end = whole.index(b"output_norm.weight") + 60
    rng = np.random.default_rng(5)
    path, lines, loads = tmp_path / "y.gguf", set(), 0
    tracemalloc.start()
    try:
        for _ in range(3000 if full else 300):
            data = bytearray(whole)
            for _ in range(rng.integers(1, 4)):
                # Mostly in the header: damaged weights are numbers still.
                at = rng.integers(end if rng.random() < 0.9 else len(data))
                data[at] ^= 1 << rng.integers(8)
            if rng.random() < 0.2:
                del data[rng.integers(len(data)) :]
            path.write_bytes(data)
            try:
                load_gguf(path)
                loads += 1
            except CheckpointError as error:
                lines.add(str(error).replace(str(path), "x.gguf"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300e6
    assert loads > 10
    assert len({line[:40] for line in lines}) > 20
    assert all("\n" not in line and len(line) < 600 for line in lines)
    assert "panicked" not in capfd.readouterr().err
