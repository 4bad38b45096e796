"""Models in `transformers`: the numbers are theirs, silence, and one line for what can't be."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Engine
from tokenizers import models, pre_tokenizers, processors

from qkv.errors import CheckpointError, QkvError, ResourceError
from qkv.models import Transformer
from qkv.models.foreign import load_any
from qkv.models.loading import load_model
from qkv.text import BPETokenizer, CharTokenizer, train_tokenizer

from .conftest import GPT2, scramble, tokens, write_folder

SMALL = {
    "vocab_size": 301, "hidden_size": 30, "intermediate_size": 41, "num_hidden_layers": 2,
    "num_attention_heads": 3, "max_position_embeddings": 37,
}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 1, "head_dim": 10}
NEOX = {**SMALL, "bos_token_id": 1, "eos_token_id": 2}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3ForCausalLM", GROUPED),
    "gemma3_text": (
        "Gemma3ForCausalLM",
        {**GROUPED, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "gemma2": ("Gemma2ForCausalLM", {**GROUPED, "attn_logit_softcapping": 0.3}),
    "mistral": ("MistralForCausalLM", {**GROUPED, "sliding_window": 7}),
    "phi": ("PhiForCausalLM", {**SMALL, "hidden_size": 24}),
    "gpt_neox": ("GPTNeoXForCausalLM", NEOX),
    "bert": ("BertForMaskedLM", SMALL),
    "roberta": ("RobertaForMaskedLM", {**SMALL, "pad_token_id": 1}),
}


def build(transformers: Any, folder: Path, kind: str) -> tuple[Path, Any]:
    """A small random model as it is published, and the model itself."""
    name, settings = KINDS[kind]
    model_class = getattr(transformers, name)
    model = scramble(model_class(model_class.config_class(**settings)))
    model.save_pretrained(folder)
    return folder, model


def words(path: Path) -> Path:
    """A tokenizer of whole words, which puts "[CLS]" before a text."""
    engine = Engine(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "one": 2, "two": 3}, "[UNK]"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    engine.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 1)]
    )
    engine.save(str(path / "tokenizer.json"))
    return path


def line_of(path: Path, tokenizer: Path | None = None) -> str:
    """The one line with which loading fails."""
    with pytest.raises(QkvError) as caught:
        load_any(path, tokenizer)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 600
    return line


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_what_its_authors_code_computes(
    transformers: Any, tmp_path: Path, kind: str
) -> None:
    path, their = build(transformers, tmp_path, kind)
    their.set_attn_implementation("eager")
    before = torch.get_rng_state()
    loaded = load_any(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert not loaded.model.training
    assert all(each.dtype is torch.float32 for each in loaded.model.parameters())
    assert loaded.context == (37 if kind != "roberta" else 35)
    assert (loaded.vocab, loaded.layers, loaded.heads) == (301, 2, 3)
    assert (loaded.made_by, loaded.step) == (f"{kind} in transformers", 0)
    assert loaded.tokenizer is None
    ids = tokens(1, loaded.context, 301)
    with torch.no_grad():
        if loaded.causal:
            torch.testing.assert_close(
                loaded.model(ids).logits, their(ids).logits, atol=1e-5, rtol=0
            )
        else:
            ours = loaded.model(ids).last_hidden_state
            base = their.base_model(ids).last_hidden_state
            torch.testing.assert_close(ours, base, atol=1e-5, rtol=0)
    assert loaded.causal == (kind not in ("bert", "roberta"))


def test_half_precision_becomes_float32(transformers: Any, tmp_path: Path) -> None:
    path, their = build(transformers, tmp_path, "gemma3_text")
    their.to(torch.bfloat16).save_pretrained(path)
    loaded = load_any(path)
    again = dict(their.named_parameters())
    for name, weight in loaded.model.named_parameters():
        assert weight.dtype is torch.float32
        assert torch.equal(weight, again[name].float())
    # The scale of the embedding too, which is rounded where a model is built in bfloat16.
    ids = tokens(1, 11, 301)
    exact = (
        loaded.model.get_input_embeddings()(ids) / loaded.model.get_input_embeddings().weight[ids]
    )
    torch.testing.assert_close(exact, torch.full_like(exact, 30**0.5), atol=1e-4, rtol=0)


def test_what_is_ours_stays_ours(transformers: Any, tmp_path: Path) -> None:
    path = write_folder(tmp_path / "ours", GPT2)
    loaded = load_any(path)
    assert isinstance(loaded.model, Transformer)
    assert (loaded.context, loaded.vocab, loaded.layers, loaded.heads) == (13, 300, 2, 3)
    assert (loaded.made_by, loaded.causal, loaded.tokenizer) == ("", True, None)
    # A tokenizer that isn't spelt in bytes does for looking.
    found = load_any(words(path)).tokenizer
    assert found is not None
    assert found.encode("two one").tolist() == [1, 3, 2]
    # A setting of GPT-2 that our Transformer doesn't have.
    settings = {**GPT2, "scale_attn_by_inverse_layer_idx": True}
    (path / "config.json").write_text(json.dumps(settings))
    assert load_any(path).made_by == "gpt2 in transformers"
    with pytest.raises(CheckpointError, match="scale_attn_by_inverse_layer_idx"):
        load_model(path)


def test_tokenizers_of_every_kind(transformers: Any, tmp_path: Path) -> None:
    path, _ = build(transformers, tmp_path / "one", "qwen3")
    data = train_tokenizer("bpe", "the cat sat on the mat " * 5, size=270).to_json()
    (path / "tokenizer.json").write_text(json.dumps(data["model"]))
    assert isinstance(load_any(path).tokenizer, BPETokenizer)
    found = load_any(words(path)).tokenizer
    assert found is not None
    assert found.encode("one").tolist() == [1, 2]
    (path / "tokenizer.json").write_text("{")
    assert "tokenizer.json: " in line_of(path)
    own = tmp_path / "own.json"
    own.write_text(json.dumps(CharTokenizer("xyz").to_json()))
    assert load_any(path, own).tokenizer == CharTokenizer("xyz")
    assert load_any(path, words(tmp_path)).tokenizer is not None
    large = tmp_path / "large.json"
    large.write_text(json.dumps(CharTokenizer("".join(map(chr, range(64, 400)))).to_json()))
    assert "a tokenizer of 336 tokens beside a model of 301" in line_of(path, large)
    assert "no file at" in line_of(path, tmp_path / "none")


def test_transformers_is_silent_and_left_as_it_was(
    transformers: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, _ = build(transformers, tmp_path, "bert")  # lacks a pooler: a report would be printed
    logger = logging.getLogger("transformers")
    talk, hub = transformers.utils.logging, sys.modules["huggingface_hub.utils"]
    talk.enable_progress_bar()
    logger.setLevel(logging.INFO)
    filters = list(warnings.filters)
    capfd.readouterr()
    load_any(path)
    assert capfd.readouterr() == ("", "")
    assert logger.level == logging.INFO
    assert talk.is_progress_bar_enabled()
    assert not hub.are_progress_bars_disabled()
    talk.disable_progress_bar()
    (path / "model.safetensors").unlink()
    save_file({"a": torch.ones(900, 900)}, path / "model.safetensors", {"format": "pt"})
    line_of(path)
    assert not talk.is_progress_bar_enabled()
    assert hub.are_progress_bars_disabled()
    assert list(warnings.filters) == filters


def test_without_transformers(
    transformers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = build(transformers, tmp_path, "qwen3")
    for name in [each for each in sys.modules if each.partition(".")[0] == "transformers"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ResourceError, match=r"pip install 'qkv\[hf\]'"):
        load_any(path)
    with pytest.raises(CheckpointError, match="one of gpt2, llama"):
        load_model(path)


# What can't be loaded ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model_type": "not-known"}, "model_type='not-known' in"),
        ({"model_type": "x", "auto_map": {"AutoModel": "m.M"}}, "brings its own code"),
        ({"model_type": "vit"}, "expected a model that reads a text"),
        ({"model_type": "t5"}, "an encoder with a decoder"),
        ({"model_type": "bart"}, "an encoder with a decoder"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantised weights"),
        ({"transformers_weights": "other.bin"}, "transformers_weights in"),
        ({"hidden_size": 10**12}, "weights can't fill"),
        ({"vocab_size": 10**30}, "config.json: "),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers of 1000000000 for 25 tensors"),
        ({"max_position_embeddings": 10**12}, "a context of"),
        ({"num_hidden_layers": 3, "layer_types": None}, "among the weights"),
        ({"hidden_size": 29}, "which transformers can't run"),
        ({"num_attention_heads": "three"}, "config.json: "),
        ({"num_attention_heads": 0}, "which transformers can't run"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": "x"}}, "can't run"),
        ({"hidden_act": "exp"}, "which transformers can't run"),
    ],
)  # fmt: skip
def test_configs_that_cannot_be_honoured(
    transformers: Any, tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    path, _ = build(transformers, tmp_path, "qwen3")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | settings))
    assert says in line_of(path)


def test_code_in_a_folder_is_never_run(transformers: Any, tmp_path: Path) -> None:
    path, _ = build(transformers, tmp_path, "qwen3")
    config = json.loads((path / "config.json").read_text())
    theirs = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (path / "config.json").write_text(json.dumps({**config, "auto_map": theirs}))
    (path / "evil.py").write_text("raise SystemExit('run')\n")
    assert load_any(path).made_by == "qwen3 in transformers"  # by the code of transformers


def test_weights_that_cannot_be_used(transformers: Any, tmp_path: Path) -> None:
    path, _ = build(transformers, tmp_path / "one", "qwen3")
    file = path / "model.safetensors"
    whole = file.read_bytes()
    state = {name: weight.clone() for name, weight in load_file(file).items()}  # no mapped file
    for damaged in (b"", whole[:-9], b"\xff" * 64):
        file.write_bytes(damaged)
        assert "download the model again" in line_of(path)
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "Git LFS" in line_of(path)
    name = "model.layers.1.mlp.up_proj.weight"
    for change, says in (
        (state[name].to(torch.int8), f"{name} as I8"),
        (state[name].clone().fill_(torch.nan), "infinite or none"),
        (state[name][:-1].clone(), "which transformers can't run"),
    ):
        save_file({**state, name: change}, file, {"format": "pt"})
        assert says in line_of(path)
    (path / "adapter_config.json").write_text("{}")
    assert "an adapter in" in line_of(path)
    (path / "adapter_config.json").unlink()
    file.unlink()
    assert "no model.safetensors in" in line_of(path)
    torch.save(state, path / "pytorch_model.bin")
    assert "got a pickle at" in line_of(path)
    (path / "config.json").write_text("{")
    assert "config.json: " in line_of(path)


def test_nothing_is_fetched(
    transformers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    path, _ = build(transformers, tmp_path / "one", "gemma3_text")

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    (path / "chat_template.jinja").write_text("{{ 1 / 0 }}")
    load_any(path)
    shutil.rmtree(path)
    assert "nothing at" in line_of(path)
