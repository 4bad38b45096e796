"""Texts that models have read, kept for the pages that look into them; a bounded number of them.

Everything here may take long and runs off the event loop, in threads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qkv.errors import CheckpointError, ConfigError, ResourceError
from qkv.lab.asked import Asked
from qkv.lab.effects import Effects, compare
from qkv.lab.loading import Models, few_threads, passage_of, probes_of
from qkv.lab.pyramids import Pyramids
from qkv.lab.shelf import OWN, Item, Shelf
from qkv.lens.threads import one_thread

if TYPE_CHECKING:
    from qkv.lens import AttentionMap, Trace
    from qkv.views.gather import Gathered
    from qkv.views.widget import Answers

__all__ = ["ClosedError", "Inspector", "Opened"]

MOST_TRACES = 16
LARGEST_KEPT = 2**29
"""Bytes of traces; the one that is looked at stays, whatever it takes."""
MOST_SCORED = 2**30
"""Weights of all heads together that are read to score them."""
MOST_VALUED = 4096
"""Tokens of a text whose values are kept too: what a weight adds to the output."""


class ClosedError(ConfigError):
    """A text that was open, and made room for others."""


@dataclass(frozen=True, eq=False)
class Read:
    """What a text became: where each head looked, and in words what read it."""

    trace: Trace
    title: str
    note: str
    cut: bool = False


@dataclass(frozen=True, eq=False)
class Opened:
    """A text that was read, and what answers questions about it.

    Args:
        name: what a page calls it.
        asked, model: what was asked for, and what tells the model that read it from others.
    """

    name: str
    asked: Asked
    model: object
    trace: Trace
    gathered: Gathered
    answers: Answers
    wire: tuple[dict[str, Any], bytes]
    cut: bool = False

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, but for what is pooled on demand."""
        return self.trace.bytes + len(self.wire[1])

    def head(self, name: object) -> AttentionMap:
        """Return a head by its name.

        Raises:
            ConfigError: there is none.
        """
        found = self.gathered.maps.get(str(name))
        if found is None:
            raise ConfigError(f"head {str(name)[:40]!r}", "one of this text's", "choose another")
        return found

    def scores(self) -> dict[str, Any]:
        """Return the scores of heads that came without them.

        Raises:
            ResourceError: too many weights to be read in some seconds.
        """
        if self.gathered.cells > MOST_SCORED:
            raise ResourceError(
                f"{self.gathered.cells:,} weights",
                f"at most {MOST_SCORED:,}",
                "take a shorter text",
            )
        return self.gathered.scores()

    def thumbnails(self, names: Sequence[str]) -> tuple[list[list[int]], list[bytes]]:
        """Return the sizes of some heads' thumbnails, and their levels, a byte each.

        Raises:
            ConfigError: no such head.
        """
        sizes, parts = [], []
        # Several replies are made at once: that is how processors are shared here.
        with one_thread():
            for name in names:
                self.head(name)
                reply, (levels,) = self.answers({"kind": "thumbnail", "head": name})
                sizes.append([reply["rows"], reply["cols"]])
                parts.append(np.frombuffer(levels, "<f4").astype(np.uint8).tobytes())
        return sizes, parts


class Inspector:
    """Opens what is on the shelf, and answers for what is open.

    Args:
        shelf: what may be opened.
    """

    def __init__(self, shelf: Shelf) -> None:
        self.shelf, self.models, self.pyramids = shelf, Models(), Pyramids()
        self._opened: OrderedDict[str, Opened] = OrderedDict()
        self._lock = threading.RLock()  # of the table
        self._running = threading.Lock()  # a model's pass is watched: one at a time
        self._effects = Effects(self._running)
        self._count = 0

    def warm(self) -> None:
        """Load the model that comes with qkv, and have it read its own passage."""
        self.open(Asked(OWN))

    def open(self, asked: Asked) -> Opened:
        """Return a text as a model reads it, read now unless it was before.

        Raises:
            QkvError: no such model, no text, or one that it can't read.
        """
        item = self.shelf.find(asked.item)
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

    def effect(self, asked: Asked, against: str | None = None) -> dict[str, Any]:
        """Return what changes do to the loss, and to what the model says comes next.

        Args:
            against: another text, which the model as it is reads in place of this one: what an
                edit of the text does.

        Raises:
            QkvError: as `open`, or nothing to compare: no model, fewer than two tokens.
        """
        item = self.shelf.find(asked.item)
        if item.kind == "trace" or asked.step is not None:
            raise ConfigError("a trace, which has no weights", "a model", "open the model itself")
        model, key = self.models.get(item), self.models.key(item)
        ids, _ = self.models.ids(item, asked.text, cut=asked.cut)
        others = ids if against is None else self.models.ids(item, against, cut=True)[0]
        edits = asked.edits()
        before = self._effects.passed(key, model, others)
        after = self._effects.passed(key, model, ids, edits)
        return {"edits": str(edits), **compare(model, before, after)}

    def describe(self, item: Item) -> dict[str, Any]:
        """Return what a page needs before a text is chosen: own passage, steps and their losses.

        Raises:
            QkvError: it can't be read.
        """
        probes = probes_of(item)
        steps = [] if probes is None else probes.steps()
        lines = {} if probes is None else {line["step"]: line for line in probes.read()}
        losses = [lines.get(step, {}).get("passage_loss") for step in steps]
        return {
            **item.to_json(), "passage": passage_of(item), "steps": steps, "losses": losses,
        }  # fmt: skip

    def _captured(self, item: Item, asked: Asked) -> Read:
        import torch

        from qkv.lens import capture
        from qkv.lens.edits.editor import editing
        from qkv.lens.seeing.tokens import texts_of
        from qkv.models import count_parameters

        model = self.models.get(item)
        ids, cut = self.models.ids(item, asked.text, cut=asked.cut)
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
        return Read(trace, item.title, f"{note} · {edits}" if edits else note, cut)

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
        return Read(probes.trace(nearest), item.title, f"step {nearest:,}, its probe")

    def _gather(self, asked: Asked, model: object, read: Read) -> Opened:
        from qkv.views.gather import gather
        from qkv.views.widget import Answers

        found = gather(read.trace, title=read.title, note=read.note)
        if found.quick and len(found.maps) > 1:
            found = found.scored()
        with self._lock:
            self._count += 1
            name = f"t{self._count}"
        answers = Answers(found.maps)
        return Opened(name, asked, model, read.trace, found, answers, found.wire(), read.cut)

    def _make_room(self) -> None:
        """Close what was not asked for the longest, but for the newest."""
        while len(self._opened) > 1 and (
            len(self._opened) > MOST_TRACES
            or sum(one.size_bytes for one in self._opened.values()) > LARGEST_KEPT
        ):
            name, _ = self._opened.popitem(last=False)
            self.pyramids.forget(name)
