"""Training runs, ours and those of a stand-in for nanoGPT: every figure, and nothing of times."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from qkv.bench.training_runs import training
from qkv.errors import ConfigError

TINY = {
    "layers": "1", "width": "8", "heads": "2", "batch": "2", "tokens": "400", "precision": "fp32",
}  # fmt: skip
SPREAD = {"median", "min", "max"}


@pytest.mark.slow
def test_ours_alone(text_file: Path, full: bool) -> None:
    notices: list[str] = []
    seeds = [0, 1] if full else [0]
    (found,) = training(
        len(seeds), preset="transformer", settings={**TINY, "context": "10"}, source=str(text_file),
        notice=notices.append,
    )  # fmt: skip
    told = json.loads(json.dumps(found.to_json()))
    shape, figures = told["shape"], told["figures"]
    assert (shape["T"], shape["steps"], shape["tokens"]) == (10, 20, 400)
    assert shape["validation_tokens"] == 149
    assert set(figures) == {"train_seconds", "wall_seconds", "loss", "runs"}
    for name in ("train_seconds", "wall_seconds", "loss"):
        assert set(figures[name]) == SPREAD
    assert [run["seed"] for run in figures["runs"]] == seeds
    for run in figures["runs"]:
        assert 0 < run["train_seconds"] < run["wall_seconds"]
        assert run["steps"] == run["saved_step"] == 20
    assert len({run["loss"] for run in figures["runs"]}) == len(seeds)
    command = "qkv train --preset transformer --seed"
    assert notices == [f"round {seed + 1} of {len(seeds)}: {command} {seed} …" for seed in seeds]


def test_in_turn_with_nanogpt(checkout: Path, text_file: Path) -> None:
    notices: list[str] = []
    (found,) = training(
        1, preset="transformer", settings=TINY, nanogpt=checkout, source=str(text_file),
        notice=notices.append,
    )  # fmt: skip
    figures = json.loads(json.dumps(found.to_json()))["figures"]
    assert [line.rsplit(": ")[-1] for line in notices] == [
        "qkv train --preset transformer --seed 0 …", "nanoGPT's CPU command …",
    ]  # fmt: skip
    for name in ("train_seconds", "wall_seconds", "loss"):
        assert set(figures[name]) == set(figures[f"nanogpt_{name}"]) == SPREAD
    # The stand-in's weights are zero: every one of the text's 7 characters is as likely.
    assert figures["nanogpt_loss"]["median"] == pytest.approx(math.log(7), abs=1e-6)
    assert figures["reached_its_loss"] is (figures["loss"]["max"] <= figures["nanogpt_loss"]["min"])
    (our,), (their,) = figures["runs"], figures["nanogpt_runs"]
    for kind in ("train", "wall"):
        ratio = their[f"{kind}_seconds"] / our[f"{kind}_seconds"]
        assert figures[f"times_as_fast_{kind}"]["median"] == pytest.approx(ratio)
    assert figures["nanogpt_steps"] == 6
    assert figures["nanogpt_tokens"] == 6 * 12 * 64


@pytest.mark.parametrize(
    ("preset", "settings", "line"),
    [
        ("nothing", {}, "the preset 'nothing'"),
        ("bigram-counts", {}, "takes no steps"),
        ("small", {}, "a context of 256 beside nanoGPT's CPU command"),
        ("transformer", {"depth": "3"}, "the setting 'depth'"),
        ("transformer", {"seed": "3"}, "a seed for all rounds"),
    ],
)
def test_what_cannot_be_compared_is_refused_at_once(
    checkout: Path, preset: str, settings: dict[str, str], line: str
) -> None:
    # There is no such text: it would be refused, had it been looked at.
    with pytest.raises(ConfigError) as caught:
        training(1, preset=preset, settings=settings, nanogpt=checkout, source="no/such/text")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_standard_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="a text from standard input"):
        training(1, preset="transformer", source="-")


def test_our_own_process_failing_is_one_line(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no luck >&2\nexit 9\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(ConfigError, match=r"got qkv train with exit code 9 \(no luck\);"):
        training(1, preset="transformer", settings=TINY, source=str(text_file))
