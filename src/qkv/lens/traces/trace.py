"""What a capture saw: layers, and maps of their heads, read as `trace[layer, head]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from qkv.errors import QkvError, ResourceError
from qkv.lens.display import mimebundle
from qkv.lens.maps.attention_map import AttentionMap
from qkv.lens.traces.labelled import Labelled
from qkv.lens.traces.memory import free_bytes, sized
from qkv.lens.traces.sites import Site

if TYPE_CHECKING:
    from qkv.lens.heads.head_table import HeadTable
    from qkv.lens.heads.questions import Ranking
    from qkv.lens.heads.span_table import SpanTable
    from qkv.lens.heads.text_spans import SpansLike

__all__ = ["Trace"]

# Maps that are kept when they were read.
REMEMBERED = 8


class Trace(Labelled):
    """What `capture` saw: each attention layer, numbered by first use; `trace[3, 7]` is L3H7.

    Where the batch had more than one sequence, read `trace.sequence(i)[3, 7]`; where the layer was
    called more than once, `trace.call(i)[3, 7]`. The steps of a cache are one call. Padding is left
    out.
    """

    def __init__(self, *, tokenizer: Any = None) -> None:
        super().__init__(tokenizer)

    def __repr__(self) -> str:
        if not self._calls:
            return "Trace of no attention layer"
        sites = [site for calls in self._calls.values() for site in calls]
        heads = sum(calls[0].H for calls in self._calls.values())
        tokens = max(site.K for site in sites)
        many = max(site.B for site in sites)
        batch = f" of {many} sequences" if many > 1 and self._sequence is None else ""
        blind = f", {len(self._unseen)} attention modules not seen" if self._unseen else ""
        return (
            f"Trace{batch}: {_count(len(self._calls), 'layer')}, {_count(heads, 'head')}, "
            f"{_count(tokens, 'token')}, {sized(self.bytes)}{blind}"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        if self._ended and self._calls:
            return mimebundle(self, include, exclude)
        return {"text/plain": repr(self)}

    @property
    def unseen(self) -> dict[str, str]:
        """Modules that say attention but made no call that could be seen: name and class."""
        return dict(self._unseen)

    @property
    def bytes(self) -> int:
        """What the trace holds."""
        sites = [site for calls in self._calls.values() for site in calls]
        # Layers share tables: each counts once.
        found: dict[int, int] = {}
        for site in sites:
            found |= site.held()
        return sum(found.values())

    @property
    def error(self) -> float:
        """The largest change of a weight by storing q and k in fewer bits, in the rows tried."""
        return max((site.error for site in self.layers), default=0.0)

    def __getitem__(self, at: tuple[int | str, int] | str) -> AttentionMap:
        """The map of one head of one layer: `[3, 7]`, `["L3H7"]` or `["blocks.3.attention", 7]`.

        Raises:
            QkvError: where there is no such layer or head, more than one sequence or call, or the
                labels don't fit.
        """
        self._check()
        layer, head = self._named(at)
        site = self._site(self._number(layer), f"[{layer!r}, {head}]")
        if head not in site.heads:
            stored = f"0 to {site.H - 1}"
            if site.heads != tuple(range(site.H)):
                stored = "one of " + ", ".join(map(str, site.heads))
            raise QkvError(f"head {head} of layer {site.index}", stored, "count heads from 0")
        sequence = self._of(site, f"[{layer!r}, {head}]")
        key = id(site), sequence, head
        if (found := self._maps.pop(key, None)) is None:
            found = site.map(sequence, head, self._key_labels(site, sequence))
        # The last few are kept, and with them the pyramids that were built of them.
        self._maps[key] = found
        if len(self._maps) > REMEMBERED:
            self._maps.pop(next(iter(self._maps)))
        return found

    def __iter__(self) -> Iterator[AttentionMap]:
        """Every head's map, layer by layer."""
        for site in self.sites():
            for head in site.heads:
                yield self[site.index, head]

    def maps(self) -> list[list[AttentionMap]]:
        """Every head's map, a list for each layer."""
        return [[self[site.index, head] for head in site.heads] for site in self.sites()]

    def sequence(self, index: int) -> Trace:
        """The trace of one sequence of the batch, counted from 0.

        Raises:
            QkvError: where there is none, or as `layers` does.
        """
        most = max(site.B for site in self.layers)
        if not 0 <= index < most:
            raise QkvError(
                f"sequence {index}", f"0 to {most - 1}", "count sequences of the batch from 0"
            )
        return self._narrowed(sequence=index)

    def call(self, index: int) -> Trace:
        """The trace of one call of each layer, counted from 0, where there were several.

        Raises:
            QkvError: where there is none, or as `layers` does.
        """
        self._check()
        most = max(map(len, self._calls.values()))
        if not 0 <= index < most:
            raise QkvError(f"call {index}", f"0 to {most - 1}", "count calls from 0")
        return self._narrowed(call=index)

    def heads(
        self,
        *,
        cells: int | None = None,
        seed: int = 0,
        progress: Callable[[float], None] | None = None,
    ) -> HeadTable:
        """A table of every head and every score, each against chance.

        Args:
            cells: of a head with more cells than this (4,096² unless given), scores that need all
                of a row are those of a seeded sample of its rows; their counts say of how many.
            seed: chooses the sample.
            progress: told how much is done, 0 to 1.

        Raises:
            QkvError: as reading a map does.

        >>> from qkv import attend, capture
        >>> x = torch.zeros(1, 2, 3, 4)
        >>> with capture() as trace:
        ...     mixed = attend(x, x, x)
        >>> round(trace.heads()["L0H1"].scores["first"].score, 3)
        0.333
        """
        from qkv.lens.heads.head_table import score_heads

        table = score_heads(self, cells=cells, seed=seed, progress=progress)
        if not self._unseen:
            return table
        blind = ", ".join(f"{name} ({kind})" for name, kind in self._unseen.items())
        return replace(table, notes=(*table.notes, f"not seen, for its own softmax: {blind}"))

    def rank(
        self, query: int, key: int, *, by: Literal["weight", "output_norm"] = "weight"
    ) -> Ranking:
        """All heads by the weight that one token gives to another, over all layers at once.

        Args:
            query, key: places of the two tokens in the text, from 0, padding not counted.
            by: sort by weight, or by what of it reaches the model, |a v W_O|, where that is known.

        Raises:
            QkvError: where there is no such token.

        >>> from qkv import Causal, attend, capture
        >>> x = torch.zeros(1, 1, 3, 2)
        >>> with capture() as trace:
        ...     mixed = attend(x, x, x, mask=Causal())
        >>> [(head.name, round(head.weight, 3)) for head in trace.rank(2, 0)]
        [('L0H0', 0.333)]
        """
        from qkv.lens.heads.questions import rank

        return rank(self, query, key, by=by)

    def spans(self, spans: SpansLike) -> SpanTable:
        """The mass from span to span of every head; rows sum to 1.

        Args:
            spans: names with (start, stop) in tokens, padding not counted; or "line", "sentence",
                or a regular expression over the text of the tokens.

        Raises:
            ConfigError: spans that overlap, are empty, too many, or lie outside of the text.
            TextError: where the text of the tokens isn't known, or nothing in it matches.

        >>> from qkv import attend, capture
        >>> x = torch.zeros(1, 1, 4, 2)
        >>> with capture() as trace:
        ...     mixed = attend(x, x, x)
        >>> trace.spans({"system": (0, 1), "user": (1, 4)})["L0H0"].round(2).tolist()
        [[0.25, 0.75], [0.25, 0.75]]
        """
        from qkv.lens.heads.spans import spans as of_spans

        return of_spans(self, spans)

    def rollout(self, *, residual: float = 0.5, query: int | None = None) -> np.ndarray[Any, Any]:
        """What each token (a row) holds of each (a column) after all layers, (T, T).

        Args:
            residual: what of a token stays where it is in each layer.
            query: only the row (T,) of this token, in memory linear in T.

        Raises:
            QkvError: for more than 4,096 tokens without `query`, and where not all heads are here.

        Source: Abnar and Zuidema 2020.

        >>> from qkv import Causal, attend, capture
        >>> x = torch.zeros(1, 1, 2, 2)
        >>> with capture() as trace:
        ...     mixed = attend(x, x, x, mask=Causal())
        >>> trace.rollout().round(6).tolist()
        [[1.0, 0.0], [0.25, 0.75]]
        """
        from qkv.lens.heads.rollout import rollout

        return rollout(self, residual=residual, query=query)

    def attentions(self) -> tuple[Tensor, ...]:
        """All weights, (B, H, Q, K) for each layer, as `output_attentions` gives them.

        Rows and columns of padding are zeros.

        Raises:
            ResourceError: where they would take more than half of the free memory.
        """
        sites = self.sites()
        size = sum(4 * site.B * site.H * site.Q * site.K for site in sites)
        free = free_bytes()
        if free is not None and size > free / 2:
            raise ResourceError(
                f"weights of {sized(size)}",
                f"at most half of the free memory, {sized(free / 2)}",
                "ask for single maps, trace[layer, head], and their tiles",
            )
        return tuple(_dense(site) for site in sites)

    def save(self, path: Path | str, dtype: Literal["int8"] | None = None) -> Path:
        """Writes the trace to one safetensors file, which `qkv.load` reads.

        Args:
            path: the file.
            dtype: "int8" to round q and k to whole numbers with one scale a row, a quarter of
                fp32; lse is then that of the rounded ones, and rows still sum to 1.

        Raises:
            ConfigError: for another dtype.
            QkvError: where a layer has a score_mod or a mask that is a function.
            ResourceError: where the file can't be written.
        """
        from qkv.lens.traces.storing import save

        return save(self, Path(path), dtype)

    def _narrowed(self, *, sequence: int | None = None, call: int | None = None) -> Trace:
        one = Trace(tokenizer=self._tokenizer)
        one.__dict__.update(self.__dict__)
        one._sequence = self._sequence if sequence is None else sequence
        one._call = self._call if call is None else call
        return one


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _dense(site: Site) -> Tensor:
    whole = torch.zeros(site.B, site.H, site.queries, site.K)
    for sequence in range(site.B):
        rows = torch.from_numpy(site.rows[site.kept[sequence].held(site.rows)])
        cols = site.kept[sequence].cols
        for place, head in enumerate(site.heads):
            found = site.map(sequence, head)
            tile = found.tile(range(found.Q), range(found.K))
            whole[sequence, place, rows, cols.start : cols.stop] = torch.from_numpy(tile).float()
    return whole[:, :, torch.from_numpy(site.rows)] if len(site.rows) != site.queries else whole
