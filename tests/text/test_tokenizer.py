from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkv.errors import CheckpointError, ConfigError, TextError
from qkv.text import (
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    Tokenizer,
    decode_stream,
    tokenizer_from_json,
    train_tokenizer,
)

TEXT = "the cat sat on the mat, the cat naïvely ate 🍎🍎 — the end.\n\tהסוף\n" * 5
TRAINED = {kind: train_tokenizer(kind, TEXT, size=None) for kind in ("char", "byte", "bpe")}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
every_kind = pytest.mark.parametrize("tokenizer", TRAINED.values(), ids=TRAINED.keys())


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_char_round_trip(text: str) -> None:
    tokenizer = train_tokenizer("char", text)
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64
    assert ids.shape == (len(text),)
    assert tokenizer.decode(ids) == text
    assert tokenizer.size == len(set(text))


@pytest.mark.parametrize("kind", ["byte", "bpe"])
@settings(deadline=None)
@given(text=texts)
def test_any_text_round_trips_in_bytes_and_bpe(kind: str, text: str) -> None:
    tokenizer = TRAINED[kind]
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids.tolist())) == text.encode()


@every_kind
def test_json_round_trip_gives_an_equal_tokenizer(tokenizer: Tokenizer) -> None:
    again = tokenizer_from_json(json.loads(json.dumps(tokenizer.to_json())))
    assert again == tokenizer
    assert hash(again) == hash(tokenizer)
    assert (again.kind, again.size) == (tokenizer.kind, tokenizer.size)
    assert again.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()


def test_kinds_differ() -> None:
    assert len(set(TRAINED.values())) == 3
    assert TRAINED["char"] != TRAINED["byte"]
    assert TRAINED["byte"] != "byte"


@every_kind
@settings(deadline=None)
@given(data=st.data())
def test_stream_joins_to_decode(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=40))
    pieces = list(decode_stream(tokenizer, iter(ids)))
    assert "".join(pieces) == tokenizer.decode(ids)
    assert all(pieces)


def test_stream_holds_back_half_a_character_and_no_more() -> None:
    apple = "🍎".encode()
    assert list(decode_stream(ByteTokenizer(), [97, *apple, 98])) == ["a", "🍎", "b"]
    assert list(decode_stream(ByteTokenizer(), apple[:2])) == ["�"]


def test_invalid_bytes_are_replaced() -> None:
    assert ByteTokenizer().decode([97, 0xFF, 98]) == "a�b"


@every_kind
def test_labels_show_one_line_of_visible_characters(tokenizer: Tokenizer) -> None:
    labels = [tokenizer.label(at) for at in range(tokenizer.size)]
    assert all(label and label.isprintable() and " " not in label for label in labels)


def test_labels_of_what_can_not_be_seen() -> None:
    byte = ByteTokenizer()
    shown = [byte.label(at) for at in (10, 32, 9, 13, 0x1B, 0x9F, 97)]
    assert shown == ["⏎", "␣", "⇥", "\\x0d", "\\x1b", "\\x9f", "a"]
    # A right-to-left override could turn a whole line of the terminal around.
    assert CharTokenizer("\u202e\u2028é").label(0) == "\\u202e"
    assert CharTokenizer("\u202e\u2028é").label(1) == "\\u2028"
    assert CharTokenizer("\u202e\u2028é").label(2) == "é"
    bpe = TRAINED["bpe"]
    assert "␣the" in [bpe.label(at) for at in range(bpe.size)]


def test_unknown_characters_are_told_with_their_place() -> None:
    tokenizer = CharTokenizer("abc")
    with pytest.raises(TextError) as error:
        tokenizer.check("abX\nYX")
    assert str(error.value) == (
        "got the characters 'X', '\\n', 'Y', first at position 2; expected the 3 characters the "
        "tokenizer knows; remove them or use the byte tokenizer"
    )
    tokenizer.check("cab")
    with pytest.raises(TextError, match="…, first at position 0"):
        tokenizer.encode("0123456789")


@every_kind
def test_half_a_surrogate_pair_is_an_error_not_a_crash(tokenizer: Tokenizer) -> None:
    with pytest.raises(TextError, match=r"'\\ud800'.* at position 1"):
        tokenizer.encode("t\ud800")


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_half_a_surrogate_pair_can_not_be_learnt(kind: str) -> None:
    with pytest.raises(TextError, match=r"\\udfff"):
        train_tokenizer(kind, "a\udfff")


@every_kind
@pytest.mark.parametrize("ids", [[-1], [10_000], [0, 256_000]])
def test_ids_outside_the_vocabulary(tokenizer: Tokenizer, ids: list[int]) -> None:
    with pytest.raises(TextError, match=f"expected ids from 0 to {tokenizer.size - 1}"):
        tokenizer.decode(ids)
    with pytest.raises(TextError, match="got id"):
        list(decode_stream(tokenizer, ids))
    with pytest.raises(TextError, match="got id"):
        tokenizer.label(ids[-1])


