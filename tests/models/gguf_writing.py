"""GGUF files for tests: real ones by the package `gguf`, and lying ones byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qkv.text import train_tokenizer

TEXT = "the cat sat on the mat, and that cat had 12 hats (121212), " * 5


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k as llama.cpp's converter sets them: i and i + C/2 of a head side by side."""
    C = len(rows) // heads
    order = [head * C + i // 2 + (i % 2) * (C // 2) for head in range(heads) for i in range(C)]
    return rows[order]


def vocabulary(size: int) -> tuple[list[str], list[str], list[int]]:
    """Tokens, merges and types of a byte-level BPE, the last token a control token."""
    model = train_tokenizer("bpe", TEXT, size=size - 2).to_json()["model"]["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    # A comma and a newline, which GPT-2 never joins and others do.
    tokens.append(",\u010a")
    merges.append(", \u010a")
    spare = [f"[unused{at}]" for at in range(size - 1 - len(tokens))]
    types = [1] * len(tokens) + [5] * len(spare) + [3]
    return [*tokens, *spare, "<|end|>"], merges, types


def write_gguf(
    path: Path,
    state: dict[str, Tensor],
    config: Any,
    *,
    kind: str = "F32",
    tokenizer: bool = False,
    extra: dict[str, Any] | None = None,
) -> Path:
    """Write a model of `transformers` as llama.cpp's converter does, with its names for tensors.

    Args:
        state: of a GPT-2 or Llama with a head.
        config: of that model.
        kind: what matrices become.
        tokenizer: whether to add a vocabulary.
        extra: metadata in place of, or besides, what the config says.
    """
    import gguf

    arch = config.model_type
    writer = gguf.GGUFWriter(path, arch)
    words = vocabulary_metadata(config.vocab_size) if tokenizer else {}
    for name, value in (settings(config) | words | (extra or {})).items():
        add(writer, name, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[arch.upper()], config.num_hidden_layers)
    for name, tensor in state.items():
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        rows = tensor.detach().numpy()
        if ".c_" in name and rows.ndim == 2:
            rows = rows.T  # theirs are Conv1D
        for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            if part in name:
                rows = interleaved(rows, getattr(config, heads))
        as_kind = gguf.GGMLQuantizationType[kind if rows.ndim == 2 else "F32"]
        stored = gguf.quants.quantize(np.ascontiguousarray(rows), as_kind)
        writer.add_tensor(theirs, stored, raw_dtype=as_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def settings(config: Any) -> dict[str, Any]:
    """What a config says, under the keys of its architecture."""
    values: dict[str, Any] = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "attention.head_count": config.num_attention_heads,
    }
    if config.model_type == "llama":
        values |= {
            "feed_forward_length": config.intermediate_size,
            "attention.head_count_kv": config.num_key_value_heads,
            "attention.key_length": config.head_dim,
            "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
            "rope.freq_base": config.rope_parameters["rope_theta"],
            "rope.dimension_count": config.head_dim,
            "vocab_size": config.vocab_size,
        }
    else:
        values |= {
            "feed_forward_length": config.n_inner or 4 * config.n_embd,
            "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        }
    return {f"{config.model_type}.{name}": value for name, value in values.items()}


def vocabulary_metadata(size: int) -> dict[str, Any]:
    """A vocabulary as metadata, with a chat template that must not be rendered."""
    tokens, merges, types = vocabulary(size)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.token_type": types,
        "tokenizer.chat_template": "{{ raise_exception('never rendered') }}",
    }


def add(writer: Any, name: str, value: Any) -> None:
    """Add a metadata entry of the type that llama.cpp's converter gives such a value."""
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, list):
        writer.add_array(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif value is not None:
        writer.add_float32(name, value)


def written_llama(transformers: Any, path: Path, **sizes: Any) -> Path:
    """Write a small Llama, its weights drawn at random, with a tokenizer."""
    config = transformers.LlamaConfig(
        **{
            "vocab_size": 300,
            "max_position_embeddings": 13,
            "hidden_size": 18,
            "intermediate_size": 23,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
        }
        | sizes
    )
    state = transformers.LlamaForCausalLM(config).state_dict()
    return write_gguf(path, state, config, tokenizer=True)


def string(text: str | bytes) -> bytes:
    """A text as it stands in a header."""
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def entry(name: str, kind: int, payload: bytes) -> bytes:
    """A metadata entry as it stands in a header."""
    return string(name) + struct.pack("<I", kind) + payload


def tensor_info(name: str, shape: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    """A tensor's line in the table, its shape in the file's order."""
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def raw(
    entries: Iterable[bytes] = (),
    tensors: Iterable[bytes] = (),
    data: bytes = b"",
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    order: str = "<",
) -> bytes:
    """A file of parts that need not agree; ``counts`` is what it says of tensors and entries."""
    entries, tensors = list(entries), list(tensors)
    counts = counts or (len(tensors), len(entries))
    header = magic + struct.pack(f"{order}IQQ", version, *counts) + b"".join([*entries, *tensors])
    return header + bytes(-len(header) % 32) + data


def dequantised(path: Path) -> dict[str, Tensor]:
    """The tensors of a file as the package `gguf` reads them."""
    import gguf

    tensors = {}
    for each in gguf.GGUFReader(path).tensors:
        shape = tuple(reversed(each.shape.tolist()))
        numbers = gguf.quants.dequantize(each.data, each.tensor_type)
        tensors[each.name] = torch.from_numpy(np.array(numbers, np.float32).reshape(shape))
    return tensors
