"""The checkpoint format: a folder of safetensors with JSON beside, written whole or not at all.

::

    step-00000500/
      model.safetensors        the weights to use
      training.safetensors     what resuming needs besides (optimizer state, last weights)
      checkpoint.json          format, config, tokenizer, step, metrics, sizes and hashes of both

Weights without their config and tokenizer cannot be loaded. A folder is written under a temporary
name, flushed to disk, then renamed: a crash at any moment leaves the earlier checkpoints as they
were. Nothing is ever unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from qkv.errors import CheckpointError, ConfigError, QkvError, ResourceError
from qkv.models import build_model
from qkv.models.assembly import require_shapes
from qkv.models.config import ModelConfig, config_of, from_json, to_json
from qkv.text import Tokenizer, tokenizer_from_json

__all__ = [
    "Checkpoint",
    "list_checkpoints",
    "load_checkpoint",
    "load_newest",
    "read_training_state",
    "save_checkpoint",
    "write_atomically",
]

FORMAT = 1
WRONG_JSON = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What reading JSON raises whose values are of another kind than was written."""
MODEL, TRAINING, DESCRIPTION = "model.safetensors", "training.safetensors", "checkpoint.json"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: a model that is ready, and what it needs to be used.

    Args:
        path: the folder or file it came from.
        model: in evaluation mode, on the CPU.
        tokenizer: turns text into its ids and back; ``None`` for bare weights from elsewhere.
        step: training steps done.
        metrics: losses and counts noted when it was saved.
    """

    path: Path
    model: nn.Module
    tokenizer: Tokenizer | None
    step: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> ModelConfig:
        """The model's config."""
        return config_of(self.model)


