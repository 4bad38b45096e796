"""What the tests of models share: weights that show every mistake, and random ids."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

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


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: these models are small, and waiting for a second costs more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed torch's global generator, from which models draw their weights."""
    torch.manual_seed(20240229)


@pytest.fixture
def transformers() -> Iterator[Any]:
    """The `transformers` package, silent; tests that need it skip where it is missing."""
    package = pytest.importorskip("transformers", reason="parity needs the extra `hf`")
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    package.utils.logging.disable_progress_bar()
    yield package
    package.utils.logging.enable_progress_bar()
    logger.setLevel(before)


@torch.no_grad()
def scramble(model: nn.Module, scale: float = 1.0) -> nn.Module:
    """Draw every parameter anew, norms and biases too, so that none of them can be missed.

    Matrices keep the size of what passes through them; gains lie around 1, biases around 0.
    """
    for name, parameter in model.named_parameters():
        noise = torch.randn_like(parameter)
        if parameter.ndim == 1:
            gain = "norm" in name or "ln_" in name
            parameter.copy_(0.3 * noise + (1.0 if gain and name.endswith("weight") else 0.0))
        else:
            parameter.copy_(scale * noise / max(parameter.shape) ** 0.5)
    return model.eval()


def tokens(batch: int, length: int, vocab: int, seed: int = 0) -> Tensor:
    """Random ids, (batch, length)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocab, (batch, length), generator=generator)


def their_weights(data: dict[str, Any]) -> dict[str, Tensor]:
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


def write_folder(path: Path, data: dict[str, Any], **tensors: Tensor) -> Path:
    """A Hugging Face folder with random weights."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(data))
    save_file({**their_weights(data), **tensors}, path / "model.safetensors")
    return path
