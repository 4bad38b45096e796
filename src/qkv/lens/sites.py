"""One attention call as it was made: its q, k, v and lse, and a way to make it once more.

A little over 350 lines, since the two kernels that can be seen, ours and torch's, stand together:
whatever a site says of one it must say of the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from qkv.attention import BiasLike, Causal, Extent, Full, Given, Mask, as_mask
from qkv.attention.fused import attend
from qkv.attention.masking import Positions, indices
from qkv.attention.steps import BiasTiles
from qkv.errors import ShapeError
from qkv.lens.maps import AttentionMap

__all__ = ["Site", "TopLeft", "see_attend", "see_sdpa"]


@dataclass(frozen=True, eq=False)
class Site:
    """One call of attention, in the order of calls; axes as everywhere (B, H, G, Q, K, C).

    q, k, v are copies, detached; lse is fp32 (fp64 for fp64), natural logarithm.
    """

    index: int
    q: Float[Tensor, "B H Q C"]
    k: Float[Tensor, "B G K C"]
    v: Float[Tensor, "B G K Cv"]
    lse: Float[Tensor, "B H Q"]
    mask: Mask
    bias: BiasLike
    scale: float
    softcap: float | None
    again: Callable[[Tensor, Tensor, bool], Tensor] = field(repr=False)

    @property
    def B(self) -> int:  # noqa: N802 (an axis)
        """Sequences in the batch."""
        return self.q.shape[0]

    @property
    def H(self) -> int:  # noqa: N802 (an axis)
        """Query heads."""
        return self.q.shape[1]

    @property
    def G(self) -> int:  # noqa: N802 (an axis)
        """Key/value heads."""
        return self.k.shape[1]

    @property
    def Q(self) -> int:  # noqa: N802 (an axis)
        """Queries."""
        return self.q.shape[2]

    @property
    def K(self) -> int:  # noqa: N802 (an axis)
        """Keys."""
        return self.k.shape[2]

    @property
    def C(self) -> int:  # noqa: N802 (an axis)
        """Width of a head."""
        return self.q.shape[3]

    def mix(
        self,
        v: Float[Tensor, "B G K Cv"],
        q: Float[Tensor, "B H Q C"] | None = None,
        *,
        biased: bool = True,
    ) -> Float[Tensor, "B H Q Cv"]:
        """The mixed values of this very call with other values, without dropout.

        The result is linear in v, so columns of the identity as values give the columns of the
        weights that the kernel itself uses. Give values as wide as `site.v`, for torch may take
        another kernel for another width.

        Args:
            v: the values.
            q: other queries too; zeros make all scores equal.
            biased: else what is added to the scores is taken as 0, but where it forbids: -inf, or
                as low as its type can hold.

        Raises:
            ShapeError: where v isn't (B, G, K, any), or q isn't as site.q.

        >>> x = torch.zeros(1, 1, 2, 2)  # B 1, H 1, T 2, C 2
        >>> see_attend(0, x, x, x, mask=Causal()).mix(torch.eye(2)[None, None])[0, 0].tolist()
        [[1.0, 0.0], [0.5, 0.5]]
        """
        queries = self.q if q is None else q
        if queries.shape != self.q.shape:
            raise ShapeError(
                f"queries {tuple(queries.shape)}",
                f"{tuple(self.q.shape)}, as site.q",
                "give one query for each that was asked",
            )
        if v.dim() != 4 or v.shape[:3] != self.v.shape[:3]:
            raise ShapeError(
                f"values {tuple(v.shape)}",
                f"({self.B}, {self.G}, {self.K}, any), as site.v",
                "give one row of values for each key of each key/value head",
            )
        with torch.no_grad(), torch.autocast(self.q.device.type, enabled=False):
            return self.again(queries.to(self.q), v.to(self.v), biased)

    def map(self, sequence: int, head: int, labels: tuple[str, ...] = ()) -> AttentionMap:
        """The map of one head of one sequence; `labels` are the text of the K keys.

        Raises:
            ShapeError: where there are labels, but not K.
        """
        if labels and len(labels) != self.K:
            raise ShapeError(
                f"{len(labels)} labels for {self.K} keys of layer {self.index}",
                "one for each key",
                "set them with trace.label([...])",
            )
        # torch's is_causal has query 0 at key 0; everywhere else the last query is the last key.
        first = 0 if isinstance(self.mask, TopLeft) else max(0, self.K - self.Q)
        asking = labels[first : first + self.Q]
        return AttentionMap(
            q=_array(self.q[sequence, head]),
            k=_array(self.k[sequence, head * self.G // self.H]),
            lse=_array(self.lse[sequence, head]),
            mask=_one_mask(self.mask, sequence, head),
            bias=_one_bias(self.bias, sequence, head),
            scale=self.scale,
            softcap=self.softcap,
            query_labels=asking if len(asking) == self.Q else (),
            key_labels=labels,
            name=f"L{self.index}H{head}",
        )


@dataclass(frozen=True)
class TopLeft(Mask):
    """torch's `is_causal` with Q other than K: query i sees keys 0 to i, aligned at the top left.

    >>> TopLeft().dense(2, 3).astype(int).tolist()
    [[1, 0, 0], [1, 1, 0]]
    """

    def allowed(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Any:
        return indices(cols, keys) <= indices(rows, queries)[:, None]

    def span(self, rows: Positions, *, queries: int, keys: int) -> tuple[int, int]:
        # With as many keys as queries the two alignments are one.
        return 0, min(keys, Causal().span(rows, queries=queries, keys=queries)[1])

    def extent(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Extent:
        return Causal().extent(rows, indices(cols, keys), queries=queries, keys=queries)

    def _reach(self, at: Any) -> tuple[int, int]:
        return 0, cast("int", at.keys)

    def _whole(self, at: Any) -> bool:  # noqa: ARG002 (asked of all masks)
        return False


@dataclass(frozen=True, eq=False)
class _OneHead(Mask):
    """A mask with leading axes, asked about one sequence and head only."""

    whole: Mask
    sequence: int
    head: int

    def allowed(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Any:
        tile = self.whole.allowed(rows, cols, queries=queries, keys=keys)
        return _pick(tile, self.sequence, self.head)

    def _reach(self, at: Any) -> tuple[int, int]:
        return self.whole._reach(at)

    def _whole(self, at: Any) -> bool:
        return self.whole._whole(at)


@dataclass(frozen=True, eq=False)
class _OneBias:
    whole: BiasTiles
    sequence: int
    head: int

    def tile(self, rows: Positions, cols: Positions, *, queries: int, keys: int) -> Any:
        tile = self.whole.tile(rows, cols, queries=queries, keys=keys)
        return _pick(tile, self.sequence, self.head)


def _levelled(bias: Any, queries: int, keys: int) -> Any:
    """A bias without what it adds, but with what it forbids; booleans and None as they are."""
    if bias is None or (isinstance(bias, Tensor) and bias.dtype is torch.bool):
        return bias
    if not isinstance(bias, Tensor):
        tile = bias.tile(range(queries), range(keys), queries=queries, keys=keys)
        bias = torch.from_numpy(np.ascontiguousarray(tile))
    # Times 0 and not just 0: what is not a number stays none.
    return torch.where(bias <= torch.finfo(bias.dtype).min, bias, bias * 0)


def _one_mask(mask: Mask, sequence: int, head: int) -> Mask:
    if isinstance(mask, Given):
        return Given(_pick(mask.table, sequence, head))
    if isinstance(mask, (Full, Causal, TopLeft)):
        return mask
    return _OneHead(mask, sequence, head)


def _one_bias(bias: BiasLike, sequence: int, head: int) -> BiasLike:
    if isinstance(bias, BiasTiles):
        return _OneBias(bias, sequence, head)
    return None if bias is None else _pick(bias, sequence, head)


def _pick(table: Any, sequence: int, head: int) -> Any:
    """The last two axes of (*B, H, Q, K) for one sequence and head; axes may be 1 or absent."""
    full = table.reshape((1,) * (4 - table.ndim) + table.shape)
    return full[sequence if full.shape[0] > 1 else 0, head if full.shape[1] > 1 else 0]


def _array(x: Tensor) -> np.ndarray[Any, Any]:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return np.asarray(wide.cpu().numpy())


def _copy(x: Tensor) -> Tensor:
    # A copy, since a cache may be written in place later on; it also lets go of a wider tensor
    # that q, k and v are slices of.
    return x.detach().clone()


def see_attend(
    index: int,
    q: Float[Tensor, "B H Q C"],
    k: Float[Tensor, "B G K C"],
    v: Float[Tensor, "B G K Cv"],
    *,
    mask: Any = None,
    bias: Any = None,
    scale: float | None = None,
    softcap: float | None = None,
    return_lse: bool = False,  # noqa: ARG001 (an argument of attend)
) -> Site:
    """The site of a call of `qkv.attention.fused.attend`, whose arguments these are.

    >>> x = torch.zeros(1, 1, 2, 2)
    >>> see_attend(0, x, x, x).lse.round(decimals=3).tolist()
    [[[0.6930000185966492, 0.6930000185966492]]]
    """
    q, k, v = _copy(q), _copy(k), _copy(v)
    if isinstance(mask, Tensor):
        mask = mask.detach().cpu().numpy()
    if isinstance(bias, Tensor):
        bias = _copy(bias)
    options: dict[str, Any] = {"mask": mask, "bias": bias, "scale": scale, "softcap": softcap}

    def again(queries: Tensor, values: Tensor, biased: bool) -> Tensor:
        added = bias if biased else _levelled(bias, q.shape[2], k.shape[2])
        return cast("Tensor", attend(queries, k, values, **{**options, "bias": added}))

    # Values of no width: only the lse is wanted.
    lse = attend(q, k, v[..., :0], **options, return_lse=True)[1]
    return Site(
        index=index,
        q=q,
        k=k,
        v=v,
        lse=lse,
        mask=as_mask(mask),
        bias=_array(bias) if isinstance(bias, Tensor) else bias,
        scale=q.shape[-1] ** -0.5 if scale is None else float(scale),
        softcap=softcap,
        again=again,
    )


def see_sdpa(  # noqa: PLR0917 (the order of torch)
    index: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,  # noqa: ARG001 (the weights are those before dropout)
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Site:
    """The site of a call of torch's `scaled_dot_product_attention`, whose arguments these are."""
    device = query.device.type
    if torch.is_autocast_enabled(device):
        # Autocast lowers what the kernel is given; the site shall hold just that.
        low = torch.get_autocast_dtype(device)
        query, key, value = (x.to(low) for x in (query, key, value))
    q, k, v = (_copy(_four_axes(x)) for x in (query, key, value))
    k, v = (x.expand(q.shape[0], *x.shape[1:]) for x in (k, v))
    queries, keys = q.shape[2], k.shape[2]
    mask: Mask = Full()
    bias = None
    if is_causal:
        mask = Causal() if queries == keys else TopLeft()
    if attn_mask is not None:
        if attn_mask.is_floating_point():
            attn_mask = attn_mask.to(q.dtype)
        table, bias = _read_mask(attn_mask.detach())
        given = Given(_four_axes(table, query.dim()).cpu().numpy())
        mask = given if isinstance(mask, Full) else mask & given
        bias = None if bias is None else _copy(_four_axes(bias, query.dim()))
        attn_mask = _copy(_four_axes(attn_mask, query.dim()))
    options: dict[str, Any] = {"is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}

    def again(queries: Tensor, values: Tensor, biased: bool) -> Tensor:
        added = attn_mask if biased else _levelled(attn_mask, q.shape[2], k.shape[2])
        return scaled_dot_product_attention(queries, k, values, added, **options)

    lse = attend(q, k, v[..., :0], mask=mask, bias=bias, scale=scale, return_lse=True)[1]
    return Site(
        index=index,
        q=q,
        k=k,
        v=v,
        lse=lse,
        mask=mask,
        bias=None if bias is None else _array(bias),
        scale=q.shape[-1] ** -0.5 if scale is None else float(scale),
        softcap=None,
        again=again,
    )


def _four_axes(x: Tensor, axes: int | None = None) -> Tensor:
    """Torch takes (T, C), (B, T, C), (B, H, T, C) and more leading axes; here they are four.

    `axes` says how many the queries had, for a mask that may have fewer.
    """
    axes = x.dim() if axes is None else axes
    x = x.reshape((1,) * (axes - x.dim()) + tuple(x.shape))
    if axes <= 3:
        return x.reshape((1,) * (3 - axes) + tuple(x.shape)).unsqueeze(1)
    return x if axes == 4 else x.flatten(0, axes - 4)


def _read_mask(mask: Tensor) -> tuple[Tensor, Tensor | None]:
    """What a mask of torch allows, and what it adds to scores where that isn't just 0.

    A number as low as the type can hold means "forbidden" as -inf does, wherever the row allows
    something else: its weight is exactly 0.
    """
    if mask.dtype is torch.bool:
        return mask, None
    low = mask <= torch.finfo(mask.dtype).min
    forbidden = (mask == -torch.inf) | (low & ~low.all(-1, keepdim=True))
    bias = mask.masked_fill(forbidden, 0.0)
    return ~forbidden, bias if bool(bias.any()) else None
