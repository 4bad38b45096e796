"""Weights in few bytes: whole numbers of one byte with a step for each row, in a Huffman code.

A file::

    b"qkv pack"      8 bytes
    length           of the header, 8 bytes, the lowest first
    header           JSON: format, notes of the writer, the fraction, tensors (name, shape, whether
                     they are whole numbers), bytes of the code, sha256 of all that follows
    code             deflate with its Huffman codes alone: the whole numbers, one byte each,
                     tensor after tensor
    the rest         fp16: a step for each row of whole numbers, then the other tensors

A matrix has whole numbers, others (gains, biases) are kept in fp16. The step is a fraction of a
row's root mean square, one fraction for all large matrices: as coarse as the bytes ask for, never
finer than a 127th of the row's largest. Small matrices, such as embeddings of characters, have the
finest. What a coarser step saves, the Huffman code takes: a normal row of root mean square 1 needs
about 2.05 - log2(step) bits a number.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qkv.errors import CheckpointError, ConfigError

__all__ = ["BROKEN", "annotate", "damaged", "encode", "pack", "read_header", "unpack"]

FORMAT = 1
MAGIC = b"qkv pack"
LARGEST = 127
SMALL = 2**15
"""A matrix of fewer numbers has the finest steps, whatever the fraction."""
FINEST, COARSEST = 2.0**-8, 4.0
"""Fractions between which the search goes; at the coarsest next to nothing is left of a row."""
HALVINGS = 16
"""Of the search: it ends within a ten-thousandth of the finest fraction that fits."""
BROKEN = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)

Weights = Mapping[str, NDArray[Any]]


def pack(weights: Weights, notes: Mapping[str, Any], bytes_allowed: int) -> bytes:
    """Return weights in at most so many bytes, with the finest steps that fit.

    Args:
        weights: arrays of finite numbers by name.
        notes: JSON that goes with them.
        bytes_allowed: for all of the file.

    Raises:
        ConfigError: numbers that are not finite or too large for fp16, or weights that cannot be
            made to fit.

    >>> rows = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    >>> len(pack({"a": rows}, {}, 40_000)) <= 40_000
    True
    """
    finest = encode(weights, 0.0, notes)
    if len(finest) <= bytes_allowed:
        return finest
    low, high = math.log(FINEST), math.log(COARSEST)
    found = encode(weights, COARSEST, notes)
    if len(found) > bytes_allowed:
        raise ConfigError(
            f"weights that take {len(found):,} bytes at the least",
            f"at most {bytes_allowed:,}",
            "allow more bytes, or train a smaller model",
        )
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        tried = encode(weights, math.exp(middle), notes)
        if len(tried) <= bytes_allowed:
            found, high = tried, middle
        else:
            low = middle
    return found


def encode(weights: Weights, fraction: float, notes: Mapping[str, Any]) -> bytes:
    """Return weights as a file, in steps of this fraction of a row's root mean square.

    Raises:
        ConfigError: numbers that are not finite or too large for fp16.
    """
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_HUFFMAN_ONLY)
    code: list[bytes] = []
    steps: list[bytes] = []
    others: list[bytes] = []
    tensors = []
    for name, weight in weights.items():
        whole = weight.ndim == 2 and weight.size > 0
        tensors.append([name, list(weight.shape), whole])
        _require_fp16(name, weight)
        if whole:
            numbers, step = _rounded(weight, fraction if weight.size >= SMALL else 0.0)
            code.append(squeezed.compress(numbers.tobytes()))
            steps.append(step.tobytes())
        else:
            others.append(weight.astype("<f2").tobytes())
    code.append(squeezed.flush())
    parts = b"".join([*code, *steps, *others])
    header = {
        "format": FORMAT,
        "notes": dict(notes),
        "fraction": fraction,
        "tensors": tensors,
        "code": sum(map(len, code)),
        "sha256": hashlib.sha256(parts).hexdigest(),
    }
    return _joined(header, parts)


def annotate(data: bytes, notes: Mapping[str, Any]) -> bytes:
    """Return a file with other notes, its weights as they are.

    >>> unpack(annotate(encode({}, 0.0, {}), {"loss": 2.5}), "here")
    ({}, {'loss': 2.5})
    """
    header, parts = read_header(data)
    return _joined({**header, "notes": dict(notes)}, parts)


def unpack(data: bytes, source: object) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """Return the weights in fp32, and the notes, of a file that :func:`encode` made.

    Args:
        data: the file.
        source: what to call it where it is damaged.

    Raises:
        CheckpointError: damage.

    >>> weights, notes = unpack(encode({"gain": np.ones(3)}, 0.0, {"loss": 2.5}), "here")
    >>> weights["gain"].tolist(), notes["loss"]
    ([1.0, 1.0, 1.0], 2.5)
    """
    try:
        header, parts = read_header(data)
        if hashlib.sha256(parts).hexdigest() != header["sha256"]:
            raise ValueError("other bytes than were written")
        shapes = [(name, tuple(shape), whole) for name, shape, whole in header["tensors"]]
        return _weights(parts, header["code"], shapes), header["notes"]
    except (zlib.error, *BROKEN) as error:
        raise damaged(source, error) from error


def read_header(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return a file's header and the bytes that follow it.

    Raises:
        ValueError: no such file.
    """
    start = len(MAGIC) + 8
    if data[: len(MAGIC)] != MAGIC or len(data) < start:
        raise ValueError("no packed weights")
    end = start + int.from_bytes(data[len(MAGIC) : start], "little")
    header = json.loads(data[start:end])
    if header["format"] != FORMAT:
        raise ValueError(f"format {header['format']!r}, where {FORMAT} is known")
    return header, data[end:]


