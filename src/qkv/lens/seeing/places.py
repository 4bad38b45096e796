"""Where an attention call stands: its layer is the innermost module that runs, by first use.

Global forward hooks follow which module runs, for as long as the `with` lasts, so a layer has its
qualified name whatever the model; no module is touched. A call outside of every module is a layer
of its own.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

__all__ = ["Place", "Places", "heads_told"]

LOOKS_LIKE_ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)
SAYS_ACROSS = re.compile(r"cross_?att|enc_?dec_?att|encoder_att", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """The layer of one attention call, counted from 0, and the module that made it, if any.

    `across` says whether keys come from another text than queries, as far as names and arguments
    tell; None where they don't.
    """

    layer: int
    name: str
    module: nn.Module | None
    across: bool | None = None


@dataclass
class _Running:
    """A module that runs: how many attention calls it and those within it have made so far."""

    module: nn.Module
    own: int = 0
    within: int = 0
    # Whether a module within it has a name that says attention: then that one is to be blamed.
    finer: bool = False


@dataclass
class Places:
    """Numbers attention calls by their module while its `with` lasts.

    Args:
        model: whose names to use; else the outermost module that runs.
        backward: whether modules that run once more in backward count.

    >>> with Places() as places:
    ...     [places.next().layer, places.next().layer]
    [0, 1]
    """

    model: nn.Module | None = None
    across: bool | None = None
    backward: bool = False
    unseen: dict[str, str] = field(default_factory=dict)
    _running: list[_Running] = field(default_factory=list)
    _layers: dict[Any, int] = field(default_factory=dict)
    _names: dict[nn.Module, dict[nn.Module, str]] = field(default_factory=dict)
    _handles: list[Any] = field(default_factory=list)
    _thread: int = 0

    def __enter__(self) -> Places:
        # Hooks are called in every thread; another thread's modules are none of ours.
        self._thread = threading.get_ident()
        self._handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._running.clear()

    def next(self) -> Place:
        """The place of the attention call that is being made; to be asked once for each call."""
        across, self.across = self.across, None
        if not self._running:
            return Place(self._number(object()), "", None, across)
        for running in self._running:
            running.within += 1
        here = self._running[-1]
        # A module that makes two calls in one run, such as to itself and across, is two layers.
        turn = here.own
        here.own += 1
        name = self.name(here.module)
        layer = self._number((here.module, turn))
        if across is None and SAYS_ACROSS.search(".".join(name.split(".")[-2:])):
            across = True
        return Place(layer, f"{name}#{turn}" if turn else name, here.module, across)

    def unread(self, error: Exception) -> None:
        """Takes note of a call that was made but can't be shown."""
        name = self.name(self._running[-1].module) if self._running else "a call"
        for running in self._running:
            running.within += 1
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        self.unseen[name] = f"a form that isn't read: {said}"

    def forget(self, place: Place) -> None:
        """Gives back the number of a call that turned out to belong to another layer."""
        if place.layer == len(self._layers) - 1:
            self._layers.popitem()

    def alike(self, module: nn.Module) -> int:
        """How many modules of this one's class the model has, as far as it is known."""
        root = self.model if self.model is not None else self._running[0].module
        return sum(type(part) is type(module) for part in root.modules())

    def name(self, module: nn.Module) -> str:
        """A module's qualified name, within the model or within the outermost module that runs."""
        roots = [self.model] if self.model is not None else []
        roots += [self._running[0].module] if self._running else []
        for root in roots:
            if root not in self._names:
                self._names[root] = {part: name for name, part in root.named_modules()}
            if (found := self._names[root].get(module)) is not None:
                # The whole model may be one attention module.
                return found or type(module).__name__
        return type(module).__name__

    def _elsewhere(self) -> bool:
        """Whether a module runs in another thread, or once more in backward (checkpointing)."""
        again = not self.backward and torch._C._current_graph_task_id() != -1
        return again or threading.get_ident() != self._thread

    def _number(self, key: Any) -> int:
        # The key is kept, for another object may else get its identity.
        return self._layers.setdefault(key, len(self._layers))

    def _enter(self, module: nn.Module, _: Any) -> None:
        if self._elsewhere():
            return
        if _says_attention(module):
            for running in self._running:
                running.finer = True
        self._running.append(_Running(module))

    def _leave(self, module: nn.Module, _: Any, __: Any) -> None:
        if self._elsewhere():
            return
        # After an exception the inner ones may have left without a word.
        while self._running:
            running = self._running.pop()
            if running.module is module:
                break
        else:
            return
        if running.within == 0 and not running.finer and _says_attention(module):
            name = self.name(module) if self._running else type(module).__name__
            self.unseen[name] = type(module).__name__
        elif running.within:
            self.unseen.pop(self.name(module), None)


def heads_told(module: nn.Module | None) -> int | None:
    """How many heads a module's config tells of, where it has one."""
    told = getattr(getattr(module, "config", None), "num_attention_heads", None)
    return told if isinstance(told, int) else None


def _says_attention(module: nn.Module) -> bool:
    return LOOKS_LIKE_ATTENTION.search(type(module).__name__) is not None
