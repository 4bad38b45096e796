"""The layers of a trace whose tokens are those of one text, so that places mean the same in all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from qkv.lens.traces.sites import Site
    from qkv.lens.traces.trace import Trace

__all__ = ["OneText", "one_text"]

ANOTHER = "it looks at another text"


@dataclass(frozen=True)
class OneText:
    """Layers that look at one text with itself.

    Args:
        sequence: which of the batch is read.
        tokens: how many the text has, padding not counted.
        sites: its layers.
        skipped: the other layers ("L4"), and why.
    """

    sequence: int
    tokens: int = 0
    sites: list[Site] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def one_text(trace: Trace) -> OneText:
    """The text that the last self-attention layer looks at: of two texts the decoder's.

    Raises:
        QkvError: as `trace.sites` does, and of a batch of which no sequence is chosen.
    """
    sequence, sites = trace.chosen_sequence, trace.sites()
    main = next((site for site in reversed(sites) if not site.cross), None)
    if main is None:
        return OneText(sequence, skipped={f"L{site.index}": ANOTHER for site in sites})
    tokens = len(main.kept[sequence].cols)
    found = OneText(sequence, tokens)
    for site in sites:
        keys = len(site.kept[sequence].cols)
        if site.cross or not _alike(site, main, sequence):
            found.skipped[f"L{site.index}"] = ANOTHER
        elif keys != tokens:
            found.skipped[f"L{site.index}"] = f"it has {keys} keys where the text has {tokens}"
        else:
            found.sites.append(site)
    return found


def _alike(site: Site, main: Site, sequence: int) -> bool:
    """Whether two layers have the same tokens, as far as those are known."""
    ids = [
        None if one.key_ids is None else one.key_ids[min(sequence, len(one.key_ids) - 1)]
        for one in (site, main)
    ]
    known = ids[0] is not None and ids[1] is not None and len(ids[0]) == len(ids[1])
    return not known or bool(np.all(ids[0] == ids[1]))
