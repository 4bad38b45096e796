"""The model that comes with qkv: a small Transformer of Shakespeare, and how it learnt.

::

    embedded_files/
      weights.qkv      the weights, packed (qkv.models.packing), with all that a checkpoint has
      timeline.zip     probes of its training, for who may read traces (qkv.training.probe_archive)
      card.md          data, recipe, losses, limits

`scripts/embed.py` at the root of the repository makes all three.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from qkv.errors import CheckpointError, ConfigError
from qkv.models.assembly import assemble
from qkv.models.checkpoint import Checkpoint
from qkv.models.config import TransformerConfig, config_of, from_json, to_json
from qkv.models.packing import BROKEN, annotate, damaged, pack, read_header, unpack
from qkv.text import tokenizer_from_json

__all__ = [
    "CARD",
    "FOLDER",
    "LARGEST_TIMELINE",
    "LARGEST_WEIGHTS",
    "TIMELINE",
    "WEIGHTS",
    "embedded_notes",
    "load_embedded",
    "pack_checkpoint",
    "read_embedded",
    "unpack_checkpoint",
    "with_metrics",
]

FOLDER = resources.files("qkv.models") / "embedded_files"
WEIGHTS, TIMELINE, CARD = "weights.qkv", "timeline.zip", "card.md"
LARGEST_WEIGHTS, LARGEST_TIMELINE = 3_000_000, 8_000_000
"""Bytes that they may take in the package."""


def load_embedded() -> Checkpoint:
    """Return the model that comes with qkv, its weights in fp32.

    Its metrics have `validation_loss`, measured on these very weights: nats a character.

    Raises:
        CheckpointError: its file is missing or damaged.

    >>> load_embedded().config.vocab
    65
    """
    return unpack_checkpoint(read_embedded(WEIGHTS), Path(str(FOLDER / WEIGHTS)))


def embedded_notes() -> dict[str, Any]:
    """Return what its training run noted of its data: name, sha256, prompt, probe, ...

    Raises:
        CheckpointError: its file is missing or damaged.

    >>> embedded_notes()["name"], len(embedded_notes()["probe"])
    ('shakespeare', 96)
    """
    try:
        return dict(read_header(read_embedded(WEIGHTS))[0]["notes"]["data"])
    except BROKEN as error:
        raise damaged(FOLDER / WEIGHTS, error) from error


def read_embedded(name: str) -> bytes:
    """Return one of the files: `WEIGHTS`, `TIMELINE` or `CARD`.

    Raises:
        CheckpointError: it is missing.
    """
    try:
        return (FOLDER / name).read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{error.strerror!r} while reading {FOLDER / name}",
            "the model that comes with qkv",
            "install qkv again, or name a model",
        ) from error


def pack_checkpoint(
    checkpoint: Checkpoint,
    data: Mapping[str, Any],
    bytes_allowed: int = LARGEST_WEIGHTS,
) -> bytes:
    """Return a Transformer's checkpoint as one file, its weights as fine as the bytes allow.

    Args:
        checkpoint: what to pack.
        data: what its run noted of its data.
        bytes_allowed: for the file.

    Raises:
        ConfigError: another kind of model, no tokenizer, or weights that cannot be made to fit.
    """
    if checkpoint.tokenizer is None or not isinstance(checkpoint.config, TransformerConfig):
        raise ConfigError(
            f"{config_of(checkpoint.model).kind} in {checkpoint.path}",
            "a Transformer with its tokenizer",
            "pack a run of the preset small",
        )
    notes = {
        "model": to_json(checkpoint.config),
        "tokenizer": checkpoint.tokenizer.to_json(),
        "step": checkpoint.step,
        "metrics": {},
        "data": dict(data),
    }
    weights = {name: each.numpy() for name, each in checkpoint.model.state_dict().items()}
    return pack(weights, notes, bytes_allowed)


def with_metrics(packed: bytes, metrics: Mapping[str, Any]) -> bytes:
    """Return the file with these metrics: losses are known when its weights were scored.

    Args:
        packed: what :func:`pack_checkpoint` gave.
        metrics: losses and counts.
    """
    return annotate(packed, {**read_header(packed)[0]["notes"], "metrics": dict(metrics)})


def unpack_checkpoint(data: bytes, path: Path) -> Checkpoint:
    """Return the checkpoint that :func:`pack_checkpoint` made a file of.

    Raises:
        CheckpointError: damage.
    """
    weights, notes = unpack(data, path)
    try:
        config = from_json(notes["model"])
        tokenizer = tokenizer_from_json(notes["tokenizer"])
        step, metrics = int(notes["step"]), dict(notes["metrics"])
        if not isinstance(config, TransformerConfig) or tokenizer.size > config.vocab:
            raise ValueError(f"{tokenizer.size} tokens for {config.kind} of {config.vocab}")
    except BROKEN as error:  # a ConfigError is a ValueError
        raise damaged(path, error) from error
    tensors = {name: torch.from_numpy(each) for name, each in weights.items()}
    model = assemble(config, tensors, path)
    return Checkpoint(path, model, tokenizer, step, metrics)
