"""What a capture saw: layers, and maps of their heads, read as `trace[layer, head]`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from qkv.errors import QkvError, ResourceError
from qkv.lens.display import mimebundle
from qkv.lens.maps import AttentionMap, visible
from qkv.lens.seeing.tokens import texts_of
from qkv.lens.traces.addressing import Addressed
from qkv.lens.traces.memory import free_bytes, sized
from qkv.lens.traces.sites import Site

if TYPE_CHECKING:
    from qkv.lens.heads.head_table import HeadTable

__all__ = ["Trace"]

class Trace(Addressed):
    """What `capture` saw: each attention layer, numbered by first use; `trace[3, 7]` is L3H7.

    Where the batch had more than one sequence, read `trace.sequence(i)[3, 7]`; where the layer was
    called more than once, `trace.call(i)[3, 7]`. The steps of a cache are one call. Padding is left
    out.
    """

    def __init__(self, *, tokenizer: Any = None) -> None:
        super().__init__()
        self._labels: tuple[str, ...] = ()
        self._tokenizer = tokenizer
        self._texts: Mapping[int, tuple[str, ...]] = {}

    def __repr__(self) -> str:
        if not self._calls:
            return "Trace of no attention layer"
        sites = [site for calls in self._calls.values() for site in calls]
        heads = sum(calls[0].H for calls in self._calls.values())
        tokens = max(site.K for site in sites)
        return (
            f"Trace of {len(self._calls)} layers, {heads} heads, {tokens:,} tokens, "
            f"{sized(self.bytes)}"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        if self._ended and self._calls:
            return mimebundle(self, include, exclude)
        return {"text/plain": repr(self)}

    @property
    def layers(self) -> tuple[Site, ...]:
        """Every attention site: each call of each layer, with its name and sizes B, H, G, Q, K, C.

        Raises:
            QkvError: before the `with` has ended, or where no call was seen.
        """
        self._check()
        return tuple(site for calls in self._calls.values() for site in calls)

    def sites(self) -> tuple[Site, ...]:
        """One site for each layer, of the call that was chosen or the only one.

        Raises:
            QkvError: as `layers` does, or where a layer was called more than once.
        """
        self._check()
        return tuple(self._site(layer, "[layer, head]") for layer in self._calls)

    @property
    def unseen(self) -> dict[str, str]:
        """Modules that say attention but made no call that could be seen: name and class."""
        return dict(self._unseen)

    @property
    def bytes(self) -> int:
        """What the trace holds."""
        return sum(site.bytes for calls in self._calls.values() for site in calls)

    @property
    def error(self) -> float:
        """The largest change of a weight by storing q and k in fewer bits, in the rows tried."""
        return max((site.error for site in self.layers), default=0.0)

    def __getitem__(self, at: tuple[int | str, int]) -> AttentionMap:
        """The map of one head of one layer; a layer is a number from 0 or a module's name.

        Raises:
            QkvError: where there is no such layer or head, more than one sequence or call, or the
                labels don't fit.
        """
        self._check()
        layer, head = at
        site = self._site(self._number(layer), f"[{layer!r}, {head}]")
        if head not in site.heads:
            stored = f"0 to {site.H - 1}"
            if site.heads != tuple(range(site.H)):
                stored = "one of " + ", ".join(map(str, site.heads))
            raise QkvError(f"head {head} of layer {site.index}", stored, "count heads from 0")
        sequence = self._of(site, f"[{layer!r}, {head}]")
        return site.map(sequence, head, self._key_labels(site, sequence))

    def __iter__(self) -> Iterator[AttentionMap]:
        """Every head's map, layer by layer."""
        for site in self.sites():
            for head in site.heads:
                yield self[site.index, head]

    def maps(self) -> list[list[AttentionMap]]:
        """Every head's map, a list for each layer."""
        return [[self[site.index, head] for head in site.heads] for site in self.sites()]

    def label(self, labels: Iterable[str]) -> Trace:
        """Gives the tokens their text, one label for each of the K keys; returns this trace."""
        self._labels = tuple(labels)
        return self

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

    @property
    def chosen_sequence(self) -> int:
        """The sequence that is read: the chosen or the only one.

        Raises:
            QkvError: where there are several and none is chosen.
        """
        site = self.sites()[0]
        return self._of(site, f"[{site.index}, {site.heads[0]}]")

    @property
    def tokens(self) -> np.ndarray[Any, Any] | None:
        """The token ids (T,) that were read, without padding; None where they weren't seen."""
        found = self._tokens(self._main())
        return None if found is None else found[1]

    @property
    def texts(self) -> tuple[str, ...]:
        """The text of each token; empty where neither labels nor a tokenizer are known."""
        site = self._main()
        return self._key_texts(site, self._of(site, "[layer, head]"))

    @property
    def labels(self) -> tuple[str, ...]:
        """The text of each token with what cannot be seen made visible."""
        return tuple(visible(text) for text in self.texts)

    def heads(self, **options: Any) -> HeadTable:
        """A table of every head and every score, against chance; see `qkv.lens.heads`."""
        from qkv.lens.heads.head_table import score_heads

        return score_heads(self, **options)

    def rank(self, query: int, key: int, **options: Any) -> Any:
        """The heads by what they carry between two tokens; see `qkv.lens.heads.questions`."""
        from qkv.lens.heads.questions import rank

        return rank(self, query, key, **options)

    def spans(self, spans: Any, **options: Any) -> Any:
        """The mass from span to span, for every head; see `qkv.lens.heads.spans`."""
        from qkv.lens.heads.spans import spans as of_spans

        return of_spans(self, spans, **options)

    def rollout(self, **options: Any) -> Any:
        """What reaches each token through all layers; see `qkv.lens.heads.rollout`."""
        from qkv.lens.heads.rollout import rollout

        return rollout(self, **options)

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

    def save(self, path: Path | str) -> Path:
        """Writes the trace to one safetensors file, which `qkv.load` reads.

        Raises:
            QkvError: where a layer has a score_mod or a mask that is a function.
            ResourceError: where the file can't be written.
        """
        from qkv.lens.traces.storing import save

        return save(self, Path(path))

    def calls(self) -> list[tuple[int, tuple[Site, ...]]]:
        """Each layer's number and the sites of its calls."""
        self._check()
        return list(self._calls.items())

    def all_texts(self) -> dict[int, tuple[str, ...]]:
        """The text of the tokens of every sequence, as far as it is known."""
        sites = self._calls.values()
        site = next((calls[0] for calls in sites if not calls[0].cross), None)
        if site is None:
            return {}
        found = {sequence: self._key_texts(site, sequence) for sequence in range(site.B)}
        return {sequence: texts for sequence, texts in found.items() if texts}

    def remember(self, texts: Mapping[int, tuple[str, ...]]) -> None:
        """Takes the text of the tokens of every sequence, as a file has them."""
        self._texts = dict(texts)

    def _main(self) -> Site:
        """The site whose keys are the text: the last that looks at its own text."""
        sites = self.sites()
        return next((site for site in reversed(sites) if not site.cross), sites[-1])

    def _tokens(self, site: Site) -> tuple[int, np.ndarray[Any, Any]] | None:
        sequence = self._of(site, "[layer, head]")
        if site.key_ids is None:
            return None
        ids = site.key_ids[min(sequence, len(site.key_ids) - 1)]
        kept = site.kept[sequence].cols
        return sequence, ids[kept.start : kept.stop]

    def _key_texts(self, site: Site, sequence: int) -> tuple[str, ...]:
        if self._labels:
            return self._labels
        if len(stored := self._texts.get(sequence, ())) == site.K:
            return stored
        if self._tokenizer is None or site.key_ids is None:
            return ()
        return texts_of(self._tokenizer, site.key_ids[min(sequence, len(site.key_ids) - 1)])

    def _key_labels(self, site: Site, sequence: int) -> tuple[str, ...]:
        texts = self._key_texts(site, sequence)
        # Labels that were given for one text don't fit the other.
        if self._labels and site.cross and len(texts) != site.K:
            return ()
        return texts

    def _narrowed(self, *, sequence: int | None = None, call: int | None = None) -> Trace:
        one = Trace(tokenizer=self._tokenizer)
        one.__dict__.update(self.__dict__)
        one._sequence = self._sequence if sequence is None else sequence
        one._call = self._call if call is None else call
        return one


def _dense(site: Site) -> Tensor:
    whole = torch.zeros(site.B, site.H, site.queries, site.K)
    for sequence in range(site.B):
        rows = torch.from_numpy(site.rows[np.isin(site.rows, site.kept[sequence].rows)])
        cols = site.kept[sequence].cols
        for place, head in enumerate(site.heads):
            found = site.map(sequence, head)
            tile = found.tile(range(found.Q), range(found.K))
            whole[sequence, place, rows, cols.start : cols.stop] = torch.from_numpy(tile).float()
    return whole[:, :, torch.from_numpy(site.rows)] if len(site.rows) != site.queries else whole
