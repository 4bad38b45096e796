"""See every attention call of any PyTorch model, as (q, k, lse), in one `with`.

No model is named, none is changed: `watching` shows the calls, `calls` reads them in one form, and
here they are recorded, layer by layer, into a trace.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qkv.attention import Full, as_mask
from qkv.attention.fused import attend
from qkv.errors import ConfigError, QkvError, ResourceError
from qkv.lens.seeing.calls import Call
from qkv.lens.seeing.masks import TopLeft
from qkv.lens.seeing.places import Place, heads_told
from qkv.lens.seeing.tokens import Lookups
from qkv.lens.seeing.watching import Watcher, alone, innermost, watching
from qkv.lens.traces.choosing import Chosen, choose
from qkv.lens.traces.memory import free_bytes, sized
from qkv.lens.traces.padding import Tables
from qkv.lens.traces.recording import Layer
from qkv.lens.traces.stitching import grouped, trimmed, unfolded
from qkv.lens.traces.trace import Trace

__all__ = ["capture", "record"]

# A capture that will hold more than this says so before it goes on.
LARGE = 10**9


class _Recorder(Watcher):
    """Records each call, and makes it."""

    def __init__(self, model: nn.Module | None, chosen: Chosen, *, on_disk: bool) -> None:
        super().__init__(model)
        self.chosen, self.on_disk = chosen, on_disk
        # The calls of each layer, the newest last; a step of a cache joins the one before.
        self.layers: dict[int, list[Layer]] = {}
        # Each layer that was met, stored or not: its name, heads and queries.
        self.met: dict[int, tuple[str, int, int]] = {}
        self._tables = Tables()
        self._lookups = Lookups()
        self._bytes = 0
        self._warned = False
        # The layer whose output projection is looked for, and the first row that goes into it.
        self._awaiting: tuple[Layer, Tensor] | None = None

    def attended(self, call: Call, place: Place) -> Any:
        self._lookups.attended()
        self.met[place.layer] = (place.name, call.q.shape[1], call.q.shape[2])
        joins = self._joins(call) if place.module is None else None
        if joins is not None:
            self.places.forget(place)
            self.met.pop(place.layer)
            place = joins.place
        if not self.chosen.stores(place):
            return call.run()
        lse = None
        if call.run_with_lse is not None and alone():
            result, lse = call.run_with_lse()
        else:
            result = call.run()
        # Modes further out must not take our own questions for calls of the model.
        with torch.no_grad(), torch._C.DisableTorchFunction():
            try:
                layer = self._record(call.detached(), place, lse)
            except QkvError:
                raise
            except (RuntimeError, ValueError, TypeError, NotImplementedError, IndexError) as error:
                # The model goes on; what can't be shown is said.
                self.places.unread(error)
                return result
            if self.chosen.values and layer.w_o is None:
                self._awaiting = layer, _first_row(result, call)
        return result

    def require_chosen(self) -> None:
        """Raises a ConfigError for a layer, head or row that was asked for and never came."""
        if not self.met:
            return
        names = {name for name, _, _ in self.met.values()}
        chosen = self.chosen
        for layer in sorted(chosen.layers or (), key=str):
            if layer not in self.met and layer not in names:
                raise ConfigError(
                    f"layers={[layer]}",
                    f"0 to {max(self.met)}, or a name such as {sorted(names)[0]!r}",
                    "count layers from 0, in order of first use",
                )
        most = max(heads for _, heads, _ in self.met.values())
        for head in chosen.heads or ():
            if head >= most:
                raise ConfigError(f"heads={[head]}", f"0 to {most - 1}", "count heads from 0")
        asked = max((layer.queries for found in self.layers.values() for layer in found), default=0)
        if not isinstance(chosen.rows, slice) and chosen.rows is not None:
            for row in chosen.rows:
                if row >= asked > 0:
                    raise ConfigError(f"rows={[row]}", f"0 to {asked - 1}", "count rows from 0")

    def looked_up(self, ids: Tensor) -> None:
        self._lookups.see(ids)

    def mapped(self, x: Tensor, weight: Tensor) -> None:
        if self._awaiting is None:
            return
        layer, row = self._awaiting
        with torch.no_grad(), torch._C.DisableTorchFunction():
            if x.shape[-1] == row.numel() and _given(x.detach().reshape(-1, *row.shape)[0], row):
                layer.w_o = weight.detach().clone()
                self._awaiting = None

    def _joins(self, call: Call) -> Layer | None:
        """The layer that a call outside of every module goes on from, by the bits of its keys."""
        with torch.no_grad(), torch._C.DisableTorchFunction():
            if call.q.shape[2] == call.k.shape[2]:
                return None
            newest = (calls[-1] for calls in self.layers.values())
            return next((layer for layer in newest if layer.goes_on(call) is not None), None)

    def _record(self, call: Call, place: Place, lse: Tensor | None) -> Layer:
        calls = self.layers.get(place.layer, [])
        newest = calls[-1] if calls else None
        heads = heads_told(place.module) if newest is None else newest.H
        if heads is not None:
            call, lse = unfolded(call, heads, lse)
        across = _across(call, place)
        call = grouped(call if across else trimmed(call))
        if lse is not None and call.allowed is not None:
            # What sees nothing has lse -inf, whatever a kernel makes of a row of low numbers.
            lse = lse.masked_fill(~call.allowed.any(-1), -torch.inf)
        start = None if newest is None else newest.goes_on(call)
        (B, _, Q), K = call.q.shape[:3], call.k.shape[2]
        if newest is None or start is None:
            self._check_memory(call, place)
            newest = Layer(place, self.chosen, self._tables, cross=across)
            if Q < K and not newest.cross and not isinstance(call.mask, TopLeft):
                newest.notes.append(f"its first {K - Q} keys go on from no call that was seen")
        ids = self._lookups.last(Q, B)
        keys = self._lookups.last(K, B, but=ids if newest.cross else None)
        newest.add(call, lse, start or 0, (ids, keys))
        if newest not in calls:
            self.layers.setdefault(place.layer, []).append(newest)
        return newest

    def _check_memory(self, call: Call, place: Place) -> None:
        """Says what the capture will hold; refuses what half of the free memory can't."""
        if self.on_disk:
            return
        size = _bytes(call, self.chosen)
        seen = sum(len(calls) for calls in self.layers.values())
        alike = 1 if place.module is None else self.places.alike(place.module)
        wanted = alike if self.chosen.layers is None else len(self.chosen.layers)
        self._bytes += size
        total = self._bytes + size * max(0, wanted - seen - 1)
        free = free_bytes()
        if free is not None and total - self._bytes + size > free / 2:
            raise ResourceError(
                f"a capture of {sized(total)}",
                f"at most half of the free memory, {sized(free / 2)}",
                "choose layers=, heads= or rows=, store dtype='fp16', or name a folder with to=",
            )
        if total > LARGE and not self._warned:
            self._warned = True
            line = f"this capture will hold {sized(total)}: choose layers=, or to= for the disk"
            warnings.warn(line, stacklevel=2)


