"""The header of a GGUF file: read as the package `gguf` reads it, and never believed."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qkv.errors import CheckpointError
from qkv.models.gguf_file import read_gguf

from .gguf_writing import entry, raw, string, tensor_info

HUGE = 2**63 + 5


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Whatever a header says, reading it takes little memory."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def line_of(path: Path, data: bytes) -> str:
    """The one line with which reading fails."""
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        read_gguf(path)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 600
    return line


def number(value: int, kind: str = "I") -> bytes:
    return struct.pack(f"<{kind}", value)


def test_metadata_and_places(tmp_path: Path) -> None:
    entries = [
        entry("general.alignment", 4, number(64)),
        entry("a", 0, b"\xff"),
        entry("b", 1, b"\xff"),
        entry("c", 7, b"\1"),
        entry("d", 6, struct.pack("<f", 0.5)),
        entry("e", 12, struct.pack("<d", 0.1)),
        entry("f", 10, number(HUGE, "Q")),
        entry("g", 8, string("naïve\n☃")),
        entry("h", 9, struct.pack("<IQ", 8, 2) + string("x") + string("")),
        entry("i", 9, struct.pack("<IQ3h", 3, 3, -1, 0, 7)),
        entry("j", 8, string(b"\xff")),
    ]
    infos = [tensor_info("one", [3, 5], offset=64), tensor_info("two", [7], kind=1)]
    header = raw(entries, infos)
    header += bytes(-len(header) % 64)
    numbers = np.arange(15, dtype="<f4")
    halves = np.arange(7, dtype="<f2")
    path = tmp_path / "x.gguf"
    path.write_bytes(header + halves.tobytes() + bytes(64 - 14) + numbers.tobytes())
    file = read_gguf(path)
    assert [file.metadata[key] for key in "abcde"] == [255, -1, True, 0.5, 0.1]
    assert [file.metadata[key] for key in "fghij"] == [
        HUGE,
        "naïve\n☃",
        ["x", ""],
        [-1, 0, 7],
        "\ufffd",
    ]
    assert file.read("one").tolist() == numbers.reshape(5, 3).tolist()
    assert file.read("two").tolist() == halves.tolist()
    assert {file.read(name).dtype for name in file.tensors} == {np.dtype("float32")}


def test_version_2_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(raw(version=2))
    assert read_gguf(tmp_path / "x").tensors == {}


@pytest.mark.parametrize(
    "kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q2_K", "Q4_K", "Q6_K", "IQ4_XS"]
)
def test_quantisation_is_undone_as_the_package_does_it(
    tmp_path: Path, kind: str, rng: np.random.Generator
) -> None:
    gguf = pytest.importorskip("gguf", reason="GGUF files need the extra `gguf`")
    as_kind = gguf.GGMLQuantizationType[kind]
    block, length = gguf.GGML_QUANT_SIZES[as_kind]
    # More rows than are undone at once, and one block in each.
    rows = 8209 if block > 1 else 3
    data = rng.integers(0, 256, (rows, length), dtype=np.uint8)
    path = tmp_path / "x.gguf"
    path.write_bytes(raw([], [tensor_info("x", [block, rows], kind=as_kind)], data.tobytes()))
    with np.errstate(all="ignore"):
        wanted = gguf.quants.dequantize(data, as_kind)
    found = read_gguf(path).read("x")
    assert (found.shape, found.dtype) == ((rows, block), np.float32)
    np.testing.assert_array_equal(found, wanted)


GOOD = tensor_info("x", [3, 5])
LIES: dict[str, tuple[dict[str, Any], str]] = {
    "magic": ({"magic": b"GGML"}, "no GGUF file"),
    "version 1": ({"version": 1}, "GGUF of version 1"),
    "version 4": ({"version": 4}, "GGUF of version 4"),
    "big-endian": ({"order": ">"}, "a big-endian GGUF file"),
    "tensors": ({"counts": (HUGE, 0)}, f"{HUGE} tensors are announced"),
    "some tensors": ({"counts": (9, 0)}, "9 tensors are announced"),
    "entries": ({"counts": (0, HUGE)}, f"{HUGE} metadata entries are announced"),
    "key": ({"entries": [number(HUGE, "Q")]}, f"{HUGE} bytes are announced"),
    "value type": ({"entries": [entry("a", 13, b"")]}, "a value of the unknown type 13"),
    "string": ({"entries": [entry("a", 8, number(2**40, "Q"))]}, f"{2**40} bytes are announced"),
    "array": (
        {"entries": [entry("a", 9, struct.pack("<IQ", 4, HUGE))]},
        f"an array of {HUGE} values",
    ),
    "array of strings": (
        {"entries": [entry("a", 9, struct.pack("<IQ", 8, 2**20))]},
        "bytes are announced",
    ),
    "array of arrays": (
        {"entries": [entry("a", 9, struct.pack("<IQ", 9, 1))]},
        "an array of the unknown type 9",
    ),
    "twice": ({"entries": [entry("a", 0, b"1")] * 2}, "'a' stands twice in its metadata"),
    "alignment": (
        {"entries": [entry("general.alignment", 4, number(48))]},
        "an alignment of 48",
    ),
    "alignment 0": (
        {"entries": [entry("general.alignment", 4, number(0))]},
        "an alignment of 0",
    ),
    "alignment text": (
        {"entries": [entry("general.alignment", 8, string("32"))]},
        "an alignment of 32",
    ),
    "axes": ({"tensors": [tensor_info("x", [1] * 5)]}, "'x' has 5 axes"),
    "no axes": ({"tensors": [tensor_info("x", [])]}, "'x' has 0 axes"),
    "axis 0": ({"tensors": [tensor_info("x", [3, 0])]}, "'x' has the shape (0, 3)"),
    "too large": ({"tensors": [tensor_info("x", [2**62, 2**62])]}, "'x' is cut off"),
    "overflow": ({"tensors": [tensor_info("x", [2**32, 2**32])]}, "'x' is cut off"),
    "one too many": ({"tensors": [tensor_info("x", [4, 5])]}, "'x' is cut off"),
    "offset": ({"tensors": [tensor_info("x", [3, 5], offset=2**63)]}, "'x' is cut off"),
    "type": ({"tensors": [tensor_info("x", [3, 5], kind=99)]}, "'x' as the unknown type 99"),
    "integers": ({"tensors": [tensor_info("x", [3, 5], kind=26)]}, "'x' as I32"),
    "Q8_1": ({"tensors": [tensor_info("x", [32], kind=9)]}, "'x' as Q8_1"),
    "blocks": ({"tensors": [tensor_info("x", [5, 32], kind=8)]}, "(32, 5), in blocks of 32"),
    "tensor twice": ({"tensors": [GOOD, GOOD]}, "the tensor 'x' stands twice"),
    "overlap": ({"tensors": [GOOD, tensor_info("y", [1], offset=56)]}, "'x' and 'y' overlap"),
    "escapes": ({"tensors": [tensor_info("\x1b[2J", [])]}, r"'\x1b[2J' has 0 axes"),
}


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("name", LIES)
def test_headers_that_lie(tmp_path: Path, name: str) -> None:
    if name in ("type", "integers", "Q8_1", "blocks"):
        pytest.importorskip("gguf", reason="GGUF files need the extra `gguf`")
    parts, line = LIES[name]
    assert line in line_of(tmp_path / "x.gguf", raw(**{"data": bytes(60), **parts}))


def test_every_truncation_is_told(tmp_path: Path) -> None:
    entries = [entry("a", 9, struct.pack("<IQ", 8, 2) + string("xyz") + string("")),
               entry("b", 4, number(7))]  # fmt: skip
    whole = raw(entries, [GOOD], bytes(60))
    for length in range(len(whole)):
        line_of(tmp_path / "x.gguf", whole[:length])


@pytest.mark.usefixtures("little_memory")
def test_a_file_full_of_empty_strings(tmp_path: Path) -> None:
    many = 2**21
    array = struct.pack("<IQ", 8, many + 1)
    data = raw([entry("a", 9, array)], data=bytes(8 * (many + 1)))
    assert f"an array of {many + 1} values" in line_of(tmp_path / "x.gguf", data)


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(raw([], [GOOD], bytes(60)))
    file = read_gguf(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="x is cut off"):
        file.read("x")
