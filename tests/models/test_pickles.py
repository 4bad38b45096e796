"""Pickles that would do more than hold values: none of them does it."""

from __future__ import annotations

import argparse
import os
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qkv.errors import CheckpointError
from qkv.models.pickles import read_plain, read_torch

from .test_nanogpt import content, meta, rezip, saved

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def line_of(path: Path, read: Callable[[Path], Any]) -> str:
    """The one line that says why a file is not read."""
    with pytest.raises(ValueError, match=r".") as caught:
        read(path)
    assert len(str(caught.value)) <= 200
    return str(caught.value)


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_what_is_no_tensor_is_refused_and_never_run(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    others: dict[str, Any] = {
        ".mkdir": Runs(proof),
        "argparse.Namespace": argparse.Namespace(a=1),
        "numpy": np.float64(2.5),
        "bytearray": bytearray(3),
        "torch.device": torch.device("cpu"),
    }
    for name, value in others.items():
        line = line_of(saved(tmp_path / "ckpt.pt", content(best_val_loss=value)), read_torch)
        assert name in line
        assert "where tensors are expected" in line
    assert not proof.exists()
    (tmp_path / "ckpt.pt").write_bytes(pickle.dumps(Runs(proof)))
    assert "not a zip file" in line_of(tmp_path / "ckpt.pt", read_torch)
    assert not proof.exists()


def test_a_pickle_that_asks_for_a_huge_memory(tmp_path: Path) -> None:
    path = saved(tmp_path / "ckpt.pt", content())
    # LONG_BINPUT: a place in the unpickler's memory.
    rezip(path, lambda name, data: b"\x80\x02}r\xff\xff\xff\xff." if "data.pkl" in name else data)
    assert "LONG_BINPUT 4294967295" in line_of(path, read_torch)


def test_versions_of_torch_that_can_be_got_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "ckpt.pt", content())
    for version in ("2.5.1+cu121", "1.13.0"):
        with monkeypatch.context() as patch:
            patch.setattr(torch, "__version__", version)
            with pytest.raises(CheckpointError, match="pip install --upgrade torch"):
                read_torch(path)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_class_is_let_through(tmp_path: Path, protocol: int) -> None:
    path, proof = tmp_path / "meta.pkl", tmp_path / "proof"
    for value in (Runs(proof), {1, 2}, np.int64(3), argparse.Namespace(a=1), print):
        path.write_bytes(pickle.dumps(meta(vocab_size=value), protocol=protocol))
        # Newer protocols have a set of their own.
        if value == {1, 2} and protocol >= 4:
            assert read_plain(path)["vocab_size"] == value
        else:
            assert "where plain values are expected" in line_of(path, read_plain)
    assert not proof.exists()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_come_back(tmp_path: Path, protocol: int) -> None:
    value = {"a": [1, -2.5, True, None, 2**70, {"b": "é☃"}], 3: []}
    path = tmp_path / "values"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    assert read_plain(path) == value


def test_a_key_that_takes_for_ever_to_hash(tmp_path: Path) -> None:
    key: tuple[Any, ...] = ()
    for _ in range(40):
        key = (key, key)
    # The key itself, not hashed here, to which a dictionary is then added by hand.
    data = pickle.dumps(key, protocol=2)
    (tmp_path / "bomb").write_bytes(data[:2] + b"}" + data[2:-1] + b"Ns.")
    assert "TUPLE" in line_of(tmp_path / "bomb", read_plain)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\x80",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x80\x05\x96\x00\x00\x00\x00\x10\x00\x00\x00",
        b"\x80\x02}r\xff\xff\xff\x7f.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"(ios\nsystem\n.",
        b"I" + b"9" * 100_000 + b"\n.",
        bytes(2**24 + 1),
    ],
)
def test_pickles_that_are_damaged_or_worse(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "meta.pkl"
    path.write_bytes(data)
    tracemalloc.start()
    line_of(path, read_plain)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
