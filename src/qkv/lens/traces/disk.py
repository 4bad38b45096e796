"""Tensors in mapped files, for what memory can't hold."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qkv.errors import ResourceError

__all__ = ["Folder", "in_folder", "joined", "unwritable"]

# What is smaller stays in memory: a file for each step of a cache would be thousands of them.
SMALL = 2**20
ZEROS = bytes(2**20)


class Folder:
    """Keeps tensors of a megabyte and more in files of a folder, mapped into memory.

    A file loses its name as soon as it is mapped, where the system allows it: nothing is left
    behind, and the disk is free again when the tensor is gone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, x: Tensor) -> Tensor:
        return self.empty(x.shape, x.dtype).copy_(x)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor whose numbers are still to be set.

        Raises:
            ResourceError: where the disk has no room for it.
        """
        count = torch.Size(shape).numel()
        if count * dtype.itemsize < SMALL:
            return torch.empty(tuple(shape), dtype=dtype)
        name: Path | None = None
        try:
            with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".bin", delete=False) as file:
                name = Path(file.name)
                _reserve(file, count * dtype.itemsize)
            mapped = torch.from_file(str(name), shared=True, size=count, dtype=dtype)
        except (OSError, RuntimeError) as error:
            raise unwritable(self.folder, error) from error
        finally:
            if name is not None:
                _forget(name)
        return mapped.reshape(tuple(shape))


def in_folder(folder: Path | str) -> Folder:
    """A way to keep tensors on the disk for as long as they are used.

    What is kept there is gone with the trace; `Trace.save` is how to keep it.

    Raises:
        ResourceError: where the folder can't be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return Folder(folder)


def joined(tensors: Sequence[Tensor], keep: Callable[[Tensor], Tensor]) -> Tensor:
    """Parts (B, H, any, ...) one after another along axis 2, straight into a tensor that is kept.

    Args:
        tensors: the parts, which are kept already; a single one is returned as it is.
        keep: how they are kept, such as `in_folder` gives it.

    Raises:
        ResourceError: where the disk has no room for it.

    >>> x = torch.arange(6.0).reshape(1, 1, 3, 2)
    >>> joined([x[:, :, :2], x[:, :, 2:]], torch.clone).equal(x)
    True
    """
    first = tensors[0]
    if len(tensors) == 1:
        return first
    shape = (*first.shape[:2], sum(x.shape[2] for x in tensors), *first.shape[3:])
    dtype = reduce(torch.promote_types, (x.dtype for x in tensors))
    empty = keep.empty if isinstance(keep, Folder) else _in_memory
    whole, start = empty(shape, dtype), 0
    for x in tensors:
        whole[:, :, start : start + x.shape[2]].copy_(x)
        start += x.shape[2]
    return whole


def unwritable(path: Path, error: Exception) -> ResourceError:
    """What to say where the system would not write."""
    reason = getattr(error, "strerror", None) or (str(error).splitlines() or ["no reason"])[0]
    return ResourceError(
        f"{reason!r} while writing {path}",
        "a place that can be written",
        "name another, or free space",
    )


def _in_memory(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(tuple(shape), dtype=dtype)


def _reserve(file: Any, size: int) -> None:
    """Takes the room at once: a mapped file that meets a full disk later ends the program."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(0, size, len(ZEROS)):
        file.write(ZEROS[: size - start])


def _forget(name: Path) -> None:
    try:
        name.unlink(missing_ok=True)
    except OSError:
        # Windows doesn't let go of the name of a file that is mapped.
        return
