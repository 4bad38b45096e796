"""Pickles from elsewhere, which can run code when they are read: looked over before they are.

Two kinds are opened at all. A checkpoint of torch may be made of tensors and plain containers; it
is read by torch with ``weights_only``. A pickle of plain values may not even ask for a class.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import torch

from qkv.errors import CheckpointError

__all__ = ["read_plain", "read_torch"]

PICKLE = 2**24
"""Bytes that a pickle, tensors' numbers apart, may have; GPT-2 XL's takes 1 million."""
TORCH = (2, 6)
"""Before this version of torch ``weights_only`` could be got around (CVE-2025-32434)."""

KINDS = ("BFloat16", "Bool", "Byte", "Double", "Float", "Half", "Int", "Long", "Short")
PARTS = frozenset(
    {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
    }
    | {f"torch {kind}Storage" for kind in KINDS}
)
"""What the pickle of a checkpoint may ask for: what tensors are made of."""
ODD = frozenset(
    """
    BYTEARRAY8 DUP EXT1 EXT2 EXT4 INST NEWOBJ NEWOBJ_EX NEXT_BUFFER OBJ PERSID READONLY_BUFFER
    STACK_GLOBAL
    """.split()  # noqa: SIM905
)
"""What neither kind has a use for."""
CALLS = frozenset({"BINPERSID", "BUILD", "GLOBAL", "REDUCE"})
"""What only tensors need; the names that it asks for are held against ``PARTS``."""
TUPLES = frozenset({"FROZENSET", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"})
"""What, as a key, can be made to take for ever to hash; plain values do without."""


def read_torch(path: Path) -> Any:
    """Return the content of a file of torch.save: tensors, mapped from the file, and plain values.

    Raises:
        ValueError: anything else in it, or damage; its text says what.
        CheckpointError: a torch whose ``weights_only`` is no protection.
        OSError: the file may not be read.
    """
    version = tuple(int(number) for number in re.findall(r"\d+", torch.__version__)[:2])
    if version < TORCH:
        raise CheckpointError(
            f"torch {torch.__version__}, whose weights_only can be got around",
            f"torch {'.'.join(map(str, TORCH))} or newer",
            "pip install --upgrade torch",
        )
    path.open("rb").close()  # what the system refuses is no fault of the file
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # torch compresses nothing; what is compressed, or there twice, may be of any size.
            if any(each.compress_type != zipfile.ZIP_STORED for each in members):
                raise ValueError("compressed parts")
            if sum(each.file_size for each in members) > path.stat().st_size:
                raise ValueError("parts larger than the file")
            pickles = [each for each in members if each.filename.endswith("/data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > PICKLE:
                raise ValueError(f"{len(pickles)} pickles, or one of more than {PICKLE} bytes")
            _look_over(archive.read(pickles[0]), ODD)
        # Mapped, so that an optimizer's state, twice the size of the model, is not read.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # zipfile, the unpickler and torch raise a dozen kinds
        raise ValueError(_reason(error)) from error


def read_plain(path: Path) -> Any:
    """Return the content of a pickle of texts, numbers, lists and dictionaries.

    Raises:
        ValueError: anything else in it, or damage; its text says what.
        OSError: the file may not be read.
    """
    with path.open("rb") as file:
        data = file.read(PICKLE + 1)
    if len(data) > PICKLE:
        raise ValueError(f"more than {PICKLE} bytes")
    try:
        _look_over(data, ODD | CALLS | TUPLES)
        return _Plain(io.BytesIO(data)).load()
    except Exception as error:  # whatever a damaged pickle makes of the unpickler
        raise ValueError(_reason(error)) from error


class _Plain(pickle.Unpickler):
    """Reads what has no name; a name is refused, whatever it is of."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"{module}.{name} where plain values are expected")


def _look_over(data: bytes, forbidden: frozenset[str]) -> None:
    """Raise a ValueError for the first thing in a pickle that its kind has no use for.

    Also for a place in its memory beyond its own length, for which an unpickler would make room.
    """
    for operation, argument, _ in pickletools.genops(data):
        if operation.name in forbidden:
            named = "" if argument is None else f" {str(argument)[:80]!r}"
            raise ValueError(f"{operation.name}{named} where plain values are expected")
        if operation.name == "GLOBAL" and argument not in PARTS:
            raise ValueError(f"{str(argument)[:80].replace(' ', '.')} where tensors are expected")
        if operation.name.endswith("PUT") and int(argument or 0) > len(data):
            raise ValueError(f"{operation.name} {argument}")


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:200]
