"""GGUF files, of which no number is believed before it has been held against the file's size.

The format is `docs/gguf.md` of ggml: a magic, counts, metadata, a table of tensors, then their
numbers. The package `gguf` reads it too, but loops and allocates as a header bids it; here it is
asked for one thing only, to undo quantisation, and only where something is quantised.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float

from qkv.errors import CheckpointError
from qkv.models.assembly import broken

__all__ = ["MAGIC", "GGUFFile", "Stored", "read_gguf"]

MAGIC = b"GGUF"
SCALARS = dict(enumerate(("<u1", "<i1", "<u2", "<i2", "<u4", "<i4", "<f4", "<?")))
SCALARS |= {10: "<u8", 11: "<i8", 12: "<f8"}
"""Numpy's names of the types that a value of the metadata may have, by GGUF's number."""
STRING, ARRAY = 8, 9
PLAIN = {0: "<f4", 1: "<f2", 28: "<f8", 30: "bf16"}
"""The types of tensors that need nothing undone."""

HEADER = 2**26
"""Bytes that a header may have; vocabularies of 256,000 tokens take 15 million."""
VALUES = 2**21
"""Values that all of the metadata may have; such vocabularies have 1.3 million."""
ENTRIES = 2**16
"""Metadata entries, and tensors, that a file may have."""
STRIDE = 2**13
"""Blocks, of 32 to 256 numbers, whose quantisation is undone at once."""


@dataclass(frozen=True)
class Stored:
    """Where one tensor lies in its file.

    Args:
        shape: the outermost axis first, as in NumPy; the file has them the other way round.
        kind: GGUF's number of its type.
        start: of its first byte, from the start of the file.
        size: in bytes.
    """

    shape: tuple[int, ...]
    kind: int
    start: int
    size: int


@dataclass(frozen=True)
class GGUFFile:
    """The header of a GGUF file; numbers are read one tensor at a time.

    Args:
        path: the file.
        metadata: values under their keys; arrays are lists.
        tensors: what is stored, under its name.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Stored]

    def read(self, name: str) -> Float[np.ndarray, "*axes"]:
        """Return a tensor in float32, its quantisation undone.

        Raises:
            CheckpointError: the file has become shorter.
        """
        stored = self.tensors[name]
        with self.path.open("rb") as file:
            file.seek(stored.start)
            data = file.read(stored.size)
        if len(data) < stored.size:
            raise broken(self.path, f"{name} is cut off")
        with np.errstate(all="ignore"):  # damaged scales overflow: the model's loader says so
            return _numbers(data, stored.kind).reshape(stored.shape)


