"""One attention layer as it was seen: its q, k and lse for all heads, and what it can be asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.attention import Given, Mask, Window
from qkv.attention.steps import BiasTiles
from qkv.errors import QkvError, ShapeError
from qkv.lens.maps.attention_map import AttentionMap
from qkv.lens.seeing.calls import ScoreMod
from qkv.lens.traces.parts import array, bias_of, mask_of, mix_of, score_mod_of

__all__ = ["Kept", "Site"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Kept:
    """Which queries and keys of one sequence are tokens and not padding, as places in the call."""

    rows: range
    cols: range

    def held(self, queries: Int[Array, " Q"]) -> Bool[Array, " Q"]:
        """Which of some queries are kept.

        >>> Kept(range(1, 3), range(3)).held(np.array([0, 1, 2, 3])).tolist()
        [False, True, True, False]
        """
        return np.asarray((queries >= self.rows.start) & (queries < self.rows.stop))

    def note(self, keys: int) -> str:
        """What a reader should know of it."""
        left_out = keys - len(self.cols)
        if not left_out:
            return ""
        return f"{left_out} padding token{'s' if left_out > 1 else ''} left out"


@dataclass(frozen=True, eq=False)
class Site:
    """One layer of attention, as called once; axes as everywhere (B, H, G, Q, K, C).

    Args:
        index: the layer, counted from 0 by first use.
        name: the qualified name of the module, or "".
        q, k: copies (B, H, Q, C) and (B, G, K, C), of the stored heads and rows.
        lse: (B, H, Q) in fp32 (fp64 for fp64), natural logarithm, of the q and k that are stored.
        mask: what is allowed of all queries and keys.
        masks: the same for each sequence, without padding, by a rule where it follows one.
        kept: what of each sequence isn't padding.
        at: the key at which each query of the call stands, (Q,); None across texts.
        heads: the numbers of the stored heads.
        rows: the stored queries, as places among all of them.
        queries: how many queries there were in all.
        H_all: how many heads the layer has.
        error: the largest change of a weight by a narrower store, of some rows.
    """

    index: int
    name: str
    q: Float[Tensor, "B H Q C"]
    k: Float[Tensor, "B G K C"]
    lse: Float[Tensor, "B H Q"]
    mask: Mask
    masks: tuple[Mask, ...]
    kept: tuple[Kept, ...]
    at: Int[Array, " Q"] | None
    scale: float
    heads: tuple[int, ...]
    groups: tuple[int, ...]
    rows: Int[Array, " Q"]
    queries: int
    H_all: int = 0
    bias: Tensor | BiasTiles | None = None
    softcap: float | None = None
    score_mod: ScoreMod | None = None
    sink: Float[Tensor, " H"] | None = None
    v: Float[Tensor, "B G K Cv"] | None = None
    w_o: Float[Tensor, "D HCv"] | None = None
    query_ids: Int[Array, "B Q"] | None = None
    key_ids: Int[Array, "B K"] | None = None
    error: float = 0.0
    note: str = ""
    again: Callable[[Tensor, Tensor, Tensor, bool], Tensor] | None = field(default=None, repr=False)

    @property
    def B(self) -> int:  # noqa: N802 (an axis)
        """Sequences in the batch."""
        return self.q.shape[0]

    @property
    def H(self) -> int:  # noqa: N802 (an axis)
        """Query heads that are stored."""
        return self.q.shape[1]

    @property
    def G(self) -> int:  # noqa: N802 (an axis)
        """Key/value heads that are stored."""
        return self.k.shape[1]

    @property
    def Q(self) -> int:  # noqa: N802 (an axis)
        """Queries that are stored."""
        return self.q.shape[2]

    @property
    def K(self) -> int:  # noqa: N802 (an axis)
        """Keys."""
        return self.k.shape[2]

    @property
    def C(self) -> int:  # noqa: N802 (an axis)
        """Width of a head."""
        return self.q.shape[3]

    @property
    def cross(self) -> bool:
        """Whether keys are of another text than queries."""
        return self.at is None

    @property
    def window(self) -> int | None:
        """How many tokens back a query sees, itself among them, where that is bounded."""
        found = {mask.size for mask in self.masks if isinstance(mask, Window)}
        return max(found) if len(found) == 1 else None

    @property
    def bytes(self) -> int:
        """What is held of this layer."""
        return sum(self.held().values())

    def held(self) -> dict[int, int]:
        """Where what is held lies, and its bytes; tables may be shared with other layers."""
        tensors = [x for x in (self.q, self.k, self.lse, self.v) if x is not None]
        tensors += [self.bias] if isinstance(self.bias, Tensor) else []
        found = {x.data_ptr(): x.numel() * x.element_size() for x in tensors}
        for mask in (*self.masks, self.mask):
            if isinstance(mask, Given):
                found[mask.table.ctypes.data] = mask.table.nbytes
        return found

    def __repr__(self) -> str:
        kind = "across" if self.cross else f"window {self.window}" if self.window else "self"
        sizes = f"B {self.B}, H {self.H}, G {self.G}, Q {self.Q}, K {self.K}, C {self.C}"
        return f"Site {self.index} ({self.name or 'no module'}): {kind}, {sizes}"

    def map(self, sequence: int, head: int, labels: Sequence[str] = ()) -> AttentionMap:
        """The map of one head of one sequence; `labels` are the text of the K keys.

        Raises:
            ShapeError: where there are labels, but not one for each key.
            QkvError: where the head isn't stored.
        """
        place, kept = self._stored(head), self.kept[sequence]
        stored = np.flatnonzero(kept.held(self.rows))
        taken: Any = slice(stored[0], stored[-1] + 1) if _contiguous(stored) else stored
        cols = slice(kept.cols.start, kept.cols.stop)
        keys = self._labels(labels, kept)
        at = None if self.at is None else self.at[self.rows[stored]] - kept.cols.start
        lined_up = at is not None and bool(((at >= 0) & (at < len(kept.cols))).all())
        asking = tuple(keys[i] for i in at) if keys and lined_up and at is not None else ()
        group = self.groups[place]
        notes = (self.note, kept.note(self.K))
        return AttentionMap(
            q=array(self.q[sequence, place, taken]),
            k=array(self.k[sequence, group, cols]),
            lse=array(self.lse[sequence, place, taken]),
            mask=mask_of(self, sequence, place),
            bias=bias_of(self, sequence, place),
            scale=self.scale,
            softcap=self.softcap,
            query_labels=asking,
            key_labels=keys,
            name=f"L{self.index}H{head}",
            v=None if self.v is None else array(self.v[sequence, group, cols]),
            w_o=self._output_of(head),
            sink=None if self.sink is None else float(self.sink[place]),
            at=at,
            cross=self.cross,
            query_ids=_of(self.query_ids, sequence, self.rows[stored]),
            key_ids=_of(self.key_ids, sequence, np.array(kept.cols)),
            score_mod=score_mod_of(self, sequence, place),
            note="; ".join(note for note in notes if note),
        )

    def mix(self, v: Tensor, sequence: int = 0) -> Float[Tensor, "H Q n"]:
        """The weights of all stored heads times some values, by one fused pass.

        Args:
            v: values (K, n), or (G, K, n), for the keys that aren't padding.
            sequence: which of the batch.

        Raises:
            ShapeError: where there isn't a value for each key.

        >>> from qkv import Causal, attend, capture
        >>> x = torch.zeros(1, 1, 3, 2)
        >>> with capture() as trace:
        ...     mixed = attend(x, x, x, mask=Causal())
        >>> trace.layers[0].mix(torch.eye(3))[0, 1].tolist()
        [0.5, 0.5, 0.0]
        """
        if v.shape[-2] != len(self.kept[sequence].cols):
            raise ShapeError(
                f"{v.shape[-2]} values",
                f"{len(self.kept[sequence].cols)}, one for each key",
                "leave padding out",
            )
        return mix_of(self, v, sequence)

    def weights(self, rows: Sequence[int], cols: Sequence[int], sequence: int = 0) -> Array:
        """The weights of some cells for all stored heads at once, (H, rows, cols) in float64.

        >>> from qkv import Causal, attend, capture
        >>> x = torch.zeros(1, 2, 3, 2)
        >>> with capture() as trace:
        ...     mixed = attend(x, x, x, mask=Causal())
        >>> trace.layers[0].weights([1], [0]).round(6).tolist()
        [[[0.5]], [[0.5]]]
        """
        return np.stack([m.tile(rows, cols) for m in map(partial(self.map, sequence), self.heads)])

    def value_norms(self, cols: Sequence[int], sequence: int = 0) -> Array | None:
        """How long v_j W_O is for some keys and all stored heads, (H, cols); None if not known."""
        if self.v is None or self.w_o is None:
            return None
        places = torch.tensor([self.kept[sequence].cols[col] for col in cols])
        values = self.v[sequence][:, places].double()  # (G, cols, Cv)
        norms = []
        for head, group in zip(self.heads, self.groups, strict=True):
            out = self._output_of(head)
            assert out is not None
            norms.append(np.linalg.norm(values[group].numpy() @ out.astype(np.float64), axis=-1))
        return np.stack(norms)

    def rerun(
        self,
        v: Float[Tensor, "B G K Cv"],
        q: Float[Tensor, "B H Q C"] | None = None,
        *,
        biased: bool = True,
    ) -> Float[Tensor, "B H Q Cv"]:
        """The mixed values of this very call with other values, by its own kernel, without dropout.

        The result is linear in v, so columns of the identity as values give the columns of the
        weights that the kernel itself uses. Give values as wide as keys, for torch may take another
        kernel for another width.

        Args:
            v: the values.
            q: other queries too; zeros make all scores equal.
            biased: else what is added to the scores is taken as 0, but where it forbids: -inf, or
                as low as its type can hold.

        Raises:
            ShapeError: where v isn't (B, G, K, any), or q isn't as site.q.
            QkvError: where only a part of the call is stored, or several calls are one site.

        >>> from qkv import Causal, attend, capture
        >>> x = torch.zeros(1, 1, 2, 2)  # B 1, H 1, T 2, C 2
        >>> with capture() as trace:
        ...     mixed = attend(x, x, x, mask=Causal())
        >>> trace.layers[0].rerun(torch.eye(2)[None, None])[0, 0].tolist()
        [[1.0, 0.0], [0.5, 0.5]]
        """
        if self.again is None:
            raise QkvError(
                f"layer {self.index}, of which a part is stored",
                "one whole call of scaled_dot_product_attention or qkv.attend",
                "capture it without layers=, heads=, rows=, dtype= and without a cache",
            )
        queries = self.q if q is None else q
        if queries.shape != self.q.shape:
            raise ShapeError(
                f"queries {tuple(queries.shape)}",
                f"{tuple(self.q.shape)}, as site.q",
                "give one query for each that was asked",
            )
        if v.dim() != 4 or v.shape[:3] != self.k.shape[:3]:
            raise ShapeError(
                f"values {tuple(v.shape)}",
                f"({self.B}, {self.G}, {self.K}, any)",
                "give one row of values for each key of each key/value head",
            )
        with torch.no_grad(), torch.autocast(self.q.device.type, enabled=False):
            return self.again(queries.to(self.q), self.k, v.to(self.k), biased)

    def _stored(self, head: int) -> int:
        if head not in self.heads:
            raise QkvError(
                f"head {head} of layer {self.index}, which isn't stored",
                f"one of {', '.join(map(str, self.heads))}",
                "capture it with heads=",
            )
        return self.heads.index(head)

    def _labels(self, labels: Sequence[str], kept: Kept) -> tuple[str, ...]:
        if not labels:
            return ()
        if len(labels) == self.K:
            return tuple(labels)[kept.cols.start : kept.cols.stop]
        if len(labels) == len(kept.cols):
            return tuple(labels)
        raise ShapeError(
            f"{len(labels)} labels for {self.K} keys of layer {self.index}",
            "one for each key",
            "set them with trace.label([...])",
        )

    def _output_of(self, head: int) -> Array | None:
        if self.w_o is None or self.v is None:
            return None
        width = self.v.shape[-1]
        part = self.w_o[:, head * width : (head + 1) * width]
        return array(part.detach()).T

    def only(self, **changes: Any) -> Site:
        """The same site with some fields changed."""
        return replace(self, **changes)


def _contiguous(places: Array) -> bool:
    return bool(places.size) and bool(places[-1] - places[0] + 1 == places.size)


def _of(ids: Array | None, sequence: int, places: Array) -> Array | None:
    return None if ids is None else ids[min(sequence, len(ids) - 1)][places]
