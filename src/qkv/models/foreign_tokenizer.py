"""Published tokenizers of any kind, by the package `tokenizers`: SentencePiece's, WordPiece, ...

They serve models that run in `transformers`. Unlike ours they may be inexact: some change the case
of a text or its spaces, and write "[UNK]" for what they don't know.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qkv.errors import CheckpointError, TextError
from qkv.models.assembly import broken
from qkv.models.tokenizer_files import TOKENIZER, read_json, read_published, read_tokenizer
from qkv.text import Tokenizer
from qkv.text.interface import unknown_id, utf8

__all__ = ["PublishedTokenizer", "own_tokenizer", "tokenizer_at"]

SPACE = "▁"
"""How SentencePiece writes a space."""
BYTE = re.compile("<0x([0-9A-F]{2})>")
"""How it writes a byte of a character that it has no token for."""


def own_tokenizer(folder: Path, vocab: int) -> Tokenizer | None:
    """Return the tokenizer in a model's folder, ``None`` where none is there.

    Raises:
        CheckpointError: damage, or a tokenizer of more tokens than the model.
    """
    path = folder / TOKENIZER
    return tokenizer_at(path, vocab) if path.is_file() else None


def tokenizer_at(path: Path, vocab: int) -> Tokenizer:
    """Return the tokenizer in a file or folder, of whatever kind.

    Args:
        path: as :func:`qkv.models.tokenizer_files.read_tokenizer` takes it.
        vocab: tokens that the model knows.

    Raises:
        CheckpointError: nothing there, damage, or a tokenizer of more tokens than the model.
    """
    path = path / TOKENIZER if (path / TOKENIZER).is_file() else path
    if path.suffix != ".json" or not path.is_file() or "kind" in read_json(path):
        return read_tokenizer(path)
    return read_published(path) or PublishedTokenizer(path, vocab)


class PublishedTokenizer(Tokenizer):
    """Any `tokenizer.json`, with the tokens that it puts around a text, such as "[CLS]" or "<bos>".

    Args:
        path: the file.
        vocab: tokens that the model knows; of those that were added later some may lie beyond.

    Raises:
        CheckpointError: a damaged file, or a vocabulary larger than the model's.
    """

    def __init__(self, path: Path, vocab: int) -> None:
        from tokenizers import Tokenizer as Engine

        self._model = read_json(path)
        try:
            self._engine = Engine.from_file(str(path))
        except Exception as error:  # the package raises bare Exception for whatever it can't read
            raise broken(path, str(error)[:200]) from error
        # Some were saved with a training run's cut-off or filling.
        self._engine.no_truncation()
        self._engine.no_padding()
        self._vocab = vocab
        plain = max(self._engine.get_vocab(with_added_tokens=False).values(), default=-1) + 1
        if plain > vocab:
            raise CheckpointError(
                f"a tokenizer of {plain} tokens beside a model of {vocab} at {path}",
                "parts that belong together",
                "take the tokenizer and the weights from one model",
            )

    @property
    def size(self) -> int:
        return self._vocab

    def encode(self, text: str) -> NDArray[np.int64]:
        utf8(text)
        ids = np.array(self._engine.encode(text).ids, np.int64)
        if ids.size and ids.max() >= self._vocab:
            beyond = self._engine.id_to_token(int(ids.max()))
            raise TextError(f"the token {beyond!r}", "tokens that the model knows", "leave it out")
        return ids

    def decode(self, ids: ArrayLike) -> str:
        # Together, and not one by one: WordPiece puts spaces between, and none before "##ing".
        return self._engine.decode(self._validated(ids).tolist(), skip_special_tokens=False)

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < self._vocab:
            raise unknown_id(token, self._vocab)
        # A vocabulary has gaps where the model's was filled up to a round number.
        text = self._engine.id_to_token(token) or ""
        if token in self._added:
            return text.encode()
        if byte := BYTE.fullmatch(text):
            return bytes.fromhex(byte[1])
        return text.replace(SPACE, " ").encode() if self._spaced else text.encode()

    def to_json(self) -> dict[str, Any]:
        return {"kind": "published", "model": self._model, "vocab": self._vocab}

    @cached_property
    def _added(self) -> frozenset[int]:
        return frozenset(self._engine.get_added_tokens_decoder())

    @cached_property
    def _spaced(self) -> bool:
        """Whether a space is written as in SentencePiece."""
        return SPACE in json.dumps(self._model.get("decoder"), ensure_ascii=False)
