"""nanoGPT's `ckpt.pt` as our Transformer, and its `meta.pkl` as a tokenizer of characters.

Both are pickles, which `qkv.models.pickles` looks over before they are opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qkv.errors import CheckpointError, ConfigError, TextError
from qkv.models.assembly import assemble, own
from qkv.models.checkpoint import Checkpoint
from qkv.models.config import TransformerConfig
from qkv.models.fields import build
from qkv.models.huggingface import weights_from_huggingface
from qkv.models.pickles import read_plain, read_torch
from qkv.text import CharTokenizer, Tokenizer

__all__ = ["CKPT", "META", "load_nanogpt", "read_meta"]

CKPT, META = "ckpt.pt", "meta.pkl"
SIZES = {
    "vocab_size": "vocab",
    "block_size": "context",
    "n_layer": "layers",
    "n_embd": "width",
    "n_head": "heads",
}


def load_nanogpt(path: Path, tokenizer: Tokenizer | None = None) -> Checkpoint:
    """Load a checkpoint of nanoGPT; weights become float32 on the CPU.

    Its characters are read from `meta.pkl`, beside it or where nanoGPT keeps the data that the
    checkpoint names. GPT-2's tokens, which other models of nanoGPT have, are nowhere in it: give
    their tokenizer.

    Args:
        path: the file, `ckpt.pt`.
        tokenizer: in place of `meta.pkl`, which is then not read.

    Raises:
        CheckpointError: another pickle than nanoGPT's, damage, or a model that is no GPT of it.
        OSError: the file may not be read.
    """
    try:
        data = read_torch(path)
    except ValueError as error:
        raise _foreign(path, str(error)) from error
    if not isinstance(data, dict):
        raise _foreign(path, f"a {type(data).__name__} in it")
    state, sizes = data.get("model"), data.get("model_args")
    if not isinstance(state, dict) or not isinstance(sizes, dict):
        raise _foreign(path, "no model and model_args in it")
    config = _config(sizes, path)
    weights = _weights(state, config, path)
    model = assemble(config, weights, path)
    if tokenizer is None and (meta := _find_meta(path, data.get("config"))) is not None:
        tokenizer = read_meta(meta)
    steps = data.get("iter_num")
    return Checkpoint(path, model, tokenizer, steps if isinstance(steps, int) else 0)


def read_meta(path: Path) -> CharTokenizer:
    """Return the tokenizer of a `meta.pkl`, by an unpickler that allows no class.

    Raises:
        CheckpointError: a class in it, damage, or tokens that are no characters.
        OSError: the file may not be read.
    """
    try:
        meta = read_plain(path)
        if not isinstance(meta, dict) or not {"itos", "stoi"} <= meta.keys():
            raise ValueError("no itos and stoi")
        letters = meta["itos"]
        if not isinstance(letters, dict) or letters.keys() != set(range(len(letters))):
            raise ValueError("an itos that does not count from 0")
        alphabet = [letters[at] for at in range(len(letters))]
        if not all(isinstance(letter, str) and len(letter) == 1 for letter in alphabet):
            raise ValueError("tokens that are no characters")
        if meta["stoi"] != {letter: at for at, letter in enumerate(alphabet)}:
            raise ValueError("stoi and itos that do not agree")
        return CharTokenizer("".join(alphabet))
    except ValueError as error:  # a TextError too
        reason = error.got if isinstance(error, TextError) else str(error)
        raise CheckpointError(
            f"{path}: {reason}",
            "the characters of a text, as nanoGPT's prepare.py writes them",
            "give another tokenizer with --tokenizer",
        ) from error


def _config(sizes: Mapping[Any, Any], path: Path) -> TransformerConfig:
    values: dict[str, Any] = {
        "bias": sizes.get("bias", True),  # checkpoints from before it could be chosen have them
        "positions": "learned",
        "norm": "layer",
        "activation": "gelu",
        "qk_norm": False,
        "tied": True,
        "zero_init": False,
    }
    for name, value in sizes.items():
        if not isinstance(name, str) or not isinstance(value, int | float | str | None):
            raise _foreign(path, f"a {type(value).__name__} in its model_args")
        if name in SIZES:
            values[SIZES[name]] = value
        elif name not in ("bias", "dropout"):
            raise _foreign(path, f"{name[:80]!r} in its model_args")
    try:
        return build(TransformerConfig, values)
    except ConfigError as error:
        raise _foreign(path, error.got[:200]) from error


def _weights(state: Mapping[Any, Any], config: TransformerConfig, path: Path) -> dict[str, Tensor]:
    """Tensors under our names: GPT-2's, but that its layers are Linear and not transposed."""
    size = path.stat().st_size
    tensors: dict[str, Tensor] = {}
    for key, tensor in state.items():
        name = str(key).removeprefix("_orig_mod.")  # torch.compile's
        if not isinstance(tensor, Tensor) or tensor.layout is not torch.strided:
            raise _foreign(path, f"no tensor under {name[:80]!r}")
        linear = ".c_" in name and name.endswith(".weight") and tensor.ndim == 2
        tensors[name] = tensor.T if linear else tensor
    if config.layers > len(tensors):
        raise _foreign(path, f"{config.layers} layers in {len(tensors)} tensors")
    # Views can make many numbers of few; honest ones count the embedding twice.
    if sum(each.numel() * each.element_size() for each in tensors.values()) > 2 * size:
        raise _foreign(path, "more numbers than are stored")
    try:
        weights = weights_from_huggingface(tensors, config, "gpt2")
    except CheckpointError as error:
        raise _foreign(path, error.got) from error
    return {name: own(weight) for name, weight in weights.items()}


def _find_meta(path: Path, config: Any) -> Path | None:
    """`meta.pkl` beside the checkpoint, or in nanoGPT's data beside the folder of the run."""
    folder = path.absolute().parent
    places = [folder]
    dataset = config.get("dataset") if isinstance(config, dict) else None
    if isinstance(dataset, str) and Path(dataset).name == dataset:
        places.append(folder.parent / "data" / dataset)
    return next((place / META for place in places if (place / META).is_file()), None)


def _foreign(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {what}",
        "a checkpoint as nanoGPT's train.py writes it",
        "save it again, or convert it with safetensors.torch.save_file where you trust it",
    )
