"""What an edit does to a model: its loss, and what it says comes next, before and after.

Loss is that of the next token, mean cross-entropy in nats, for any model that gives logits for all
positions.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import nn

from qkv.errors import ConfigError
from qkv.lens.edits.editor import editing
from qkv.lens.edits.edits import Edits
from qkv.lens.edits.losses import as_rows, measuring, next_token_losses
from qkv.lens.edits.naming import Heads, HeadsLike
from qkv.lens.heads.tables import csv_text, data_frame, html_table, plain_table, write_text

__all__ = ["Effect", "HeadEffect", "HeadEffects", "Moved", "effect", "effects"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Moved:
    """A token whose probability of coming next an edit moved."""

    token: int
    before: float
    after: float

    @property
    def change(self) -> float:
        """After less before."""
        return self.after - self.before


@dataclass(frozen=True, eq=False)
class Effect:
    """What an edit did on one text, or on several of one length.

    Args:
        edits: what was changed, in words.
        losses_before, losses_after: nats for each token but the first, (B, T - 1).
        before, after: log-probabilities of what comes after the last text, (V,).
    """

    edits: str
    losses_before: Float[Array, "B T-1"]
    losses_after: Float[Array, "B T-1"]
    before: Float[Array, " V"]
    after: Float[Array, " V"]

    @property
    def loss_before(self) -> float:
        """Mean loss of the model as it is, nats a token."""
        return float(self.losses_before.mean())

    @property
    def loss_after(self) -> float:
        """Mean loss of the edited model, nats a token."""
        return float(self.losses_after.mean())

    @property
    def change(self) -> float:
        """How much the loss rose, nats a token."""
        return float((self.losses_after - self.losses_before).mean())

    @property
    def error(self) -> float:
        """The standard error of the change, as if tokens were independent; NaN for one token."""
        return _standard_error(self.losses_after - self.losses_before)

    @property
    def divergence(self) -> float:
        """KL(before, after) of what comes after the last text, in nats."""
        seen = self.before > -math.inf
        return float((np.exp(self.before) * np.where(seen, self.before - self.after, 0.0)).sum())

    def moved(self, tokens: int = 8) -> tuple[Moved, ...]:
        """The tokens whose probability of coming next changed the most, largest change first."""
        before, after = np.exp(self.before), np.exp(self.after)
        order = np.argsort(-np.abs(after - before), kind="stable")[:tokens]
        return tuple(Moved(int(t), float(before[t]), float(after[t])) for t in order)


def effect(model: nn.Module, ids: Any, edits: Edits) -> Effect:
    """What edits do to a model's loss on a text, and to what it says comes next.

    Args:
        model: maps ids (1, T) to logits (1, T, V), or to an object that has them as `.logits`.
        ids: one text's tokens (T,), or those of several, (B, T); they run one by one.
        edits: what to change.

    Raises:
        ShapeError: where there are fewer than two tokens, or no logits for all.
        QkvError: as `edit` does.

    The model runs twice, in evaluation mode and without gradients; it is left in its own mode.

    >>> from torch.nn import functional as F
    >>> class Copy(nn.Module):  # says that what it sees most comes next
    ...     def forward(self, ids):
    ...         x = F.one_hot(ids, 3)[:, None].float()
    ...         return F.scaled_dot_product_attention(x, x, x, is_causal=True)[:, 0] * 9
    >>> done = effect(Copy(), [1, 1, 1, 1], Edits(ablate="L0H0"))  # without, it guesses: ln 3
    >>> round(done.loss_before, 3), round(done.loss_after, 3)
    (0.0, 1.099)
    """
    rows = as_rows(ids)
    with measuring(model):
        losses, last = next_token_losses(model, rows)
        with editing(edits, model):
            losses_after, last_after = next_token_losses(model, rows)
    return Effect(str(edits), losses, losses_after, last, last_after)


@dataclass(frozen=True)
class HeadEffect:
    """What ablating one head alone did to the loss.

    Args:
        layer, head: counted from 0.
        module: the qualified name of the layer's module.
        loss: without the head, nats a token.
        change: how much the loss rose; below 0 the model is better without.
        error: the standard error of the change, as if tokens were independent; NaN for one token.
    """

    layer: int
    head: int
    module: str
    loss: float
    change: float
    error: float

    @property
    def name(self) -> str:
        """Such as "L3H7"."""
        return f"L{self.layer}H{self.head}"

    def record(self) -> dict[str, Any]:
        """One line of a table, as a dictionary."""
        error = self.error if math.isfinite(self.error) else None
        numbers = {"loss": self.loss, "change": self.change, "error": error}
        named = {"name": self.name, "layer": self.layer, "head": self.head, "module": self.module}
        return {**named, **numbers}


@dataclass(frozen=True)
class HeadEffects:
    """A table of heads, each ablated alone, the one that is needed most first.

    Args:
        rows: one for each head.
        loss: of the whole model, nats a token.
        tokens: how many were predicted.
        how: "zero" or "mean".
    """

    rows: tuple[HeadEffect, ...]
    loss: float
    tokens: int
    how: str

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[HeadEffect]:
        return iter(self.rows)

    def __getitem__(self, name: str) -> HeadEffect:
        """The row of one head, by its name.

        Raises:
            ConfigError: where there is none.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise ConfigError(f"head {name!r}", "one that was ablated", "see the names in .rows")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain dictionaries, lists, strings and numbers."""
        rows = [row.record() for row in self.rows]
        return {"how": self.how, "loss": self.loss, "tokens": self.tokens, "heads": rows}

    def to_json(self, path: Path | str | None = None) -> str:
        """The table as JSON, written to a file too where a path is given.

        Raises:
            ResourceError: where the file can't be written.
        """
        return write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", path)

    def to_csv(self, path: Path | str | None = None) -> str:
        """A line for each head, written to a file too where a path is given.

        Raises:
            ResourceError: where the file can't be written.
        """
        return write_text(csv_text([row.record() for row in self.rows]), path)

    def to_pandas(self) -> Any:
        """The same as a DataFrame, by the names of the heads.

        Raises:
            ResourceError: where pandas isn't installed.
        """
        return data_frame([row.record() for row in self.rows], "name")

    def __str__(self) -> str:
        return plain_table(_COLUMNS, self._cells())

    def _repr_html_(self) -> str:
        caption = f"Loss {self.loss:.4f} nats a token with all heads, over {self.tokens:,} tokens"
        return html_table(caption, _COLUMNS, self._cells(), ("", "nats a token", "standard error"))

    def _cells(self) -> list[list[str]]:
        return [[row.name, f"{row.change:+.4f}", f"{row.error:.4f}"] for row in self.rows]


_COLUMNS = ("without", "loss rises by", "±")


def effects(
    model: nn.Module,
    ids: Any,
    heads: HeadsLike = "all",
    *,
    how: Literal["zero", "mean"] = "zero",
    progress: Callable[[float], None] | None = None,
) -> HeadEffects:
    """How much a model's loss rises without each of its heads, one at a time.

    Args:
        model: maps ids (1, T) to logits (1, T, V), or to an object that has them as `.logits`.
        ids: one text's tokens (T,), or those of several, (B, T); they run one by one.
        heads: which to try; all unless given.
        how: whether a head's mixed values become 0, or their mean over the text.
        progress: is called with the fraction done, from 0 to 1.

    Raises:
        ConfigError: as `edit` does, or where `how` is neither.
        ShapeError: where there are fewer than two tokens, or no logits for all.
        QkvError: where no attention was seen.

    A pass for the model as it is, and one for each head. Source: Michel et al. 2019, "Are sixteen
    heads really better than one?", for ablating heads one by one.
    """
    if how not in ("zero", "mean"):
        raise ConfigError(f"how={how!r}", '"zero" or "mean"', "choose one")
    wanted, rows = Heads.of(heads), as_rows(ids)
    # Nothing is changed here; the layers are counted, and a name that is none is told.
    counting = Edits(ablate=wanted)
    with measuring(model):
        with editing(counting, model) as editor:
            editor.idle = True
            before, _ = next_token_losses(model, rows)
        named = [
            (layer, int(head), module)
            for layer, (module, H) in sorted(editor.seen.items())
            for head in np.flatnonzero(wanted.chosen(layer, module, H))
        ]
        found = []
        for done, (layer, head, module) in enumerate(named, 1):
            one = f"L{layer}H{head}"
            with editing(Edits(ablate=one) if how == "zero" else Edits(mean=one), model):
                after, _ = next_token_losses(model, rows)
            change = (after - before).ravel()
            mean = float(change.mean())
            found.append(
                HeadEffect(layer, head, module, float(after.mean()), mean, _standard_error(change))
            )
            if progress is not None:
                progress(done / len(named))
    found.sort(key=lambda row: -row.change)
    return HeadEffects(tuple(found), float(before.mean()), before.size, how)


def _standard_error(changes: Array) -> float:
    if changes.size < 2:
        return math.nan
    return float(changes.std(ddof=1) / math.sqrt(changes.size))
