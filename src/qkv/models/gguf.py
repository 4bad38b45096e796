"""Llama and GPT-2 from a GGUF file, as our Transformer: config, weights, tokenizer.

What a file says and our Transformer does not do is an error, never ignored. The file's chat
template is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qkv.errors import CheckpointError, ConfigError
from qkv.models.assembly import assemble, broken
from qkv.models.checkpoint import Checkpoint
from qkv.models.config import TransformerConfig
from qkv.models.fields import build
from qkv.models.gguf_file import GGUFFile, read_gguf
from qkv.models.gguf_tokenizer import tokenizer_from_gguf
from qkv.text import Tokenizer

__all__ = ["config_from_gguf", "load_gguf", "weights_from_gguf"]

ARCHITECTURES = ("gpt2", "llama")
BOOKKEEPING = frozenset({"tensor_data_layout"})
"""Settings that change nothing in what is computed: rows of q and k lie the same way anyhow."""

LAYERS = {
    "attention_norm": "attn_norm",
    "attention.project": "attn_qkv",
    "attention.output": "attn_output",
    "feed_forward_norm": "ffn_norm",
    "feed_forward.up": "ffn_up",
    "feed_forward.down": "ffn_down",
}
"""A block's modules under our names and theirs."""


def load_gguf(path: Path, tokenizer: Tokenizer | None = None) -> Checkpoint:
    """Load a GGUF file of Llama or GPT-2; weights become float32 on the CPU.

    Args:
        path: the file.
        tokenizer: in place of the file's own, which is then not built.

    Raises:
        CheckpointError: damage, or a model that we cannot compute; one line says which.
        OSError: the file may not be read.
    """
    file = read_gguf(path)
    config = config_from_gguf(file)
    if tokenizer is None:
        tokenizer = tokenizer_from_gguf(file.metadata, config.vocab, path)
    model = assemble(config, dict(weights_from_gguf(file, config)), path)
    return Checkpoint(path, model, tokenizer)


def config_from_gguf(file: GGUFFile) -> TransformerConfig:
    """Return our config for the metadata and the table of tensors of a GGUF file.

    Raises:
        CheckpointError: another architecture, or a setting that our Transformer cannot honour.
    """
    architecture = file.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"the architecture {str(architecture)[:80]!r} in {file.path}",
            f"one of {', '.join(ARCHITECTURES)}",
            "choose another model",
        )
    if file.metadata.get("split.count", 1) not in (0, 1):
        raise CheckpointError(
            f"one part of a model in {file.path}", "all of it", "merge its parts with gguf-split"
        )
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise broken(file.path, "no tensor token_embd.weight")
    settings = Settings(file.path, file.metadata, f"{architecture}.")
    values = _gpt2_values(settings) if architecture == "gpt2" else _llama_values(settings, file)
    vocab = embedding.shape[0]
    if settings.take("vocab_size", vocab) != vocab:
        raise broken(file.path, f"{vocab} rows in token_embd.weight for another vocab_size")
    settings.refuse_the_rest()
    values |= {
        "vocab": vocab,
        "context": settings.need("context_length"),
        "layers": settings.need("block_count"),
        "width": settings.need("embedding_length"),
        "hidden": settings.need("feed_forward_length"),
        "heads": settings.need("attention.head_count"),
        "qk_norm": False,
        "tied": "output.weight" not in file.tensors,
        "zero_init": False,
    }
    try:
        return build(TransformerConfig, values)
    except ConfigError as error:
        raise CheckpointError(
            f"{error.got[:200]} in the metadata of {file.path}",
            error.expected,
            "choose another model",
        ) from error


