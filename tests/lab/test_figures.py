"""Numbers of the guide's figures: against plain NumPy, the inspector's own maps, and the proofs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from qkv.lab.asked import Asked
from qkv.lab.figures import spread_of_scores
from qkv.lab.jobs import Jobs, Wanted
from qkv.lab.rooms import Lab
from qkv.models import RungConfig, build_model
from qkv.models.checkpoint import save_checkpoint
from qkv.text import load_corpus
from qkv.training.config import TrainingConfig
from qkv.training.proofs import measure_influence
from qkv.training.run import Data, start
from qkv.training.rundir import RunDirectory

TEXT, HEAD = "To be, or not", "L3H1"


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


# Why scores are divided by the root


def test_the_spread_of_scores_is_that_of_a_loop() -> None:
    scaled, raw = spread_of_scores(7)
    rng = np.random.default_rng(7)
    for at, width in enumerate(raw.widths[:3]):
        q, k = rng.normal(size=(24, 16, width)), rng.normal(size=(24, raw.keys, width))
        scores = np.array(
            [[[a @ b for b in keys] for a in rows] for rows, keys in zip(q, k, strict=True)]
        )
        for found, factor in ((raw, 1.0), (scaled, width**-0.5)):
            p = softmax(scores * factor)
            assert found.variance[at] == pytest.approx((scores * factor).var())
            assert found.entropy[at] == pytest.approx(-(p * np.log(p)).sum(-1).mean())
            norms = [np.linalg.norm(np.diag(row) - np.outer(row, row)) for row in p.reshape(-1, 16)]
            assert found.gradient[at] == pytest.approx(np.mean(norms))
            assert found.row[at] == pytest.approx(p[0, 0])


@pytest.mark.parametrize("seed", range(5))
def test_variance_is_the_width_unless_it_is_divided_out(seed: int) -> None:
    scaled, raw = spread_of_scores(seed)
    assert np.array(raw.variance) / raw.widths == pytest.approx(1, abs=0.25)
    assert scaled.variance == pytest.approx([1] * len(raw.widths), abs=0.25)
    assert raw.entropy[-1] < 0.3
    assert 2 < scaled.entropy[-1] < np.log(raw.keys)
    assert raw.gradient[-1] < scaled.gradient[-1] / 2


def test_another_seed_is_another_draw(client: TestClient) -> None:
    first, again, other = (
        client.get("/api/figure/root", params={"seed": seed}).json() for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize("seed", ["-1", "1.5", "x", "9" * 10, "٣"])
def test_a_seed_that_is_none_is_refused(client: TestClient, seed: str) -> None:
    reply = client.get("/api/figure/root", params={"seed": seed})
    assert reply.status_code == 400
    assert "seed" in reply.json()["error"]


# Query, key and value of a trained head


def test_roles_are_those_of_the_head_that_inspect_shows(client: TestClient, lab: Lab) -> None:
    reply = client.post("/api/figure/roles", json={"text": TEXT, "head": HEAD}).json()
    assert "".join(reply["tokens"]) == TEXT
    opened = lab.inspector.open(Asked("own", TEXT, cut=True))
    q, k, v = (np.array(reply[name]) for name in "qkv")
    assert q.shape == k.shape == v.shape == (len(TEXT), 64)
    weights = opened.head(HEAD).pattern()
    assert np.array(reply["pattern"]) == pytest.approx(np.nan_to_num(weights), abs=1e-5)
    later = np.triu(np.full((len(TEXT), len(TEXT)), -np.inf), 1)
    swapped = softmax(q @ v.T * reply["scale"] + later)
    assert np.array(reply["swapped"]) == pytest.approx(swapped, abs=2e-2)  # q and v are rounded
    moved = np.abs(np.array(reply["pattern"]) - reply["swapped"]).sum(-1) / 2
    assert reply["moved"] == pytest.approx(moved)


def test_a_text_beyond_what_is_drawn_is_cut(client: TestClient) -> None:
    reply = client.post("/api/figure/roles", json={"text": "to be " * 9, "head": "none"}).json()
    assert len(reply["tokens"]) == 24
    assert reply["head"] == reply["heads"][0]


@pytest.mark.parametrize("body", [{"text": ""}, {"text": 3}, {"text": "a", "head": 3}, {}])
def test_what_is_no_text_is_refused(client: TestClient, body: dict[str, Any]) -> None:
    reply = client.post("/api/figure/roles", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"].startswith("got ")


# The next token


def next_token(client: TestClient, **more: Any) -> dict[str, Any]:
    asked = {"text": TEXT, "head": HEAD, "seed": 1, **more}
    reply = client.post("/api/figure/next", json=asked)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def test_each_row_is_one_longer_and_sums_to_one(client: TestClient) -> None:
    found = next_token(client)
    assert [len(row) for row in found["rows"]] == list(range(1, len(TEXT) + 1))
    assert [sum(row) for row in found["rows"]] == pytest.approx([1] * len(TEXT), abs=1e-3)
    longer = next_token(client, text=TEXT + found["token"])
    for before, after in zip(found["rows"], longer["rows"][:-1], strict=True):
        assert after == pytest.approx(before, abs=1e-4)  # what was read stays as it was


def test_tokens_are_drawn_by_their_probabilities(client: TestClient) -> None:
    found = next_token(client)
    assert found == next_token(client)
    shares = {one["token"]: one["probability"] for one in found["next"]}
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert sum(shares.values()) <= 1
    drawn = [next_token(client, seed=seed)["token"] for seed in range(40)]
    assert set(drawn) <= set(shares)
    likeliest = max(shares, key=lambda token: shares[token])
    expected = shares[likeliest] / sum(shares.values())
    assert drawn.count(likeliest) / 40 == pytest.approx(expected, abs=0.25)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"text": ""}, "an empty text"),
        ({"text": "to be " * 20}, "120 characters"),
        ({"text": "привет"}, "got "),
        ({"head": "L99H0"}, "L99H0"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(
    client: TestClient, more: dict[str, Any], line: str
) -> None:
    reply = client.post("/api/figure/next", json={"text": TEXT, "head": HEAD, "seed": 1, **more})
    assert reply.status_code == 400
    assert line in reply.json()["error"]


# Influence of a run that was trained


@pytest.fixture
def run(lab: Lab) -> Callable[[str], torch.nn.Module]:
    """Return a function that saves a rung of random weights as the run `0/run`."""

    def save(kind: str) -> torch.nn.Module:
        data = Data.prepare(load_corpus("python"), "char")
        config = RungConfig(kind, vocab=data.tokenizer.size, context=12, width=16, heads=2)
        directory = RunDirectory(Path(lab.places[0]) / "run")
        start(directory, config, TrainingConfig(tokens=960, batch=4), data, source="python")
        torch.manual_seed(3)
        model = build_model(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        save_checkpoint(
            directory.path / "checkpoints" / "step-00000007", config=config,
            weights=model.state_dict(), tokenizer=data.tokenizer, step=7,
        )  # fmt: skip
        return model

    return save


@pytest.mark.parametrize(("kind", "reach"), [("bigram", 1), ("heads", 12)])
def test_influence_is_what_the_proofs_measure(
    client: TestClient, run: Callable[[str], torch.nn.Module], kind: str, reach: int
) -> None:
    model = run(kind)
    found = client.get("/api/figure/influence", params={"item": "0/run"}).json()
    data = Data.prepare(load_corpus("python"), "char")
    expected = measure_influence(model, data.validation, seed=0)
    assert found["distances"] == expected.distances
    assert found["effects"] == pytest.approx(expected.effects)
    assert found["reach"] == expected.reach == reach


@pytest.mark.parametrize("item", ["own", "0/none", ""])
def test_influence_of_what_is_no_run_is_refused(client: TestClient, item: str) -> None:
    assert client.get("/api/figure/influence", params={"item": item}).status_code == 400


# What figures train


def test_settings_reach_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(Jobs, "_run", lambda _, job, arguments: asked.append(arguments) or job)
    wanted = {"preset": "one-head", "corpus": "python", "settings": {"masked": "false"}}
    job = Jobs(tmp_path).start(Wanted.of(wanted))
    assert "--set=masked=false" in asked[0]
    assert job.asked["settings"] == {"masked": "false"}


@pytest.mark.parametrize(
    ("preset", "settings", "line"),
    [
        ("one-head", {"maskd": "false"}, "the setting 'maskd'"),
        ("one-head", {"masked": "maybe"}, "masked=maybe"),
        ("rnn", {"masked": "false"}, "a rnn without its mask"),
        ("norm", {"without": "attention"}, "without=attention"),
        ("norm", {"--out": "x"}, "settings that are none"),
        ("norm", {"width": "3; rm"}, "settings that are none"),
        ("norm", {"width": {"a": 1}}, "settings that are none"),
        ("norm", ["width"], "settings"),
    ],
)
def test_settings_that_are_none_are_refused_before_anything_starts(
    client: TestClient, lab: Lab, preset: str, settings: Any, line: str
) -> None:
    body = {"preset": preset, "corpus": "python", "settings": settings, "budget": "1000"}
    reply = client.post("/api/start", json=body)
    assert reply.status_code == 400
    assert line in reply.json()["error"]
    assert not list(lab.runs.iterdir())