def _joined(header: dict[str, Any], parts: bytes) -> bytes:
    head = json.dumps(header).encode()
    return MAGIC + len(head).to_bytes(8, "little") + head + parts


def damaged(source: object, error: Exception) -> CheckpointError:
    """Return the error for a file of this package that is not as it was installed."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return CheckpointError(
        f"{source}: {reason[:200]}", "the file as it was installed", "install qkv again"
    )


def _rounded(weight: NDArray[Any], fraction: float) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Whole numbers from -127 to 127, and what each row of them is to be multiplied by."""
    wide = weight.astype(np.float64)
    largest = np.abs(wide).max(axis=1, initial=0.0)
    wanted = np.maximum(fraction * np.sqrt(np.square(wide).mean(axis=1)), largest / LARGEST)
    step = wanted.astype("<f2")
    # A step that was rounded down would need a number above 127.
    step = np.where(step < wanted, np.nextafter(step, np.float16(np.inf)), step).astype("<f2")
    divisor = np.where(step > 0, step, 1).astype(np.float64)[:, None]
    return np.rint(wide / divisor).astype(np.int8), step


def _weights(
    parts: bytes, code: int, shapes: list[tuple[str, tuple[int, ...], bool]]
) -> dict[str, NDArray[np.float32]]:
    sizes = {name: math.prod(shape) for name, shape, _ in shapes}
    total = sum(sizes[name] for name, _, whole in shapes if whole)
    numbers = np.frombuffer(
        zlib.decompressobj(-zlib.MAX_WBITS).decompress(parts[:code], total + 1), np.int8
    )
    rest = np.frombuffer(parts[code:], "<f2")
    rows = sum(shape[0] for _, shape, whole in shapes if whole)
    steps, others = rest[:rows], rest[rows:]
    if len(numbers) != total or len(rest) != rows + sum(sizes.values()) - total:
        raise ValueError(f"{len(numbers)} numbers, {total} expected")
    found, number, row, other = {}, 0, 0, 0
    for name, shape, whole in shapes:
        if whole:
            step = steps[row : row + shape[0]].astype(np.float32)[:, None]
            found[name] = numbers[number : number + sizes[name]].reshape(shape) * step
            number, row = number + sizes[name], row + shape[0]
        else:
            values = others[other : other + sizes[name]]
            found[name] = values.reshape(shape).astype(np.float32)
            other += sizes[name]
    return found


def _require_fp16(name: str, weight: NDArray[Any]) -> None:
    most = float(np.finfo(np.float16).max)
    if not bool((np.abs(weight) <= most).all()):  # also where there is a NaN
        raise ConfigError(
            f"{name} with numbers that fp16 does not hold",
            f"finite ones up to {most:,.0f}",
            "pack weights of a run that did not diverge",
        )
