"""What of a model's attention is stored: layers, heads, rows, in which type, and where."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qkv.errors import ConfigError
from qkv.lens.seeing.places import Place
from qkv.lens.traces.storing import in_folder

__all__ = ["Chosen", "choose"]

DTYPES = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "fp16": torch.float16,
    "float16": torch.float16,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True)
class Chosen:
    """What to store: layers, heads and rows (None for all), the type, values, and where."""

    layers: frozenset[int | str] | None = None
    heads: tuple[int, ...] | None = None
    rows: Any = None
    dtype: torch.dtype | None = None
    values: bool = False
    keep: Callable[[Tensor], Tensor] = torch.clone

    @property
    def partial(self) -> str:
        """What was chosen, in words; "" where all is stored."""
        given = {"layers": self.layers, "heads": self.heads, "rows": self.rows}
        return ", ".join(name for name, wanted in given.items() if wanted is not None)

    def stores(self, place: Place) -> bool:
        """Whether a layer is wanted, by its number or its name."""
        return self.layers is None or bool({place.layer, place.name} & self.layers)

    def rows_of(self, first: int, queries: int) -> np.ndarray[Any, Any]:
        """Which of the queries first, first + 1, ... are wanted, counted from `first`."""
        if self.rows is None:
            return np.arange(queries)
        if isinstance(self.rows, slice):
            wanted = np.unique(np.arange(*self.rows.indices(first + queries)))
        else:
            wanted = np.unique(np.asarray(list(self.rows), dtype=np.int64))
        return wanted[(wanted >= first) & (wanted < first + queries)] - first


def choose(
    *,
    layers: Iterable[int | str] | None,
    heads: Iterable[int] | None,
    rows: Any,
    dtype: str | torch.dtype | None,
    to: Path | str | None,
    values: bool,
) -> Chosen:
    """What the arguments of `capture` choose.

    Raises:
        ConfigError: where one is of no use.
    """
    return Chosen(
        layers=None if layers is None else frozenset(_listed("layers", layers)),
        heads=None if heads is None else tuple(sorted(set(_listed("heads", heads)))),
        rows=_rows(rows),
        dtype=_kind(dtype),
        values=values,
        keep=torch.clone if to is None else in_folder(to),
    )


def _kind(dtype: str | torch.dtype | None) -> torch.dtype | None:
    kind = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if dtype is not None and kind not in DTYPES.values():
        raise ConfigError(f"dtype {dtype!r}", "fp32, fp16 or bf16", "choose one")
    return kind


def _rows(rows: Any) -> Any:
    if rows is None or isinstance(rows, slice):
        ends = () if rows is None else (rows.start or 0, rows.stop or 0, (rows.step or 1) - 1)
        if any(end < 0 for end in ends):
            raise ConfigError(
                f"rows={rows}", "a slice from 0 up", "the end of a text isn't known beforehand"
            )
        return rows
    return tuple(_listed("rows", rows))


def _listed(what: str, wanted: Any) -> list[Any]:
    found = (
        list(wanted) if isinstance(wanted, Iterable) and not isinstance(wanted, str) else [wanted]
    )
    if not found:
        raise ConfigError(f"{what}=[]", f"some {what}, or None for all", f"name {what}")
    names = what == "layers"
    for one in found:
        if isinstance(one, str) and names:
            continue
        if isinstance(one, bool) or not isinstance(one, (int, np.integer)) or one < 0:
            raise ConfigError(
                f"{what}={found}", "numbers from 0" + names * ", or names", f"count {what} from 0"
            )
    return [one if isinstance(one, str) else int(one) for one in found]
