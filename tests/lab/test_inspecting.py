"""What the page that looks into heads asks: texts, questions, effects, files; against qkv.lens."""

from __future__ import annotations

import json
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from qkv.attention import Causal
from qkv.attention.fused import attend
from qkv.lab.inspecting import MOST_TRACES
from qkv.lab.rooms import Lab
from qkv.lens import capture, edit
from qkv.models import TransformerConfig, build_model
from qkv.models.checkpoint import save_checkpoint
from qkv.text import corpus_from_text
from qkv.training.config import TrainingConfig
from qkv.training.run import Data, start
from qkv.training.rundir import RunDirectory

WORDS = "to be, or not to be: that is the question.\n"
TEXT = "to be or not to"
CONTEXT = 24


@pytest.fixture
def model(lab: Lab) -> torch.nn.Module:
    """A small model with weights drawn at random, saved as the run `0/run`."""
    data = Data.prepare(corpus_from_text(WORDS * 20, name="hamlet"), "char")
    config = TransformerConfig(
        vocab=data.tokenizer.size, context=CONTEXT, layers=2, width=24, heads=3
    )
    run = RunDirectory(Path(lab.places[0]) / "run")
    start(run, config, TrainingConfig(tokens=9_600, batch=4), data, probe="that is")
    torch.manual_seed(3)
    model = build_model(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    save_checkpoint(
        run.path / "checkpoints" / "step-00000007",
        config=config,
        weights=model.state_dict(),
        tokenizer=data.tokenizer,
        step=7,
    )
    model.tokenizer = data.tokenizer  # type: ignore[assignment]
    return model


def unframed(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """JSON and numbers of one body."""
    size = struct.unpack("<I", data[:4])[0]
    reply, place, parts = json.loads(data[4 : 4 + size]), 4 + size, []
    for length in reply["lengths"]:
        parts.append(data[place : place + length])
        place += length
    assert place == len(data)
    return reply, parts


def opened(client: TestClient, **asked: Any) -> dict[str, Any]:
    reply = client.post("/api/open", json=asked)
    assert reply.status_code == 200, reply.text
    return unframed(reply.content)[0]


def ask(client: TestClient, trace: str, kind: str, **question: Any) -> tuple[Any, list[Any]]:
    reply = client.post("/api/ask", json={"trace": trace, "kind": kind, **question})
    assert reply.status_code == 200, reply.text
    told, parts = unframed(reply.content)
    return told, [np.frombuffer(part, "<f4") for part in parts]


def refused(client: TestClient, path: str, **asked: Any) -> dict[str, Any]:
    reply = client.post(path, json=asked)
    assert reply.status_code == 400
    told: dict[str, Any] = reply.json()
    assert told["error"] == f"got {told['got']}; expected {told['expected']}; {told['remedy']}"
    return told


def patterns(model: Any, text: str, **edits: Any) -> Any:
    """Every head's weights, asked of qkv.lens itself."""
    ids = torch.from_numpy(model.tokenizer.encode(text))[None]
    with torch.inference_mode(), capture(model) as trace:
        if edits:
            with edit(**edits):
                model(ids)
        else:
            model(ids)
    return {head.name: head.pattern() for layer in trace.maps() for head in layer}


def loss(model: Any, text: str, **edits: Any) -> float:
    ids = torch.from_numpy(model.tokenizer.encode(text))[None].long()
    with torch.inference_mode():
        if edits:
            with edit(**edits):
                logits = model(ids)
        else:
            logits = model(ids)
    return float(torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]))


def test_what_there_is_to_look_into(client: TestClient, model: Any) -> None:
    items = {item["id"]: item for item in client.get("/api/items").json()}
    assert items["own"]["kind"] == "own"
    assert items["place/run"]["kind"] == "run"
    told = client.get("/api/item", params={"item": "0/run"}).json()
    assert (told["passage"], told["steps"], told["losses"]) == ("that is", [], [])
    own = client.get("/api/item", params={"item": "own"}).json()
    assert len(own["steps"]) == len(own["losses"]) > 1
    assert own["losses"][-1] < own["losses"][0]
    assert client.get("/api/item", params={"item": "0/none"}).status_code == 400


