"""Text to ids and back: characters, bytes, and byte-level BPE, behind one small interface.

A tokenizer is exact: ``decode(encode(text)) == text`` for every text it accepts. Each travels as
plain JSON inside a checkpoint, since weights mean nothing without the labels of their rows.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qkv.errors import CheckpointError, ConfigError, TextError
from qkv.text.interface import Kind, Tokenizer, decode_stream, unknown_id, utf8

__all__ = [
    "BPETokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "Kind",
    "Tokenizer",
    "decode_stream",
    "tokenizer_from_json",
    "train_tokenizer",
]

_DEFAULT_BPE_SIZE = 1024


class CharTokenizer(Tokenizer):
    """One id for each character (Unicode code point) of a given alphabet.

    Raises TextError if the alphabet is empty, repeats a character or has a lone surrogate.

    >>> tokenizer = CharTokenizer("abc")
    >>> tokenizer.encode("cab").tolist()
    [2, 0, 1]
    >>> tokenizer.decode([2, 0, 1])
    'cab'
    """

    kind: Kind = "char"

    def __init__(self, characters: str) -> None:
        if not characters:
            raise TextError("no characters", "at least one", "give a text that is not empty")
        if len(set(characters)) < len(characters):
            raise TextError("repeated characters", "each once", "pass an alphabet, not a text")
        utf8(characters)
        self.characters = characters
        self._points = _code_points(characters)
        # One slot beyond the highest code point stands for all that lie higher.
        self._id_of_point = np.full(int(self._points.max()) + 2, -1, np.int64)
        self._id_of_point[self._points] = np.arange(len(characters))

    @property
    def size(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> NDArray[np.int64]:
        """The id of each character, shape (T,); raises TextError for characters it lacks.

        >>> CharTokenizer("ab").encode("abba").tolist()
        [0, 1, 1, 0]
        >>> CharTokenizer("ab").encode("abc")
        Traceback (most recent call last):
        qkv.errors.TextError: got the character 'c', first at position 2; \
expected the 2 characters the tokenizer knows; remove it or use the byte tokenizer
        """
        points = _code_points(text)
        ids = self._id_of_point[np.minimum(points, len(self._id_of_point) - 1)]
        if ids.size and ids.min() < 0:
            raise self._unknown_characters(text, ids)
        return ids

    def decode(self, ids: ArrayLike) -> str:
        return self._points[self._validated(ids)].tobytes().decode("utf-32-le")

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.size:
            raise unknown_id(token, self.size)
        return self.characters[token].encode()

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "characters": self.characters}

    def _unknown_characters(self, text: str, ids: NDArray[np.int64]) -> TextError:
        positions = np.flatnonzero(ids < 0)
        # Only the first thousand: the line shows five, and the text may be megabytes of them.
        unknown = list(dict.fromkeys(text[at] for at in positions[:1000].tolist()))
        shown = ", ".join(map(repr, unknown[:5])) + (", …" if len(unknown) > 5 else "")
        plural = len(unknown) > 1
        return TextError(
            f"the character{'s' if plural else ''} {shown}, first at position {positions[0]}",
            f"the {self.size} characters the tokenizer knows",
            f"remove {'them' if plural else 'it'} or use the byte tokenizer",
        )


class ByteTokenizer(Tokenizer):
    """One id for each byte of the text's UTF-8, so that 256 ids encode any text.

    >>> ByteTokenizer().encode("é").tolist()
    [195, 169]
    """

    kind: Kind = "byte"

    @property
    def size(self) -> int:
        return 256

    def encode(self, text: str) -> NDArray[np.int64]:
        return np.frombuffer(utf8(text), np.uint8).astype(np.int64)

    def decode(self, ids: ArrayLike) -> str:
        return self._validated(ids).astype(np.uint8).tobytes().decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < 256:
            raise unknown_id(token, 256)
        return bytes([token])

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind}


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding (Sennrich et al. 2016; GPT-2's byte alphabet).

    Args:
        model: the parsed content of a ``tokenizer.json`` of the `tokenizers` package.

    Raises CheckpointError if ``model`` is not a byte-level BPE.
    """

    kind: Kind = "bpe"

    def __init__(self, model: dict[str, Any]) -> None:
        from tokenizers import Tokenizer as Engine

        byte_level = "ByteLevel" in json.dumps(model.get("decoder"))
        # Without the byte alphabet decoder, as in SentencePiece, tokens aren't spelt in bytes.
        if not isinstance(model.get("model"), dict) or not byte_level:
            raise _damaged("no byte-level BPE")
        try:
            self._engine = Engine.from_str(json.dumps(model))
        except Exception as error:  # the package raises bare Exception for whatever it can't read
            raise _damaged(f"a BPE that can't be read ({error})") from error
        self._model = model

    @cached_property
    def _bytes_of_id(self) -> list[bytes]:
        added = {at: token.content for at, token in self._engine.get_added_tokens_decoder().items()}
        vocabulary = self._engine.get_vocab(with_added_tokens=True)
        # Some published vocabularies have gaps: an id without a token has no bytes.
        table = [b""] * (max(vocabulary.values(), default=-1) + 1)
        byte_of = _byte_of_character()
        for token, at in vocabulary.items():
            plain = at in added or not byte_of.keys() >= set(token)
            table[at] = token.encode() if plain else bytes(byte_of[letter] for letter in token)
        return table

    @property
    def size(self) -> int:
        return len(self._bytes_of_id)

    @cached_property
    def _unspelt(self) -> bytes:
        """The bytes that no token stands for, which the engine would drop without a word."""
        spelt = b"".join(piece for piece in self._bytes_of_id if len(piece) == 1)
        return bytes(set(range(256)) - set(spelt))

    def encode(self, text: str) -> NDArray[np.int64]:
        """The ids of a text, shape (T,), in which the model's added tokens are found as such.

        Raises TextError for characters that the vocabulary can't spell, as some published ones
        can't.
        """
        data = utf8(text)
        if len(data.translate(None, self._unspelt)) < len(data):
            raise self._unknown_character(text)
        return np.array(self._engine.encode(text, add_special_tokens=False).ids, np.int64)

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < self.size:
            raise unknown_id(token, self.size)
        return self._bytes_of_id[token]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "model": self._model}

    def _unknown_character(self, text: str) -> TextError:
        unspelt = set(self._unspelt)
        at = next(at for at, letter in enumerate(text) if not unspelt.isdisjoint(letter.encode()))
        return TextError(
            f"the character {text[at]!r}, first at position {at}",
            "characters whose bytes the vocabulary has",
            "remove it or use the byte tokenizer",
        )


