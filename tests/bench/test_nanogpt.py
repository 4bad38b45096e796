"""nanoGPT's side: what is read of its lines, how it fails, and that its checkout stays as it is."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from qkv.bench.nanogpt import open_sampler, require_checkout, train_nanogpt, train_seconds
from qkv.errors import ConfigError
from qkv.models import Sampling, generate
from qkv.text import corpus_from_text
from qkv.training.data import Data

SHAPE = {
    "n_layer": 2, "n_head": 3, "n_embd": 15, "block_size": 11, "vocab_size": 7, "bias": False,
    "dropout": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where temporary folders are made; a test's are gone when it ends."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def data_of(path: Path) -> Data:
    return Data.prepare(corpus_from_text(path.read_text(encoding="utf-8")))


def line_of(caught: pytest.ExceptionInfo[ConfigError]) -> str:
    line = str(caught.value)
    assert "\n" not in line
    return line


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_iterations_with_an_evaluation_count_as_the_mean_of_the_others() -> None:
    lines = [
        "step 0: train loss 4.2, val loss 4.2", "iter 0: loss 4.2, time 5000.00ms, mfu -100.00%",
        "iter 1: loss 4.1, time 10.00ms, mfu 0.1%", "saving checkpoint to out",
        "iter 2: loss 4.1, time 30.00ms, mfu 0.1%", "step 3: train loss 3.9, val loss 3.9",
        "iter 3: loss 4.0, time 4000.00ms, mfu 0.1%",
    ]  # fmt: skip
    steps, seconds = train_seconds(lines)
    assert steps == 4
    assert seconds == pytest.approx(4 * 0.020)


@pytest.mark.parametrize(
    "lines",
    [[], ["iter one: no time"], ["step 0: train loss 1, val loss 1", "iter 0: loss 1, time 9ms"]],
)
def test_no_times_are_refused(lines: list[str]) -> None:
    with pytest.raises(ConfigError, match="no times"):
        train_seconds(lines)


@pytest.mark.parametrize("missing", ["train.py", "model.py", "config/train_shakespeare_char.py"])
def test_a_folder_that_is_no_checkout(checkout: Path, missing: str) -> None:
    require_checkout(checkout)
    (checkout / missing).unlink()
    with pytest.raises(ConfigError, match="expected a checkout of nanoGPT") as caught:
        require_checkout(checkout)
    assert f"without {missing};" in line_of(caught)


def test_training_runs_in_a_copy(checkout: Path, text_file: Path, temporary: Path) -> None:
    before = files(checkout)
    run = train_nanogpt(checkout, data_of(text_file))
    assert files(checkout) == before
    assert not list(temporary.glob("qkv-*"))
    assert (run.steps, run.checkpoint.step) == (6, 5)
    assert run.train_seconds == pytest.approx(6 * (0.01 + 0.02 + 0.03 + 0.04) / 4)
    assert run.wall_seconds > 0
    assert run.checkpoint.tokenizer is not None
    assert run.checkpoint.tokenizer.decode([0, 1]) == "\n "


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        (("train.py", "import nothing_of_that_name"), "No module named 'nothing_of_that_name'"),
        (("train.py", "raise SystemExit(3)"), "nanoGPT's train.py with exit code 3;"),
        (("train.py", "print('iter 1: loss 1, time 1.0ms')"), "wrote no out-shakespeare-char"),
        (("train.py", ""), "no times"),
    ],
)
def test_a_process_that_fails_is_one_line(
    checkout: Path, text_file: Path, temporary: Path, broken: tuple[str, str], line: str
) -> None:
    (checkout / broken[0]).write_text(broken[1], encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        train_nanogpt(checkout, data_of(text_file))
    assert line in line_of(caught)
    assert not list(temporary.glob("qkv-*"))


def test_sampler_and_ours_draw_the_same_likeliest_tokens(checkout: Path, temporary: Path) -> None:
    before = files(checkout)
    with open_sampler(checkout, SHAPE) as sampler:
        drawn = sampler.draw([3, 1], 9, 1.0, top_k=1)
        assert len(sampler.draw([0], 5, 0.8, top_k=200)) == 5
        model = sampler.checkpoint.model
        prompt = torch.tensor([[3, 1]])
        ours = [int(step[0]) for step in generate(model, prompt, 9, Sampling(temperature=0))]
    assert ours == drawn
    assert len(set(drawn)) > 1
    assert sampler.parameters == sum(p.numel() for p in model.parameters()) - 11 * 15
    assert sampler.process.poll() is not None
    assert files(checkout) == before
    assert not list(temporary.glob("qkv-*"))


def test_neither_process_has_what_qkv_sets_for_itself(
    checkout: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "QKV_SPINCOUNT"):
        monkeypatch.setenv(name, "10000")
    tell = "import os; raise SystemExit(f\"spins {os.environ.get('GOMP_SPINCOUNT')}\")"
    for name in ("train.py", "model.py"):
        (checkout / name).write_text(tell, encoding="utf-8")
    with pytest.raises(ConfigError, match="spins None"):
        train_nanogpt(checkout, data_of(text_file))
    with pytest.raises(ConfigError, match="spins None"), open_sampler(checkout, SHAPE):
        pass


@pytest.mark.parametrize("when", ["at its start", "later"])
def test_a_sampler_that_fails_is_one_line(checkout: Path, temporary: Path, when: str) -> None:
    fault = "raise ValueError('no luck')"
    if when == "later":
        model = (checkout / "model.py").read_text(encoding="utf-8")
        fault = model.replace("for _ in range(max_new_tokens):", f"{fault}\n        while True:")
    (checkout / "model.py").write_text(fault, encoding="utf-8")
    with (
        pytest.raises(ConfigError, match="no luck") as caught,
        open_sampler(checkout, SHAPE) as sampler,
    ):
        sampler.draw([0], 5, 1.0, top_k=1)
    assert "nanoGPT's sampler with exit code 1" in line_of(caught)
    assert not list(temporary.glob("qkv-*"))


def test_interrupted_the_process_ends(checkout: Path, temporary: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_sampler(checkout, SHAPE) as sampler:
        raise KeyboardInterrupt
    assert sampler.process.poll() is not None
    assert not list(temporary.glob("qkv-*"))
