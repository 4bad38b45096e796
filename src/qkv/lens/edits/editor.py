"""Carries edits out: every attention call of whatever runs, changed where an edit names it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from qkv.errors import ConfigError, QkvError, ShapeError
from qkv.lens.edits import changes
from qkv.lens.edits.mixing import mix
from qkv.lens.edits.naming import Heads
from qkv.lens.seeing.calls import Call
from qkv.lens.seeing.places import Place, heads_told
from qkv.lens.seeing.watching import Watcher, unhanded, watching, without_onlookers
from qkv.lens.traces.stitching import unfolded

if TYPE_CHECKING:
    from qkv.lens.edits.edits import Edits

__all__ = ["Editor", "editing"]

Chosen = Bool[np.ndarray, " H"]
EVERYWHERE = Heads.of("all")
BACKWARD = (Tensor.backward, torch.autograd.backward, torch.autograd.grad)


@contextmanager
def editing(edits: Edits, model: nn.Module | None = None) -> Iterator[Editor]:
    """As `edit`, of edits that are put together already; gives the one that carries them out."""
    editor = Editor(edits, model)
    with watching(editor):
        yield editor
    editor.check()


class Editor(Watcher):
    """Changes each call that the edits name; remembers what there was, to say what there wasn't.

    Args:
        edits: what to change.
        model: whose module names are meant.

    `seen` has each layer's module name and number of heads; while `idle` nothing is changed.
    """

    changes = True

    def __init__(self, edits: Edits, model: nn.Module | None = None) -> None:
        super().__init__(model)
        self.edits = edits
        self.idle = False
        self.seen: dict[int, tuple[str, int]] = {}
        self._last: Call | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in BACKWARD:
            # Gradient checkpointing runs layers once more: they must be edited once more.
            with without_onlookers(self):
                return unhanded(func)(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)

    def attended(self, call: Call, place: Place) -> Any:
        name, heads = self.seen.setdefault(place.layer, (place.name, _heads_of(call, place)))
        asked, _ = unfolded(call, heads, None)
        edits, H = self.edits, asked.q.shape[1]
        if self.idle:
            return call.run()

        def chosen(heads: Any) -> Chosen:
            found: Chosen = heads.chosen(place.layer, name, H)
            return found

        changed = self._changed(asked, place, chosen)
        self._last = changed
        zero, mean = chosen(edits.ablate), chosen(edits.mean)
        _apart(place, zero, mean, "ablate and mean")
        if changed is asked and not (zero | mean).any():
            return call.run()
        _check_gradient(call)
        result = None if changed is not asked else call.run()
        mixed = mix(changed) if result is None else _mixed_of(call, result)
        mixed = mixed.reshape(*asked.q.shape[:3], -1).to(call.q.dtype)
        mixed = self._replaced(mixed, place.layer, zero, mean)
        finished = call.finish(mixed.reshape(*call.q.shape[:3], -1))
        if isinstance(result, tuple):
            # The weights are what they were, and so is all else that the kernel returned.
            return (finished[0], *result[1:])
        return finished

    def _changed(self, call: Call, place: Place, chosen: Any) -> Call:
        edits = self.edits
        here = chosen(EVERYWHERE if edits.only is None else edits.only)
        uniform, sharpen = chosen(edits.uniform), chosen(edits.sharpen)
        _apart(place, uniform, sharpen, "uniform and sharpen")
        if here.any():
            if edits.mask == "off":
                call = changes.without_mask(call, here)
            if edits.scale is not None:
                call = changes.with_scale(call, here, float(edits.scale))
            if edits.temperature is not None:
                call = changes.with_temperature(call, here, edits.temperature)
        if uniform.any():
            call = changes.uniformed(call, uniform)
        return changes.sharpened(call, sharpen) if sharpen.any() else call

    def _replaced(self, mixed: Tensor, layer: int, zero: Chosen, mean: Chosen) -> Tensor:
        """Mixed values (B, H, Q, Cv), those of some heads replaced by 0 or their mean."""
        if zero.any():
            mixed = mixed.masked_fill(_axis(zero, mixed), 0.0)
        if not mean.any():
            return mixed
        kind = torch.promote_types(mixed.dtype, torch.float32)
        if self.edits.reference is None:
            means = mixed.to(kind).mean((0, 2), keepdim=True)
        else:
            means = torch.zeros(1, *mixed.shape[1:2], 1, mixed.shape[3], dtype=kind)
            for head in np.flatnonzero(mean):
                means[0, head, 0] = self._reference(f"L{layer}H{head}", mixed.shape[3])
        return torch.where(_axis(mean, mixed), means.to(mixed), mixed)

    def _reference(self, name: str, width: int) -> Tensor:
        assert self.edits.reference is not None
        found = self.edits.reference.get(name)
        if found is None:
            raise QkvError(
                f"a reference without {name}",
                "a mean for each head that is replaced by it",
                "capture the reference with all layers and heads",
            )
        mean = torch.as_tensor(found)
        if mean.shape != (width,):
            raise ShapeError(
                f"a mean of shape {tuple(mean.shape)} for {name}",
                f"({width},), the width of its values",
                "take the reference from the same model",
            )
        return mean

    def weights_of(self, weights: Tensor) -> Tensor:
        if self._last is None:
            return weights
        # The columns of the identity, mixed, are the weights; whoever watches has seen this call.
        keys = self._last.k.shape[2]
        eye = torch.eye(keys, dtype=self._last.v.dtype, device=self._last.v.device)
        call = replace(self._last, v=eye.expand(*self._last.k.shape[:2], -1, -1))
        with torch._C.DisableTorchFunction():
            each = mix(call).to(weights.dtype)
        return (each.mean(1) if weights.numel() != each.numel() else each).reshape(weights.shape)

    def check(self) -> None:
        """Raises a QkvError where an edit named what wasn't there."""
        if not self.seen:
            raise QkvError(
                "no attention call to edit",
                "a model with attention, run inside the `with`",
                "choose one; a model that computes softmax by itself can't be edited",
            )
        edits = self.edits
        named = (edits.ablate, edits.mean, edits.uniform, edits.sharpen, edits.only or Heads())
        for heads in named:
            for each in heads.names if isinstance(heads, Heads) else ():
                if not any(each.at(layer, name) for layer, (name, _) in self.seen.items()):
                    raise ConfigError(
                        f"{each}, a layer that wasn't seen",
                        self._layers(),
                        "count layers from 0, in order of first use",
                    )

    def _layers(self) -> str:
        last, name = max(self.seen), next(iter(self.seen.values()))[0]
        there = f"L0 to L{last}" if last else "L0"
        return f"{there}, or a name such as {name}" if name else there


