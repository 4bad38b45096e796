"""How a trace is addressed: layers by number or name, calls and sequences only by choice."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from numbers import Integral

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
        # What was chosen when it was captured, such as "layers, heads"; "" where all is here.
        self.partial = ""
        self._unseen: dict[str, str] = {}

    def end(
        self,
        calls: Mapping[int, Sequence[Site]],
        unseen: Mapping[str, str],
        partial: str = "",
    ) -> None:
        """Takes what was seen; to be called once, when the capture has ended."""
        self._calls = {layer: tuple(sites) for layer, sites in calls.items()}
        self._unseen, self.partial = dict(unseen), partial
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

    def _named(self, at: object) -> tuple[int | str, int]:
        """A layer and a head, of `[3, 7]` or `["L3H7"]`."""
        if isinstance(at, str) and (found := re.fullmatch(r"L(\d+)H(\d+)", at)):
            return int(found[1]), int(found[2])
        if isinstance(at, tuple) and len(at) == 2:
            layer, head = at
            if isinstance(layer, (Integral, str)) and isinstance(head, Integral):
                return layer if isinstance(layer, str) else int(layer), int(head)
        raise QkvError(
            f"trace[{at!r}]", "a layer and a head, as trace[3, 7] or trace['L3H7']", "name both"
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
        # One sequence may stand for all, as an image does for each text that looks at it.
        sequence = 0 if site.B == 1 else self._sequence or 0
        if sequence >= site.B:
            raise QkvError(
                f"sequence {sequence} of layer {site.index}",
                f"0 to {site.B - 1}",
                "this layer has a smaller batch: choose another sequence",
            )
        return sequence
