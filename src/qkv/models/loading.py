"""One entry for all that can be loaded: runs and checkpoints of ours, and models from elsewhere.

From elsewhere come Hugging Face folders, GGUF files and nanoGPT's checkpoints. Nothing is fetched,
and no code is run: of nanoGPT's pickles only tensors and plain values are let through, every other
pickle is left closed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from qkv.errors import CheckpointError, QkvError
from qkv.models.assembly import assemble, broken, own
from qkv.models.checkpoint import (
    DESCRIPTION,
    MODEL,
    WRONG_JSON,
    Checkpoint,
    load_checkpoint,
    load_newest,
    read_tensors,
)
from qkv.models.config import config_of
from qkv.models.gguf import load_gguf
from qkv.models.gguf_file import MAGIC
from qkv.models.huggingface import config_from_huggingface, weights_from_huggingface
from qkv.models.nanogpt import CKPT, load_nanogpt
from qkv.models.tokenizer_files import (
    TOKENIZER,
    read_json,
    read_published,
    read_tokenizer,
    require_fitting,
)
from qkv.text import Tokenizer

__all__ = [
    "config_from_huggingface",
    "huggingface_data",
    "load_model",
    "shards",
    "weights_from_huggingface",
]

CONFIG, INDEX = "config.json", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


def load_model(path: Path | str, tokenizer: Path | str | None = None) -> Checkpoint:
    """Load a run, a checkpoint, or a model from elsewhere that is like GPT-2 or Llama.

    Of a run the newest checkpoint is taken. From elsewhere: a Hugging Face folder with
    safetensors; a GGUF file, or a folder with one; nanoGPT's `ckpt.pt`, or the folder of its run.
    Nothing is fetched; weights become float32 on the CPU. A tokenizer that is not a byte-level BPE
    or made of characters is left out (``None``).

    Args:
        path: what to load.
        tokenizer: a file or folder, in place of the model's own: a `tokenizer.json`, published or
            from a run of ours, or nanoGPT's `meta.pkl`.

    Raises:
        CheckpointError: nothing there, a pickle, damage, or a model that we cannot compute.

    >>> load_model("no/such/folder")
    Traceback (most recent call last):
    qkv.errors.CheckpointError: got nothing at no/such/folder; expected a run, a checkpoint, a \
Hugging Face folder, a nanoGPT folder or a GGUF file; check the path
    """
    path = Path(path)
    try:
        if not path.exists():
            raise CheckpointError(f"nothing at {path}", _EXPECTED, "check the path")
        given = None if tokenizer is None else read_tokenizer(Path(tokenizer))
        loaded = _load_file(path, given) if path.is_file() else _load_folder(path, given)
    except OSError as error:
        raise CheckpointError(
            f"{error.strerror!r} while reading {error.filename or path}",
            "files that may be read",
            "check the permissions and the disk",
        ) from error
    if given is not None:
        loaded = replace(loaded, tokenizer=given)
    require_fitting(loaded.tokenizer, config_of(loaded.model).vocab, path)
    return loaded


def _load_file(path: Path, tokenizer: Tokenizer | None) -> Checkpoint:
    start = _start(path)
    if path.suffix == ".gguf" or start.startswith(MAGIC):
        return load_gguf(path, tokenizer)
    if path.name == CKPT:
        return load_nanogpt(path, tokenizer)
    if path.suffix in PICKLES or start.startswith(b"PK\x03\x04"):
        raise _pickle(path)
    raise CheckpointError(f"the file {path}", _EXPECTED, "give the folder that it lies in")


def huggingface_data(path: Path) -> dict[str, Any] | None:
    """Return the config of a Hugging Face folder, ``None`` for all that is no such folder.

    Raises:
        CheckpointError: a damaged config.
    """
    if (path / DESCRIPTION).is_file() or not (path / CONFIG).is_file():
        return None
    config = read_json(path / CONFIG)
    if "model_type" not in config or "model" in config or (path / "checkpoints").is_dir():
        return None
    # Folders of GGUF files are often published with the config of what they were made from.
    return None if any(path.glob("*.gguf")) and not any(path.glob("*.safetensors")) else config


def _load_folder(path: Path, tokenizer: Tokenizer | None) -> Checkpoint:
    if (path / DESCRIPTION).is_file():
        return load_checkpoint(path)
    config = read_json(path / CONFIG) if (path / CONFIG).is_file() else {}
    if "model" in config or (path / "checkpoints").is_dir():
        return load_newest(path)
    if (data := huggingface_data(path)) is not None:
        return _load_huggingface(path, data, tokenizer)
    files = sorted(path.glob("*.gguf"))
    if (path / CKPT).is_file():
        return load_nanogpt(path / CKPT, tokenizer)
    if len(files) == 1:
        return load_gguf(files[0], tokenizer)
    if files:
        names = ", ".join(file.name for file in files[:5]) + (", …" if len(files) > 5 else "")
        raise CheckpointError(f"{len(files)} models in {path}", f"one of them: {names}", "add it")
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


def _load_huggingface(path: Path, data: dict[str, Any], tokenizer: Tokenizer | None) -> Checkpoint:
    try:
        config = config_from_huggingface(data)
    except WRONG_JSON as error:
        if isinstance(error, QkvError):
            raise
        raise broken(path / CONFIG, repr(error)[:200]) from error
    state = _read_shards(path)
    if config.layers > len(state):
        raise broken(path / CONFIG, f"{config.layers} layers for {len(state)} tensors")
    weights = weights_from_huggingface(state, config, data["model_type"])
    model = assemble(config, {name: own(weight) for name, weight in weights.items()}, path)
    if tokenizer is None and (path / TOKENIZER).is_file():
        tokenizer = read_published(path / TOKENIZER)
    return Checkpoint(path, model, tokenizer)


def shards(path: Path) -> list[Path]:
    """Return the safetensors files of a Hugging Face folder.

    Raises:
        CheckpointError: none, a pickle in their place, or one that is only a pointer.
    """
    if (path / MODEL).is_file():
        names = [MODEL]
    elif (path / INDEX).is_file():
        table = read_json(path / INDEX).get("weight_map")
        names = sorted({str(name) for name in table.values()}) if isinstance(table, dict) else []
        if not names or any(Path(name).name != name for name in names):
            raise broken(path / INDEX, "no weight_map of file names")
    elif _pickles(path):
        raise _pickle(_pickles(path)[0])
    else:
        raise CheckpointError(
            f"no {MODEL} in {path}", "weights beside the config", "download the model again"
        )
    for name in names:
        if (path / name).is_file() and _start(path / name).startswith(b"version http"):
            raise broken(path / name, "the pointer that Git LFS puts in place of a file")
    return [path / name for name in names]


def _read_shards(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for file in shards(path):
        try:
            state |= read_tensors(file)
        except CheckpointError as error:
            raise CheckpointError(error.got, error.expected, "download the model again") from error
    return state


def _pickles(path: Path) -> list[Path]:
    return sorted(each for kind in PICKLES for each in path.glob(f"*{kind}"))


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def _pickle(path: Path) -> CheckpointError:
    return CheckpointError(
        f"a pickle at {path}",
        "safetensors: a pickle can run code when it is read",
        "convert it with safetensors.torch.save_file where you trust it"
        + (f", or name it {CKPT} if nanoGPT wrote it" if path.suffix == ".pt" else ""),
    )


_EXPECTED = "a run, a checkpoint, a Hugging Face folder, a nanoGPT folder or a GGUF file"
