"""Tokenizers from files: a published `tokenizer.json`, one of ours, nanoGPT's `meta.pkl`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from qkv.errors import CheckpointError
from qkv.models.assembly import broken
from qkv.models.nanogpt import META, read_meta
from qkv.text import BPETokenizer, Tokenizer, tokenizer_from_json

__all__ = ["TOKENIZER", "read_json", "read_published", "read_tokenizer", "require_fitting"]

TOKENIZER = "tokenizer.json"
JSON = 2**26
"""Bytes that a JSON file may have; tokenizers of 256,000 tokens take half of it."""


def read_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer in a file, or in a folder that holds one.

    Args:
        path: a `tokenizer.json` as the package `tokenizers` writes it, if it is a byte-level BPE;
            one as a run of ours has it; a `meta.pkl` of nanoGPT; or a folder with one of them.

    Raises:
        CheckpointError: nothing there, damage, or another kind of tokenizer.
    """
    if path.is_dir():
        names = [name for name in (TOKENIZER, META) if (path / name).is_file()]
        if not names:
            raise CheckpointError(
                f"neither {TOKENIZER} nor {META} in {path}", "a tokenizer", "give the file itself"
            )
        path /= names[0]
    if not path.is_file():
        raise CheckpointError(f"no file at {path}", "a tokenizer", "check the path")
    with path.open("rb") as file:
        start = file.read(1)
    if path.suffix == ".pkl" or start == b"\x80":  # how pickles start
        return read_meta(path)
    data = read_json(path)
    if "kind" in data:
        return tokenizer_from_json(data)
    tokenizer = read_published(path)
    if tokenizer is None:
        raise CheckpointError(
            f"another tokenizer than a byte-level BPE at {path}",
            "one whose tokens are spelt in bytes",
            "use a model that comes with such a tokenizer",
        )
    return tokenizer


def read_published(path: Path) -> Tokenizer | None:
    """Return the tokenizer of a published `tokenizer.json`, ``None`` for no byte-level BPE.

    Raises:
        CheckpointError: a damaged file.
    """
    model = read_json(path)
    # Others, such as SentencePiece, do not spell their tokens in bytes.
    kind = model["model"].get("type") if isinstance(model.get("model"), dict) else None
    if kind != "BPE" or "ByteLevel" not in json.dumps(model.get("decoder")):
        return None
    # Some were saved with a training run's cut-off or filling: a text must come back whole.
    return BPETokenizer({**model, "truncation": None, "padding": None})


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object that was downloaded; raises CheckpointError for anything else."""
    if path.stat().st_size > JSON:
        raise broken(path, f"more than {JSON} bytes of JSON")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise broken(path, str(error)) from error
    if not isinstance(data, dict):
        raise broken(path, "no JSON object")
    return cast("dict[str, Any]", data)


def require_fitting(tokenizer: Tokenizer | None, vocab: int, path: Path) -> None:
    """Raise a CheckpointError for a tokenizer with ids that a model does not have.

    A model may have more: its embedding is often filled up to a round number.
    """
    if tokenizer is not None and tokenizer.size > vocab:
        raise CheckpointError(
            f"a tokenizer of {tokenizer.size} tokens beside a model of {vocab} in {path}",
            "parts that belong together",
            "take the tokenizer and the weights from one model",
        )
