"""The interface that every tokenizer has, and what all of them share."""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qkv.errors import TextError

__all__ = ["Kind", "Tokenizer", "decode_stream", "unknown_id", "utf8"]

Kind = Literal["char", "byte", "bpe"]

_SHOWN = {"\n": "⏎", " ": "␣", "\t": "⇥"}


class Tokenizer(ABC):
    """What every tokenizer can do; ids are int64, from 0 to ``size - 1``."""

    kind: Kind

    @property
    @abstractmethod
    def size(self) -> int:
        """The number of ids in the vocabulary."""

    @abstractmethod
    def encode(self, text: str) -> NDArray[np.int64]:
        """The ids of a text, shape (T,); raises TextError for characters it can't encode."""

    @abstractmethod
    def token_bytes(self, token: int) -> bytes:
        """The UTF-8 bytes of one id, perhaps only a part of a character; raises TextError."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """A JSON-able description, from which `tokenizer_from_json` makes an equal tokenizer."""

    def decode(self, ids: ArrayLike) -> str:
        """The text of ids, shape (T,), with invalid UTF-8 replaced by U+FFFD.

        Raises TextError for ids outside the vocabulary.
        """
        tokens = self._validated(ids)
        return b"".join(map(self.token_bytes, tokens.tolist())).decode("utf-8", "replace")

    def label(self, token: int) -> str:
        r"""How one token is shown, on one line and with nothing invisible.

        Raises TextError for an id outside the vocabulary.

        >>> from qkv.text import ByteTokenizer
        >>> ByteTokenizer().label(10), ByteTokenizer().label(159)
        ('⏎', '\\x9f')
        """
        # backslashreplace writes each byte that is no UTF-8 as \x9f, as _shown does for controls.
        text = self.token_bytes(token).decode("utf-8", "backslashreplace")
        return "".join(map(_shown, text))

    def check(self, text: str) -> None:
        """Raises TextError, in one line, where ``encode(text)`` would."""
        self.encode(text)

    def _validated(self, ids: ArrayLike) -> NDArray[np.int64]:
        tokens = np.asarray(ids)
        if tokens.size == 0:
            return np.zeros(0, np.int64)
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
            raise TextError(
                f"ids of shape {tokens.shape} and type {tokens.dtype}",
                "integers in one dimension",
                "pass one row of ids",
            )
        outside = np.flatnonzero((tokens < 0) | (tokens >= self.size))
        if outside.size:
            raise unknown_id(int(tokens[outside[0]]), self.size)
        return tokens.astype(np.int64)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.kind, self.size))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size})"


def decode_stream(tokenizer: Tokenizer, ids: Iterable[int]) -> Iterator[str]:
    """Pieces of text as ids arrive, holding back characters whose bytes aren't complete.

    ``"".join`` of all the pieces is ``tokenizer.decode`` of all the ids. Raises TextError for an
    id outside the vocabulary.

    >>> from qkv.text import ByteTokenizer
    >>> list(decode_stream(ByteTokenizer(), [97, 0xC3, 0xA9]))
    ['a', 'é']
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for token in ids:
        if piece := decoder.decode(tokenizer.token_bytes(int(token))):
            yield piece
    if rest := decoder.decode(b"", final=True):
        yield rest


def utf8(text: str) -> bytes:
    """The bytes of a text; raises TextError for half a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise TextError(
            f"half a surrogate pair, {text[error.start]!r}, at position {error.start}",
            "text that UTF-8 can hold",
            "remove it",
        ) from None


def _shown(character: str) -> str:
    if character in _SHOWN:
        return _SHOWN[character]
    if character.isprintable():
        return character
    point = ord(character)
    return f"\\x{point:02x}" if point < 256 else f"\\u{point:04x}"


def unknown_id(token: int, size: int) -> TextError:
    """The error for an id outside a vocabulary."""
    return TextError(
        f"id {token}", f"ids from 0 to {size - 1}", "use the tokenizer that the ids were made with"
    )
