"""Traces saved as whole numbers of one byte: small, near what was seen, and exact in themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import qkv
from qkv.attention import ALiBi, Causal, Padding, Window, attend
from qkv.errors import CheckpointError, ConfigError, QkvError
from qkv.lens import Trace, capture
from qkv.lens.traces.rounding import code, decode

H, G, T, C = 6, 2, 21, 32


def seen(batch: int = 1, size: float = 1.0, **options: Any) -> Trace:
    """Two layers of grouped heads."""
    torch.manual_seed(0)
    with capture() as trace:
        for _ in range(2):
            q, k = size * torch.randn(batch, H, T, C), size * torch.randn(batch, G, T, C)
            attend(q, k, k, **{"mask": Causal(), **options})
    return trace


def rounded(trace: Trace, path: Path) -> Trace:
    return qkv.load(trace.save(path / "rounded.safetensors", "int8"))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mask": Window(4), "scale": 0.3, "softcap": 2.0},
        {"bias": ALiBi.standard(H)},
        {"bias": torch.randn(H, T, T, generator=torch.Generator().manual_seed(3))},
        {"mask": Causal() & Padding((T, 9)), "batch": 2},
    ],
    ids=["causal", "window and cap", "alibi", "table", "padding"],
)
def test_rows_sum_to_one_and_weights_stay_near(options: Any, tmp_path: Path) -> None:
    whole = seen(**options)
    small = rounded(whole, tmp_path)
    for site, own in zip(whole.layers, small.layers, strict=True):
        for name in ("q", "k"):
            was, now = getattr(site, name), getattr(own, name)
            # Half of a step of each row, and what fp16 loses of the scale.
            bound = was.abs().amax(-1, keepdim=True) * (0.5 / 127 + 2**-11)
            assert ((was - now).abs() <= bound).all()
    changed = 0.0
    for sequence in range(whole.layers[0].B):
        pairs = zip(whole.sequence(sequence), small.sequence(sequence), strict=True)
        for was, now in pairs:
            # Its own lse, as float64 reckons it from the stored numbers.
            np.testing.assert_allclose(now.pattern().sum(-1), 1, atol=2e-6)
            changed = max(changed, float(np.abs(was.pattern() - now.pattern()).max()))
    assert 0 < small.error <= changed * (1 + 1e-4)
    assert changed < 0.05


def test_it_takes_a_quarter(tmp_path: Path) -> None:
    trace = seen()
    small = trace.save(tmp_path / "int8.safetensors", "int8").stat().st_size
    numbers, rows = 2 * (H + G) * T * C, 2 * (H + G) * T
    # A byte a number, two a scale, four a row's lse; the rest describes it.
    assert small < numbers + 2 * rows + 4 * rows + 4000
    assert small < trace.save(tmp_path / "fp32.safetensors").stat().st_size / 2


def test_rounded_twice_is_rounded_once(tmp_path: Path) -> None:
    once = rounded(seen(), tmp_path)
    twice = rounded(once, tmp_path)
    for one, other in zip(once.layers, twice.layers, strict=True):
        assert one.q.equal(other.q)
        assert one.k.equal(other.k)
        assert one.lse.equal(other.lse)


def test_rows_of_any_size_have_a_scale() -> None:
    torch.manual_seed(0)
    for size in (0.0, 1e-30, 1e-6, 1.0, 1e9, 1e30):
        x = torch.stack([torch.randn(5) * size, torch.zeros(5)])
        numbers, scales = code(x)
        assert scales.dtype is (torch.float16 if size in (0.0, 1.0) else torch.float32)
        torch.testing.assert_close(decode(numbers, scales), x, rtol=0, atol=size * 3 / 127)
        assert not decode(numbers, scales)[1].any()


def test_what_cannot_be_rounded_is_said(tmp_path: Path) -> None:
    path = tmp_path / "trace.safetensors"
    with pytest.raises(QkvError, match="not finite"):
        seen(size=float("inf")).save(path, "int8")
    with pytest.raises(ConfigError, match="dtype='int4'"):
        seen().save(path, "int4")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("harm", ["no scales", "another shape", "keys in half", "many times"])
def test_a_damaged_file_is_refused(harm: str, tmp_path: Path) -> None:
    path = seen().save(tmp_path / "trace.safetensors", "int8")
    with safe_open(path, framework="pt") as file:
        told = json.loads(file.metadata()["qkv"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    site = told["calls"][0][1][0]
    if harm == "no scales":
        del site["q_scale"]
    elif harm == "another shape":
        site["q_scale"] = site["k_scale"]
    elif harm == "keys in half":
        tensors["half"] = tensors[site["k"]].half()
        site["k"] = "half"
    else:
        told["calls"][0][1] = [site] * 5000
    save_file(tensors, path, {"qkv": json.dumps(told)})
    with pytest.raises(CheckpointError, match=r"layer 0\[\d+\]"):
        qkv.load(path)