def save_checkpoint(
    folder: Path,
    *,
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    step: int,
    metrics: Mapping[str, Any] | None = None,
    training: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a checkpoint folder atomically; one of that name is replaced.

    Raises:
        ResourceError: the disk is full or may not be written; whatever was there before stays.
    """
    files = {MODEL: weights}
    if training:
        files[TRAINING] = training
    temporary = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, tensors in files.items():
            # Not contiguous or shared tensors are refused by the format: copy those.
            save_file({key: _plain(value) for key, value in tensors.items()}, temporary / name)
        description = {
            "format": FORMAT,
            "model": to_json(config),
            "tokenizer": tokenizer.to_json(),
            "step": step,
            "metrics": dict(metrics or {}),
            "files": {name: _fingerprint(temporary / name) for name in files},
        }
        (temporary / DESCRIPTION).write_text(json.dumps(description, indent=1), encoding="utf-8")
        for path in [*temporary.iterdir(), temporary]:
            _flush(path)
        _replace_folder(temporary, folder)
        _flush(folder.parent)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(temporary)
        raise disk_error(folder, error) from error


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders in a run's ``checkpoints``, oldest first, and nothing else."""
    named = [(re.fullmatch(r"step-(\d+)", path.name), path) for path in folder.glob("step-*")]
    steps = [(int(match[1]), path) for match, path in named if match and path.is_dir()]
    return [path for _, path in sorted(steps)]


def load_newest(run: Path) -> Checkpoint:
    """Load a run directory's newest checkpoint.

    Raises:
        CheckpointError: none yet, or a damaged one (the one before is named).
    """
    folders = list_checkpoints(run / "checkpoints")
    if not folders:
        raise CheckpointError(
            f"no checkpoint yet in {run}",
            "a run that has saved once",
            f"go on with `qkv train --resume {run}`",
        )
    try:
        return load_checkpoint(folders[-1])
    except CheckpointError as error:
        if len(folders) == 1:
            raise
        earlier = f"the one before is {folders[-2]}: give that folder"
        raise CheckpointError(error.got, error.expected, earlier) from error


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder, checking that it is whole and that its parts belong together.

    Raises:
        CheckpointError: a file is missing, damaged, a pickle, or from another config.
    """
    description = _read_description(folder)
    try:
        config = from_json(description["model"])
        tokenizer = tokenizer_from_json(description["tokenizer"])
        model = build_model(config)
        step, metrics = int(description["step"]), dict(description["metrics"])
    except (ConfigError, *WRONG_JSON) as error:
        reason = error.got if isinstance(error, QkvError) else repr(error)
        raise _damaged(folder / DESCRIPTION, f"what cannot be used: {reason}") from error
    if tokenizer.size > config.vocab:
        raise CheckpointError(
            f"a tokenizer of {tokenizer.size} tokens beside a model of {config.vocab} in {folder}",
            "parts that belong together",
            "take the tokenizer and the weights from one run",
        )
    load_weights(model, read_tensors(folder / MODEL, description), folder / MODEL)
    return Checkpoint(folder, model.eval(), tokenizer, step, metrics)


def read_training_state(folder: Path) -> dict[str, Tensor]:
    """Return the tensors that resuming needs besides the weights (none where none were saved).

    Raises:
        CheckpointError: a damaged file.
    """
    description = _read_description(folder)
    if TRAINING not in description["files"]:
        return {}
    return read_tensors(folder / TRAINING, description)


def read_tensors(path: Path, description: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """Read a safetensors file, checking size and hash against a description where one is given.

    Raises:
        CheckpointError: missing, truncated, changed, or not safetensors at all.
    """
    if not path.is_file():
        raise CheckpointError(f"no {path.name} in {path.parent}", "a whole checkpoint", _ADVICE)
    if _looks_pickled(path):
        raise CheckpointError(
            f"a pickle at {path}",
            "safetensors: a pickle can run code when it is read",
            "convert it with safetensors.torch.save_file where you trust it",
        )
    if description is not None:
        noted, found = description["files"].get(path.name), _fingerprint(path)
        if not isinstance(noted, dict):
            raise _damaged(path.parent / DESCRIPTION, f"no size and hash of {path.name}")
        if noted.get("bytes") != found["bytes"]:
            raise _damaged(path, f"{found['bytes']} of {noted.get('bytes')} bytes")
        if noted != found:
            raise _damaged(path, "other bytes than were written")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a model, naming the first that does not fit.

    Raises:
        CheckpointError: missing, surplus or wrongly shaped tensors.
    """
    require_shapes(model, weights, path)
    model.load_state_dict(dict(weights))


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, whole.

    Raises:
        ResourceError: the disk is full or may not be written; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise disk_error(path, error) from error


def disk_error(path: Path, error: Exception) -> ResourceError:
    """Return the one line for a write that the system refused."""
    reason = getattr(error, "strerror", None) or str(error)
    return ResourceError(
        f"{reason!r} while writing {path}",
        "a disk with room that may be written",
        "free some space or choose another --out; what was saved before is intact",
    )


_ADVICE = "use an earlier checkpoint of the run, or train it again"


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: {what}", "the file as it was saved", _ADVICE)


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"no {DESCRIPTION} in {folder}", "a checkpoint folder of qkv", _ADVICE
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(description, dict):
        raise _damaged(path, "no JSON object")
    if description.get("format") != FORMAT:
        raise CheckpointError(
            f"format {description.get('format')!r} in {path}",
            f"format {FORMAT}",
            "install the version of qkv that wrote it",
        )
    if not isinstance(description.get("files"), dict):
        raise _damaged(path, "no sizes and hashes of its files")
    return description


def _looks_pickled(path: Path) -> bool:
    """Whether a file starts as torch.save or pickle would have it.

    Safetensors start with the length of their header, whose bytes may be any, then its brace.
    """
    with path.open("rb") as file:
        start = file.read(9)
    return start[8:] != b"{" and start.startswith((b"PK\x03\x04", b"\x80"))


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {
            "bytes": path.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _flush(path: Path) -> None:
    """Force a file or folder to disk; systems that cannot open folders do without."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace_folder(new: Path, old: Path) -> None:
    """Rename a folder onto another; where one is there already it goes only after."""
    if not old.exists():
        new.rename(old)
        return
    aside = old.with_name(f".{old.name}.replaced-{os.getpid()}")
    old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    shutil.rmtree(aside, ignore_errors=True)