def read_gguf(path: Path) -> GGUFFile:
    """Return the header of a GGUF file of version 2 or 3, checked against the file's size.

    Raises:
        CheckpointError: no GGUF, another version, a header that lies, a quantisation that cannot
            be undone, or one that can and the package `gguf` is missing.
        OSError: the file may not be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = _Header(path, file, size)
        tensors, entries = header.start()
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            name = header.text()
            if name in metadata:
                raise broken(path, f"{name[:80]!r} stands twice in its metadata")
            metadata[name] = header.value(header.number("<u4"))
        table: dict[str, tuple[tuple[int, ...], int, int]] = {}
        for _ in range(tensors):
            name = header.text()
            if name in table:
                raise broken(path, f"the tensor {name[:80]!r} stands twice")
            table[name] = header.tensor(name)
        end = file.tell()
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise broken(path, f"an alignment of {str(alignment)[:40]}")
    start = -(-end // alignment) * alignment
    return GGUFFile(path, metadata, _place(path, table, start, size))


class _Header:
    """Reads from the start of a file on, never past its end."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.file = path, file
        self.left, self.values = min(size, HEADER), VALUES

    def take(self, count: int) -> bytes:
        data = self.file.read(count) if count <= self.left else b""
        if len(data) < count:
            raise broken(self.path, f"{count} bytes are announced where {self.left} are left")
        self.left -= count
        return data

    def number(self, kind: str) -> Any:
        return np.frombuffer(self.take(np.dtype(kind).itemsize), kind)[0].item()

    def text(self) -> str:
        (length,) = struct.unpack("<Q", self.take(8))
        return self.take(length).decode("utf-8", "replace")

    def start(self) -> tuple[int, int]:
        """Read magic, version and counts; return how many tensors and metadata entries follow."""
        if self.left < 24 or self.take(4) != MAGIC:
            raise broken(self.path, "no GGUF file")
        version, tensors, entries = struct.unpack("<IQQ", self.take(20))
        if version & 0xFFFF == 0:
            raise CheckpointError(
                f"a big-endian GGUF file, {self.path}", "little-endian", "convert the model again"
            )
        if version not in (2, 3):
            raise CheckpointError(
                f"GGUF of version {version}, {self.path}",
                "version 2 or 3",
                "convert the model again",
            )
        # Names have a length and values a type, so that none is shorter than 12 bytes.
        for count, what in ((tensors, "tensors"), (entries, "metadata entries")):
            if count > min(ENTRIES, self.left // 12):
                raise broken(self.path, f"{count} {what} are announced in {self.left} bytes")
        return tensors, entries

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self.array()
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        raise broken(self.path, f"a value of the unknown type {kind} in its metadata")

    def array(self) -> list[Any]:
        kind, count = struct.unpack("<IQ", self.take(12))
        if count > self.values:
            raise broken(self.path, f"an array of {count} values in its metadata")
        self.values -= count
        if kind == STRING:
            return [self.text() for _ in range(count)]
        if kind in SCALARS:
            data = self.take(count * np.dtype(SCALARS[kind]).itemsize)
            values: list[Any] = np.frombuffer(data, SCALARS[kind]).tolist()
            return values
        raise broken(self.path, f"an array of the unknown type {kind} in its metadata")

    def tensor(self, name: str) -> tuple[tuple[int, ...], int, int]:
        """Read shape, type and offset of a tensor."""
        (axes,) = struct.unpack("<I", self.take(4))
        if not 1 <= axes <= 4:
            raise broken(self.path, f"{name[:80]!r} has {axes} axes")
        *shape, kind, offset = struct.unpack(f"<{axes}QIQ", self.take(8 * axes + 12))
        return tuple(reversed(shape)), kind, offset


def _place(
    path: Path, table: Mapping[str, tuple[tuple[int, ...], int, int]], start: int, size: int
) -> dict[str, Stored]:
    """Return the tensors' places, none of which overlaps another or leaves the file."""
    blocks: dict[int, tuple[int, int]] = {}
    tensors = {}
    for name, (shape, kind, offset) in table.items():
        if kind not in blocks:
            blocks[kind] = _block(path, name, kind)
        numbers, length = blocks[kind]
        if min(shape) < 1 or shape[-1] % numbers:
            raise broken(path, f"{name[:80]!r} has the shape {shape}, in blocks of {numbers}")
        taken = math.prod(shape) // numbers * length
        end = start + offset + taken
        if end > size:
            raise broken(path, f"{name[:80]!r} is cut off: it ends at byte {end} of {size}")
        tensors[name] = Stored(shape, kind, start + offset, taken)
    ordered = sorted(tensors.items(), key=lambda item: item[1].start)
    for (before, first), (after, second) in pairwise(ordered):
        if first.start + first.size > second.start:
            raise broken(path, f"{before[:80]!r} and {after[:80]!r} overlap")
    return tensors


def _block(path: Path, name: str, kind: int) -> tuple[int, int]:
    """Return how many numbers a block of a type has, and how many bytes."""
    if kind in PLAIN:
        return 1, 2 if PLAIN[kind] == "bf16" else np.dtype(PLAIN[kind]).itemsize
    try:
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize
    except ImportError as error:
        raise CheckpointError(
            f"quantised weights in {path}",
            "the package `gguf`, which can undo that",
            "pip install 'qkv[gguf]'",
        ) from error
    try:
        known = GGMLQuantizationType(kind)
        numbers, length = GGML_QUANT_SIZES[known]
        dequantize(np.zeros((1, length), np.uint8), known)
    except (ValueError, KeyError, NotImplementedError) as error:
        names = {each.value: each.name for each in GGMLQuantizationType}
        raise CheckpointError(
            f"{name[:80]!r} as {names.get(kind, f'the unknown type {kind}')} in {path}",
            "a quantisation that the package `gguf` can undo, such as Q4_1, Q8_0 or F16",
            "choose the model in another quantisation",
        ) from error
    return numbers, length


def _numbers(data: bytes, kind: int) -> Float[np.ndarray, " numbers"]:
    if kind in PLAIN and PLAIN[kind] != "bf16":
        return np.frombuffer(data, PLAIN[kind]).astype(np.float32)
    if kind in PLAIN:  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    known = GGMLQuantizationType(kind)
    numbers, length = GGML_QUANT_SIZES[known]
    blocks = np.frombuffer(data, np.uint8).reshape(-1, length)
    undone = np.empty((len(blocks), numbers), np.float32)
    # Left to itself the package goes 16 rows at a time: slow where there are many, of a few blocks.
    for at in range(0, len(blocks), STRIDE):
        part = blocks[at : at + STRIDE]
        undone[at : at + STRIDE] = dequantize(part.reshape(1, -1), known).reshape(-1, numbers)
    return undone.reshape(-1)