def test_a_text_is_read_and_every_question_answered(client: TestClient, model: Any) -> None:
    told = opened(client, item="0/run", text=TEXT)
    right = patterns(model, TEXT)
    assert [h["name"] for layer in told["header"]["layers"] for h in layer["heads"]] == list(right)
    assert told["header"]["texts"][0]["labels"] == list(TEXT)
    for name, pattern in right.items():
        _, (row,) = ask(client, told["trace"], "row", head=name, place=9)
        assert row[:10] == pytest.approx(pattern[9, :10], abs=1e-6)
        sides = {"rows": [0, 15], "cols": [0, 15]}
        reply, (tile,) = ask(client, told["trace"], "tile", head=name, level=0, how="max", **sides)
        seen = np.tri(15, dtype=bool)
        assert tile.reshape(reply["shape"])[seen] == pytest.approx(pattern[seen], abs=1e-6)
        assert np.isnan(tile.reshape(15, 15)[~seen]).all()
    again = opened(client, item="0/run", text=TEXT)
    assert again["trace"] == told["trace"]


def test_thumbnails_are_those_of_the_atlas(client: TestClient, model: Any) -> None:
    trace = opened(client, item="0/run", text=TEXT)["trace"]
    reply = client.post("/api/thumbnails", json={"trace": trace, "heads": ["L0H1", "L1H0"]})
    told, parts = unframed(reply.content)
    assert told["sizes"] == [[15, 15], [15, 15]]
    levels = np.frombuffer(parts[1], np.uint8).reshape(15, 15)
    assert (levels > 0).tolist() == np.tri(15, dtype=bool).tolist()
    right = patterns(model, TEXT)["L1H0"]
    assert levels[right == right.max()].min() == levels.max()
    refused(client, "/api/thumbnails", trace=trace, heads=["L9H9"])
    refused(client, "/api/thumbnails", trace=trace, heads="L0H0")


