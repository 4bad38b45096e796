"""The text of a trace's tokens: given as labels, told by a tokenizer, or kept in a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np

from qkv.errors import ShapeError
from qkv.lens.maps.attention_map import AttentionMap, visible
from qkv.lens.seeing.tokens import texts_of
from qkv.lens.traces.addressing import Addressed
from qkv.lens.traces.sites import Site

__all__ = ["Labelled"]


class Labelled(Addressed):
    """Sites, and what is known of the text that was read."""

    def __init__(self, tokenizer: Any = None) -> None:
        super().__init__()
        self._labels: tuple[str, ...] = ()
        self._tokenizer = tokenizer
        self._texts: Mapping[int, tuple[str, ...]] = {}
        # Maps that were read lately; they bear labels.
        self._maps: dict[tuple[int, int, int], AttentionMap] = {}

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

    def label(self, labels: Iterable[str]) -> Self:
        """Gives the tokens their text, one label for each of the K keys; returns this trace.

        Raises:
            ShapeError: where there is not one for each key of any layer.
        """
        given = tuple(labels)
        sizes = {site.K for site in self.layers}
        sizes |= {len(kept.cols) for site in self.layers for kept in site.kept}
        if given and len(given) not in sizes:
            raise ShapeError(
                f"{len(given)} labels",
                f"one for each of {' or '.join(map(str, sorted(sizes)))} keys",
                "give the text of every token, in order",
            )
        self._labels = given
        self._maps.clear()
        return self

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
        self._maps.clear()

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
        stored = self._texts.get(sequence, ())
        if stored and len(stored) in (site.K, len(site.kept[sequence].cols)):
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
