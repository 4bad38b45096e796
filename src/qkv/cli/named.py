"""What a MODEL on the command line names; where none is named, the model that comes with qkv."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qkv.cli.console import short_path
from qkv.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from qkv.models.checkpoint import Checkpoint
    from qkv.models.foreign import AnyModel

__all__ = ["SAVED_TRACE", "load_named", "open_named", "require_model", "title_of"]

EMBEDDED = "the model that comes with qkv"

SAVED_TRACE = ".safetensors"
MODELS = "a run, a checkpoint, a Hugging Face folder, a nanoGPT folder or a GGUF file"
MODELS_OR_TRACE = MODELS.replace(" or a GGUF file", ", a GGUF file or a trace that was saved")
MOST_NAMED = 5
FILES = ("*.json", "*.gguf", "*.safetensors", "*.pt", "*.pth", "*.bin", "*.ckpt")


def title_of(path: Path | None) -> str:
    """Return what to call a model.

    >>> title_of(None)
    'the model that comes with qkv'
    """
    return EMBEDDED if path is None else short_path(path)


def open_named(path: Path | None, tokenizer: Path | None = None) -> Checkpoint:
    """Load what can be trained and sampled: what is named, or the model that comes with qkv.

    Raises:
        CheckpointError: as loading it does.
        ConfigError: a tokenizer for the model that comes with its own.
    """
    if path is None:
        from qkv.models.embedded import load_embedded

        _require_no_tokenizer(tokenizer)
        return load_embedded()
    from qkv.models.loading import load_model

    return load_model(path, tokenizer)


def load_named(path: Path | None, tokenizer: Path | None = None) -> AnyModel:
    """Load what can be looked into: what is named, or the model that comes with qkv.

    Raises:
        CheckpointError: as loading it does.
        ConfigError: a tokenizer for the model that comes with its own.
    """
    from qkv.models.foreign import AnyModel, load_any

    if path is not None:
        return load_any(path, tokenizer)
    return AnyModel.of(open_named(None, tokenizer))


def _require_no_tokenizer(tokenizer: Path | None) -> None:
    if tokenizer is not None:
        raise ConfigError(
            f"--tokenizer {tokenizer} without a model",
            "a model that it belongs to",
            "name the model, or leave --tokenizer out",
        )


def require_model(path: Path | None, *, traces: bool = False) -> None:
    """Raise a CheckpointError where there is no model, before a text is asked for.

    What is wrong with files that are there is said by who loads them.

    Args:
        path: as it was given; ``None`` for the model that comes with qkv.
        traces: whether a saved trace would do.
    """
    if path is None:
        return
    expected = MODELS_OR_TRACE if traces else MODELS
    try:
        if not path.exists():
            raise CheckpointError(f"nothing at {path}", expected, "check the path")
        if not traces and path.is_file() and _is_trace(path):
            raise CheckpointError(
                f"{path}, a trace, which has no weights",
                expected,
                "name the model that it was made with",
            )
        if not path.is_dir() or any(next(path.glob(kind), None) for kind in FILES):
            return
        if (path / "checkpoints").is_dir():
            return
        runs = sorted(one.name for one in path.iterdir() if (one / "checkpoints").is_dir())
    except OSError as error:
        raise CheckpointError(
            f"{error.strerror!r} while looking at {path}", expected, "check the path"
        ) from error
    if runs:
        names = ", ".join(runs[:MOST_NAMED]) + (", ..." if len(runs) > MOST_NAMED else "")
        raise CheckpointError(
            f"the folder {path}, which holds {len(runs)} run{'s' * (len(runs) != 1)}, no model",
            f"one of them: {names}",
            f"try {path / runs[0]}",
        )
    raise CheckpointError(f"the folder {path}, which holds no model", expected, "check the path")


def _is_trace(path: Path) -> bool:
    """Whether a file is a trace of ours, by what its header says."""
    if path.suffix != SAVED_TRACE:
        return False
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return "qkv" in (file.metadata() or {})
    except SafetensorError:
        return False
