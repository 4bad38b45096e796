"""The model that comes with qkv: whole, small, and as good as it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from qkv.errors import CheckpointError, ConfigError
from qkv.models import RungConfig, Transformer, TransformerConfig, build_model
from qkv.models import embedded as module
from qkv.models.checkpoint import Checkpoint
from qkv.models.embedded import (
    CARD,
    FOLDER,
    LARGEST_TIMELINE,
    LARGEST_WEIGHTS,
    TIMELINE,
    WEIGHTS,
    embedded_notes,
    load_embedded,
    pack_checkpoint,
    read_embedded,
    unpack_checkpoint,
    with_metrics,
)
from qkv.text import CharTokenizer
from qkv.training import evaluate


@pytest.fixture(scope="module")
def own() -> Checkpoint:
    return load_embedded()


@pytest.fixture
def tiny() -> Checkpoint:
    torch.manual_seed(3)
    config = TransformerConfig(vocab=5, context=7, layers=2, width=12, heads=3, zero_init=False)
    return Checkpoint(Path("tiny"), Transformer(config).eval(), CharTokenizer("abcde"), 9)


def test_it_is_whole(own: Checkpoint) -> None:
    assert isinstance(own.config, TransformerConfig)
    assert own.tokenizer is not None
    assert own.tokenizer.size == own.config.vocab == 65
    assert not own.model.training
    for weight in own.model.state_dict().values():
        assert weight.dtype is torch.float32
        assert weight.isfinite().all()
    ids = torch.from_numpy(own.tokenizer.encode("ROMEO:\n"))[None]
    with torch.inference_mode():
        assert own.model(ids).shape == (1, 7, 65)
    assert own.step > 0
    assert load_embedded().model is not own.model


def test_its_files_are_small() -> None:
    assert len(read_embedded(WEIGHTS)) <= LARGEST_WEIGHTS == 3_000_000
    assert len(read_embedded(TIMELINE)) <= LARGEST_TIMELINE == 8_000_000


def test_its_card_says_what_its_metrics_do(own: Checkpoint) -> None:
    card = read_embedded(CARD).decode("utf-8")
    assert f"{own.metrics['validation_loss']:.4f}" in card
    assert f"{own.metrics['validation_loss_unrounded']:.4f}" in card
    assert embedded_notes()["sha256"] in card
    assert ("stand-in" in card) is not own.metrics["whole_recipe"]


def test_it_scores_what_it_says(own: Checkpoint, shakespeare: str) -> None:
    assert own.tokenizer is not None
    characters = own.metrics["beginning_characters"]
    validation = shakespeare[len(shakespeare) * 9 // 10 :]
    ids = own.tokenizer.encode(validation[:characters])
    loss = evaluate(own.model, ids).loss
    assert loss == pytest.approx(own.metrics["beginning_loss"], abs=0.002)
    assert own.metrics["validation_loss"] == pytest.approx(loss, abs=0.1)
    assert embedded_notes()["probe"] in validation
    if own.metrics["whole_recipe"]:
        assert loss < 2.4  # below what pairs of characters give


def test_a_checkpoint_survives_packing(tiny: Checkpoint) -> None:
    packed = with_metrics(pack_checkpoint(tiny, {"name": "made"}), {"validation_loss": 1.25})
    back = unpack_checkpoint(packed, Path("here"))
    assert (back.config, back.tokenizer, back.step) == (tiny.config, tiny.tokenizer, 9)
    assert back.metrics == {"validation_loss": 1.25}
    ids = torch.arange(5)[None]
    with torch.inference_mode():
        # Weights are off by up to a 254th of their row's largest.
        np.testing.assert_allclose(back.model(ids), tiny.model(ids), atol=0.1)


def test_the_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    load_embedded()
    assert torch.random.get_rng_state().equal(before)


def test_other_models_are_not_packed(tiny: Checkpoint) -> None:
    rung = build_model(RungConfig("bigram", vocab=5))
    with pytest.raises(ConfigError, match="got bigram in here; expected a Transformer"):
        pack_checkpoint(Checkpoint(Path("here"), rung, tiny.tokenizer), {})
    with pytest.raises(ConfigError, match="with its tokenizer"):
        pack_checkpoint(Checkpoint(Path("here"), tiny.model, None), {})


@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "emptied"])
def test_a_damaged_installation_is_one_line(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(str(FOLDER / WEIGHTS), tmp_path / WEIGHTS)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    data = (tmp_path / WEIGHTS).read_bytes()
    if damage == "missing":
        (tmp_path / WEIGHTS).unlink()
    else:
        cut = {"cut": data[:-9], "changed": data[:-9] + b"!" * 9, "emptied": b""}
        (tmp_path / WEIGHTS).write_bytes(cut[damage])
    with pytest.raises(CheckpointError, match="install qkv again") as caught:
        load_embedded()
    assert "\n" not in str(caught.value)
    if damage in ("missing", "emptied"):
        with pytest.raises(CheckpointError, match="install qkv again"):
            embedded_notes()
