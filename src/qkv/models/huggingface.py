"""GPT-2 and Llama as Hugging Face names them: their config and tensors as ours.

What a config says and our Transformer does not do is an error, never ignored: a model that loads
computes what its authors' code computes. Dropout is set to 0, since those models are trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from qkv.errors import CheckpointError, ConfigError
from qkv.models.config import TransformerConfig
from qkv.models.fields import build

__all__ = ["config_from_huggingface", "weights_from_huggingface"]

ARCHITECTURES = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Model"),
    "llama": ("LlamaForCausalLM", "LlamaModel"),
}
"""The model types that can be read, with the classes whose weights are these."""

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_fast": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu2": "relu2",
}

BOOKKEEPING = frozenset(
    """
    _name_or_path architectures attention_dropout attn_pdrop bos_token_id do_sample dtype
    early_stopping embd_pdrop eos_token_id gradient_checkpointing id2label initializer_range
    is_llama_config label2id length_penalty max_length min_length model_type n_ctx
    num_beam_groups num_beams num_return_sequences output_past pad_token_id pretraining_tp
    reorder_and_upcast_attn repetition_penalty resid_pdrop return_dict summary_activation
    summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
    task_specific_params temperature top_k top_p torch_dtype transformers_version typical_p
    unk_token_id use_cache
    """.split()  # noqa: SIM905
)
"""Settings that change nothing in what the weights compute when they are used."""

READABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def config_from_huggingface(data: Mapping[str, Any]) -> TransformerConfig:
    """Return our config for the content of a Hugging Face ``config.json`` of GPT-2 or Llama.

    Raises:
        CheckpointError: another model type, or a setting that our Transformer cannot honour.

    >>> sizes = {"vocab_size": 11, "n_positions": 8, "n_embd": 6, "n_layer": 2, "n_head": 3}
    >>> config = config_from_huggingface({"model_type": "gpt2", **sizes})
    >>> config.activation, config.positions, config.tied
    ('gelu_tanh', 'learned', True)
    """
    model_type = data.get("model_type")
    if model_type not in ARCHITECTURES:
        raise _cannot("model_type", model_type, f"one of {', '.join(ARCHITECTURES)}")
    settings = Settings(data)
    for name in data.get("architectures") or ():
        if name not in ARCHITECTURES[model_type]:
            raise _cannot("architectures", name, f"one of {', '.join(ARCHITECTURES[model_type])}")
    values = _gpt2_values(settings) if model_type == "gpt2" else _llama_values(settings)
    settings.refuse_the_rest()
    try:
        return build(TransformerConfig, values)
    except ConfigError as error:
        raise CheckpointError(
            f"{error.got} in the model's config.json", error.expected, "choose another model"
        ) from error


def weights_from_huggingface(
    state: Mapping[str, Tensor], config: TransformerConfig, model_type: str
) -> dict[str, Tensor]:
    """Return tensors under our names and in our layout: GPT-2's Linear layers are transposed,
    Llama's q, k and v become one matrix.

    Raises:
        CheckpointError: another model type; missing or surplus tensors, quantised weights, or
            widths that are not the config's.

    >>> config = TransformerConfig(vocab=5, layers=1, heads=1, width=2)
    >>> weights_from_huggingface({}, config, "gpt2")
    Traceback (most recent call last):
    qkv.errors.CheckpointError: got no wte.weight among the weights; expected every tensor of a \
