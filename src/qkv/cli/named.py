"""What a MODEL on the command line names, looked at before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from qkv.errors import CheckpointError

__all__ = ["SAVED_TRACE", "require_model"]

SAVED_TRACE = ".safetensors"
MODELS = "a run, a checkpoint, a Hugging Face folder, a nanoGPT folder or a GGUF file"
MODELS_OR_TRACE = MODELS.replace(" or a GGUF file", ", a GGUF file or a trace that was saved")
MOST_NAMED = 5
FILES = ("*.json", "*.gguf", "*.safetensors", "*.pt", "*.pth", "*.bin", "*.ckpt")


def require_model(path: Path, *, traces: bool = False) -> None:
    """Raise a CheckpointError where there is no model, before a text is asked for.

    What is wrong with files that are there is said by who loads them.

    Args:
        path: as it was given.
        traces: whether a saved trace would do.
    """
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