def _first_row(result: Any, call: Call) -> Tensor:
    """The first token's mixed values of each head, (H, Cv), as W_O is given them."""
    mixed = (result[0] if isinstance(result, tuple) else result).detach()
    if call.heads_first:
        mixed = mixed.reshape(-1, call.q.shape[1], call.q.shape[2], mixed.shape[-1])[:, :, 0]
    first: Tensor = mixed.reshape(-1, call.q.shape[1], mixed.shape[-1])[0]
    return first


def _given(found: Tensor, row: Tensor) -> bool:
    """Whether a row of mixed values is this one, but for heads that an edit left out."""
    kept = found.any(-1)
    return bool(kept.any()) and torch.equal(found[kept], row[kept])


def _across(call: Call, place: Place) -> bool:
    """Whether keys are of another text: by name, or by sizes that no mask of one text explains."""
    Q, K = call.q.shape[2], call.k.shape[2]
    if place.across is not None:
        return place.across
    return Q not in (1, K) and isinstance(call.mask, Full) and _sees_all(call)


def _sees_all(call: Call) -> bool:
    """Whether every query may see the same keys."""
    if call.allowed is None:
        return True
    return call.allowed.shape[-2] == 1 or bool((call.allowed == call.allowed[..., :1, :]).all())


def _bytes(call: Call, chosen: Chosen) -> int:
    """What a call will take."""
    (B, H, Q, C), (G, K) = call.q.shape, call.k.shape[1:3]
    share = 1.0 if chosen.heads is None else min(1.0, len(chosen.heads) / H)
    rows = len(chosen.rows_of(0, Q))
    held = chosen.dtype or call.q.dtype
    numbers = share * B * (H * rows * C + G * K * (C + chosen.values * call.v.shape[3]))
    return int(numbers * held.itemsize + 4 * share * B * H * rows)


