"""The wire format: what is in a header, what is stored once, and what is refused."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace

import numpy as np
import pytest

from qkv.attention import Causal
from qkv.errors import ConfigError, QkvError, ResourceError
from qkv.lens import AttentionMap
from qkv.views.payload import Column, Layer, Payload, of_maps


def test_any_cell_of_any_head_to_its_level(heads: list[Layer], payload: Payload) -> None:
    for head in (head for layer in heads for head in layer.maps):
        stored, weights = payload.head(head.name), head.pattern()
        for query, key in np.ndindex(head.Q, head.K):
            reading = stored.read(query, key)
            if reading is None:
                assert not head.allowed([query], [key])[0, 0]
            else:
                assert reading.low <= min(weights[query, key], 1.0) <= reading.high


def test_the_header_is_plain_json_that_says_what_there_is(payload: Payload) -> None:
    header = json.loads(json.dumps(payload.header, allow_nan=False))
    assert header == json.loads(json.dumps(dict(payload.header)))
    assert [len(layer["heads"]) for layer in header["layers"]] == [3, 3, 3, 2, 1, 1]
    windowed, crossed, tail = (header["layers"][at] for at in (1, 3, 5))
    assert (windowed["window"], windowed["cross"], windowed["keys"]) == (5, False, 23)
    assert (crossed["cross"], crossed["places"], crossed["queries"]) == (True, None, 11)
    assert tail["places"] == list(range(14, 23))
    assert header["layers"][0]["heads"][1]["kind"] == "previous token"
    assert [column["name"] for column in header["table"]] == ["induction", "entropy", "lift"]
    assert header["table"][1]["values"][-1] is None
    assert header["table"][1]["chance"][0] == 0.0
    # Texts come once, though six layers name them.
    assert [text["size"] for text in header["texts"]] == [23, 11, 1, 61, 9]


def test_a_mask_is_stored_once(rng: np.random.Generator) -> None:
    def head(name: str, mask: object) -> AttentionMap:
        q, k = rng.normal(size=(2, 5, 3))
        return AttentionMap.of(q, k, mask=mask, name=name)  # type: ignore[arg-type]

    given = [Causal(), Causal(), np.tri(5, dtype=bool), np.tri(5, dtype=bool), None]
    payload = of_maps([[head(f"L0H{at}", mask) for at, mask in enumerate(given)]])
    seen = [entry["seen"] for entry in payload.header["layers"][0]["heads"]]
    assert len(set(seen[:4])) == 1
    assert len(set(seen)) == 2


def test_chunks_can_be_cut_out_of_base64(payload: Payload) -> None:
    text = base64.b64encode(payload.body).decode()
    for offset, length in payload.header["chunks"].values():
        piece = base64.b64decode(text[offset // 3 * 4 : -(-(offset + length) // 3) * 4])
        zlib.decompress(piece[:length])


def test_heads_are_numbered_by_their_names_or_else_counted(rng: np.random.Generator) -> None:
    q, k = rng.normal(size=(2, 5, 3))
    plain = AttentionMap.of(q, k)
    named = [replace(plain, name="L7H2"), replace(plain, name="L7H4")]
    header = of_maps([named, [plain, plain]]).header
    assert [h["name"] for layer in header["layers"] for h in layer["heads"]] == [
        "L7H2", "L7H4", "L1H0", "L1H1"
    ]  # fmt: skip
    assert [layer["index"] for layer in header["layers"]] == [7, 1]
    with pytest.raises(ConfigError, match="two heads named L7H2"):
        of_maps([named, [named[0]]])


def test_progress_is_told(heads: list[Layer]) -> None:
    told: list[tuple[int, int]] = []
    of_maps(heads[:2], progress=lambda done, of: told.append((done, of)))
    assert told == [(at + 1, 6) for at in range(6)]


def test_queries_that_are_no_tokens_of_the_text_have_no_places(rng: np.random.Generator) -> None:
    head = AttentionMap.of(rng.normal(size=(5, 3)), rng.normal(size=(2, 3)))
    assert of_maps([[head]]).header["layers"][0]["places"] is None


def test_scores_that_are_no_numbers_are_left_out(rng: np.random.Generator) -> None:
    head = AttentionMap.of(rng.normal(size=(5, 3)), rng.normal(size=(5, 3)), name="L0H0")
    table = of_maps(
        [[head]], columns=[Column("odd", {"L0H0": float("nan")}, count={"L0H0": np.int64(4)})]
    ).header["table"]
    assert table[0]["values"] == [None]
    assert table[0]["count"] == [4]


def test_what_is_refused(rng: np.random.Generator) -> None:
    q, k = rng.normal(size=(2, 5, 3))
    head = AttentionMap.of(q, k)
    with pytest.raises(ConfigError, match="no layers"):
        of_maps([])
    with pytest.raises(ConfigError, match="a layer without heads"):
        of_maps([[head], []])
    with pytest.raises(ConfigError, match="one size for a layer"):
        of_maps([[head, AttentionMap.of(q[:3], k)]])
    with pytest.raises(QkvError, match="head L9H9"):
        of_maps([[head]]).head("L9H9")


def test_too_much_for_a_page_is_refused_before_any_work() -> None:
    long = np.broadcast_to(np.zeros(2), (4096, 2))
    head = AttentionMap(q=long, k=long, lse=np.zeros(4096))
    layers = [[replace(head, name=f"L{n}H{h}") for h in range(12)] for n in range(12)]
    with pytest.raises(ResourceError, match="choose fewer layers, heads or tokens"):
        of_maps(layers)
