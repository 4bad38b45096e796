"""Traces read from bytes, and saved with fewer whole numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from qkv import Causal, Trace, attend, capture, load
from qkv.errors import CheckpointError
from qkv.lens.traces.storing import load_bytes, save


@pytest.fixture
def trace() -> Trace:
    torch.manual_seed(1)
    with capture() as seen:
        attend(*torch.randn(3, 1, 3, 17, 8), mask=Causal())
    return seen


def test_bytes_are_read_as_their_file_is(trace: Trace, tmp_path: Path) -> None:
    path = trace.save(tmp_path / "trace.safetensors", "int8")
    for one, other in zip(load_bytes(path.read_bytes(), "here"), load(path), strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.row(16), other.row(16))


@pytest.mark.parametrize("largest", [127, 45, 7])
def test_fewer_numbers_have_an_lse_of_their_own(trace: Trace, tmp_path: Path, largest: int) -> None:
    path = save(trace, tmp_path / "trace.safetensors", "int8", largest)
    with safe_open(path, framework="numpy") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    assert max(int(np.abs(x).max()) for x in tensors if x.dtype == np.int8) == largest
    coarse = load(path)
    worst = 0.0
    for one, exact in zip(coarse, trace, strict=True):
        tile, whole = (head.tile(range(17), range(17)) for head in (one, exact))
        np.testing.assert_allclose(tile.sum(1), 1, atol=1e-5)
        worst = max(worst, float(np.abs(tile - whole).max()))
    assert 0 < worst < 3 / largest
    # All 17 rows, of which 16 are tried.
    assert coarse.error == pytest.approx(worst, abs=worst / 2)


def test_damaged_bytes_are_one_line(trace: Trace, tmp_path: Path) -> None:
    data = trace.save(tmp_path / "trace.safetensors").read_bytes()
    for wrong in (b"", data[:5], data[:100], data[:-3], b"\xff" * 20):
        with pytest.raises(CheckpointError, match="got here: ") as caught:
            load_bytes(wrong, "here")
        assert "\n" not in str(caught.value)