@contextmanager
def capture(
    model: nn.Module | None = None,
    *,
    tokenizer: Any = None,
    layers: Iterable[int | str] | None = None,
    heads: Iterable[int] | None = None,
    rows: Any = None,
    dtype: str | torch.dtype | None = None,
    to: Path | str | None = None,
    values: bool = False,
) -> Iterator[Trace]:
    """Records every attention call of any PyTorch model, made inside the `with`.

    Args:
        model: gives layers their names and says before the pass what will be held; not needed.
        tokenizer: makes labels of the token ids that the model looks up; ours, or one with
            `decode`.
        layers: numbers or qualified names of layers to store; None is all.
        heads: numbers of heads to store.
        rows: queries to store, as a slice or places from 0. A map then counts them anew from 0;
            `map.places` says where they stand.
        dtype: "fp32", "fp16" or "bf16" to store q and k in; as they are unless given. lse is fp32,
            and that of the q and k that are stored.
        to: a folder to keep them in, mapped into memory, for what memory can't hold. The disk is
            free again when the trace goes; `trace.save` keeps it.
        values: whether to store v too, and W_O where it can be seen.

    Yields:
        a trace, to be read after the `with`. It holds copies of q, k and fp32 lse, memory linear in
        the number of tokens. The model, its mode, gradients, hooks and random state stay as they
        were, after an exception too. With dropout on the weights are those before it. What was
        compiled runs eagerly within, in every thread; calls of other threads aren't seen.

    Raises:
        ConfigError: where dtype is no such type, nothing is chosen, or what was chosen never came.
        ResourceError: when it would hold more than half of the free memory; the pass is stopped.
        QkvError: when the trace is read too early, or nothing was seen.

    >>> q, k, v = torch.zeros(3, 1, 2, 5, 4)  # B 1, H 2, T 5, C 4
    >>> with capture() as trace:
    ...     mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    >>> trace[0, 1].name, trace[0, 1].row(1).round(6).tolist()
    ('L0H1', [0.5, 0.5, 0.0, 0.0, 0.0])
    """
    chosen = choose(layers=layers, heads=heads, rows=rows, dtype=dtype, to=to, values=values)
    trace = Trace(tokenizer=tokenizer)
    recorder = _Recorder(model, chosen, on_disk=to is not None)
    try:
        with watching(recorder):
            yield trace
    finally:
        calls = [
            (layer, [one.site(layer) for one in found])
            for layer, found in sorted(recorder.layers.items())
        ]
        trace.end(dict(calls), recorder.places.unseen, chosen.partial)
    recorder.require_chosen()


def record(
    q: Tensor,
    k: Tensor,
    v: Tensor | None = None,
    *,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> None:
    """Hands a model's own attention to the capture that is on; without one it does nothing.

    For a model that computes its softmax itself: call it beside, with what the softmax is made of.

    Args:
        q, k, v: queries (B, H, Q, C), keys (B, G, K, C) and values (B, G, K, Cv).
        mask, bias, scale, softcap: as of `qkv.attend`.

    Raises:
        ShapeError: where shapes do not fit together.

    >>> x = torch.zeros(1, 1, 3, 2)
    >>> with capture() as trace:
    ...     record(x, x)
    >>> trace[0, 0].row(0).round(3).tolist()
    [0.333, 0.333, 0.333]
    """
    watcher = innermost()
    if not isinstance(watcher, _Recorder):
        return
    options: dict[str, Any] = {"mask": mask, "bias": bias, "scale": scale, "softcap": softcap}
    table = mask if isinstance(mask, Tensor) else None
    with torch.no_grad(), torch._C.DisableTorchFunction():
        values = k if v is None else v
        mixed, lse = attend(*(x.detach() for x in (q, k, values)), **options, return_lse=True)
        call = Call(
            q=q,
            k=k,
            v=values,
            run=lambda: mixed,
            finish=lambda x: x,
            mask=as_mask(None if table is not None else mask),
            allowed=table,
            bias=bias,
            scale=q.shape[-1] ** -0.5 if scale is None else float(scale),
            softcap=softcap,
            run_with_lse=lambda: (mixed, lse),
        )
        watcher.attended(call, watcher.places.next())
