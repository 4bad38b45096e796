"""A corpus as a model sees it: split, tokenized, and checked for length."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from qkv.errors import TextError
from qkv.text import Corpus, Tokenizer, train_tokenizer
from qkv.text.tokenizer import Kind

__all__ = ["Data", "choose_passage", "choose_prompt", "from_first_paragraph"]

PASSAGE = 96
"""Characters of a passage that nobody chose, and tokens at most."""


@dataclass(frozen=True)
class Data:
    """A corpus as a model sees it.

    Args:
        corpus: the text.
        tokenizer: learnt from it.
        train: ids of the first part, (N,).
        validation: ids of the rest, (M,).
        validation_characters: how many characters the rest has.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    train: np.ndarray
    validation: np.ndarray
    validation_characters: int

    @classmethod
    def prepare(
        cls,
        corpus: Corpus,
        kind: Kind = "char",
        size: int | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> Data:
        """Split a corpus, learn a tokenizer where none is given, encode both parts.

        Raises:
            TextError: too little text to split.
        """
        first, rest = corpus.split()
        if len(rest) < 2:
            raise TextError(
                f"{len(corpus.text)} characters in {corpus.name}",
                "at least 20, so that a tenth can be kept for validation",
                "give more text",
            )
        # Characters see all of the text, so that none of validation is unknown; BPE learns from
        # the training part alone.
        tokenizer = tokenizer or train_tokenizer(
            kind, first if kind == "bpe" else corpus.text, size=size
        )
        return cls(corpus, tokenizer, tokenizer.encode(first), tokenizer.encode(rest), len(rest))

    def require(self, context: int) -> None:
        """Raise a TextError where the text is shorter than one context."""
        for part, ids in (("training", self.train), ("validation", self.validation[:2])):
            need = context + 1 if part == "training" else 2
            if len(ids) < need:
                raise TextError(
                    f"{len(ids)} tokens of {part} text in {self.corpus.name}",
                    f"more than the context of {context} tokens",
                    f"give more text, or a context of at most {max(1, len(ids) - 1)}",
                )

    def describe(self) -> dict[str, Any]:
        """Return what a run notes of its data."""
        return {
            "name": self.corpus.name,
            "origin": self.corpus.origin,
            "sha256": self.corpus.sha256,
            "characters": len(self.corpus.text),
            "tokenizer": self.tokenizer.kind,
            "vocab": self.tokenizer.size,
            "train_tokens": len(self.train),
            "validation_tokens": len(self.validation),
        }


def choose_prompt(data: Data) -> str:
    """Return a prompt that fits the text: a speaker of the plays, else how validation text begins.

    Every rung and every step is asked the same.
    """
    for speaker in ("ROMEO:", "ROMEO."):
        if speaker in data.corpus.text:
            return speaker
    # The split may fall inside a word: the first that is whole, and a word.
    _, _, beginning = data.corpus.split()[1][:400].partition(" ")
    words = re.findall(r"[^\W\d_]{2,}", beginning)
    return words[0] if words else data.corpus.text[:1]


def choose_passage(data: Data, context: int) -> str:
    """Return how the first whole paragraph of validation text begins: as much as can be probed."""
    text = from_first_paragraph(data.corpus.split()[1])[:PASSAGE]
    # Tokens are no longer than the text they stand for, but a character may take several.
    while len(text) > 1 and len(data.tokenizer.encode(text)) > min(PASSAGE, context):
        text = text[:-1]
    return text


def from_first_paragraph(text: str) -> str:
    """Return a text from its first whole paragraph on; all of it where there is none.

    >>> from_first_paragraph("end of a line\\n\\nAnd another")
    'And another'
    """
    return text[text.find("\n\n") + 1 :].lstrip() or text
