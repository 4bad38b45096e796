"""Texts that models have read, kept for the pages that look into them; a bounded number of them.

Everything here may take long and runs off the event loop, in threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qkv.errors import CheckpointError, ConfigError
from qkv.lab.asked import Asked
from qkv.lab.catalogue import Catalogue
from qkv.lab.effects import Effects, Pass, compare
from qkv.lab.loading import Models, few_threads, passage_of, probes_of
from qkv.lab.opened import Opened, Read, heads_left_out, tell_left_out
from qkv.lab.pyramids import Pyramids
from qkv.lab.shelf import OWN, Item, Shelf

if TYPE_CHECKING:
    from qkv.models.foreign import AnyModel

__all__ = ["ClosedError", "Inspector"]

MOST_TRACES = 16
LARGEST_NUMBER = 1e300
LARGEST_KEPT = 2**29
"""Bytes of traces; the one that is looked at stays, whatever it takes."""
MOST_VALUED = 4096
"""Tokens of a text whose values are kept too: what a weight adds to the output."""


class ClosedError(ConfigError):
    """A text that was open, and made room for others."""


class Inspector:
    """Opens what is on the shelf, and answers for what is open.

    Args:
        shelf: what may be opened.
    """

    def __init__(self, shelf: Shelf) -> None:
        self.catalogue, self.models, self.pyramids = Catalogue(shelf), Models(), Pyramids()
        self._opened: OrderedDict[str, Opened] = OrderedDict()
        self._lock = threading.RLock()  # of the table
        self._running = threading.Lock()  # a model's pass is watched: one at a time
        self._effects = Effects(self._running)
        self._count = 0

    @property
    def running(self) -> threading.Lock:
        """Held while a model runs: a pass is watched, one at a time."""
        return self._running

    def warm(self) -> None:
        """Load the model that comes with qkv, and have it read its own passage."""
        self.open(Asked(OWN))

    def open(self, asked: Asked) -> Opened:
        """Return a text as a model reads it, read now unless it was before.

        Raises:
            QkvError: no such model, no text, or one that it can't read.
        """
        item = self.catalogue.find(asked.item)
        asked = replace(asked, item=item.id)
        # A run that trains on is read again; a probe stays what it was.
        known = (asked, self.models.key(item) if asked.step is None else None)
        with self._lock:
            for opened in self._opened.values():
                if (opened.asked, opened.model) == known:
                    self._opened.move_to_end(opened.name)
                    return opened
        if item.kind == "trace":
            read = self._saved(item)
        elif asked.step is not None:
            read = self._probed(item, asked.step)
        else:
            read = self._captured(item, asked)
        opened = self._gather(asked, known[1], read)
        with self._lock:
            self._opened[opened.name] = opened
            self._make_room()
        return opened

    def get(self, name: object) -> Opened:
        """Return what is open by its name.

        Raises:
            ClosedError: nothing, or nothing any more.
        """
        with self._lock:
            opened = self._opened.get(str(name))
            if opened is None:
                raise ClosedError(
                    "a text that is not open any more", "an open one", "open it again"
                )
            self._opened.move_to_end(opened.name)
            return opened

    def effect(self, asked: Asked, before: Asked | None = None) -> dict[str, Any]:
        """Return what changes do to the loss, and to what the model says comes next.

        Args:
            before: what is compared with: another text, model or change; the same text without
                changes unless given. A trace has no loss: there is nothing before, then.

        Raises:
            QkvError: as `open`, or nothing to compare: no model, fewer than two tokens.
        """
        before = replace(asked, changes=()) if before is None else before
        if not self._has_weights(asked):
            raise ConfigError("a trace, which has no weights", "a model", "open the model itself")
        model, then = self._passed(asked)
        other, first = self._passed(before) if self._has_weights(before) else (model, None)
        same = other is model or (
            model.tokenizer is not None and model.tokenizer == other.tokenizer
        )
        return {"edits": str(asked.edits()), **compare(model, first, then, same=same)}

    def _has_weights(self, asked: Asked) -> bool:
        return asked.step is None and self.catalogue.find(asked.item).kind != "trace"

    def _passed(self, asked: Asked) -> tuple[AnyModel, Pass]:
        item = self.catalogue.find(asked.item)
        model, key = self.models.get(item), self.models.key(item)
        ids, _ = self.models.ids(item, asked.text, cut=asked.cut)
        return model, self._effects.passed(key, model, ids, asked.edits())

    def describe(self, item: Item) -> dict[str, Any]:
        """Return what a page needs before a text is chosen: own passage, steps and their losses.

        Raises:
            QkvError: it can't be read.
        """
        probes = probes_of(item)
        lines = {} if probes is None else {line["step"]: line for line in probes.read()}
        steps = [] if probes is None else probes.steps()
        losses = [_number(lines.get(step, {}).get("passage_loss")) for step in steps]
        told = self.catalogue.told(item)
        return {**told, "passage": passage_of(item), "steps": steps, "losses": losses}

    def _captured(self, item: Item, asked: Asked) -> Read:
        import torch

        from qkv.lens import capture
        from qkv.lens.edits.editor import editing
        from qkv.lens.seeing.tokens import texts_of
        from qkv.models import count_parameters

        model = self.models.get(item)
        ids, tokens = self.models.ids(item, asked.text, cut=asked.cut)
        edits = asked.edits()
        changed = editing(edits, model.model) if edits else nullcontext()
        values = len(ids) <= MOST_VALUED
        recording = capture(model.model, tokenizer=model.tokenizer, values=values)
        with (
            self._running,
            few_threads(model, len(ids)),
            torch.inference_mode(),
            recording as trace,
            changed,
        ):
            model.model(torch.from_numpy(ids)[None])
        if not len(trace):
            raise CheckpointError(
                f"a model without attention, {item.title}", "one with heads", "choose another"
            )
        if not trace.texts and model.tokenizer is not None:
            trace.label(texts_of(model.tokenizer, ids))
        step = f"step {model.step:,} · " if model.step else ""
        note = f"{step}{count_parameters(model.model):,} parameters"
        told = f"{note} · {edits}" if edits else note
        total = tokens if tokens > len(ids) else None
        return Read(trace, item.title, told, model.step or None, total)

    def _saved(self, item: Item) -> Read:
        from qkv.lens import load

        assert item.path is not None
        trace = load(item.path)
        if max(site.B for site in trace.layers) > 1:
            trace = trace.sequence(0)
        if any(len(sites) > 1 for _, sites in trace.calls()):
            trace = trace.call(0)
        return Read(trace, item.title, "a saved trace")

    def _probed(self, item: Item, step: int) -> Read:
        probes = probes_of(item)
        nearest = None if probes is None else probes.nearest(step)
        if probes is None or nearest is None:
            raise CheckpointError("no probes", "a run that was trained with them", "read a text")
        return Read(probes.trace(nearest), item.title, f"step {nearest:,}, its probe", nearest)

    def _gather(self, asked: Asked, model: object, read: Read) -> Opened:
        from qkv.views.gather import gather
        from qkv.views.widget import Answers

        found = gather(read.trace, title=read.title, note=read.note)
        if found.quick and len(found.maps) > 1:
            found = found.scored()
        with self._lock:
            self._count += 1
            name = f"t{self._count}"
        answers, wire, left_out = Answers(found.maps), found.wire(), heads_left_out(found, asked)
        tell_left_out(wire[0], left_out)
        return Opened(
            name, asked, model, read.trace, found, answers, wire, read.step, read.tokens, left_out
        )

    def _make_room(self) -> None:
        """Close what was not asked for the longest, but for the newest."""
        while len(self._opened) > 1 and (
            len(self._opened) > MOST_TRACES
            or sum(one.size_bytes for one in self._opened.values()) > LARGEST_KEPT
        ):
            name, _ = self._opened.popitem(last=False)
            self.pyramids.forget(name)


def _number(value: Any) -> float | None:
    """A number as JSON has it, of what a file may hold."""
    plain = isinstance(value, int | float) and abs(value) < LARGEST_NUMBER
    return float(value) if plain else None
