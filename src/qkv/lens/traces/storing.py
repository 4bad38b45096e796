"""Traces on disk: one safetensors file each, and tensors that are mapped from a folder."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qkv.attention import ALiBi, Both, Causal, Full, Given, Mask, Padding, Prefix, Window
from qkv.errors import CheckpointError, QkvError, ResourceError
from qkv.lens.seeing.masks import Cut, Stitched, TopLeft
from qkv.lens.traces.sites import Kept, Site
from qkv.lens.traces.stitching import StitchedBias
from qkv.lens.traces.trace import Trace

__all__ = ["in_folder", "load", "save"]

FORMAT = 1
RULES: dict[str, type[Mask]] = {
    rule.__name__: rule for rule in (Full, Causal, TopLeft, Window, Prefix, Padding)
}
TENSORS = ("q", "k", "lse", "v", "w_o", "sink")
ARRAYS = ("at", "rows", "query_ids", "key_ids")
PLAIN = ("index", "name", "scale", "softcap", "queries", "error", "note")


def in_folder(folder: Path | str) -> Callable[[Tensor], Tensor]:
    """A way to keep tensors in files of a folder, mapped into memory.

    Raises:
        ResourceError: where the folder can't be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error

    def keep(x: Tensor) -> Tensor:
        if not x.numel():
            return x.clone()
        try:
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".bin", delete=False) as file:
                size = x.numel() * x.element_size()
                os.posix_fallocate(file.fileno(), 0, size)
            mapped = torch.from_file(file.name, shared=True, size=x.numel(), dtype=x.dtype)
        except (OSError, RuntimeError) as error:
            raise _unwritable(folder, error) from error
        return mapped.reshape(x.shape).copy_(x)

    return keep


class _Writer:
    """Collects tensors under names, each once, and says in JSON what they are."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}

    def tensor(self, x: Any) -> str | None:
        if x is None:
            return None
        if id(x) not in self._names:
            name = f"t{len(self.tensors)}"
            held = torch.tensor(x) if isinstance(x, np.ndarray) else x.detach()
            self.tensors[name] = held.cpu().contiguous().clone()
            self._names[id(x)] = name
        return self._names[id(x)]

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
            return [
                "Cut",
                self.mask(mask.whole),
                mask.sequence,
                heads,
                self.tensor(mask.rows),
                self.tensor(mask.cols),
                mask.queries,
                mask.keys,
            ]
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

    def site(self, site: Site) -> dict[str, Any]:
        if site.score_mod is not None:
            raise QkvError(
                f"layer {site.index} with a score_mod, which is a function",
                "layers that numbers describe",
                "read its maps before the program ends, or capture other layers",
            )
        return {
            **{name: getattr(site, name) for name in PLAIN},
            **{name: self.tensor(getattr(site, name)) for name in TENSORS + ARRAYS},
            "mask": self.mask(site.mask),
            "masks": [self.mask(mask) for mask in site.masks],
            "kept": [[k.rows.start, k.rows.stop, k.cols.start, k.cols.stop] for k in site.kept],
            "bias": self.bias(site.bias),
            "heads": list(site.heads),
            "groups": list(site.groups),
        }


class _Reader:
    """The other way: sites from JSON and tensors."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def array(self, name: str | None) -> Any:
        return None if name is None else self.tensors[name].numpy()

    def mask(self, data: Any) -> Mask:
        kind, *rest = data
        if kind in RULES:
            given = {n: tuple(v) if isinstance(v, list) else v for n, v in rest[0].items()}
            return RULES[kind](**given)
        if kind == "Given":
            return Given(self.array(rest[0]))
        if kind == "Both":
            return Both(self.mask(rest[0]), self.mask(rest[1]))
        if kind == "Stitched":
            return Stitched(tuple((self.mask(one), *sizes) for one, *sizes in rest[0]))
        if kind == "Cut":
            whole, sequence, head, rows, cols, queries, keys = rest
            heads = tuple(head) if isinstance(head, list) else head
            places = self.array(rows), self.array(cols)
            return Cut(self.mask(whole), sequence, heads, *places, queries, keys)
        raise ValueError(f"a mask of kind {kind}")

    def bias(self, data: Any) -> Any:
        if data is None:
            return None
        kind, rest = data
        if kind == "table":
            return self.tensors[rest]
        if kind == "ALiBi":
            return ALiBi(tuple(rest))
        return StitchedBias(tuple((self.bias(one), *sizes) for one, *sizes in rest))

    def site(self, data: dict[str, Any]) -> Site:
        kept = tuple(Kept(range(a, b), range(c, d)) for a, b, c, d in data["kept"])
        fields: dict[str, Any] = {name: data[name] for name in PLAIN}
        fields |= {n: None if data[n] is None else self.tensors[data[n]] for n in TENSORS}
        fields |= {name: self.array(data[name]) for name in ARRAYS}
        return Site(
            **fields,
            mask=self.mask(data["mask"]),
            masks=tuple(self.mask(mask) for mask in data["masks"]),
            kept=kept,
            bias=self.bias(data["bias"]),
            heads=tuple(data["heads"]),
            groups=tuple(data["groups"]),
        )


def save(trace: Trace, path: Path) -> Path:
    """Writes a trace to one file; what was there before stays until the new one is whole."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    writer = _Writer()
    sites = trace.layers
    described = {
        "format": FORMAT,
        "calls": [[layer, [writer.site(s) for s in calls]] for layer, calls in trace.calls()],
        "unseen": trace.unseen,
        "texts": {str(b): list(t) for b, t in trace.all_texts().items()},
    }
    assert sites
    metadata = {"qkv": json.dumps(described)}
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(writer.tensors, beside, metadata=metadata)
        beside.replace(path)
    except (OSError, SafetensorError) as error:
        raise _unwritable(path, error) from error
    finally:
        beside.unlink(missing_ok=True)
    return path


def load(path: Path | str) -> Trace:
    """Reads a trace that `Trace.save` wrote; tensors are mapped, not copied.

    Raises:
        CheckpointError: where there is no such file, it is damaged, or holds no trace.

    >>> load("no/such/file")
    Traceback (most recent call last):
    qkv.errors.CheckpointError: got nothing at no/such/file; expected a trace that was saved; \
check the path
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"nothing at {path}", "a trace that was saved", "check the path")
    remedy = "write it again with trace.save"
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {}).get("qkv", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if described is None:
            raise CheckpointError(f"{path}, which holds no trace", "a trace that was saved", remedy)
        if described["format"] != FORMAT:
            raise CheckpointError(
                f"{path} of format {described['format']}", f"format {FORMAT}", remedy
            )
        reader = _Reader(tensors)
        calls = {layer: [reader.site(one) for one in found] for layer, found in described["calls"]}
        texts = {int(b): tuple(found) for b, found in described["texts"].items()}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, QkvError):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: {reason}", "a trace that was saved", remedy) from error
    trace = Trace()
    trace.end(calls, described["unseen"])
    trace.remember(texts)
    return trace


def _unwritable(path: Path, error: Exception) -> ResourceError:
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
    return ResourceError(
        f"{reason!r} while writing {path}",
        "a place that can be written",
        "name another, or free space",
    )
