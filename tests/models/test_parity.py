"""Our Transformer against the GPT-2 and Llama of `transformers`: the same weights, the same logits.

Sizes are prime where they can be, so that a swapped axis breaks a shape; norms and biases are
random, so that a forgotten one changes the logits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkv.models import Transformer, TransformerConfig
from qkv.models.checkpoint import load_weights
from qkv.models.loading import config_from_huggingface, load_model, weights_from_huggingface

from .conftest import scramble, tokens

DRAWS = range(12)
TOLERANCE = 1e-5
"""Largest difference of a logit allowed, in float32 on the CPU; logits are about 1 to 10."""


def drawn_gpt2(seed: int) -> dict[str, Any]:
    """A GPT-2 config drawn from a seed."""
    rng = np.random.default_rng(seed)
    heads, head_width = int(rng.choice([1, 3, 5, 7])), int(rng.choice([5, 7, 11, 13]))
    return {
        "vocab_size": int(rng.choice([23, 53, 97, 131])),
        "n_positions": int(rng.choice([31, 67, 129])),
        "n_embd": heads * head_width,
        "n_layer": int(rng.integers(2, 5)),
        "n_head": heads,
        "n_inner": [None, 41, 83][seed % 3],
        "activation_function": ["gelu_new", "gelu", "gelu_pytorch_tanh"][seed % 3],
        "layer_norm_epsilon": float(rng.choice([1e-3, 1e-5, 1e-6])),
        "tie_word_embeddings": seed % 4 != 1,
        "scale_attn_weights": seed % 5 != 2,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def drawn_llama(seed: int) -> dict[str, Any]:
    """A Llama config drawn from a seed."""
    rng = np.random.default_rng(1000 + seed)
    groups, share = int(rng.choice([1, 2, 3])), int(rng.choice([1, 3, 5]))
    heads, head_width = groups * share, int(rng.choice([6, 10, 14]))
    return {
        "vocab_size": int(rng.choice([23, 53, 97, 131])),
        "max_position_embeddings": int(rng.choice([31, 67, 129])),
        "hidden_size": heads * int(rng.choice([7, head_width])),
        "intermediate_size": int(rng.choice([37, 59, 101])),
        "num_hidden_layers": int(rng.integers(2, 5)),
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": head_width,
        "rms_norm_eps": float(rng.choice([1e-3, 1e-5, 1e-6])),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": float(rng.choice([100.0, 10_000.0, 500_000.0])),
        },
        "tie_word_embeddings": seed % 2 == 1,
        "attention_bias": seed % 3 == 0,
        "mlp_bias": seed % 3 == 0,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def theirs(transformers: Any, family: str, settings: dict[str, Any]) -> nn.Module:
    """Their model of a config, with scrambled weights."""
    if family == "gpt2":
        return scramble(transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings)))
    return scramble(transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)))


def ours(their: Any) -> Transformer:
    """Our model with the weights of theirs."""
    data = their.config.to_dict()
    config = config_from_huggingface(data)
    model = Transformer(config)
    weights = weights_from_huggingface(their.state_dict(), config, data["model_type"])
    load_weights(model, weights, Path("memory"))
    return model.eval()


def largest_difference(mine: nn.Module, their: nn.Module, ids: Tensor) -> float:
    """The largest difference of a logit, and a check that there is something to compare."""
    with torch.no_grad():
        found, wanted = mine(ids), their(ids).logits
    assert found.shape == wanted.shape
    assert wanted.std() > 0.1
    return float((found - wanted).abs().max())


@pytest.mark.parametrize("seed", DRAWS)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_logits_equal_those_of_transformers(transformers: Any, family: str, seed: int) -> None:
    settings = drawn_gpt2(seed) if family == "gpt2" else drawn_llama(seed)
    their = theirs(transformers, family, settings)
    model = ours(their)
    context = model.config.context
    for length in (1, 2, context):
        ids = tokens(3, length, model.config.vocab, seed=seed)
        assert largest_difference(model, their, ids) < TOLERANCE


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_gradients_equal_those_of_transformers(transformers: Any, family: str) -> None:
    settings = drawn_gpt2(4) if family == "gpt2" else drawn_llama(4)
    their = theirs(transformers, family, settings)
    model = ours(their)
    ids = tokens(2, 29, model.config.vocab)
    losses = []
    for logits in (model(ids), their(ids).logits):
        losses.append(F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))
        losses[-1].backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-6)
    gradients = {name: parameter.grad for name, parameter in their.named_parameters()}
    wanted = weights_from_huggingface(gradients, model.config, their.config.model_type)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-6)


def test_gpt2_equals_transformers_in_float64(transformers: Any) -> None:
    their = theirs(transformers, "gpt2", drawn_gpt2(3))
    model = ours(their).double()
    ids = tokens(2, model.config.context, model.config.vocab)
    assert largest_difference(model, their.double(), ids) < 1e-12


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_saved_folder_loads_with_equal_logits(
    transformers: Any, tmp_path: Path, family: str, seed: int, sharded: bool
) -> None:
    settings = drawn_gpt2(seed) if family == "gpt2" else drawn_llama(seed)
    their = theirs(transformers, family, settings)
    their.save_pretrained(tmp_path, **({"max_shard_size": "5KB"} if sharded else {}))
    assert (tmp_path / "model.safetensors.index.json").is_file() is sharded
    loaded = load_model(tmp_path)
    assert isinstance(loaded.config, TransformerConfig)
    assert loaded.tokenizer is None
    assert not loaded.model.training
    ids = tokens(2, loaded.config.context, loaded.config.vocab)
    assert largest_difference(loaded.model, their, ids) < TOLERANCE