def weights_from_gguf(file: GGUFFile, config: TransformerConfig) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors under our names and in our layout, float32, one after another.

    Llama's q, k and v become one matrix; its q and k rows are set back from pairs of neighbours,
    which llama.cpp turns together, to pairs half a head apart.

    Raises:
        CheckpointError: missing or surplus tensors, or widths that are not the config's.
    """
    if config.layers > len(file.tensors):
        raise broken(file.path, f"{config.layers} layers in {len(file.tensors)} tensors")
    sources = _sources(config)
    known = {name for names in sources.values() for name in names}
    for name in sorted(known - file.tensors.keys()):
        raise broken(file.path, f"no tensor {name}")
    for name in sorted(file.tensors.keys() - known):
        raise CheckpointError(
            f"the tensor {name[:80]!r} {file.tensors[name].shape} in {file.path}",
            "the tensors of plain Llama or GPT-2 with this config",
            "choose a model that is no variant of it",
        )
    C, H, G = config.head_width_, config.heads, config.kv_heads_
    for ours, names in sources.items():
        parts = [torch.from_numpy(file.read(name)) for name in names]
        if len(parts) == 3:
            rows = [len(part) for part in parts]
            if rows != [H * C, G * C, G * C] or len({part.shape[1:] for part in parts}) > 1:
                raise broken(
                    file.path, f"{rows} rows in {', '.join(names)} for {H} and {G} heads of {C}"
                )
            parts[:2] = [unpermute(part, C) for part in parts[:2]]
        yield ours, torch.cat(parts) if len(parts) > 1 else parts[0]


def unpermute(rows: Tensor, C: int) -> Tensor:
    """Return rows of q or k, (heads * C, ...), with channels 2i and 2i + 1 of a head set i and
    i + C/2.

    >>> unpermute(torch.arange(8), 4).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    return rows.reshape(-1, C // 2, 2, *rows.shape[1:]).transpose(1, 2).flatten(0, 2)


@dataclass
class Settings:
    """The metadata of one architecture, remembering what was asked for.

    Args:
        path: the file, for errors.
        metadata: all of its metadata.
        prefix: what its settings' names begin with.
        taken: names that were asked for.
    """

    path: Path
    metadata: Mapping[str, Any]
    prefix: str
    taken: set[str] = field(default_factory=set)

    def need(self, name: str) -> Any:
        """Return a setting that has no default; raise a CheckpointError where it is missing."""
        if self.prefix + name not in self.metadata:
            raise broken(self.path, f"no {self.prefix}{name} in its metadata")
        return self.take(name)

    def take(self, name: str, default: Any = None) -> Any:
        """Return a setting, or the default where it is missing."""
        self.taken.add(name)
        return self.metadata.get(self.prefix + name, default)

    def refuse(self, name: str, *allowed: Any) -> None:
        """Raise a CheckpointError where a setting is there and none of those allowed."""
        if (value := self.take(name)) is not None and value not in allowed:
            raise self._cannot(name, value)

    def refuse_the_rest(self) -> None:
        """Raise a CheckpointError for the first setting that is on and that nobody asks for."""
        asked = self.taken | BOOKKEEPING | NEEDED
        for key, value in self.metadata.items():
            name = key.removeprefix(self.prefix)
            if key.startswith(self.prefix) and name not in asked and value:
                raise self._cannot(name, value)

    def _cannot(self, name: str, value: Any) -> CheckpointError:
        return CheckpointError(
            f"{(self.prefix + name)[:80]!r} = {str(value)[:80]!r} in {self.path}",
            "settings of plain Llama or GPT-2",
            "choose another model",
        )


NEEDED = frozenset(
    {
        "attention.head_count",
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
    }
)
"""What every model's metadata must say."""


def _gpt2_values(settings: Settings) -> dict[str, Any]:
    settings.refuse("attention.head_count_kv", settings.take("attention.head_count"))
    return {
        "positions": "learned",
        "norm": "layer",
        "norm_eps": settings.need("attention.layer_norm_epsilon"),
        "activation": "gelu_tanh",
        "bias": True,
    }


def _llama_values(settings: Settings, file: GGUFFile) -> dict[str, Any]:
    width, heads = settings.need("embedding_length"), settings.need("attention.head_count")
    head_width = settings.take("attention.key_length")
    if head_width is None and isinstance(width, int) and isinstance(heads, int) and heads > 0:
        head_width = None if width % heads else width // heads
    settings.refuse("attention.value_length", head_width)
    settings.refuse("rope.dimension_count", head_width)
    settings.refuse("rope.scaling.type", "none")
    settings.refuse("rope.scaling.factor", 0.0, 1.0)
    settings.refuse("rope.scale_linear", 0.0, 1.0)
    settings.refuse("attention.causal", True)
    return {
        "kv_heads": settings.take("attention.head_count_kv"),
        "head_width": head_width,
        "positions": "rotary",
        "rotary_theta": settings.take("rope.freq_base", 10_000.0),
        "norm": "rms",
        "norm_eps": settings.need("attention.layer_norm_rms_epsilon"),
        "activation": "swiglu",
        "bias": "blk.0.attn_q.bias" in file.tensors,
    }


def _sources(config: TransformerConfig) -> dict[str, tuple[str, ...]]:
    """Our tensors' names, with theirs: one, or three that are joined."""
    llama = config.activation == "swiglu"
    sources: dict[str, tuple[str, ...]] = {"tokens": ("token_embd.weight",)}
    if config.positions == "learned":
        sources["positions"] = ("position_embd.weight",)
    modules: dict[str, tuple[str, ...]] = {"norm": ("output_norm",)}
    for layer in range(config.layers):
        for ours, name in LAYERS.items():
            split = llama and name == "attn_qkv"
            each = [f"attn_{letter}" for letter in "qkv"] if split else [name]
            modules[f"blocks.{layer}.{ours}"] = tuple(f"blk.{layer}.{part}" for part in each)
        if llama:
            modules[f"blocks.{layer}.feed_forward.gate"] = (f"blk.{layer}.ffn_gate",)
    for ours, names in modules.items():
        # An RMS norm has a gain alone.
        bias = config.bias and not (llama and ours.endswith("norm"))
        for part in ("weight", "bias") if bias else ("weight",):
            sources[f"{ours}.{part}"] = tuple(f"{name}.{part}" for name in names)
    return sources if config.tied else sources | {"unembed.weight": ("output.weight",)}
