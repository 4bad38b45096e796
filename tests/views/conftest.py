"""Heads for pages: small texts with everything that may go wrong in a token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qkv.attention import Causal, Mask, Window
from qkv.lens import AttentionMap
from qkv.views.payload import Column, Layer, Payload, of_maps

# Right to left, joined letters, markup, newline, a byte fragment, an emoji of several code points,
# a combining mark, control characters, a direction override, nothing at all.
LABELS = (
    "שלום", " עולם", "\n", "مر", "حبا", "</script>", "<!--", "<b>&amp;", "\u00a0", "\t\n",
    "👩‍👩‍👧", "e", "\u0301", "\udce2", "\ufffd", "", "\x1b", "\u202e", " x", "def", " f", "\r\n",
    "end",
)  # fmt: skip
T = len(LABELS)
WIDTH = 7


def draw(
    rng: np.random.Generator,
    name: str,
    mask: Mask | np.ndarray | None = None,
    queries: int = T,
    keys: int = T,
    **fields: object,
) -> AttentionMap:
    """A head of some shape, sharp enough that its weights span every level."""
    q, k = rng.normal(size=(queries, WIDTH)) * 2, rng.normal(size=(keys, WIDTH)) * 2
    head = AttentionMap.of(q, k, mask=mask, name=name, **fields)  # type: ignore[arg-type]
    if keys != T:
        return head
    own = tuple(f" q{i}" for i in range(queries)) if head.cross else LABELS[-queries:]
    return replace(head, query_labels=own, key_labels=LABELS)


@pytest.fixture
def heads(rng: np.random.Generator) -> list[Layer]:
    """Causal, windowed, with holes and a row that is allowed nothing, cross-attention, one row."""
    holes = np.tri(T, dtype=bool)
    holes[:, 3] = False
    holes[5] = False
    return [
        Layer([draw(rng, f"L0H{h}", Causal()) for h in range(3)], "layers.0"),
        Layer([draw(rng, f"L1H{h}", Causal() & Window(5)) for h in range(3)], window=5),
        Layer([draw(rng, f"L2H{h}", holes) for h in range(3)]),
        Layer([draw(rng, f"L3H{h}", queries=11, cross=True) for h in range(2)], "cross"),
        Layer([draw(rng, "L4H0", queries=1, keys=61)]),
        Layer([draw(rng, "L5H0", Causal(), queries=9, sink=1.0)]),
    ]


@pytest.fixture
def payload(heads: list[Layer]) -> Payload:
    """Their payload, with a table of two scores."""
    names = [head.name for layer in heads for head in layer.maps]
    scores = {name: (7 * at % 12) / 12 for at, name in enumerate(names)}
    return of_maps(
        heads,
        title="</title><script>alert(1)</script>",
        note="שלום · <b>",
        columns=[
            Column("induction", scores, "weight on what followed last time", 0.05, 1.0, T - 1),
            Column("entropy", {n: 2 - s for n, s in scores.items() if n != "L5H0"}, chance=scores),
            Column("lift", {"L1H2": 0.91}, "how far that is above chance", None, 1.0),
        ],
        kinds={"L0H1": "previous token", "L1H2": "induction"},
        begin="L1H2",
    )
