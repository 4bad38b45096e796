"""The tokenizer inside a GGUF file, where it is a byte-level BPE whose way of splitting is known.

Tokens that the file marks as control (``<|im_start|>``) or as defined by a user are found in the
text that is encoded, as the model's own tokenizer finds them: since chat templates are never
rendered, writing them out is how a conversation is put to a model. Nothing is added to a text of
its own accord, no token for its beginning either.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qkv.errors import CheckpointError
from qkv.models.assembly import broken
from qkv.text import BPETokenizer, Tokenizer

__all__ = ["tokenizer_from_gguf"]

CONTROL, USER_DEFINED = 3, 4
"""Types of tokens that stand for themselves, whatever the merges say."""

GPT2 = frozenset({"gpt-2", "jais", "mpt", "olmo", "phi-2"})
"""Names of tokenizers that split text as GPT-2's does (`tokenizer.ggml.pre`)."""
DIGITS = frozenset(
    {"codeshell", "command-r", "exaone", "minerva-7b", "refact", "smollm", "starcoder"}
)
"""The same, after each digit was set apart."""
SPLITS = {
    "llama": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""Expressions, as Llama 3 and Qwen 2 published them, whose matches are split off."""
FAMILY = dict.fromkeys(
    ("dbrx", "falcon3", "llama-bpe", "llama-v3", "llama3", "pixtral", "smaug-bpe"), "llama"
) | dict.fromkeys(("deepseek-r1-qwen", "megrez", "qwen2", "stablelm2"), "qwen")
WHOLE = frozenset({"falcon3", "llama-bpe", "llama-v3", "llama3", "pixtral"})
"""Those that take a piece that is a token as it is, without merging its bytes."""


def tokenizer_from_gguf(metadata: Mapping[str, Any], vocab: int, path: Path) -> Tokenizer | None:
    """Return the tokenizer of a GGUF file, or ``None`` for another kind than byte-level BPE.

    SentencePiece is left out, and so is a way of splitting text that we have no expression for:
    a tokenizer that is nearly right would give a model text that it was never trained on.

    Args:
        metadata: of the file.
        vocab: rows of the model's embedding.
        path: the file, for errors.

    Raises:
        CheckpointError: a vocabulary of another size than the model's, or a damaged one.

    >>> tokenizer_from_gguf({"tokenizer.ggml.model": "llama"}, 7, Path("x.gguf")) is None
    True
    """
    if "tokenizer.ggml.tokens" not in metadata:
        return None
    tokens = _strings(metadata, "tokens", path)
    if len(tokens) != vocab:
        raise CheckpointError(
            f"a tokenizer of {len(tokens)} tokens beside a model of {vocab} in {path}",
            "parts that belong together",
            "download the model again",
        )
    split = _split(metadata)
    if metadata.get("tokenizer.ggml.model") != "gpt2" or split is None:
        return None
    ids = {token: at for at, token in enumerate(tokens)}
    if len(ids) < len(tokens):
        raise broken(path, "two tokens of its vocabulary are spelt alike")
    model = {
        "version": "1.0",
        "added_tokens": _added(metadata, tokens, path),
        "pre_tokenizer": split,
        "decoder": _byte_level(False),
        "model": {
            "type": "BPE",
            "vocab": ids,
            "merges": _merges(metadata, path),
            "ignore_merges": metadata.get("tokenizer.ggml.pre") in WHOLE,
        },
    }
    try:
        return BPETokenizer(model)
    except CheckpointError as error:
        raise broken(path, error.got[:300]) from error


def _split(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    # Files from before the key was there tell by their architecture.
    pre = str(metadata.get("tokenizer.ggml.pre", metadata.get("general.architecture")))
    if pre in GPT2 or pre == "gpt2":
        return _byte_level(True)
    if pre in DIGITS:
        parts = [{"type": "Digits", "individual_digits": True}, _byte_level(True)]
    elif pre in FAMILY:
        pattern = {"Regex": SPLITS[FAMILY[pre]]}
        split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        parts = [split, _byte_level(False)]
    else:
        return None
    return {"type": "Sequence", "pretokenizers": parts}


def _byte_level(split: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": split,
    }


def _added(metadata: Mapping[str, Any], tokens: list[str], path: Path) -> list[dict[str, Any]]:
    types = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        raise broken(path, f"{len(tokens)} tokens without a type each")
    return [
        {
            "id": at,
            "content": token,
            "special": kind == CONTROL,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for at, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (CONTROL, USER_DEFINED) and token
    ]


def _merges(metadata: Mapping[str, Any], path: Path) -> list[list[str]]:
    merges = [merge.split(" ") for merge in _strings(metadata, "merges", path)]
    for at, pair in enumerate(merges):
        if len(pair) != 2:
            raise broken(path, f"merge {at} of its tokenizer joins {len(pair)} tokens")
    return merges


def _strings(metadata: Mapping[str, Any], name: str, path: Path) -> list[str]:
    values = metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise broken(path, f"no texts under tokenizer.ggml.{name}")
    return values
