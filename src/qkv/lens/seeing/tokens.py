"""Which ids were looked up, and what text they stand for.

Ids are seen where a model looks them up in a table. Of the tables that are asked one after another
the first holds the tokens; those after it are positions, segments and the like.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["Lookups", "texts_of"]

Array = np.ndarray[Any, Any]


class Lookups:
    """The token ids that were looked up so far."""

    def __init__(self) -> None:
        self._found: list[Array] = []
        self._fresh = True
        # Whether the newest ids may be places, and not tokens: those count up.
        self._doubtful = False

    def see(self, ids: Tensor) -> None:
        """Takes note of a lookup."""
        if not (self._fresh or self._doubtful) or ids.is_floating_point() or ids.dim() > 2:
            return
        if ids.device.type == "meta" or not ids.numel():
            return
        rows = np.asarray(ids.detach().cpu().reshape((1, -1) if ids.dim() < 2 else ids.shape))
        steps = np.diff(rows, axis=1)
        counts_up = bool(steps.size) and bool((steps == 1).all())
        if steps.size and (not rows.any() or (counts_up and not rows[:, 0].any())):
            # Kinds of tokens, such as those of a first segment, or places from 0 on.
            return
        if self._fresh:
            self._found.append(rows.astype(np.int64))
        elif counts_up or (steps == 0).all() or rows.shape[1] != self._found[-1].shape[1]:
            return
        else:
            # The ids before were places after all: those of a text hardly ever count up.
            self._found[-1] = rows.astype(np.int64)
        self._fresh, self._doubtful = False, counts_up

    def attended(self) -> None:
        """An attention call was made: the next lookup may be of tokens again."""
        self._fresh, self._doubtful = True, False

    def last(self, tokens: int, sequences: int, but: Array | None = None) -> Array | None:
        """The newest ids (B, T) of so many tokens, but for those of another text."""
        for rows in reversed(self._found):
            if rows is not but and rows.shape[1] == tokens and rows.shape[0] in (1, sequences):
                return rows
        return None


def texts_of(tokenizer: Any, ids: Array) -> tuple[str, ...]:
    """The text of each token, as far as the tokenizer tells it.

    Args:
        tokenizer: ours, one of `transformers` or `tokenizers`, or anything with `decode`.
        ids: (T,).

    >>> from qkv.text import ByteTokenizer
    >>> texts_of(ByteTokenizer(), np.array([104, 10, 0xC3]))
    ('h', '\\n', '\\\\xc3')
    """
    if hasattr(tokenizer, "token_bytes"):
        whole = (tokenizer.token_bytes(int(token)) for token in ids)
        return tuple(text.decode("utf-8", "backslashreplace") for text in whole)
    return tuple(tokenizer.decode([int(token)]) for token in ids)
