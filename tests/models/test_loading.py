"""One entry for all that can be loaded, and one line for all that cannot; no `transformers`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from qkv.errors import CheckpointError
from qkv.models import RungConfig, Transformer, TransformerConfig, build_model, to_json
from qkv.models.checkpoint import save_checkpoint
from qkv.models.loading import config_from_huggingface, load_model, weights_from_huggingface
from qkv.text import CharTokenizer, train_tokenizer

GPT2: dict[str, Any] = {
    "model_type": "gpt2",
    "vocab_size": 300,
    "n_positions": 13,
    "n_embd": 15,
    "n_layer": 2,
    "n_head": 3,
}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 300,
    "max_position_embeddings": 13,
    "hidden_size": 18,
    "intermediate_size": 23,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
}
PLAIN = {"gpt2": GPT2, "llama": LLAMA}


def their_weights(data: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Random tensors under their names, as a config of defaults wants them."""
    if data["model_type"] == "gpt2":
        D, shapes = 15, {"wte.weight": (300, 15), "wpe.weight": (13, 15)}
        widths = {"attn.c_attn": (D, 3 * D), "attn.c_proj": (D, D)}
        widths |= {"mlp.c_fc": (D, 4 * D), "mlp.c_proj": (4 * D, D), "ln_1": (D,), "ln_2": (D,)}
        for layer in range(2):
            for name, shape in widths.items():
                shapes[f"h.{layer}.{name}.weight"] = shape
                shapes[f"h.{layer}.{name}.bias"] = shape[-1:]
        shapes |= {"ln_f.weight": (D,), "ln_f.bias": (D,)}
    else:
        D, shapes = 18, {"model.embed_tokens.weight": (300, 18), "lm_head.weight": (300, 18)}
        for layer in range(2):
            start = f"model.layers.{layer}."
            shapes |= {f"{start}self_attn.{name}_proj.weight": (D, D) for name in "qkvo"}
            shapes |= {f"{start}mlp.{name}_proj.weight": (23, D) for name in ("gate", "up")}
            shapes[f"{start}mlp.down_proj.weight"] = (D, 23)
            shapes |= {
                f"{start}{name}.weight": (D,)
                for name in ("input_layernorm", "post_attention_layernorm")
            }
        shapes["model.norm.weight"] = (D,)
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def write_folder(path: Path, data: dict[str, Any], **tensors: torch.Tensor) -> Path:
    """A Hugging Face folder with random weights."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(data))
    save_file({**their_weights(data), **tensors}, path / "model.safetensors")
    return path


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


def line_of(path: Path | str) -> str:
    """The one line with which loading fails."""
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
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


def test_names_with_and_without_prefix_and_old_buffers_are_read() -> None:
    config, bare = config_from_huggingface(GPT2), their_weights(GPT2)
    prefixed = {f"transformer.{name}": tensor for name, tensor in bare.items()}
    prefixed["transformer.h.0.attn.bias"] = torch.ones(1, 1, 13, 13).tril()
    prefixed["lm_head.weight"] = bare["wte.weight"]
    read = [weights_from_huggingface(state, config, "gpt2") for state in (bare, prefixed)]
    assert read[0].keys() == read[1].keys() == Transformer(config).state_dict().keys()
    assert all(torch.equal(read[0][name], read[1][name]) for name in read[0])


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


# What the configs mean --------------------------------------------------------------------------


def test_gpt2_settings_become_ours() -> None:
    config = config_from_huggingface(
        {**GPT2, "layer_norm_epsilon": 1e-3, "activation_function": "gelu", "n_inner": 7}
    )
    wanted = TransformerConfig(
        **{"vocab": 300, "context": 13, "layers": 2, "width": 15, "heads": 3, "hidden": 7},
        **{"positions": "learned", "norm": "layer", "norm_eps": 1e-3, "activation": "gelu"},
        **{"bias": True, "qk_norm": False, "tied": True, "zero_init": False},
    )
    assert config == wanted
    assert config_from_huggingface({**GPT2, "scale_attn_weights": False}).scale == 1.0
    assert not config_from_huggingface({**GPT2, "tie_word_embeddings": False}).tied


def test_llama_settings_become_ours() -> None:
    more = {"num_key_value_heads": 1, "head_dim": 10, "rms_norm_eps": 1e-4, "rope_theta": 50.0}
    config = config_from_huggingface({**LLAMA, **more, "tie_word_embeddings": True})
    wanted = TransformerConfig(
        **{"vocab": 300, "context": 13, "layers": 2, "width": 18, "heads": 3, "hidden": 23},
        **{"kv_heads": 1, "head_width": 10, "norm_eps": 1e-4, "rotary_theta": 50.0},
        **{"activation": "swiglu", "qk_norm": False, "tied": True, "zero_init": False},
    )
    assert config == wanted
    plain = config_from_huggingface(LLAMA)
    assert (plain.norm_eps, plain.rotary_theta, plain.tied) == (1e-6, 10_000.0, False)
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_scaling": None}
    assert config_from_huggingface({**LLAMA, **rope}).rotary_theta == 5e5


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
    ("gpt2", {"activation_function": "relu"}, "activation_function='relu'"),
    ("gpt2", {"n_head": 4}, "4 heads for width 15"),
    ("gpt2", {"n_head": None}, "no n_head"),
    ("gpt2", {"vocab_size": "300"}, "vocab='300'"),
    ("gpt2", {"layer_norm_epsilon": 0.0}, "norm_eps=0.0"),
    ("gpt2", {"tie_word_embeddings": None}, "tied=None"),
    ("gpt2", {"pruned_heads": {"0": [1]}}, "pruned_heads={'0': [1]}"),
    ("gpt2", {"quantization_config": {"bits": 4}}, "quantization_config={'bits': 4}"),
    ("gpt2", {"architectures": ["GPT2ForSequenceClassification"]}, "GPT2ForSequence"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling.type='linear'"),
    ("llama", {"rope_parameters": {"rope_type": "llama3"}}, "rope_type='llama3'"),
    ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
    ("llama", {"rope_parameters": {"factor": 8.0}}, "rope_parameters.factor=8.0"),
    ("llama", {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "rope_theta=[10000"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act='gelu'"),
    ("llama", {"attention_bias": True}, "mlp_bias=False"),
    ("llama", {"mlp_bias": True}, "mlp_bias=True"),
    ("llama", {"num_key_value_heads": 2}, "2 key/value heads for 3 heads"),
    ("llama", {"head_dim": 5}, "head width 5 with rotary"),
    ("llama", {"sliding_window": 5}, "sliding_window=5"),
    ("llama", {"auto_map": {"AutoModel": "code.py"}}, "auto_map="),
    ("llama", {"model_type": "mamba"}, "model_type='mamba'"),
    ("llama", {"model_type": None}, "model_type=None"),
]


@pytest.mark.parametrize(("family", "more", "line"), REFUSED)
def test_what_we_cannot_do_is_refused(
    tmp_path: Path, family: str, more: dict[str, Any], line: str
) -> None:
    data = {**PLAIN[family], **more}
    with pytest.raises(CheckpointError) as caught:
        config_from_huggingface(data)
    assert line in str(caught.value)
    (tmp_path / "config.json").write_text(json.dumps(data))
    assert line in line_of(tmp_path)


# Weights that do not fit ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "name", "tensor", "line"),
    [
        ("gpt2", "wpe.weight", None, "no wpe.weight"),
        ("gpt2", "lm_head.weight", torch.ones(300, 15), "lm_head.weight that differs"),
        ("gpt2", "score.weight", torch.ones(2, 15), "the tensor score.weight (2, 15)"),
        ("gpt2", "h.2.ln_1.weight", torch.ones(15), "the tensor h.2.ln_1.weight"),
        ("gpt2", "h.0.mlp.c_fc.weight", torch.ones(60, 15), "feed_forward.up.weight: (15, 60)"),
        ("gpt2", "wte.weight", torch.ones(300, 15, dtype=torch.int8), "as torch.int8"),
        ("llama", "lm_head.weight", None, "no lm_head.weight"),
        ("llama", "model.layers.0.self_attn.q_proj.bias", torch.ones(18), "q_proj.bias"),
        ("llama", "model.layers.1.self_attn.k_proj.weight", torch.ones(6, 18), "k_proj.weight: (6"),
        ("llama", "model.layers.1.self_attn.v_proj.weight", torch.ones(18, 7), "v_proj.weight: (1"),
        ("llama", "model.norm.weight", torch.ones(7), "norm.weight: (7,)"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    tmp_path: Path, family: str, name: str, tensor: torch.Tensor | None, line: str
) -> None:
    path = write_folder(tmp_path, PLAIN[family])
    weights = their_weights(PLAIN[family])
    if tensor is None:
        del weights[name]
    else:
        weights[name] = tensor
    save_file(weights, path / "model.safetensors")
    assert line in line_of(path)


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
