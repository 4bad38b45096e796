"""How a trace is addressed: layers by number or name, calls and sequences only by choice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qkv.errors import QkvError
from qkv.lens.traces.sites import Site

__all__ = ["Addressed"]


class Addressed:
    """The sites of each layer, one for each call, and which call and sequence is read."""

    def __init__(self) -> None:
        self._calls: dict[int, tuple[Site, ...]] = {}
        self._sequence: int | None = None
        self._call: int | None = None
        self._ended = False
        self._wanted: Any = None
        self._unseen: dict[str, str] = {}

    def end(
        self,
        calls: Mapping[int, Sequence[Site]],
        unseen: Mapping[str, str],
        layers: Iterable[int | str] | None = None,
    ) -> None:
        """Takes what was seen; to be called once, when the capture has ended."""
        self._calls = {layer: tuple(sites) for layer, sites in calls.items()}
        self._unseen, self._wanted = dict(unseen), layers
        self._ended = True

    def __len__(self) -> int:
        return len(self._calls)

    def _check(self) -> None:
        if not self._ended:
            raise QkvError(
                "a trace that is still being written",
                "the end of the `with capture()` block",
                "read it after the block",
            )
        if self._calls:
            return
        if self._wanted is not None:
            named = ", ".join(map(str, sorted(self._wanted, key=str)))
            raise QkvError(f"no layer {named}", "layers of this model", "capture without layers=")
        own = ""
        if self._unseen:
            name, kind = next(iter(self._unseen.items()))
            own = f" ({name}, a {kind}, computes its own)"
        raise QkvError(
            f"no attention call within capture(){own}",
            "scaled_dot_product_attention, flex_attention, nn.MultiheadAttention or qkv.attend",
            "run the model inside the `with`; a model with a softmax of its own can call "
            "qkv.record(q, k) beside it",
        )

    def _number(self, layer: int | str) -> int:
        if isinstance(layer, str):
            for number, calls in self._calls.items():
                if calls[0].name == layer:
                    return number
            names = [calls[0].name for calls in self._calls.values() if calls[0].name]
            raise QkvError(
                f"layer {layer!r}",
                f"one of {', '.join(names[:8])}" if names else "a number: layers have no names",
                "take a name from trace.layers",
            )
        if layer not in self._calls:
            numbers = sorted(self._calls)
            stored = f"0 to {numbers[-1]}"
            if numbers != list(range(len(numbers))):
                stored = "one of " + ", ".join(map(str, numbers))
            raise QkvError(f"layer {layer}", stored, "count layers from 0, in order of first use")
        return layer

    def _site(self, layer: int, at: str) -> Site:
        calls = self._calls[layer]
        if self._call is None and len(calls) > 1:
            raise QkvError(
                f"{len(calls)} calls of layer {layer}",
                "one",
                f"choose one: trace.call(1){at}, from 0 to {len(calls) - 1}",
            )
        index = self._call or 0
        if index >= len(calls):
            raise QkvError(
                f"call {index} of layer {layer}", f"0 to {len(calls) - 1}", "count calls from 0"
            )
        return calls[index]

    def _of(self, site: Site, at: str) -> int:
        if self._sequence is None and site.B != 1:
            raise QkvError(
                f"a batch of {site.B} sequences",
                "one sequence",
                f"choose one: trace.sequence(1){at}, from 0 to {site.B - 1}",
            )
        return min(self._sequence or 0, site.B - 1)
