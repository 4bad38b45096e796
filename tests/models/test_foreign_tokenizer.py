"""Published tokenizers that aren't spelt in bytes: SentencePiece's kind, and WordPiece."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors as put_around

from qkv.errors import CheckpointError, TextError
from qkv.models.foreign_tokenizer import PublishedTokenizer, own_tokenizer


def spelt_as_sentencepiece(path: Path) -> Path:
    """Tokens with ▁ for spaces, bytes for what is unknown, "<bos>" before a text."""
    words = ["<pad>", "<bos>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "▁", "▁a"]
    engine = Tokenizer(
        models.BPE({word: at for at, word in enumerate(words)}, [("▁", "a")], byte_fallback=True)
    )
    engine.normalizer = normalizers.Replace(" ", "▁")
    engine.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    engine.add_special_tokens(["<pad>", "<bos>"])
    engine.add_tokens([AddedToken("<image>")])
    engine.post_processor = put_around.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    engine.enable_truncation(2)
    engine.enable_padding(length=64)
    engine.save(str(path / "tokenizer.json"))
    return path / "tokenizer.json"


def test_sentencepiece(tmp_path: Path) -> None:
    tokenizer = PublishedTokenizer(spelt_as_sentencepiece(tmp_path), 270)
    ids = tokenizer.encode("a ab☃")
    assert ids.tolist() == [1, 258, 261, 259, 2 + 0xE2, 2 + 0x98, 2 + 0x83]
    texts = [tokenizer.token_bytes(token) for token in ids.tolist()]
    assert b"".join(texts) == "<bos>a ab☃".encode()
    assert tokenizer.decode(ids) == "<bos>a ab☃"
    assert [tokenizer.label(token) for token in (261, 2 + 0xE2, 12)] == ["␣a", "\\xe2", "⏎"]
    assert tokenizer.size == 270
    assert tokenizer.token_bytes(269) == b""
    with pytest.raises(TextError):
        tokenizer.token_bytes(270)
    with pytest.raises(TextError):
        tokenizer.decode([-1])


def test_a_token_that_was_added_beyond_the_model(tmp_path: Path) -> None:
    tokenizer = PublishedTokenizer(spelt_as_sentencepiece(tmp_path), 262)
    assert tokenizer.encode("ab").tolist() == [1, 258, 259]
    with pytest.raises(TextError, match="'<image>'"):
        tokenizer.encode("a<image>")
    with pytest.raises(TextError):
        tokenizer.encode("\ud800")
    with pytest.raises(CheckpointError, match="a tokenizer of 262 tokens beside a model of 261"):
        PublishedTokenizer(tmp_path / "tokenizer.json", 261)


def test_wordpiece(tmp_path: Path) -> None:
    words = ["[UNK]", "[CLS]", "[SEP]", "play", "##ing", "we"]
    engine = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}))
    engine.normalizer = normalizers.Lowercase()
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.WordPiece()
    engine.post_processor = put_around.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    engine.save(str(tmp_path / "tokenizer.json"))
    tokenizer = own_tokenizer(tmp_path, 7)
    assert tokenizer is not None
    ids = tokenizer.encode("We playing ☃")
    assert ids.tolist() == [1, 5, 3, 4, 0, 2]
    assert [tokenizer.label(token) for token in ids.tolist()][1:4] == ["we", "play", "##ing"]
    assert tokenizer.decode([5, 3, 4]) == "we playing"
    assert own_tokenizer(tmp_path / "none", 7) is None


def test_damage_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    for data in ({}, {"model": {"type": "Other"}}, {"model": {"type": "WordPiece", "vocab": 3}}):
        path.write_text(json.dumps(data))
        with pytest.raises(CheckpointError) as caught:
            own_tokenizer(tmp_path, 9)
        assert "\n" not in str(caught.value)
