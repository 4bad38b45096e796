"""Traces on disk: one safetensors file each, which says in JSON what its tensors are."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qkv.attention import ALiBi, Both, Given, Mask
from qkv.errors import CheckpointError, ConfigError, QkvError
from qkv.lens.seeing.masks import Cut, Stitched
from qkv.lens.traces.described import RULES
from qkv.lens.traces.disk import in_folder, unwritable
from qkv.lens.traces.reading import FORMAT, read
from qkv.lens.traces.rounding import LARGEST, round_site
from qkv.lens.traces.sites import Site
from qkv.lens.traces.stitching import StitchedBias
from qkv.lens.traces.trace import Trace

__all__ = ["in_folder", "load", "load_bytes", "save"]

TENSORS = ("q", "k", "lse", "v", "w_o", "sink", "at", "rows", "query_ids", "key_ids")
PLAIN = ("index", "name", "scale", "softcap", "queries", "error", "note")
# Places that are compared by value, not only by where they lie.
SHORT = 4096
# Names of types in a safetensors file.
KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class _Writer:
    """Collects tensors under names, each once, and says in JSON what they are."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[Any, str] = {}

    def tensor(self, x: Any) -> str | None:
        if x is None:
            return None
        held = _shared(x) if isinstance(x, np.ndarray) else x.detach()
        if held.dtype not in KINDS or held.layout is not torch.strided:
            raise QkvError(
                f"a tensor of {held.dtype}",
                "numbers of a plain type",
                "capture with dtype='fp32'",
            )
        # What lies in one place is written once, whoever has a view of it; and so are the places
        # of a short text, which are the same in every layer.
        key: Any = (held.device, held.data_ptr(), held.shape, held.stride(), held.dtype)
        if held.dtype is torch.int64 and held.numel() <= SHORT:
            key = (held.shape, held.cpu().contiguous().numpy().tobytes())
        if key not in self._names:
            self._names[key] = f"t{len(self.tensors)}"
            self.tensors[self._names[key]] = held
        return self._names[key]

    def mask(self, mask: Mask) -> Any:
        kind = type(mask).__name__
        if kind in RULES:
            given = {f.name: getattr(mask, f.name) for f in dataclasses.fields(mask)}  # type: ignore[arg-type]
            return [kind, given]
        if isinstance(mask, Given):
            return ["Given", self.tensor(mask.table)]
        if isinstance(mask, Both):
            return ["Both", self.mask(mask.left), self.mask(mask.right)]
        if isinstance(mask, Stitched):
            return ["Stitched", [[self.mask(one), *sizes] for one, *sizes in mask.parts]]
        if isinstance(mask, Cut):
            heads = list(mask.head) if isinstance(mask.head, tuple) else mask.head
            places = self.tensor(mask.rows), self.tensor(mask.cols)
            whole = self.mask(mask.whole)
            return ["Cut", whole, mask.sequence, heads, *places, mask.queries, mask.keys]
        raise QkvError(
            f"a mask that is a function ({kind})",
            "masks that can be written down",
            "save a picture of the map instead, or capture a model with a mask of another kind",
        )

    def bias(self, bias: Any) -> Any:
        if bias is None or isinstance(bias, Tensor):
            return None if bias is None else ["table", self.tensor(bias)]
        if isinstance(bias, ALiBi):
            return ["ALiBi", list(bias.slopes)]
        if isinstance(bias, StitchedBias):
            return ["Stitched", [[self.bias(one), *sizes] for one, *sizes in bias.parts]]
        raise QkvError(
            f"a bias of type {type(bias).__name__}", "a table or ALiBi", "save another layer"
        )

    def site(self, site: Site, largest: int | None) -> dict[str, Any]:
        if site.score_mod is not None:
            raise QkvError(
                f"layer {site.index} with a score_mod, which is a function",
                "layers that numbers describe",
                "read its maps before the program ends, or capture other layers",
            )
        site, coded = round_site(site, largest) if largest else (site, {})
        tensors = {name: getattr(site, name) for name in TENSORS} | coded
        return {
            **{name: getattr(site, name) for name in PLAIN},
            **{name: self.tensor(x) for name, x in tensors.items()},
            "mask": self.mask(site.mask),
            "masks": [self.mask(mask) for mask in site.masks],
            "kept": [[k.rows.start, k.rows.stop, k.cols.start, k.cols.stop] for k in site.kept],
            "bias": self.bias(site.bias),
            "heads": list(site.heads),
            "groups": list(site.groups),
            "H_all": site.H_all,
        }