gpt2 model; download the model again
    """
    if model_type not in ARCHITECTURES:
        raise _cannot("model_type", model_type, f"one of {', '.join(ARCHITECTURES)}")
    prefix = "transformer." if model_type == "gpt2" else "model."
    # Buffers that older versions saved: the causal mask and the rotary frequencies.
    buffers = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
    state = {
        name.removeprefix(prefix): tensor
        for name, tensor in state.items()
        if not name.endswith(buffers)
    }
    _check_tied(state, config, model_type)
    sources = _gpt2_sources(config) if model_type == "gpt2" else _llama_sources(config)
    known = {name for names in sources.values() for name in names}
    if config.tied:
        known.add("lm_head.weight")
    for name in sorted(state.keys() - known):
        raise CheckpointError(
            f"the tensor {name} {tuple(state[name].shape)} among the weights",
            f"the tensors of a {model_type} model with this config",
            "choose a model that is no variant of it",
        )
    weights = {}
    for ours, names in sources.items():
        parts = [_take(state, name, model_type) for name in names]
        if len(parts) == 3:
            parts = [_joinable(parts, names, config)]
        transposed = model_type == "gpt2" and ".c_" in names[0] and ours.endswith(".weight")
        weights[ours] = parts[0].T if transposed else parts[0]
    return weights


@dataclass
class Settings:
    """The content of a ``config.json``, remembering what was asked for.

    Args:
        data: the JSON object.
        taken: names that were asked for.
    """

    data: Mapping[str, Any]
    taken: set[str] = field(default_factory=set)

    def need(self, name: str) -> Any:
        """Return a setting that has no default.

        Raises:
            CheckpointError: it is not there.
        """
        if self.data.get(name) is None:
            raise CheckpointError(
                f"no {name} in the model's config.json", "a number", "download the model again"
            )
        return self.take(name)

    def take(self, name: str, default: Any = None) -> Any:
        """Return a setting, or the default where it is missing."""
        self.taken.add(name)
        return self.data.get(name, default)

    def refuse_the_rest(self) -> None:
        """Raise a CheckpointError for the first setting that is on and was not asked for."""
        for name, value in self.data.items():
            if name in self.taken or name in BOOKKEEPING or not value:
                continue
            raise CheckpointError(
                f"{name}={value!r} in the model's config.json",
                "settings of plain GPT-2 or Llama",
                f"remove {name} where it changes nothing that is computed, or choose another model",
            )


def _gpt2_values(settings: Settings) -> dict[str, Any]:
    for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        if settings.take(name, False):
            raise _cannot(name, True, "false")
    activation = settings.take("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise _cannot("activation_function", activation, f"one of {', '.join(ACTIVATIONS)}")
    return {
        "vocab": settings.need("vocab_size"),
        "context": settings.need("n_positions"),
        "layers": settings.need("n_layer"),
        "width": settings.need("n_embd"),
        "heads": settings.need("n_head"),
        "hidden": settings.take("n_inner"),
        "positions": "learned",
        "norm": "layer",
        "norm_eps": settings.take("layer_norm_epsilon", 1e-5),
        "activation": ACTIVATIONS[activation],
        "bias": True,
        "qk_norm": False,
        "tied": settings.take("tie_word_embeddings", True),
        "scale": None if settings.take("scale_attn_weights", True) else 1.0,
        "zero_init": False,
    }


def _llama_values(settings: Settings) -> dict[str, Any]:
    activation = settings.take("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise _cannot("hidden_act", activation, "silu")
    bias, mlp_bias = settings.take("attention_bias", False), settings.take("mlp_bias", False)
    if bias != mlp_bias:
        raise _cannot("mlp_bias", mlp_bias, f"{bias!r}, as attention_bias")
    return {
        "vocab": settings.need("vocab_size"),
        "context": settings.need("max_position_embeddings"),
        "layers": settings.need("num_hidden_layers"),
        "width": settings.need("hidden_size"),
        "heads": settings.need("num_attention_heads"),
        "kv_heads": settings.take("num_key_value_heads"),
        "head_width": settings.take("head_dim"),
        "hidden": settings.need("intermediate_size"),
        "positions": "rotary",
        "rotary_theta": _rotary_theta(settings),
        "norm": "rms",
        "norm_eps": settings.take("rms_norm_eps", 1e-6),
        "activation": "swiglu",
        "bias": bias,
        "qk_norm": False,
        "tied": settings.take("tie_word_embeddings", False),
        "zero_init": False,
    }


def _rotary_theta(settings: Settings) -> Any:
    """The base of the wavelengths, which newer versions keep under ``rope_parameters``."""
    found = {settings.take("rope_theta")}
    for group in ("rope_parameters", "rope_scaling"):
        for name, value in (settings.take(group) or {}).items():
            if name == "rope_theta":
                found.add(value)
            elif name in ("rope_type", "type"):
                if value != "default":
                    raise _cannot(f"{group}.{name}", value, "'default'")
            elif name != "partial_rotary_factor" or value != 1:
                raise _cannot(f"{group}.{name}", value, "plain rotary positions")
    thetas = found - {None} or {10_000.0}
    if len(thetas) > 1:
        raise _cannot("rope_theta", sorted(thetas), "one value")
    return thetas.pop()


def _gpt2_sources(config: TransformerConfig) -> dict[str, tuple[str, ...]]:
    modules = {"norm": "ln_f"}
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"h.{layer}"
        modules |= {
            f"{ours}.attention_norm": f"{theirs}.ln_1",
            f"{ours}.attention.project": f"{theirs}.attn.c_attn",
            f"{ours}.attention.output": f"{theirs}.attn.c_proj",
            f"{ours}.feed_forward_norm": f"{theirs}.ln_2",
            f"{ours}.feed_forward.up": f"{theirs}.mlp.c_fc",
            f"{ours}.feed_forward.down": f"{theirs}.mlp.c_proj",
        }
    sources: dict[str, tuple[str, ...]] = {"tokens": ("wte.weight",), "positions": ("wpe.weight",)}
    for ours, theirs in modules.items():
        for part in ("weight", "bias") if config.bias else ("weight",):
            sources[f"{ours}.{part}"] = (f"{theirs}.{part}",)
    return sources if config.tied else sources | {"unembed.weight": ("lm_head.weight",)}


def _llama_sources(config: TransformerConfig) -> dict[str, tuple[str, ...]]:
    sources: dict[str, tuple[str, ...]] = {
        "tokens": ("embed_tokens.weight",),
        "norm.weight": ("norm.weight",),
    }
    for layer in range(config.layers):
        ours, theirs = f"blocks.{layer}", f"layers.{layer}"
        sources[f"{ours}.attention_norm.weight"] = (f"{theirs}.input_layernorm.weight",)
        sources[f"{ours}.feed_forward_norm.weight"] = (f"{theirs}.post_attention_layernorm.weight",)
        for part in ("weight", "bias") if config.bias else ("weight",):
            sources[f"{ours}.attention.project.{part}"] = tuple(
                f"{theirs}.self_attn.{letter}_proj.{part}" for letter in "qkv"
            )
            sources[f"{ours}.attention.output.{part}"] = (f"{theirs}.self_attn.o_proj.{part}",)
            for name in ("gate", "up", "down"):
                sources[f"{ours}.feed_forward.{name}.{part}"] = (
                    f"{theirs}.mlp.{name}_proj.{part}",
                )
    return sources if config.tied else sources | {"unembed.weight": ("lm_head.weight",)}


def _take(state: Mapping[str, Tensor], name: str, model_type: str) -> Tensor:
    if name not in state:
        raise CheckpointError(
            f"no {name} among the weights",
            f"every tensor of a {model_type} model",
            "download the model again",
        )
    if state[name].dtype not in READABLE:
        raise CheckpointError(
            f"{name} as {state[name].dtype}",
            "weights of 16, 32 or 64 bits",
            "choose the model before quantisation",
        )
    return state[name]


def _joinable(parts: list[Tensor], names: tuple[str, ...], config: TransformerConfig) -> Tensor:
    """Join q, k and v along their outputs, each of the width that the config gives it."""
    C, H, G = config.head_width_, config.heads, config.kv_heads_
    for part, name, rows in zip(parts, names, (H * C, G * C, G * C), strict=True):
        want = (rows, config.width) if name.endswith(".weight") else (rows,)
        if tuple(part.shape) != want:
            raise CheckpointError(
                f"{name}: {tuple(part.shape)}",
                f"{want}, from its config",
                "the weights are from another config: use those saved with it",
            )
    return torch.cat(parts)


def _check_tied(state: Mapping[str, Tensor], config: TransformerConfig, model_type: str) -> None:
    embedding = state.get("wte.weight" if model_type == "gpt2" else "embed_tokens.weight")
    head = state.get("lm_head.weight")
    if config.tied and head is not None and embedding is not None:
        if head.shape == embedding.shape and torch.equal(head, embedding):
            return
        raise CheckpointError(
            "an lm_head.weight that differs from the embedding",
            "one matrix for both, since tie_word_embeddings is true",
            "set tie_word_embeddings to false in config.json where the model was trained so",
        )


def _cannot(name: str, value: Any, expected: str) -> CheckpointError:
    return CheckpointError(
        f"{name}={value!r} in the model's config.json", expected, "choose another model"
    )
