"""GPT-2's and Llama's configs and names as ours, and a line for what we cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qkv.errors import CheckpointError
from qkv.models import Transformer, TransformerConfig
from qkv.models.checkpoint import load_weights
from qkv.models.huggingface import config_from_huggingface, weights_from_huggingface

from .conftest import GPT2, LLAMA, PLAIN, their_weights


def test_gpt2_settings_become_ours() -> None:
    config = config_from_huggingface(
        {**GPT2, "layer_norm_epsilon": 1e-3, "activation_function": "gelu", "n_inner": 7}
    )
    wanted = TransformerConfig(
        vocab=300,
        context=13,
        layers=2,
        width=15,
        heads=3,
        hidden=7,
        positions="learned",
        norm="layer",
        norm_eps=1e-3,
        activation="gelu",
        bias=True,
        qk_norm=False,
        tied=True,
        zero_init=False,
    )
    assert config == wanted
    assert config_from_huggingface({**GPT2, "scale_attn_weights": False}).scale == 1.0
    assert not config_from_huggingface({**GPT2, "tie_word_embeddings": False}).tied


def test_llama_settings_become_ours() -> None:
    more = {"num_key_value_heads": 1, "head_dim": 10, "rms_norm_eps": 1e-4, "rope_theta": 50.0}
    config = config_from_huggingface({**LLAMA, **more, "tie_word_embeddings": True})
    wanted = TransformerConfig(
        vocab=300,
        context=13,
        layers=2,
        width=18,
        heads=3,
        hidden=23,
        kv_heads=1,
        head_width=10,
        norm_eps=1e-4,
        rotary_theta=50.0,
        activation="swiglu",
        qk_norm=False,
        tied=True,
        zero_init=False,
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
def test_what_we_cannot_do_is_refused(family: str, more: dict[str, Any], line: str) -> None:
    data = {**PLAIN[family], **more}
    with pytest.raises(CheckpointError) as caught:
        config_from_huggingface(data)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all((caught.value.got, caught.value.expected, caught.value.remedy))


def test_names_with_and_without_prefix_and_old_buffers_are_read() -> None:
    config, bare = config_from_huggingface(GPT2), their_weights(GPT2)
    prefixed = {f"transformer.{name}": tensor for name, tensor in bare.items()}
    prefixed["transformer.h.0.attn.bias"] = torch.ones(1, 1, 13, 13).tril()
    prefixed["lm_head.weight"] = bare["wte.weight"]
    read = [weights_from_huggingface(state, config, "gpt2") for state in (bare, prefixed)]
    assert read[0].keys() == read[1].keys() == Transformer(config).state_dict().keys()
    assert all(torch.equal(read[0][name], read[1][name]) for name in read[0])


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
    family: str, name: str, tensor: torch.Tensor | None, line: str
) -> None:
    config = config_from_huggingface(PLAIN[family])
    weights = their_weights(PLAIN[family])
    if tensor is None:
        del weights[name]
    else:
        weights[name] = tensor
    with pytest.raises(CheckpointError) as caught:
        load_weights(
            Transformer(config), weights_from_huggingface(weights, config, family), Path("here")
        )
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
