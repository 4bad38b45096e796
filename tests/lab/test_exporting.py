"""What is kept of the screen: pictures, a table, a page, under names that any disk takes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from qkv.attention import Causal
from qkv.attention.fused import attend
from qkv.lab.rooms import Lab
from qkv.lens import Trace, capture

T, LABELS = 11, list("to be, or \n\u202e")[:11]


def save(lab: Lab, name: str, factor: float, tokens: int = T) -> Trace:
    """A trace of three heads at the lab's first place."""
    generator = torch.Generator().manual_seed(5)
    q, k = torch.randn(2, 1, 3, tokens, 7, generator=generator)
    with capture() as trace:
        attend(q * factor, k, k, mask=Causal())
    trace.label(LABELS if tokens == T else [str(at) for at in range(tokens)])
    trace.save(Path(lab.places[0]) / f"{name}.safetensors")
    return trace


def opened(client: TestClient, name: str) -> str:
    reply = client.post("/api/open", json={"item": f"0/{name}.safetensors"})
    assert reply.status_code == 200
    return reply.text.split('"trace": "')[1].split('"')[0]


@pytest.mark.parametrize(
    ("kind", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("html", b"<!doctype html>")]
)
def test_a_head_is_saved(lab: Lab, client: TestClient, kind: str, begins: bytes) -> None:
    save(lab, "a b\u00fc", 1.0)
    trace = opened(client, "a b\u00fc")
    reply = client.get(f"/api/export?{urlencode({'trace': trace, 'head': 'L0H2', 'kind': kind})}")
    assert reply.status_code == 200
    assert reply.content.startswith(begins)
    name = f"a-b-.safetensors-L0H2.{kind}"
    assert reply.headers["content-disposition"] == f'attachment; filename="{name}"'


def test_a_picture_follows_the_screen(lab: Lab, client: TestClient) -> None:
    save(lab, "one", 1.0)
    asked = {"trace": opened(client, "one"), "head": "L0H0", "kind": "png"}
    looks = [{}, {"theme": "dark"}, {"scale": "linear"}]
    found = {client.get("/api/export", params=asked | look).content for look in looks}
    assert len(found) == len(looks)


def test_a_table_has_every_weight(lab: Lab, client: TestClient) -> None:
    before, after = save(lab, "one", 1.0), save(lab, "other", 3.0)
    asked = {"trace": opened(client, "other"), "head": "L0H1", "kind": "csv"}
    alone = list(csv.DictReader(io.StringIO(client.get("/api/export", params=asked).text)))
    asked["against"] = opened(client, "one")
    text = client.get("/api/export", params=asked).text
    found = list(csv.DictReader(io.StringIO(text)))
    assert len(found) == len(alone) == T * (T + 1) // 2
    one, other = (trace.maps()[0][1].pattern() for trace in (before, after))
    for line, short in zip(found, alone, strict=True):
        row, col = int(line["query"]), int(line["key"])
        assert (line["query_token"], line["key_token"]) == (LABELS[row], LABELS[col])
        assert float(short["weight"]) == pytest.approx(other[row, col], abs=1e-7)
        assert float(line["before"]) == pytest.approx(one[row, col], abs=1e-7)
        assert float(line["change"]) == pytest.approx(other[row, col] - one[row, col], abs=1e-7)
        assert set(short) == set(line) - {"before", "change"}
    assert np.isclose(sum(float(line["weight"]) for line in found), T)


