"""`qkv bench`: what each suite is asked with, how figures are shown, what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qkv.bench import SUITES, Measurement
from qkv.cli import main

FIGURES = {
    "loss": {"median": 1.89847, "min": 1.8, "max": 1.9},
    "wall_seconds": {"median": 3.0, "min": 2.0, "max": 1234.5},
    "nanogpt_seed": "fixed in its code",
    "reached_its_loss": True,
    "steps_ms": {"median_ms": 1.0, "min_ms": 0.5, "max_ms": 2.0},
    "runs": [{"seed": 0}],
}
Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what the suites are asked with; none of them measures."""
    kept: list[dict[str, Any]] = []

    def suite(**options: Any) -> list[Measurement]:
        kept.append(options)
        return [Measurement("a run", {"tokens": 12_000_000}, FIGURES, 3, machine={"cores": 2})]

    for name in ("train", "generate"):
        monkeypatch.setitem(SUITES, name, suite)
    return kept


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bench:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qkv", "bench", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        code = main()
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


def test_each_suite_is_asked_with_what_was_given(bench: Bench, asked: list[dict[str, Any]]) -> None:
    assert bench("generate")[0] == 0
    assert bench("generate", "--nanogpt", "there", "--rounds", "2")[0] == 0
    assert bench("train", "--preset", "norm", "--nanogpt", "there")[0] == 0
    assert asked[0] == {}
    assert asked[1] == {"nanogpt": Path("there"), "rounds": 2}
    asked[2].pop("notice")("round 1")
    assert asked[2] == {"preset": "norm", "nanogpt": Path("there")}
    assert bench("train", "--data", "notes.txt", "--set", "layers=2", "--set", "batch=3")[0] == 0
    del asked[3]["notice"]
    assert asked[3] == {"source": "notes.txt", "settings": {"layers": "2", "batch": "3"}}


def test_figures_are_shown_with_their_units(bench: Bench, asked: list[dict[str, Any]]) -> None:
    code, out, err = bench("train")
    assert code == 0
    lines = {line[2:32].strip(): line[32:].strip() for line in out.splitlines()[1:]}
    assert lines == {
        "loss": "1.8985  (1.8000 to 1.9000)",
        "wall seconds": "3.00  (2.00 to 1,234.50)",
        "nanogpt seed": "fixed in its code",
        "reached its loss": "yes",
        "steps ms": "1.00 ms  (0.50 to 2.00)",
    }
    assert "Measuring train" in err


def test_json_has_the_single_runs_too(bench: Bench, asked: list[dict[str, Any]]) -> None:
    _, out, _ = bench("train", "--json")
    (told,) = json.loads(out)
    assert told["figures"] == FIGURES


@pytest.mark.parametrize("what", ["attention", "capture", "map", "memory"])
def test_nanogpt_is_refused_where_it_has_no_part(bench: Bench, checkout: Path, what: str) -> None:
    code, out, err = bench(what, "--nanogpt", checkout)
    assert (code, out) == (2, "")
    assert err == (
        f"qkv: got --nanogpt with {what}; expected it with train or generate alone; leave it out\n"
    )


@pytest.mark.parametrize("what", ["attention", "generate"])
@pytest.mark.parametrize(
    ("option", "value"), [("--preset", "small"), ("--set", "layers=2"), ("--data", "plays")]
)
def test_a_recipe_and_its_text_are_of_training(
    bench: Bench, what: str, option: str, value: str
) -> None:
    assert f"got {option} with {what};" in bench(what, option, value)[2]


@pytest.mark.parametrize("arguments", [["generate"], ["train", "--preset", "transformer"]])
def test_a_folder_that_is_not_nanogpt(bench: Bench, tmp_path: Path, arguments: list[str]) -> None:
    code, out, err = bench(*arguments, "--nanogpt", tmp_path)
    assert (code, out) == (2, "")
    *_, line = err.splitlines()
    assert line.startswith(f"qkv: got {tmp_path}, without train.py, model.py and config/")
    assert line.endswith("; expected a checkout of nanoGPT; clone it, and give its folder")
