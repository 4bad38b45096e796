"""One entry for all that can be loaded: runs and checkpoints of ours, Hugging Face folders.

Nothing is unpickled and nothing fetched: a folder is read with safetensors and JSON alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from qkv.errors import CheckpointError, QkvError
from qkv.models.checkpoint import (
    DESCRIPTION,
    MODEL,
    WRONG_JSON,
    Checkpoint,
    load_checkpoint,
    load_newest,
    load_weights,
    read_tensors,
)
from qkv.models.huggingface import config_from_huggingface, weights_from_huggingface
from qkv.models.transformer import Transformer
from qkv.text import BPETokenizer, Tokenizer

__all__ = ["config_from_huggingface", "load_model", "weights_from_huggingface"]

CONFIG, INDEX, TOKENIZER = "config.json", "model.safetensors.index.json", "tokenizer.json"


def load_model(path: Path | str) -> Checkpoint:
    """Load a run directory, a checkpoint folder, or a Hugging Face folder of GPT-2 or Llama.

    Of a run the newest checkpoint is taken. Nothing is unpickled, nothing fetched; weights become
    float32 on the CPU. A tokenizer that is not a byte-level BPE is left out (``None``).

    Raises:
        CheckpointError: nothing there, a pickle, damage, or a model that we cannot compute.

    >>> load_model("no/such/folder")
    Traceback (most recent call last):
    qkv.errors.CheckpointError: got nothing at no/such/folder; expected a run, a checkpoint or \
a Hugging Face folder; check the path
    """
    path = Path(path)
    try:
        if not path.exists():
            raise CheckpointError(f"nothing at {path}", _EXPECTED, "check the path")
        if path.is_file():
            raise _file_alone(path)
        if (path / DESCRIPTION).is_file():
            return load_checkpoint(path)
        config = _read_json(path / CONFIG) if (path / CONFIG).is_file() else {}
        if "model" in config or (path / "checkpoints").is_dir():
            return load_newest(path)
        if "model_type" in config:
            return _load_huggingface(path, config)
    except OSError as error:
        raise CheckpointError(
            f"{error.strerror!r} while reading {error.filename or path}",
            "files that may be read",
            "check the permissions and the disk",
        ) from error
    if (path / "ladder.json").is_file():
        runs = ", ".join(sorted(run.name for run in path.iterdir() if run.is_dir()))
        raise CheckpointError(
            f"the folder of a ladder, {path}", f"one of its runs: {runs}", "add it"
        )
    if _pickles(path):
        raise _pickle(_pickles(path)[0])
    raise CheckpointError(
        f"the folder {path} with neither {DESCRIPTION} nor a {CONFIG} that names its model",
        _EXPECTED,
        "check the path",
    )


def _load_huggingface(path: Path, data: dict[str, Any]) -> Checkpoint:
    try:
        config = config_from_huggingface(data)
    except WRONG_JSON as error:
        if isinstance(error, QkvError):
            raise
        raise _broken(path / CONFIG, repr(error)) from error
    state = _read_shards(path)
    model = Transformer(config)
    load_weights(model, weights_from_huggingface(state, config, data["model_type"]), path)
    tokenizer = _read_tokenizer(path / TOKENIZER) if (path / TOKENIZER).is_file() else None
    if tokenizer is not None and tokenizer.size > config.vocab:
        raise CheckpointError(
            f"a tokenizer of {tokenizer.size} tokens beside a model of {config.vocab} in {path}",
            "parts that belong together",
            "take the tokenizer and the weights from one model",
        )
    return Checkpoint(path, model.eval(), tokenizer)


def _read_shards(path: Path) -> dict[str, Tensor]:
    if (path / MODEL).is_file():
        names = [MODEL]
    elif (path / INDEX).is_file():
        table = _read_json(path / INDEX).get("weight_map")
        names = sorted({str(name) for name in table.values()}) if isinstance(table, dict) else []
        if not names or any(Path(name).name != name for name in names):
            raise _broken(path / INDEX, "no weight_map of file names")
    elif _pickles(path):
        raise _pickle(_pickles(path)[0])
    else:
        raise CheckpointError(
            f"no {MODEL} in {path}", "weights beside the config", "download the model again"
        )
    state: dict[str, Tensor] = {}
    for name in names:
        if (path / name).is_file() and _start(path / name).startswith(b"version http"):
            raise _broken(path / name, "the pointer that Git LFS puts in place of a file")
        try:
            state |= read_tensors(path / name)
        except CheckpointError as error:
            raise CheckpointError(error.got, error.expected, "download the model again") from error
    return state


def _read_tokenizer(path: Path) -> Tokenizer | None:
    model = _read_json(path)
    # Others, such as SentencePiece, do not spell their tokens in bytes.
    kind = model["model"].get("type") if isinstance(model.get("model"), dict) else None
    if kind != "BPE" or "ByteLevel" not in json.dumps(model.get("decoder")):
        return None
    # Some were saved with a training run's cut-off or filling: a text must come back whole.
    return BPETokenizer({**model, "truncation": None, "padding": None})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _broken(path, str(error)) from error
    if not isinstance(data, dict):
        raise _broken(path, "no JSON object")
    return cast("dict[str, Any]", data)


def _pickles(path: Path) -> list[Path]:
    return sorted(each for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for each in path.glob(kind))


def _file_alone(path: Path) -> CheckpointError:
    if path.suffix in (".bin", ".pt", ".pth", ".ckpt") or _start(path).startswith(b"PK\x03\x04"):
        return _pickle(path)
    return CheckpointError(f"the file {path}", _EXPECTED, "give the folder that it lies in")


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def _pickle(path: Path) -> CheckpointError:
    return CheckpointError(
        f"a pickle at {path}",
        "safetensors: a pickle can run code when it is read",
        "convert it with safetensors.torch.save_file where you trust it",
    )


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: {what}", "the file as published", "download the model again")


_EXPECTED = "a run, a checkpoint or a Hugging Face folder"
