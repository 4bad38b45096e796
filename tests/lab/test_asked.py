"""What a page may ask, and what of it is refused in a line rather than with a fault."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from qkv.errors import ConfigError
from qkv.lab.asked import Asked
from qkv.lab.rooms import Lab

MANY = 10**401


@pytest.mark.parametrize("name", ["temperature", "scale"])
@pytest.mark.parametrize("value", [MANY, -MANY, 1e300, 1e-300, float("inf"), float("nan"), 1001])
def test_numbers_out_of_range_are_refused(client: TestClient, name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"a {name} out of range"):
        Asked.of({"item": "own", "changes": {name: value}})
    if value in (MANY, 1001):
        body = {"item": "own", "changes": {name: value}}
        for path in ("open", "effect"):
            assert client.post(f"/api/{path}", json=body).status_code == 400


@pytest.mark.parametrize("name", ["temperature", "scale"])
@pytest.mark.parametrize("value", [1e-3, 1e3])
def test_the_ends_of_the_range_are_read_without_a_warning(
    client: TestClient, name: str, value: float
) -> None:
    body = {"item": "own", "text": "to be", "changes": {name: value}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reply = client.post("/api/open", json=body)
        trace = reply.text.split('"trace": "')[1].split('"')[0]
        for row, col in ((4, 0), (4, 4), (0, 4)):
            cell = {"trace": trace, "kind": "cell", "head": "L3H1", "row": row, "col": col}
            assert client.post("/api/ask", json=cell).status_code == 200
        assert client.post("/api/effect", json=body).status_code == 200


@pytest.mark.parametrize("step", [MANY, -1, True, 1.0, "1"])
def test_a_step_that_is_none_is_refused(client: TestClient, step: Any) -> None:
    reply = client.post("/api/open", json={"item": "own", "step": step})
    assert reply.status_code == 400


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "1e999", '"high"', "null", "[1]", "1" + "0" * 400]
)
@pytest.mark.parametrize("field", ["passage_loss", "step"])
def test_an_odd_line_of_probes_is_left_out(
    lab: Lab, client: TestClient, monkeypatch: pytest.MonkeyPatch, field: str, value: str
) -> None:
    probes = Path(lab.places[0]) / "run" / "probes"
    probes.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json"):
        (probes.parent / name).write_text("{}", encoding="utf-8")
    line = {"step": "3", "passage_loss": "1.5", field: value}
    pairs = ", ".join(f'"{name}": {one}' for name, one in line.items())
    (probes / "index.jsonl").write_text(f"{{{pairs}}}\n", encoding="utf-8")
    (probes / "step-00000003.safetensors").write_bytes(b"")
    monkeypatch.setattr("qkv.lab.inspecting.passage_of", lambda _: "")
    told = client.get("/api/item", params={"item": "place/run"})
    assert told.status_code == 200
    steps, losses = told.json()["steps"], told.json()["losses"]
    assert (steps, losses) == (([3], [None]) if field == "passage_loss" else ([], []))
