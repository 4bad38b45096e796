"""See every attention call of any PyTorch model, as (q, k, lse), in one `with`.

A `torch.overrides.TorchFunctionMode` sees the calls of `qkv.attention.fused.attend` and of torch's
`scaled_dot_product_attention`, whoever makes them; no model is named, none is changed. A mode is
off while it handles a call, so torch's kernel inside our own `attend` isn't seen a second time.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from qkv.attention.fused import attend
from qkv.errors import QkvError
from qkv.lens.maps import AttentionMap
from qkv.lens.sites import Site, see_attend, see_sdpa

__all__ = ["Site", "Trace", "capture"]


class Trace:
    """What `capture` saw: one site for each attention call, in order, read as `trace[layer, head]`.

    A layer is a call: after two forward passes of a model of 4 layers the second pass has layers
    4 to 7. Where the batch had more than one sequence, read `trace.sequence(i)[layer, head]`.
    """

    def __init__(self, labels: Sequence[str] | None = None) -> None:
        self._sites: list[Site] = []
        self._labels: tuple[str, ...] = tuple(labels or ())
        self._sequence: int | None = None
        self._ended = False

    def __len__(self) -> int:
        return len(self._sites)

    def __repr__(self) -> str:
        return f"Trace of {len(self)} attention calls"

    @property
    def layers(self) -> tuple[Site, ...]:
        """The calls in order; each knows its index and its sizes B, H, G, Q, K, C.

        Raises:
            QkvError: before the `with` has ended, or where no call was seen.
        """
        if not self._ended:
            raise QkvError(
                "a trace that is still being written",
                "the end of the `with capture()` block",
                "read it after the block",
            )
        if not self._sites:
            raise QkvError(
                "no attention call within capture()",
                "scaled_dot_product_attention or qkv.attention.attend",
                "run the model inside the `with`, uncompiled, and with "
                'attn_implementation="sdpa" if it is a transformers model',
            )
        return tuple(self._sites)

    def __getitem__(self, at: tuple[int, int]) -> AttentionMap:
        """The map of one head of one layer, both counted from 0.

        Raises:
            QkvError: where there is no such layer or head, or more than one sequence, or the labels
                don't fit.
        """
        layer, head = at
        sites = self.layers
        if not 0 <= layer < len(sites):
            raise QkvError(
                f"layer {layer}", f"0 to {len(sites) - 1}", "count layers from 0, in order of call"
            )
        site = sites[layer]
        if not 0 <= head < site.H:
            raise QkvError(
                f"head {head} of layer {layer}", f"0 to {site.H - 1}", "count heads from 0"
            )
        sequence = self._sequence
        if sequence is None:
            if site.B != 1:
                raise QkvError(
                    f"a batch of {site.B} sequences",
                    "one sequence",
                    f"choose one with trace.sequence(i), i from 0 to {site.B - 1}",
                )
            sequence = 0
        if not 0 <= sequence < site.B:
            raise QkvError(
                f"sequence {sequence}", f"0 to {site.B - 1}", "count sequences of the batch from 0"
            )
        return site.map(sequence, head, self._labels)

    def __iter__(self) -> Iterator[AttentionMap]:
        """Every head's map, layer by layer."""
        for site in self.layers:
            for head in range(site.H):
                yield self[site.index, head]

    def label(self, labels: Iterable[str]) -> Trace:
        """Gives the tokens their text, one label for each of the K keys; returns this trace."""
        self._labels = tuple(labels)
        return self

    def sequence(self, index: int) -> Trace:
        """The trace of one sequence of the batch, counted from 0; its labels are its own.

        Raises:
            QkvError: as `layers` does.
        """
        one = Trace(self._labels)
        one._sites, one._sequence, one._ended = list(self.layers), index, True
        return one


class _Watcher(TorchFunctionMode):
    def __init__(self, sites: list[Site]) -> None:
        super().__init__()
        self._sites = sites

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            # It makes its own call of the kernel, while this mode would be off: run it with the
            # mode on, in a copy that doesn't hand itself over to the mode again.
            with self:
                return _unhanded(func)(*args, **kwargs)
        result = func(*args, **kwargs)
        see: Callable[..., Site] | None = None
        if func is attend:
            see = see_attend
        elif func is F.scaled_dot_product_attention:
            see = see_sdpa
        if see is not None:
            # Modes further out must not take our own question for lse for a call of the model.
            with torch.no_grad(), torch._C.DisableTorchFunction():
                self._sites.append(see(len(self._sites), *args, **kwargs))
        return result


def _unhanded(func: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a function of torch that sees no torch function to hand itself over to."""
    own = cast("types.FunctionType", func)
    names = {**own.__globals__, "has_torch_function": lambda _: False}
    copy = types.FunctionType(own.__code__, names, own.__name__, own.__defaults__, own.__closure__)
    copy.__kwdefaults__ = own.__kwdefaults__
    return copy


@contextmanager
def capture(labels: Sequence[str] | None = None) -> Iterator[Trace]:
    """Records every attention call of any PyTorch model, made inside the `with`.

    Args:
        labels: the tokens' text, one for each key; `trace.label` gives it later.

    Yields:
        a trace, to be read after the `with`. It holds copies of q, k, v and fp32 lse, memory linear
        in the number of tokens. The model, its mode, gradients and random state stay as they were,
        after an exception too. With dropout on the weights are those before it.

    Raises:
        QkvError: when the trace is read too early, or nothing was seen.

    >>> q, k, v = torch.zeros(3, 1, 2, 5, 4)  # B 1, H 2, T 5, C 4
    >>> with capture(labels="hello") as trace:
    ...     mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    >>> len(trace), trace[0, 1].name, trace[0, 1].row(1).round(6).tolist()
    (1, 'L0H1', [0.5, 0.5, 0.0, 0.0, 0.0])
    """
    trace = Trace(labels)
    try:
        with _Watcher(trace._sites):
            yield trace
    finally:
        trace._ended = True
