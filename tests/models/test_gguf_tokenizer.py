"""The tokenizer of a GGUF file, against a byte-pair encoding written out by the book."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from qkv.errors import CheckpointError
from qkv.models.gguf_tokenizer import tokenizer_from_gguf
from qkv.text import Tokenizer, train_tokenizer

from .gguf_writing import TEXT, vocabulary, vocabulary_metadata

CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
GPT2 = rf"{CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
AFTER = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = rf"(?i:{CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{AFTER}"
QWEN2 = rf"(?i:{CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{AFTER}"
EXPRESSIONS = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "smaug-bpe": [LLAMA3],
    "qwen2": [QWEN2],
}
"""What llama.cpp splits a text by, one expression after the other."""

TEXTS = [
    "the cat's hats",
    "THAT'S 1212127 (1212) hats,  99  mats,\n\n\n  and\ttabs \r\n",
    "naïve 🐈‍⬛ cats: « 日本語 » مرحبا 12٣٤",
    "   ",
    "",
]


def by_the_book(text: str, pre: str, tokens: list[str], merges: list[str]) -> list[int]:
    """Ids of a text: split, spell in GPT-2's alphabet, merge by rank."""
    regex = pytest.importorskip("regex", reason="the reference needs the package `regex`")
    printing = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printing]
    letter = {byte: chr(byte) for byte in printing}
    letter |= {byte: chr(256 + at) for at, byte in enumerate(others)}
    pieces = [text]
    for expression in EXPRESSIONS[pre]:
        split: list[str] = []
        for piece in pieces:
            at = 0
            for match in regex.finditer(expression, piece):
                split += [piece[at : match.start()], match[0]]
                at = match.end()
            split.append(piece[at:])
        pieces = [piece for piece in split if piece]
    rank = {tuple(merge.split(" ")): at for at, merge in enumerate(merges)}
    ids = {token: at for at, token in enumerate(tokens)}
    found = []
    for piece in pieces:
        parts = [letter[byte] for byte in piece.encode()]
        while pairs := [p for p in pairwise(parts) if p in rank]:
            best = min(pairs, key=rank.__getitem__)
            merged, at = [], 0
            while at < len(parts):
                if tuple(parts[at : at + 2]) == best:
                    merged.append("".join(best))
                    at += 2
                else:
                    merged.append(parts[at])
                    at += 1
            parts = merged
        found += [ids[part] for part in parts]
    return found


def made(pre: str | None, **others: Any) -> Tokenizer | None:
    """The tokenizer of a vocabulary of 331 tokens."""
    metadata = vocabulary_metadata(331) | {"tokenizer.ggml.pre": pre}
    for name, value in others.items():
        metadata[f"tokenizer.ggml.{name}"] = value
    metadata = {name: value for name, value in metadata.items() if value is not None}
    return tokenizer_from_gguf(metadata, 331, Path("x.gguf"))


@pytest.mark.parametrize("pre", EXPRESSIONS)
def test_ids_are_those_of_the_book(pre: str) -> None:
    tokens, merges, _ = vocabulary(331)
    tokenizer = made(pre)
    assert tokenizer is not None
    for text in TEXTS:
        ids = tokenizer.encode(text).tolist()
        assert ids == by_the_book(text, pre, tokens, merges)
        assert tokenizer.decode(ids) == text


def test_the_expressions_differ_on_these_texts() -> None:
    tokenizers = [made(pre) for pre in EXPRESSIONS]
    ids = {tuple(each.encode(TEXTS[1]).tolist()) for each in tokenizers if each is not None}
    assert len(ids) == len(EXPRESSIONS)


def test_pieces_that_are_tokens_are_taken_whole_where_the_model_does() -> None:
    tokens, merges, types = vocabulary(331)
    at = tokens.index("[unused0]")
    # A token that no merge leads to.
    tokens[at], types[at] = "zebra", 1
    others = {"tokens": tokens, "merges": merges, "token_type": types}
    whole, merged = made("llama-bpe", **others), made("smaug-bpe", **others)
    assert whole is not None
    assert merged is not None
    assert whole.encode("zebra").tolist() == [at]
    assert len(merged.encode("zebra")) == 5


def test_control_tokens_are_found_in_text_and_come_back() -> None:
    tokens, merges, types = vocabulary(331)
    at = tokens.index("[unused0]")
    tokens[at], types[at] = "  hats  ", 4  # as users define them: plain text, not in the alphabet
    tokenizer = made("gpt-2", tokens=tokens, merges=merges, token_type=types)
    assert tokenizer is not None
    text = "the<|end|>cat  hats  [unused1]"
    ids = tokenizer.encode(text).tolist()
    assert ids.count(330) == ids.count(at) == 1
    assert tokens.index("[unused1]") not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.label(330) == "<|end|>"


def test_it_is_the_tokenizer_that_was_written() -> None:
    trained, tokenizer = train_tokenizer("bpe", TEXT, size=329), made("gpt-2", token_type=None)
    assert tokenizer is not None
    for text in TEXTS:
        assert tokenizer.encode(text).tolist() == trained.encode(text).tolist()


@pytest.mark.parametrize("pre", ["tekken", "default", None])
def test_ways_of_splitting_that_are_not_known_are_left_out(pre: str | None) -> None:
    assert made(pre) is None


def test_other_kinds_are_left_out_and_old_gpt2_is_known() -> None:
    assert made("gpt-2", model="llama") is None
    assert made(None, model="bert") is None
    assert tokenizer_from_gguf({}, 5, Path("x.gguf")) is None
    metadata = vocabulary_metadata(331) | {"general.architecture": "gpt2"}
    del metadata["tokenizer.ggml.pre"]
    assert tokenizer_from_gguf(metadata, 331, Path("x.gguf")) is not None


@pytest.mark.parametrize(
    ("others", "line"),
    [
        ({"tokens": ["a", "b"]}, "a tokenizer of 2 tokens beside a model of 331"),
        ({"tokens": "abc"}, "no texts under tokenizer.ggml.tokens"),
        ({"tokens": [1] * 331}, "no texts under tokenizer.ggml.tokens"),
        ({"tokens": ["a"] * 331}, "two tokens of its vocabulary are spelt alike"),
        ({"merges": None}, "no texts under tokenizer.ggml.merges"),
        ({"merges": ["t h e"]}, "merge 0 of its tokenizer joins 3 tokens"),
        ({"merges": ["q \n\x1b"]}, "a BPE that can't be read"),
        ({"merges": ["q q" * 10_000]}, "merge 0 of its tokenizer"),
        ({"token_type": [1, 3]}, "331 tokens without a type each"),
        ({"token_type": 3}, "331 tokens without a type each"),
    ],
)
def test_damaged_vocabularies(others: dict[str, Any], line: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        made("gpt-2", **others)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("pre", [["smollm"], 7, b"smollm"])
def test_a_name_that_is_no_text(pre: Any) -> None:
    assert made(pre) is None