@every_kind
def test_ids_are_integers_in_one_dimension(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([]) == ""
    assert tokenizer.encode("").tolist() == []
    assert tokenizer.decode(np.array([1, 2], np.uint8)) == tokenizer.decode((1, 2))
    for ids in (np.zeros((2, 2), int), np.array([0.5])):
        with pytest.raises(TextError, match="one dimension"):
            tokenizer.decode(ids)


def test_bpe_shortens_is_bounded_and_deterministic() -> None:
    small, large = train_tokenizer("bpe", TEXT, size=256), TRAINED["bpe"]
    assert small.size == 256
    assert 256 < large.size < 1024, "a short text gives fewer ids than it may"
    assert len(large.encode(TEXT)) < len(TEXT) < len(small.encode(TEXT))
    assert train_tokenizer("bpe", TEXT) == large
    assert train_tokenizer("bpe", TEXT, size=270).size == 270


def test_bpe_knows_added_tokens_and_gaps() -> None:
    data = TRAINED["bpe"].to_json()
    model = json.loads(json.dumps(data["model"]))
    at = TRAINED["bpe"].size + 2
    model["added_tokens"] = [
        {
            "id": at,
            "content": "<|end|>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    ]
    tokenizer = BPETokenizer(model)
    last = int(tokenizer.encode("the<|end|>")[-1])
    assert tokenizer.token_bytes(last) == b"<|end|>"
    assert tokenizer.size == last + 1
    assert tokenizer.decode(tokenizer.encode("the<|end|>cat")) == "the<|end|>cat"


def test_bpe_tells_what_its_vocabulary_cannot_spell() -> None:
    # Published vocabularies lack bytes that their texts never had; the engine drops such bytes.
    model = json.loads(json.dumps(TRAINED["bpe"].to_json()["model"]))
    del model["model"]["vocab"]["\u0104"]  # GPT-2's letter for byte 4
    tokenizer = BPETokenizer(model)
    assert tokenizer.decode(tokenizer.encode("the naïve cat 🍎")) == "the naïve cat 🍎"
    with pytest.raises(TextError, match=r"the character '\\x04', first at position 2; .* byte tok"):
        tokenizer.encode("é\n\x04 and \x04")
    with pytest.raises(TextError):
        tokenizer.check("\x04")


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("word", None, "got the tokenizer 'word'; expected char, byte or bpe"),
        ("char", 65, "size 65 for the char tokenizer"),
        ("bpe", 255, "at least 256"),
    ],
)
def test_wrong_settings(kind: str, size: int | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_tokenizer(kind, TEXT, size=size)


def test_nothing_to_learn_from() -> None:
    for kind in ("char", "byte", "bpe"):
        with pytest.raises(TextError, match="an empty text"):
            train_tokenizer(kind, "")
    with pytest.raises(TextError, match="no characters"):
        CharTokenizer("")


BPE_MODEL = TRAINED["bpe"].to_json()["model"]


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        "char",
        {},
        {"kind": "word"},
        {"kind": "char"},
        {"kind": "char", "characters": ""},
        {"kind": "char", "characters": "aba"},
        {"kind": "char", "characters": "a\ud800"},
        {"kind": "char", "characters": ["a", "b"]},
        {"kind": ["char"], "characters": "ab"},
        {"kind": "bpe"},
        {"kind": "bpe", "model": {}},
        {"kind": "bpe", "model": "{}"},
        {"kind": "bpe", "model": {**BPE_MODEL, "decoder": None}},
        {"kind": "bpe", "model": {**BPE_MODEL, "decoder": {"type": "Metaspace"}}},
        {"kind": "bpe", "model": {**BPE_MODEL, "model": {"type": "BPE", "vocab": 3}}},
        {"kind": "bpe", "model": {**BPE_MODEL, "model": {**BPE_MODEL["model"], "vocab": {}}}},
        {"kind": "bpe", "model": {**BPE_MODEL, "pre_tokenizer": {"type": "\n"}}},
    ],
    ids=str,
)
def test_damaged_json_is_told_in_one_line(data: object) -> None:
    with pytest.raises(CheckpointError) as error:
        tokenizer_from_json(data)
    assert str(error.value).startswith("got a tokenizer with ")
    assert len(str(error.value).splitlines()) == 1


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["kind", "characters", "model", "x"]), inner)
        ),
        max_leaves=8,
    )
)
def test_any_json_gives_a_tokenizer_or_an_error_of_ours(data: object) -> None:
    try:
        tokenizer = tokenizer_from_json(data)
    except CheckpointError:
        return
    assert tokenizer.size > 0


def test_shakespeare_has_65_characters_and_encodes_fast(shakespeare: str) -> None:
    tokenizer = train_tokenizer("char", shakespeare)
    assert tokenizer.size == 65
    assert [tokenizer.label(at) for at in range(3)] == ["⏎", "␣", "!"]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        ids = tokenizer.encode(shakespeare)
        times.append(time.perf_counter() - start)
    assert len(ids) == 1_115_394
    assert min(times) < 0.1
    assert tokenizer.decode(ids) == shakespeare