def test_heads_that_came_without_scores_are_scored_later(
    client: TestClient, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = opened(client, item="0/run", text=TEXT)["header"]
    monkeypatch.setattr("qkv.views.gather.QUICK_CELLS", 2**7)
    told = opened(client, item="0/run", text=TEXT, changes={"temperature": 1.0000001})
    assert "table" not in told["header"]
    scores = client.post("/api/scores", json={"trace": told["trace"]}).json()
    heads = [head for layer in right["layers"] for head in layer["heads"]]
    assert scores["kinds"] == [head["kind"] for head in heads]
    assert [column["name"] for column in scores["table"]] == [c["name"] for c in right["table"]]
    for one, other in zip(scores["table"], right["table"], strict=True):
        assert one["values"] == pytest.approx(other["values"], abs=1e-4)
    monkeypatch.setattr("qkv.lab.opened.MOST_SCORED", 5)
    assert refused(client, "/api/scores", trace=told["trace"])["kind"] == "ResourceError"


def test_a_cell_tells_its_arithmetic_to_the_last_digit(client: TestClient, model: Any) -> None:
    trace = opened(client, item="0/run", text=TEXT)["trace"]
    reply, _ = ask(client, trace, "cell", head="L1H2", row=9, col=4)
    why, weight = reply["arithmetic"], patterns(model, TEXT)["L1H2"][9, 4]
    assert reply["weight"] == pytest.approx(weight, rel=1e-5)
    precise = {row["name"]: row for row in why["precise"]["rows"]}
    assert why["precise"]["kind"] == "float32"
    assert len(why["terms"]) == 8
    sizes = [abs(term["product"]) for term in why["terms"]]
    assert sizes == sorted(sizes, reverse=True)
    total = sum(term["product"] for term in why["terms"])
    assert precise["q·k"]["exact"] == pytest.approx(total, rel=1e-12)
    assert precise["weight"]["exact"] == pytest.approx(
        np.exp(precise["into the softmax"]["exact"] - precise["log-sum-exp"]["exact"]), rel=1e-12
    )
    for row in precise.values():
        assert row["run"] == pytest.approx(row["exact"], rel=1e-5)
        assert row["run"] == np.float32(row["run"])
    assert why["adds"]["mixed"] == pytest.approx(reply["weight"] * why["adds"]["value"])
    assert why["adds"]["output"] > 0


def test_a_masked_cell_tells_its_arithmetic_up_to_the_mask(client: TestClient, model: Any) -> None:
    trace = opened(client, item="0/run", text=TEXT)["trace"]
    masked, _ = ask(client, trace, "cell", head="L1H2", row=4, col=9)
    assert (masked["allowed"], masked["weight"]) == (False, 0.0)
    why = masked["arithmetic"]
    assert [step["name"] for step in why["steps"]] == ["q·k", "× scale 0.354", "masked"]
    assert why["steps"][-1]["text"] == "−∞"
    assert (why["exponent"], why["adds"], why["precise"]) == (None, None, None)
    total = sum(term["product"] for term in why["terms"])
    assert why["steps"][0]["value"] == pytest.approx(total)
    open_mask = opened(client, item="0/run", text=TEXT, changes={"mask": "off"})["trace"]
    told, _ = ask(client, open_mask, "cell", head="L0H2", row=4, col=9)
    there, _ = ask(client, trace, "cell", head="L0H2", row=4, col=9)
    for at in range(2):  # the score, and the scaled one
        one, other = (reply["arithmetic"]["steps"][at]["value"] for reply in (there, told))
        assert one == pytest.approx(other, rel=1e-5)


def test_a_head_that_is_left_out_adds_nothing(client: TestClient, model: Any) -> None:
    trace = opened(client, item="0/run", text=TEXT, changes={"ablate": ["L0H1"]})["trace"]
    out, _ = ask(client, trace, "cell", head="L0H1", row=9, col=4)
    assert out["weight"] > 0
    adds = out["arithmetic"]["adds"]
    assert adds["value"] > 0
    assert (adds["mixed"], adds["output"], adds["left_out"]) == (0, 0, True)
    other, _ = ask(client, trace, "cell", head="L0H2", row=9, col=4)
    assert other["arithmetic"]["adds"]["mixed"] > 0
    assert "left_out" not in other["arithmetic"]["adds"]


@pytest.mark.parametrize(
    ("changes", "edits"),
    [
        ({"ablate": ["L0H1", "L1H0"]}, {"ablate": ["L0H1", "L1H0"]}),
        ({"uniform": ["L0H2"]}, {"uniform": "L0H2"}),
        ({"mask": "off"}, {"mask": "off"}),
        ({"scale": "off", "temperature": 2.5}, {"scale": "off", "temperature": 2.5}),
    ],
)
def test_changes_are_seen_in_the_map_and_the_loss(
    client: TestClient, model: Any, changes: dict[str, Any], edits: dict[str, Any]
) -> None:
    trace = opened(client, item="0/run", text=TEXT, changes=changes)["trace"]
    right = patterns(model, TEXT, **edits)
    _, (row,) = ask(client, trace, "row", head="L1H1", place=7)
    seen = ~np.isnan(row)
    assert seen.all() == ("mask" in changes)
    assert row[seen] == pytest.approx(right["L1H1"][7][seen], abs=1e-5)
    done = client.post("/api/effect", json={"item": "0/run", "text": TEXT, "changes": changes})
    told = done.json()
    assert told["loss_before"] == pytest.approx(loss(model, TEXT), rel=1e-5)
    assert told["loss_after"] == pytest.approx(loss(model, TEXT, **edits), rel=1e-5)
    assert told["change"] == pytest.approx(told["loss_after"] - told["loss_before"])
    assert told["tokens"] == len(TEXT)
    assert 1 <= len(told["next"]) <= 8
    assert all(0 <= one["before"] <= 1 and len(one["token"]) == 1 for one in told["next"])


def test_a_text_beyond_the_context_is_cut_when_that_is_asked_for(
    client: TestClient, model: Any
) -> None:
    long = TEXT * 4
    told = refused(client, "/api/open", item="0/run", text=long)
    assert told["limit"] == CONTEXT
    cut = opened(client, item="0/run", text=long, cut=True)
    assert cut["tokens"] == len(long)
    assert opened(client, item="0/run", text=TEXT)["tokens"] is None
    assert cut["header"]["texts"][0]["labels"] == list(long[:CONTEXT])


@pytest.mark.parametrize(
    "asked",
    [
        {"item": "0/none", "text": TEXT},
        {"item": "0/run", "text": ""},
        {"item": "0/run", "text": 7},
        {"item": 7},
        {"item": "0/run", "step": 3},
        {"item": "0/run", "text": TEXT, "changes": {"ablate": ["L7H7"]}},
        {"item": "0/run", "text": TEXT, "changes": {"ablate": [["L7H7"]]}},
        {"item": "0/run", "text": TEXT, "changes": {"temperature": -1}},
        {"item": "0/run", "text": TEXT, "changes": {"model": "x"}},
        {"item": "0/half", "text": TEXT},
        {"item": "0/foreign", "text": TEXT},
        {"item": "0/broken.safetensors"},
    ],
)
def test_what_cannot_be_read_is_answered(
    lab: Lab, client: TestClient, model: Any, asked: dict[str, Any]
) -> None:
    place = Path(lab.places[0])
    for name, files in (("half", ("tokenizer.json",)), ("foreign", ("model.safetensors",))):
        (place / name).mkdir()
        for file in ("config.json", *files):
            (place / name / file).write_text('{"version": 99}', encoding="utf-8")
    (place / "broken.safetensors").write_bytes(b"\x08" * 64)
    told = refused(client, "/api/open", **asked)
    assert "\n" not in told["error"]


def test_a_probe_shows_how_it_learnt(client: TestClient) -> None:
    steps = client.get("/api/item", params={"item": "own"}).json()["steps"]
    told = opened(client, item="own", step=steps[7] + 1)
    nearest = min(steps, key=lambda step: abs(step - steps[7] - 1))
    assert told["header"]["note"] == f"step {nearest}, its probe"
    assert len(told["header"]["layers"]) == 6


def test_what_made_room_says_so(client: TestClient, model: Any) -> None:
    first = opened(client, item="0/run", text=TEXT)["trace"]
    for count in range(MOST_TRACES):
        opened(client, item="0/run", text=TEXT, changes={"temperature": count + 2})
    told = refused(client, "/api/ask", trace=first, kind="row", head="L0H0", place=0)
    assert told["kind"] == "ClosedError"


def test_a_run_that_trained_on_is_read_anew(lab: Lab, client: TestClient, model: Any) -> None:
    first = opened(client, item="0/run", text=TEXT)["trace"]
    time.sleep(0.02)
    checkpoints = Path(lab.places[0]) / "run" / "checkpoints"
    shutil.copytree(checkpoints / "step-00000007", checkpoints / "step-00000008")
    assert opened(client, item="0/run", text=TEXT)["trace"] != first


def test_a_long_saved_head_is_answered_tile_by_tile(
    lab: Lab, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qkv.views.gather.QUICK_CELLS", 2**10)
    monkeypatch.setattr("qkv.lab.inspect_routes.SLOW_CELLS", 2**10)
    torch.manual_seed(1)
    x = torch.randn(1, 1, 600, 8)
    with capture() as trace:
        attend(x, x, x, mask=Causal())
    trace.save(Path(lab.places[0]) / "long.safetensors")
    reply = client.post("/api/open", json={"item": "0/long.safetensors"})
    told, (body,) = unframed(reply.content)
    assert body == b""
    sides = {"rows": [0, 19], "cols": [0, 19]}
    _, (tile,) = ask(client, told["trace"], "tile", head="L0H0", level=5, how="max", **sides)
    pattern = trace.maps()[0][0].pattern()
    assert tile[0] == pytest.approx(pattern[:32, :32].max(), abs=1e-5)
    assert client.get("/api/progress", params={"trace": "x", "head": "y"}).json() == {"done": None}
    query = {"trace": told["trace"], "head": "L0H0", "kind": "html"}
    assert "weights" in client.get("/api/export", params=query).json()["error"]