def test_the_part_on_screen_is_saved(lab: Lab, client: TestClient) -> None:
    before, after = save(lab, "one", 1.0), save(lab, "other", 3.0)
    part = {"rows": "4:9", "cols": "2:6"}
    asked = {"trace": opened(client, "other"), "head": "L0H1", "kind": "csv", **part}
    reply = client.get("/api/export", params=asked | {"against": opened(client, "one")})
    assert (
        'filename="other.safetensors-L0H1-part-change.csv"' in reply.headers["content-disposition"]
    )
    found = list(csv.DictReader(io.StringIO(reply.text)))
    one, other = (trace.maps()[0][1].pattern() for trace in (before, after))
    cells = [(row, col) for row in range(4, 9) for col in range(2, min(row + 1, 6))]
    assert [(int(line["query"]), int(line["key"])) for line in found] == cells
    for line, (row, col) in zip(found, cells, strict=True):
        assert (line["query_token"], line["key_token"]) == (LABELS[row], LABELS[col])
        assert float(line["weight"]) == pytest.approx(other[row, col], abs=1e-7)
        assert float(line["before"]) == pytest.approx(one[row, col], abs=1e-7)
    pictures = [
        client.get("/api/export", params={**asked, "kind": "svg", **more}).content
        for more in ({}, {"rows": "0:11", "cols": "0:11"}, {"rows": "5:9"})
    ]
    assert len(set(pictures)) == 3


@pytest.mark.parametrize("rows", ["", "4", "5:5", "6:5", "0:12", "-1:5", "a:b", "0:99999999999"])
def test_a_part_that_is_none_is_answered(lab: Lab, client: TestClient, rows: str) -> None:
    save(lab, "one", 1.0)
    asked = {"trace": opened(client, "one"), "head": "L0H0", "kind": "csv", "rows": rows}
    reply = client.get("/api/export", params=asked)
    assert reply.status_code == 400
    assert "a part of 0:11" in reply.json()["error"]


@pytest.mark.parametrize(
    "asked",
    [{"kind": "exe"}, {"head": "L9H9"}, {"trace": "t999"}, {"against": "t999"}, {"kind": ""}],
)
def test_what_cannot_be_saved_is_answered(
    lab: Lab, client: TestClient, asked: dict[str, str]
) -> None:
    save(lab, "one", 1.0)
    query = {"trace": opened(client, "one"), "head": "L0H0", "kind": "csv", **asked}
    assert client.get("/api/export", params=query).status_code == 400


def test_what_would_be_too_much_is_answered(
    lab: Lab, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(lab, "one", 1.0)
    save(lab, "longer", 1.0, tokens=13)
    trace = opened(client, "one")
    query = {"trace": trace, "head": "L0H0", "kind": "csv"}
    longer = query | {"against": opened(client, "longer")}
    assert "two of one size" in client.get("/api/export", params=longer).json()["error"]
    monkeypatch.setattr("qkv.lab.exporting.LARGEST_TABLE", 100)
    assert "121 weights" in client.get("/api/export", params=query).json()["error"]


def test_what_is_saved_shows_the_chosen_head_and_cell(lab: Lab, client: TestClient) -> None:
    save(lab, "one", 1.0)
    asked = {"trace": opened(client, "one"), "head": "L0H1", "cell": "7,3"}
    page = client.get("/api/export", params={**asked, "kind": "html", "scale": "linear"}).text
    begins = page.split('id="qkv-header">')[1].split("</script>")[0]
    header = json.loads(begins)
    assert (header["begin"], header["cell"], header["log"]) == ("L0H1", [7, 3], False)
    pictures = {
        client.get("/api/export", params={**asked, "kind": "svg", "cell": cell}).content
        for cell in ("7,3", "7,4", "3,7")
    }
    assert len(pictures) == 3
    for cell in ("11,0", "0,11", "1", "a,b", ""):
        reply = client.get("/api/export", params={**asked, "kind": "png", "cell": cell})
        assert reply.status_code == 400
        assert "cell" in reply.json()["error"]


def test_names_of_files_carry_model_step_and_change(client: TestClient) -> None:
    def name(**asked: object) -> str:
        reply = client.post("/api/open", json={"item": "own", **asked})
        trace = reply.text.split('"trace": "')[1].split('"')[0]
        query = {"trace": trace, "head": "L3H1", "kind": "csv"}
        disposition = client.get("/api/export", params=query).headers["content-disposition"]
        return disposition.split('"')[1]

    own = "the-model-that-comes-with-qkv"
    assert name() == f"{own}-step-977-L3H1.csv"
    assert name(changes={"mask": "off"}) == f"{own}-step-977-changed-L3H1.csv"
    assert name(step=0) == f"{own}-step-0-L3H1.csv"
