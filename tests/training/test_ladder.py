"""The ladder: one budget for all rungs, one table, and no rung trained twice."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from qkv.errors import CheckpointError, ConfigError
from qkv.models import build_model, count_parameters
from qkv.text import corpus_from_text
from qkv.training import RunDirectory, evaluate
from qkv.training.ladder import (
    Climbed,
    Climbing,
    Plan,
    RungResult,
    Started,
    check_settings,
    climb,
    estimate_seconds,
    fit_budget,
    read_plan,
    select_rungs,
    time_rungs,
)
from qkv.training.recipes import LADDER, PRESETS, Preset, configure, find_preset
from qkv.training.run import Data

SETTINGS = {"context": "16", "batch": "4", "width": "24", "heads": "2", "precision": "fp32"}


@pytest.fixture
def plan() -> Plan:
    names = [rung.name for rung in LADDER]
    return Plan(names, 1280, 3, "made", "char", "a", {**SETTINGS, "layers": "1"})


def results(events: Iterable[object]) -> list[RungResult]:
    return [event.result for event in events if isinstance(event, Climbed)]


def test_all_rungs_have_the_same_budget_and_end_in_the_table(
    plan: Plan, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qkv.training.precision.LONG_FLOPS", 0)
    monkeypatch.setattr("qkv.training.precision.compiler_found", lambda: True)
    events = list(climb(tmp_path, plan, data))
    assert [e.parameters for e in events if isinstance(e, Started)] == [
        e.result.parameters for e in events if isinstance(e, Climbed)
    ]
    assert [e.index for e in events if isinstance(e, Started)] == list(range(12))
    rows = results(events)
    assert [row.name for row in rows] == plan.rungs
    for row in rows:
        assert row.tokens == (0 if row.name in ("uniform", "bigram-counts") else 1280)
        seen = {"uniform": 0, "bigram-counts": 1, "bigram": 1}
        assert row.context == seen.get(row.name, 16)
        assert len(row.sample) == 200
        run = RunDirectory(row.run)
        assert run.latest().metrics["validation_loss"] == row.loss
        training = run.read_config()[1]
        assert training.seed == 3
        # Whatever a rung's size and budget: their times are compared.
        assert (training.compile, training.probes) == ("off", 0)
    by_name = {row.name: row for row in rows}
    assert by_name["uniform"].parameters == 0
    assert by_name["one-head"].parameters == by_name["heads"].parameters
    assert by_name["bigram"].influence.reach == 1
    assert by_name["uniform"].influence.reach == 0
    written = json.loads((tmp_path / "ladder.json").read_text())
    assert [row["name"] for row in written["results"]] == plan.rungs
    assert [row["loss"] for row in written["results"]] == [row.loss for row in rows]
    assert read_plan(tmp_path) == plan


def test_interrupted_ladder_goes_on_and_trains_no_rung_twice(
    plan: Plan, data: Data, tmp_path: Path
) -> None:
    plan = replace(plan, rungs=["bigram", "one-head", "heads"])
    whole = results(climb(tmp_path / "whole", plan, data))
    folder = tmp_path / "stopped"
    with closing(climb(folder, plan, data)) as events:
        for event in events:
            if isinstance(event, Climbing) and event.index == 1 and event.event.step == 7:
                break
    assert len(json.loads((folder / "ladder.json").read_text())["results"]) == 1
    assert RunDirectory(folder / "02-one-head").latest().step == 7
    again = list(climb(folder, plan, data))
    steps = [e.event.step for e in again if isinstance(e, Climbing) and e.index == 1]
    assert min(steps) == 8
    assert not [e for e in again if isinstance(e, Climbing) and e.index == 0]
    rows = results(again)
    assert [(row.loss, row.sample, row.tokens) for row in rows] == [
        (row.loss, row.sample, row.tokens) for row in whole
    ]


def test_ladder_does_not_go_on_with_another_text(
    plan: Plan, data: Data, text: str, tmp_path: Path
) -> None:
    plan = replace(plan, rungs=["uniform", "bigram"])
    list(climb(tmp_path, plan, data))
    other = Data.prepare(corpus_from_text(text[::-1]))
    with pytest.raises(CheckpointError, match="another text"):
        list(climb(tmp_path, plan, other))


def test_folder_without_a_ladder(tmp_path: Path) -> None:
    for content in (None, "{", '{"plan": {"rungs": []}}'):
        if content is not None:
            (tmp_path / "ladder.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"no readable ladder\.json"):
            read_plan(tmp_path)


def test_budget_of_time_fills_the_time(data: Data) -> None:
    for costs in ([1e-6, 3e-6, 0.0], [1e-4] * 5):
        for seconds in (20.0, 300.0):
            tokens = fit_budget(costs, seconds, data)
            assert tokens == 20_000 or sum(estimate_seconds(costs, tokens, data)) == pytest.approx(
                seconds, rel=0.01
            )
    for nothing in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="a budget of"):
            fit_budget([1e-6], nothing, data)


def test_rungs_are_timed(data: Data) -> None:
    costs = time_rungs([find_preset("uniform"), find_preset("bigram")], data, SETTINGS)
    assert costs[0] == 0
    assert costs[1] > 0


def test_rungs_are_chosen_by_name_in_the_ladders_order() -> None:
    assert select_rungs(None) == LADDER
    assert [rung.name for rung in select_rungs("heads,uniform,,heads")] == ["uniform", "heads"]
    with pytest.raises(ConfigError, match="'head'"):
        select_rungs("head,bigram")
    with pytest.raises(ConfigError, match="no rungs"):
        select_rungs(" , ")


def test_settings_go_where_they_exist_and_nowhere_is_an_error() -> None:
    check_settings(LADDER, {"layers": "2", "batch": "8"})
    for settings, message in (
        ({"layerz": "2"}, "layerz"),
        ({"heads": "7"}, "7 heads for width 64"),
        ({"vocab": "9"}, "comes from the text"),
        ({"batch": "none"}, "batch=none"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_settings(LADDER, settings)
    with pytest.raises(ConfigError, match="layers"):
        check_settings(select_rungs("bigram,heads"), {"layers": "2"})


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_every_preset_can_be_configured(preset: Preset) -> None:
    model, training = configure(preset, 65)
    assert training.steps(model.context) >= 1


def test_heads_are_compared_at_equal_width_and_parameters() -> None:
    one, several = (
        count_parameters(build_model(configure(find_preset(name), 65)[0]))
        for name in ("one-head", "heads")
    )
    assert one == several


@pytest.mark.slow
def test_counted_bigram_of_shakespeare(shakespeare: str, tmp_path: Path) -> None:
    data = Data.prepare(corpus_from_text(shakespeare, name="shakespeare"))
    plan = Plan(["bigram-counts"], 1000, 0, "shakespeare", "char", "ROMEO:", {})
    (row,) = results(climb(tmp_path, plan, data))
    assert 2.45 <= row.loss <= 2.50
    model = RunDirectory(row.run).latest().model
    assert evaluate(model, data.validation).tokens == len(data.validation) - 1


@pytest.mark.slow
def test_the_default_ladder_reaches_what_is_promised(
    shakespeare: str, full: bool, tmp_path: Path
) -> None:
    """The figures that the README's first command shows, at its own budget."""
    if not full:
        pytest.skip("takes over a minute: run with --full")
    text = Data.prepare(corpus_from_text(shakespeare, name="shakespeare"))
    plan = Plan(
        rungs=[rung.name for rung in LADDER], tokens=1_000_000, seed=0, source="shakespeare",
        tokenizer="char", prompt="ROMEO:", settings={},
    )  # fmt: skip
    loss = {row.name: row.loss for row in results(list(climb(tmp_path / "ladder", plan, text)))}
    assert 2.45 <= loss["bigram-counts"] <= 2.50
    attending = ("one-head", "heads", "feed-forward", "residual", "norm", "transformer")
    assert all(loss[name] < loss["bigram-counts"] for name in attending)
    assert list(attending) == sorted(attending, key=lambda name: -loss[name])
    assert loss["one-head"] < 2.45
    assert loss["transformer"] <= 1.80
