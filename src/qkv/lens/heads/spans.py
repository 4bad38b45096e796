"""How much of each head's weight goes from one span of the text to another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int

from qkv.errors import ConfigError, QkvError
from qkv.lens.heads.one_text import one_text
from qkv.lens.heads.pairs import allowed_sums, same_mask
from qkv.lens.heads.span_table import REST, SINK, SpanTable
from qkv.lens.heads.text_spans import SpansLike, read_spans
from qkv.lens.maps.sweep import expected_sums

if TYPE_CHECKING:
    from qkv.lens.maps.attention_map import AttentionMap
    from qkv.lens.traces.sites import Site
    from qkv.lens.traces.trace import Trace

__all__ = ["SpanTable", "spans"]

Array: TypeAlias = "np.ndarray[Any, Any]"

MOST_SPANS = 512
# Mixed values that are held at once: 256 MB of fp32.
MIXED_CELLS = 2**26


def spans(trace: Trace, spans: SpansLike) -> SpanTable:
    """The mass from span to span of every head, by one fused pass for each layer.

    Args:
        trace: of one sequence.
        spans: names with (start, stop) in tokens, padding not counted; or such pairs alone, which
            are named after their bounds, "0–10"; or "line", "sentence", or a regular expression
            over the text of the tokens.

    Layers across texts are left out and listed.

    Raises:
        ConfigError: spans that overlap, are empty, too many, or lie outside of the text.
        TextError: where the text of the tokens isn't known, or nothing in it matches.
        QkvError: where no layer looks at its own text.

    >>> from qkv.attention import Causal, attend
    >>> from qkv.lens import capture
    >>> x = torch.zeros(1, 1, 4, 2)  # B 1, H 1, T 4, C 2
    >>> with capture() as trace:
    ...     mixed = attend(x, x, x, mask=Causal())
    >>> found = spans(trace, {"system": (0, 2), "user": (2, 4)})
    >>> found["L0H0"].round(2).tolist()
    [[1.0, 0.0], [0.58, 0.42]]
    """
    text = one_text(trace)
    if not text.sites:
        raise QkvError(
            "layers that all look at another text",
            "one that looks at its own",
            "ask trace[layer, head] for tiles of cross-attention",
        )
    whole, tokens = text.sites[-1], text.tokens
    given = not isinstance(spans, str | re.Pattern)
    texts = () if given else trace[whole.index, whole.heads[0]].key_labels
    ranges = read_spans(spans, texts, tokens)
    if len(ranges) > MOST_SPANS:
        raise ConfigError(
            f"{len(ranges)} spans", f"at most {MOST_SPANS}", "choose longer ones, or fewer"
        )
    if taken := {REST, SINK} & ranges.keys():
        raise ConfigError(
            f"a span named {min(taken)!r}", "another name", "that one is for what no span has"
        )
    which = np.full(tokens, len(ranges))
    for place, span in enumerate(ranges.values()):
        which[span.start : span.stop] = place
    names = [*ranges, *([REST] if (which == len(ranges)).any() else [])]
    parts = [
        part for site in text.sites for part in _of_site(site, text.sequence, which, len(names))
    ]
    if any(part.sink for part in parts):
        names.append(SINK)
    return SpanTable(
        heads=tuple(part.head for part in parts),
        ranges=ranges,
        names=tuple(names),
        mass=np.stack([part.mass[:, : len(names)] for part in parts]),
        chance=np.stack([part.chance[:, : len(names)] for part in parts]),
        counts=np.stack([part.counts for part in parts]),
        skipped=text.skipped,
    )


@dataclass(frozen=True)
class _Part:
    """One head: mass and chance from each span to each and, last, to the sink."""

    head: str
    mass: Float[Array, "from to"]
    chance: Float[Array, "from to"]
    counts: Int[Array, " from"]
    sink: bool


@dataclass(frozen=True)
class _Uniform:
    """What the queries of heads with one mask could look at."""

    head: AttentionMap
    counts: Int[Array, " from"]
    chance: Float[Array, "from to"]
    mean: Float[Array, "from Q"]


def _uniform(head: AttentionMap, which: Int[Array, " K"], n: int) -> _Uniform:
    sums = allowed_sums(head, np.eye(n)[which])
    seen = sums.sum(-1)
    places = head.places
    asking = (seen > 0) & (places >= 0) & (places < head.K)
    members = np.zeros((n, head.Q))
    rows = np.flatnonzero(asking)
    members[which[places[rows]], rows] = 1.0
    counts = members.sum(-1)
    with np.errstate(invalid="ignore"):
        # A span without queries has no mean: not a number.
        mean = members / counts[:, None]
    share = np.divide(sums, seen[:, None], out=np.zeros_like(sums), where=seen[:, None] > 0)
    return _Uniform(head, counts.astype(np.int64), mean @ share, mean)


def _of_site(site: Site, sequence: int, which: Int[Array, " K"], n: int) -> list[_Part]:
    heads = [site.map(sequence, head) for head in site.heads]
    values = torch.from_numpy(np.eye(n, dtype=np.float32)[which])
    step = max(1, MIXED_CELLS // (site.H * site.Q))
    mass = np.zeros((len(heads), n, n))
    known: list[_Uniform] = []
    of: list[_Uniform] = []
    for head in heads:
        found = next((one for one in known if same_mask(one.head.mask, head.mask)), None)
        if found is None:
            found = _uniform(head, which, n)
            known.append(found)
        of.append(found)
    for first in range(0, n, step):
        mixed = site.mix(values[:, first : first + step], sequence).double().numpy()
        for place, one in enumerate(of):
            mass[place, :, first : first + step] = one.mean @ mixed[place]
    return [_part(head, one, found) for head, one, found in zip(heads, of, mass, strict=True)]


def _part(head: AttentionMap, one: _Uniform, mass: Float[Array, "from to"]) -> _Part:
    # What a row doesn't give to keys goes to its sink.
    missing = one.mean @ (1.0 - expected_sums(head, head.lse))
    return _Part(
        head=head.name,
        mass=np.column_stack([mass, missing]),
        chance=np.column_stack([one.chance, missing * 0.0]),
        counts=one.counts,
        sink=head.sink is not None,
    )