def save(trace: Trace, path: Path, dtype: str | None = None, largest: int = LARGEST) -> Path:
    """Writes a trace to one file; what was there before stays until the new one is whole.

    With "int8" q and k are rounded to whole numbers with one scale a row, and lse is that of the
    rounded ones; none of the numbers is above `largest`. Tensors go to the file one by one: a trace
    that is mapped isn't held in memory.

    Raises:
        ConfigError: for another dtype.
        QkvError: where it holds what numbers can't describe.
        ResourceError: where the file can't be written.
    """
    if dtype not in (None, "int8"):
        raise ConfigError(f"dtype={dtype!r}", "'int8', or None for what is held", "choose one")
    writer, rounded = _Writer(), largest if dtype == "int8" else None
    described = {
        "format": FORMAT,
        "calls": [
            [layer, [writer.site(site, rounded) for site in calls]]
            for layer, calls in trace.calls()
        ],
        "unseen": trace.unseen,
        "texts": {str(b): list(t) for b, t in trace.all_texts().items()},
        "partial": trace.partial,
    }
    told = json.dumps(described, default=_plain)
    try:
        # What is written can be read: better said now than when the trace is gone.
        read(json.loads(told), writer.tensors)
    except ValueError as error:
        raise QkvError(
            f"a trace whose {error}", "one that can be read again", "capture it anew"
        ) from error
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write(beside, writer.tensors, told)
        beside.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        _remove(beside)
    return path


def _write(path: Path, tensors: dict[str, Tensor], told: str) -> None:
    """A safetensors file: the size of a header, the header in JSON, then bytes without holes."""
    # Wide numbers first, so that all are aligned.
    order = sorted(tensors, key=lambda name: -tensors[name].element_size())
    header: dict[str, Any] = {"__metadata__": {"qkv": told}}
    end = 0
    for name in order:
        x = tensors[name]
        start, end = end, end + x.numel() * x.element_size()
        header[name] = {
            "dtype": KINDS[x.dtype],
            "shape": list(x.shape),
            "data_offsets": [start, end],
        }
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in order:
            flat = tensors[name].cpu().contiguous().flatten()
            file.write(flat.view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def load(path: Path | str) -> Trace:
    """Reads a trace that `Trace.save` wrote; tensors are mapped, not copied.

    Every field is checked, so that a file that is damaged, or made to harm, is refused.

    Raises:
        CheckpointError: where there is no such file, it is damaged, or holds no trace.

    >>> load("no/such/file")
    Traceback (most recent call last):
    qkv.errors.CheckpointError: got nothing at no/such/file; expected a trace that was saved; \
check the path
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"nothing at {path}", "a trace that was saved", "check the path")
    return _read(path, lambda: _mapped(path))


def load_bytes(data: bytes, source: object) -> Trace:
    """Reads a trace from the bytes of its file, as `load` does; `source` is what to call it.

    Raises:
        CheckpointError: where they are damaged, or hold no trace.

    >>> load_bytes(b"", "nowhere")
    Traceback (most recent call last):
    qkv.errors.CheckpointError: got nowhere: Error while deserializing: header too small; \
expected a trace that was saved; write it again with trace.save
    """
    return _read(source, lambda: _parsed(data))


def _mapped(path: Path) -> tuple[str | None, dict[str, Tensor]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        told = (file.metadata() or {}).get("qkv")
        return told, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _parsed(data: bytes) -> tuple[str | None, dict[str, Tensor]]:
    from safetensors.torch import load as parse

    tensors = parse(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header.get("__metadata__", {}).get("qkv"), tensors


def _read(source: object, opened: Callable[[], tuple[str | None, dict[str, Tensor]]]) -> Trace:
    """The trace that a file describes and holds."""
    from safetensors import SafetensorError

    try:
        told, tensors = opened()
        if told is None:
            raise ValueError("it holds no trace")
        found = read(json.loads(told), tensors)
    # The library answers damage in many ways, deep nesting with a RecursionError.
    except (
        SafetensorError,
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
        OverflowError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{source}: {reason}", "a trace that was saved", "write it again with trace.save"
        ) from error
    trace = Trace()
    trace.end(found.calls, found.unseen, found.partial)
    trace.remember(found.texts)
    return trace


def _shared(x: np.ndarray[Any, Any]) -> Tensor:
    """An array as a tensor over the same memory, which nobody writes to."""
    if min(x.strides, default=0) < 0 or not x.dtype.isnative:
        x = x.astype(x.dtype.newbyteorder("="), order="C")
    with warnings.catch_warnings():
        # Arrays that may not be written to are only read here.
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(x)


def _plain(value: Any) -> Any:
    """NumPy's and torch's numbers as JSON has them."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} in a trace")


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
