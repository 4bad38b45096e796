"""What changes do to the loss, as pages ask it: against qkv.lens and torch's own cross-entropy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from starlette.testclient import TestClient

from qkv.lab.rooms import Lab
from qkv.lens import edit
from qkv.models import TransformerConfig, build_model
from qkv.models.checkpoint import save_checkpoint
from qkv.text import corpus_from_text
from qkv.training.run import Data

TEXT = "to be or not to"


@pytest.fixture
def small(lab: Lab) -> torch.nn.Module:
    """A small model with weights drawn at random, saved as `0/small`."""
    corpus = corpus_from_text("to be, or not to be: that is the question.\n" * 20, name="hamlet")
    tokenizer = Data.prepare(corpus, "char").tokenizer
    config = TransformerConfig(vocab=tokenizer.size, context=24, layers=2, width=24, heads=3)
    torch.manual_seed(3)
    model = build_model(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    path = Path(lab.places[0]) / "small"
    save_checkpoint(path, config=config, weights=model.state_dict(), tokenizer=tokenizer, step=7)
    model.tokenizer = tokenizer  # type: ignore[assignment]
    return model


def refused(client: TestClient, path: str, **asked: Any) -> dict[str, Any]:
    reply = client.post(path, json=asked)
    assert reply.status_code == 400
    told: dict[str, Any] = reply.json()
    return told


def loss(model: Any, text: str, **edits: Any) -> float:
    ids = torch.from_numpy(model.tokenizer.encode(text))[None].long()
    with torch.inference_mode():
        if edits:
            with edit(**edits):
                logits = model(ids)
        else:
            logits = model(ids)
    return float(torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]))


def test_an_edit_of_the_text_is_measured_against_the_text_before(
    client: TestClient, small: Any
) -> None:
    asked = {
        "item": "0/small", "text": "to be or not be", "before": {"item": "0/small", "text": TEXT},
    }  # fmt: skip
    told = client.post("/api/effect", json=asked).json()
    assert told["loss_before"] == pytest.approx(loss(small, TEXT), rel=1e-5)
    assert told["loss_after"] == pytest.approx(loss(small, "to be or not be"), rel=1e-5)
    assert refused(client, "/api/effect", item="0/small", text=TEXT, before=7)
    assert refused(client, "/api/effect", item="0/small", text=TEXT, before={"item": 7})


def test_what_was_kept_is_measured_with_its_changes(client: TestClient, small: Any) -> None:
    before = {"item": "0/small", "text": TEXT, "changes": {"ablate": ["L0H0"]}}
    asked = {"item": "0/small", "text": TEXT, "changes": {"ablate": ["L0H0", "L1H1"]}}
    told = client.post("/api/effect", json={**asked, "before": before}).json()
    assert told["loss_before"] == pytest.approx(loss(small, TEXT, ablate="L0H0"), rel=1e-5)
    assert told["loss_after"] == pytest.approx(loss(small, TEXT, ablate="L0H0, L1H1"), rel=1e-5)
    assert told["change"] == pytest.approx(told["loss_after"] - told["loss_before"])


def test_losses_in_other_tokens_are_not_subtracted(client: TestClient, small: Any) -> None:
    asked = {"item": "0/small", "text": TEXT, "before": {"item": "own", "text": TEXT}}
    told = client.post("/api/effect", json=asked).json()
    own = client.post("/api/effect", json={"item": "own", "text": TEXT}).json()
    assert told["loss_before"] == pytest.approx(own["loss_after"])
    assert told["loss_after"] == pytest.approx(loss(small, TEXT), rel=1e-5)
    assert told["change"] is None
    assert {one["before"] for one in told["next"]} == {None}
    probed = {**asked, "before": {"item": "own", "step": 0}}
    none = client.post("/api/effect", json=probed).json()
    assert (none["loss_before"], none["change"]) == (None, None)
    assert none["loss_after"] == told["loss_after"]


def test_a_further_change_costs_one_pass(lab: Lab, client: TestClient, small: Any) -> None:
    loaded = lab.inspector.models.get(lab.shelf.find("0/small")).model
    passes = []
    loaded.register_forward_hook(lambda *_: passes.append(1))
    for head in ("L0H0", "L0H1", "L0H2"):
        asked = {"item": "0/small", "text": TEXT, "changes": {"ablate": [head]}}
        assert client.post("/api/effect", json=asked).status_code == 200
    assert len(passes) == 4


def test_a_loss_needs_a_model_and_two_tokens(client: TestClient, small: Any) -> None:
    assert refused(client, "/api/effect", item="own", step=3)["kind"] == "ConfigError"
    assert refused(client, "/api/effect", item="0/small", text="t")["kind"] == "ShapeError"
