"""Presets against the texts they are for."""

from __future__ import annotations

import pytest

from qkv.errors import TextError
from qkv.text import corpus_from_text
from qkv.training.data import Data
from qkv.training.recipes import LADDER, PRESETS, configure, find_preset, require_enough


def data_of(characters: int) -> Data:
    return Data.prepare(corpus_from_text("abcdefghij" * (characters // 10)))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_every_preset_makes_configs(preset: object) -> None:
    model, training = configure(find_preset(preset.name), 65)  # type: ignore[attr-defined]
    assert model.vocab == 65
    assert training.steps(model.context) >= 1


@pytest.mark.parametrize(
    ("name", "characters", "advice"),
    [
        ("small", 100_000, "try --preset tiny, or --budget 900000"),
        ("small", 1_000, "take a longer text, or --budget 9000"),
        ("tiny", 10_000, "take a longer text, or --budget 90000"),
        ("gpt2", 1_000_000, "try --preset small"),
    ],
)
def test_a_text_that_would_be_learnt_by_heart(name: str, characters: int, advice: str) -> None:
    preset = find_preset(name)
    with pytest.raises(TextError, match=advice):
        require_enough(preset, preset.training["tokens"], data_of(characters))


def test_enough_text_and_rungs_are_let_through() -> None:
    require_enough(find_preset("small"), 2_000_000, data_of(1_000_000))
    for rung in LADDER:
        require_enough(rung, 1_000_000, data_of(100))
