"""Change a model's attention while it runs: without heads, scale or mask, sharper, or uniform.

Each call that an edit touches is read in the one form, changed, and computed anew; calls that none
touches go on to their own kernel, and so do those of which only the output is replaced. The model
is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.errors import ConfigError, QkvError
from qkv.lens.edits.editor import editing
from qkv.lens.edits.naming import Heads, HeadsLike

if TYPE_CHECKING:
    from qkv.lens.traces.trace import Trace

__all__ = ["Edits", "edit", "mean_outputs"]


@dataclass(frozen=True)
class Edits:
    """What is changed, and in which heads; see `edit`.

    Raises:
        ConfigError: a name that is none, or a number out of range.

    >>> str(Edits(ablate="L3H7, L2", scale="off"))
    'without L3H7, L2; scale off'
    """

    ablate: HeadsLike = ()
    mean: HeadsLike = ()
    uniform: HeadsLike = ()
    sharpen: HeadsLike = ()
    mask: Literal["off"] | None = None
    scale: float | Literal["off"] | None = None
    temperature: float | None = None
    only: HeadsLike | None = None
    reference: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("ablate", "mean", "uniform", "sharpen"):
            object.__setattr__(self, name, Heads.of(getattr(self, name)))
        if self.mask not in ("off", None):
            raise ConfigError(f"mask {self.mask!r}", '"off"', "leave it out to keep the mask")
        if self.scale is not None:
            object.__setattr__(self, "scale", _scale(self.scale))
        if self.temperature is not None and not _number(self.temperature, above=0):
            raise ConfigError(
                f"temperature {self.temperature!r}",
                "a finite number above 0",
                "give 2 for flatter, .5 for sharper weights",
            )
        if self.only is not None:
            object.__setattr__(self, "only", Heads.of(self.only))
            if self.mask is None and self.scale is None and self.temperature is None:
                raise ConfigError(
                    f"only {self.only} and nothing to change there",
                    "mask, scale or temperature beside it",
                    "name heads with ablate, mean, uniform or sharpen instead",
                )
        if self.reference is not None and not self.mean:
            raise ConfigError("a reference without mean", "heads to average", "give mean=[...] too")

    def __bool__(self) -> bool:
        fields = (self.ablate, self.mean, self.uniform, self.sharpen)
        numbers = (self.mask, self.scale, self.temperature)
        return any(map(bool, fields)) or any(number is not None for number in numbers)

    def __str__(self) -> str:
        said = {"without": self.ablate, "at their mean": self.mean}
        said |= {"uniform": self.uniform, "sharpened": self.sharpen}
        parts = [f"{what} {heads}" for what, heads in said.items() if heads]
        told = {"mask": self.mask, "scale": "off" if self.scale == 1 else self.scale}
        told["temperature"] = self.temperature
        parts += [f"{what} {value}" for what, value in told.items() if value is not None]
        where = "" if self.only is None else f" (only in {self.only})"
        return "; ".join(parts) + where


@contextmanager
def edit(
    ablate: HeadsLike = (),
    *,
    mean: HeadsLike = (),
    uniform: HeadsLike = (),
    sharpen: HeadsLike = (),
    mask: Literal["off"] | None = None,
    scale: float | Literal["off"] | None = None,
    temperature: float | None = None,
    only: HeadsLike | None = None,
    reference: Trace | Mapping[str, Any] | None = None,
    model: nn.Module | None = None,
) -> Iterator[Edits]:
    """Changes the attention of any PyTorch model that runs inside the `with`.

    Heads are named as in a trace: "L3H7", a layer "L3", a module's qualified name, or "all"; or
    as (3, 7). Layers are counted from 0 by first use within the `with`, query heads from 0.

    Args:
        ablate: heads whose mixed values, what W_O is given of them, become 0.
        mean: heads whose mixed values become their mean over all queries of the call, of all
            sequences; or that of `reference`. Beware: without one, a step of one token with a
            cache is its own mean, and in a causal model the mean knows the text's future.
        uniform: heads that weigh alike all keys that the mask allows.
        sharpen: heads that give all of their weight to their strongest key, the first of equals.
        mask: "off" lets every query see every key, but for keys that no query of its sequence
            sees: padding, and the empty places of a cache. A bias, such as ALiBi's, stays.
        scale: what q·k is multiplied by in place of 1/sqrt(C); "off" is 1.
        temperature: all that enters softmax is divided by it, bias and sink too.
        only: the heads in which mask, scale and temperature change; all unless given.
        reference: a trace captured with `values=True`, or means (Cv) by head, for `mean`.
        model: whose module names are meant; the outermost module that runs unless given.

    Raises:
        ConfigError: at once, for a name that is none or a number out of range; in the pass, for a
            head that the layer hasn't.
        QkvError: at the end of the `with`, where a layer wasn't there, or no attention was seen.

    What is changed in one head: mask, then scale, temperature, then uniform or sharpen. Edits nest,
    the inner first. A `capture` in the same `with` records calls as they were computed, whichever
    stands first. The model, its mode, gradients, hooks and random state stay as they were, after an
    exception too. Gradients flow through edits; an edited pattern has no attention dropout. With
    gradient checkpointing the backward pass belongs into the `with` too, for it runs layers again.

    >>> from qkv.attention import Causal
    >>> from qkv.attention.fused import attend
    >>> x = torch.eye(3)[None, None]  # B 1, H 1, T 3, C 3
    >>> with edit(uniform="L0H0"):
    ...     mixed = attend(x, x, x, mask=Causal())
    >>> mixed[0, 0, 1].tolist()
    [0.5, 0.5, 0.0]
    """
    edits = Edits(ablate, mean, uniform, sharpen, mask, scale, temperature, only, _means(reference))
    with editing(edits, model):
        yield edits


def mean_outputs(trace: Trace) -> dict[str, Float[Tensor, " Cv"]]:
    """Each head's mixed values, averaged over all queries of a trace that has values.

    They serve as `reference` of `edit(mean=...)`.

    Raises:
        QkvError: where the trace has no values.
    """
    means: dict[str, Tensor] = {}
    for site in trace.layers:
        if site.v is None:
            raise QkvError(
                "a trace without values", "what heads pass on", "capture it with values=True"
            )
        mixed = [
            site.mix(site.v[one, :, kept.cols.start : kept.cols.stop], one).double()
            for one, kept in enumerate(site.kept)
        ]
        rows = torch.cat([part.reshape(len(site.heads), -1, part.shape[-1]) for part in mixed], 1)
        for place, head in enumerate(site.heads):
            means.setdefault(f"L{site.index}H{head}", rows[place].mean(0))
    return means


def _means(reference: Any) -> Mapping[str, Any] | None:
    if reference is None or isinstance(reference, Mapping):
        return reference
    return mean_outputs(reference)


def _number(value: Any, above: float = -math.inf) -> bool:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and math.isfinite(value) and value > above


def _scale(scale: Any) -> float:
    if scale == "off":
        return 1.0
    if not _number(scale):
        raise ConfigError(f"scale {scale!r}", 'a finite number, or "off" for 1', "correct it")
    return float(scale)