def train_tokenizer(kind: str, text: str, *, size: int | None = None) -> Tokenizer:
    """The tokenizer of a kind ("char", "byte" or "bpe") that suits a text.

    ``size`` is for "bpe" alone: the most ids it may have, at least 256 and by default 1,024; a
    short text, in which too few pairs repeat, gives fewer. Raises ConfigError for a wrong kind or
    size, TextError for an empty text.

    >>> train_tokenizer("char", "hello world").size
    8
    """
    if kind not in ("char", "byte", "bpe"):
        raise ConfigError(f"the tokenizer {kind!r}", "char, byte or bpe", "choose one of them")
    if size is not None and (kind != "bpe" or size < 256):
        raise ConfigError(
            f"size {size} for the {kind} tokenizer",
            "a size of at least 256, for bpe alone",
            "leave size out or choose bpe",
        )
    if not text:
        raise TextError("an empty text", "text to learn tokens from", "choose another text")
    if kind == "char":
        return CharTokenizer("".join(sorted(set(text))))
    if kind == "byte":
        return ByteTokenizer()
    return _train_bpe(text, size or _DEFAULT_BPE_SIZE)


def _train_bpe(text: str, size: int) -> BPETokenizer:
    from tokenizers import Tokenizer as Engine
    from tokenizers import decoders, models, pre_tokenizers, trainers

    utf8(text)
    engine = Engine(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    engine.train_from_iterator([text], trainer)
    return BPETokenizer(json.loads(engine.to_str()))


def tokenizer_from_json(data: object) -> Tokenizer:
    """The tokenizer that ``to_json`` described; raises CheckpointError for anything else.

    >>> tokenizer_from_json({"kind": "char", "characters": "abc"}).size
    3
    """
    if not isinstance(data, dict):
        raise _damaged(f"a {type(data).__name__}")
    match data:
        case {"kind": "char", "characters": str(characters)}:
            try:
                return CharTokenizer(characters)
            except TextError as error:
                raise _damaged(error.got) from error
        case {"kind": "byte"}:
            return ByteTokenizer()
        case {"kind": "bpe", "model": dict(model)}:
            return BPETokenizer(model)
    raise _damaged(
        f"kind {str(data.get('kind'))[:40]!r} with keys {str(sorted(map(str, data)))[:80]}"
    )


def _code_points(text: str) -> NDArray[np.uint32]:
    # surrogatepass: a lone surrogate becomes a number like any other, unknown to every alphabet.
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: bytes that print stand for themselves, the rest begin at U+0100."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printing))
    return {chr(b): b for b in printing} | {chr(256 + at): b for at, b in enumerate(others)}


def _damaged(got: str) -> CheckpointError:
    return CheckpointError(
        f"a tokenizer with {got}",
        "the JSON of a char, byte or bpe tokenizer",
        "use a checkpoint that qkv wrote",
    )