def _heads_of(call: Call, place: Place) -> int:
    """How many heads a layer has, also where its first call has them folded into rows."""
    heads, rows = call.q.shape[1:3]
    told = heads_told(place.module)
    return told if told == heads * rows else heads


def _apart(place: Place, one: Chosen, other: Chosen, names: str) -> None:
    if (both := np.flatnonzero(one & other)).size:
        raise ConfigError(
            f"{names} for L{place.layer}H{both[0]}", "one of them", "leave it out of one"
        )


def _check_gradient(call: Call) -> None:
    """Raises a QkvError within a kernel's own autograd function: its backward knows no edit."""
    within = not call.heads_first and not torch.is_grad_enabled()
    given = call.q if call.q._base is None else call.q._base
    if within and given.requires_grad:
        raise QkvError(
            "a gradient through an edited call of flash attention",
            "a pass without gradients, or torch's own attention",
            'use torch.no_grad(), or attn_implementation="sdpa"',
        )


def _axis(chosen: Chosen, mixed: Tensor) -> Tensor:
    return torch.from_numpy(chosen).to(mixed.device)[:, None, None]


def _mixed_of(call: Call, result: Any) -> Tensor:
    """What a kernel returned, as (B, H, Q, Cv)."""
    mixed: Tensor = result[0] if isinstance(result, tuple) else result
    batch, heads, queries = call.q.shape[:3]
    if call.heads_first:
        return mixed.reshape(batch, heads, queries, -1)
    return mixed.reshape(batch, queries, heads, -1).transpose(1, 2)
