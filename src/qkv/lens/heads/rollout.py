"""Attention rollout: how much of each token reaches each other through all layers.

Each layer is taken for a mixture of staying (the residual connection) and the mean of its heads'
patterns; layers are multiplied (Abnar and Zuidema 2020). It says where information could have
flowed, as if values and feed-forward layers did nothing: an upper bound for the eye, no proof.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from qkv.errors import ConfigError, QkvError
from qkv.lens.heads.workers import side_by_side
from qkv.lens.maps.sweep import Sweep, expected_sums, plainly, precision

if TYPE_CHECKING:
    from qkv.lens.maps.attention_map import AttentionMap
    from qkv.lens.traces.trace import Trace

__all__ = ["rollout"]

Array: TypeAlias = "np.ndarray[Any, Any]"

# Three tables of so many tokens squared are 400 MB in float64.
MOST_TOKENS = 4096


def rollout(
    trace: Trace, *, residual: float = 0.5, query: int | None = None
) -> Float[Array, "T T"] | Float[Array, " T"]:
    """What each token (a row) holds of each (a column) after all layers; rows sum to 1.

    Args:
        trace: of one sequence, in which every layer looks at its own text.
        residual: what of a token stays where it is in each layer; the rest goes by the mean of the
            layer's heads. Half, as in the source, unless given.
        query: only the row of this token, counted from 0: at any length, in memory linear in it.

    Raises:
        ConfigError: where residual isn't from 0 to 1.
        QkvError: for more than 4,096 tokens without `query`, a token that isn't there, and layers
            that don't have one query for each token.

    Source: Abnar and Zuidema 2020, "Quantifying Attention Flow in Transformers".

    >>> from qkv.attention import Causal, attend
    >>> from qkv.lens import capture
    >>> x = torch.zeros(1, 1, 2, 2)  # B 1, H 1, T 2, C 2
    >>> with capture() as trace:
    ...     for _ in range(2):
    ...         mixed = attend(x, x, x, mask=Causal())
    >>> rollout(trace).round(6).tolist()
    [[1.0, 0.0], [0.4375, 0.5625]]
    """
    if not 0 <= residual <= 1:
        raise ConfigError(f"residual {residual}", "a number from 0 to 1", "0.5 is usual")
    layers = _layers(trace)
    tokens = layers[0][0].K
    with plainly():
        if query is not None:
            if not 0 <= query < tokens:
                raise QkvError(f"query {query}", f"0 to {tokens - 1}", "count tokens from 0")
            return _row(layers, query, residual)
        if tokens > MOST_TOKENS:
            raise QkvError(
                f"a rollout of {tokens:,} tokens",
                f"at most {MOST_TOKENS:,}",
                "ask for one token's row: trace.rollout(query=i)",
            )
        held = torch.eye(tokens, dtype=torch.float64)
        for heads in layers:
            held = _step(heads, residual) @ held
        return np.asarray(held.numpy())


def _layers(trace: Trace) -> list[list[AttentionMap]]:
    """The maps of each layer; their queries are all of one text, in order."""
    if trace.partial:
        raise QkvError(
            f"a trace of chosen {trace.partial}",
            "every head of every layer, which rollout mixes",
            "capture without layers=, heads= and rows=",
        )
    layers: list[list[AttentionMap]] = []
    for site in trace.sites():
        heads = [trace[site.index, head] for head in site.heads]
        one = heads[0]
        if one.cross:
            raise QkvError(
                f"layer {site.index}, which looks at another text",
                "layers that look at their own",
                "capture with layers=, without those across texts",
            )
        tokens = layers[0][0].K if layers else one.K
        if {one.K, one.Q} != {tokens} or not np.array_equal(one.places, np.arange(tokens)):
            raise QkvError(
                f"{one.Q} queries and {one.K} keys in layer {site.index}",
                f"one of each for {tokens} tokens",
                "capture without rows=, and all of the text in one pass or with its whole cache",
            )
        layers.append(heads)
    return layers


def _step(heads: list[AttentionMap], residual: float) -> Tensor:
    """One layer's mixture (T, T) of staying and the mean pattern of its heads."""
    mixture = torch.zeros(heads[0].Q, heads[0].K, dtype=torch.float64)
    for head in heads:
        for rows, cols, cells, _ in Sweep.over(head).weights():
            mixture[rows.start : rows.stop, cols.start : cols.stop] += cells.T
    mixture *= (1 - residual) / len(heads)
    mixture.diagonal().add_(residual)
    # A sink takes some of a row, and a row that sees nothing has only itself.
    return mixture / _some(mixture.sum(-1, keepdim=True))


def _row(layers: list[list[AttentionMap]], query: int, residual: float) -> Float[Array, " T"]:
    """One row of the product of all layers, from the last one down, by strips of patterns."""
    held = torch.zeros(layers[0][0].K, dtype=torch.float64)
    held[query] = 1
    for heads in reversed(layers):
        sums = np.mean([expected_sums(head, head.lse) for head in heads], axis=0)
        held /= _some(torch.from_numpy(residual + (1 - residual) * sums))
        used = held.nonzero()
        # The last layer asks a single query, and a causal one none behind it.
        rows = range(int(used.min()), int(used.max()) + 1) if len(used) else range(0)
        passed = torch.zeros_like(held)
        for part in side_by_side(partial(_passed, rows=rows, held=held), heads):
            passed += part
        held = held * residual + passed * ((1 - residual) / len(heads))
    return np.asarray(held.numpy())


def _passed(head: AttentionMap, rows: range, held: Tensor) -> Tensor:
    """What some queries hold, given on to their keys by one head, (T,)."""
    cols, found = range(head.K), torch.zeros_like(held)
    with plainly():
        for tile in Sweep(head, rows, cols, precision(head, rows, cols)).weights():
            here = held[tile.rows.start : tile.rows.stop].to(tile.cells)
            found[tile.cols.start : tile.cols.stop] += tile.cells @ here
    return found


def _some(sums: Tensor) -> Tensor:
    """Sums to divide by: where there is nothing, 1."""
    return sums.masked_fill(sums == 0, 1.0)
