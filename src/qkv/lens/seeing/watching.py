"""Sees every attention call of whatever runs, and hands it over: for capture and edits alike.

A `torch.overrides.TorchFunctionMode` sees what functions of torch are called with. Three things
would hide a call from it, and are dealt with here: a compiled function (it runs eagerly while the
`with` lasts), `multi_head_attention_forward` (one opaque call: run with the mode on, in a copy that
doesn't hand itself over again), and the eager attention functions of `transformers`, which are
reached through its own interface. A mode is off while it handles a call, so the kernel inside our
own `attend` isn't seen twice.
"""

from __future__ import annotations

import inspect
import sys
import threading
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._C import _len_torch_function_stack
from torch._C import _pop_torch_function_stack as _pop
from torch._C import _push_on_torch_function_stack as _push
from torch.nn import functional as F
from torch.overrides import (
    TorchFunctionMode,
    handle_torch_function,
    has_torch_function,
)

from qkv.attention import Full
from qkv.lens.seeing.calls import Call, read, read_mask
from qkv.lens.seeing.places import Place, Places

__all__ = ["Watcher", "alone", "innermost", "unhanded", "watching", "without_onlookers"]

# The watchers that are on in this thread, the innermost last: `record` hands calls to them.
_ON: ContextVar[tuple[Watcher, ...]] = ContextVar("qkv_watchers", default=())
# The interface of transformers is changed once for all watchers of all threads, and put back when
# the last of them is off: what it was stands here once for each that is on.
_CHANGING = threading.Lock()
_BEFORE: list[Any] = []


class Watcher(TorchFunctionMode):
    """Hands over attention calls, token lookups and linear maps; to be used by `watching`.

    A subclass says what becomes of a call in `attended`, and may look at the others. One that
    changes results says so by `changes`.
    """

    changes = False

    def __init__(self, model: nn.Module | None = None) -> None:
        super().__init__()
        self.places = Places(model, backward=self.changes)

    def __enter__(self) -> Watcher:
        # One that only looks on goes below those that change calls, so that it sees the changed.
        above = [] if self.changes else _changing()
        _push(self)
        for mode in above:
            _push(mode)
        return self

    def __exit__(self, *_: object) -> None:
        above = [] if self.changes else _changing()
        _pop()
        for mode in above:
            _push(mode)

    def attended(self, call: Call, place: Place) -> Any:
        """What the call shall return; `call.run()` makes it as it was meant."""
        raise NotImplementedError

    def looked_up(self, ids: Tensor) -> None:
        """Ids were looked up in a table."""

    def mapped(self, x: Tensor, weight: Tensor) -> None:
        """A linear map (D, C) was applied to x (..., C)."""

    def weights_of(self, weights: Tensor) -> Tensor:
        """The weights that `multi_head_attention_forward` shall return beside a changed output."""
        return weights

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._many_heads(func, args, kwargs)
        try:
            call = _read_eager(*args, **kwargs) if func is _eager else read(func, args, kwargs)
        except (RuntimeError, ValueError, TypeError, NotImplementedError, IndexError) as error:
            # A form that isn't read here, such as of nested tensors: the kernel shall judge it.
            self.places.unread(error)
            call = None
        if call is not None:
            return self.attended(call, self.places.next())
        if func is F.embedding:
            self.looked_up(args[0] if args else kwargs["input"])
        elif func is F.linear:
            given = dict(zip(("input", "weight"), args, strict=False)) | kwargs
            self.mapped(given["input"], given["weight"])
        elif func is torch.addmm and len(args) == 3:
            self.mapped(args[1], args[2].detach().T)
        return func(*args, **kwargs)

    def _many_heads(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        wanted = inspect.signature(func).bind(*args, **kwargs)
        wanted.apply_defaults()
        self.places.across = not _same(wanted.arguments["query"], wanted.arguments["key"])
        try:
            return self._many_heads_of(func, args, kwargs, wanted)
        finally:
            self.places.across = None

    def _many_heads_of(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wanted: inspect.BoundArguments,
    ) -> Any:
        if not wanted.arguments["need_weights"]:
            with self:
                return unhanded(func)(*args, **kwargs)
        # Where weights are wanted it computes a softmax of its own; only without does it call the
        # kernel. So it is made twice, and but once for modes further out.
        wanted.arguments["need_weights"] = False
        if self.changes:
            with torch._C.DisableTorchFunction():
                returned = func(*args, **kwargs)
            with self:
                output, _ = unhanded(func)(*wanted.args, **wanted.kwargs)
            return output, self.weights_of(returned[1])
        returned = func(*args, **kwargs)
        wanted.arguments["training"] = False
        further = _popped()
        try:
            with torch.no_grad(), self:
                unhanded(func)(*wanted.args, **wanted.kwargs)
        finally:
            for mode in further:
                _push(mode)
        return returned


def _same(query: Tensor, key: Tensor) -> bool:
    """Whether keys are made of what queries are made of, be it of a copy."""
    if query is key:
        return True
    with torch._C.DisableTorchFunction():
        return query.shape == key.shape and torch.equal(query, key)


def _popped() -> list[TorchFunctionMode]:
    """All modes that are on, turned off; the outermost first."""
    return [_pop() for _ in range(_len_torch_function_stack())][::-1]


def _changing() -> list[TorchFunctionMode]:
    """The modes from the outermost that changes calls on, turned off; the outermost first."""
    modes = _popped()
    kept = next((at for at, mode in enumerate(modes) if getattr(mode, "changes", 0)), len(modes))
    for mode in modes[:kept]:
        _push(mode)
    return modes[kept:]


@contextmanager
def without_onlookers(watcher: Watcher) -> Iterator[None]:
    """Within a watcher's handler: turns it on again, and off those further out that only look."""
    modes = _popped()
    for mode in (*modes, watcher):
        if getattr(mode, "changes", True):
            _push(mode)
    try:
        yield
    finally:
        _popped()
        for mode in modes:
            _push(mode)


def unhanded(func: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a function of torch that sees no torch function to hand itself over to."""
    own = cast("types.FunctionType", func)
    names = {**own.__globals__}
    for asked in ("has_torch_function", "has_torch_function_unary"):
        names[asked] = lambda _: False
    copy = types.FunctionType(own.__code__, names, own.__name__, own.__defaults__, own.__closure__)
    copy.__kwdefaults__ = own.__kwdefaults__
    return copy


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Turns a watcher on; whatever happens within, all is as before when it ends."""
    with ExitStack() as stack:
        if {"torch._dynamo", "torch.nn.attention.flex_attention"} & sys.modules.keys():
            # What was compiled runs eagerly, else no call in it could be seen. Torch warns of that,
            # and of global hooks, as if they were the user's.
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(warnings.catch_warnings())
            for start in (r"Using `torch\.compile", "flex_attention called without torch"):
                warnings.filterwarnings("ignore", start)
        stack.enter_context(watcher.places)
        stack.enter_context(_eager_functions())
        stack.callback(_ON.reset, _ON.set((*_ON.get(), watcher)))
        stack.enter_context(watcher)
        yield


def innermost() -> Watcher | None:
    """The watcher that was turned on last, of those that only look on."""
    return next((watcher for watcher in reversed(_ON.get()) if not watcher.changes), None)


def alone() -> bool:
    """Whether, within a watcher's handler, no other mode is on that could want to see its call."""
    return _len_torch_function_stack() == 0


@contextmanager
def _eager_functions() -> Iterator[None]:
    """Sees the eager attention functions of `transformers` models, where it is loaded.

    They are the default that its interface is asked with; a softmax of their own follows, so only
    here can q and k be seen.
    """
    modeling = sys.modules.get("transformers.modeling_utils")
    interface = getattr(modeling, "AttentionInterface", None)
    original: Any = getattr(interface, "get_interface", None)
    if interface is None or original is None:
        yield
        return

    def get_interface(self: Any, implementation: Any, default: Callable[..., Any]) -> Any:
        chosen = original(self, implementation, default)
        return partial(_eager, chosen) if chosen is default else chosen

    with _CHANGING:
        _BEFORE.append(_BEFORE[0] if _BEFORE else original)
        original = _BEFORE[0]
        interface.get_interface = get_interface
    try:
        yield
    finally:
        with _CHANGING:
            before = _BEFORE.pop()
            if not _BEFORE:
                interface.get_interface = before


def _eager(func: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """An eager function, handed over to modes as functions of torch are."""
    tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
    if has_torch_function(tensors):
        return handle_torch_function(_eager, tensors, func, module, *args, **kwargs)
    return func(module, *args, **kwargs)


def _read_eager(  # noqa: PLR0917 (the order of transformers)
    func: Callable[..., Any],
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> Call:
    given = dict(zip(("scaling", "dropout"), args, strict=False)) | kwargs
    scale = given.get("scaling")
    allowed = bias = None
    for added in (attention_mask, given.get("position_bias")):
        if added is None:
            continue
        seen, extra = read_mask(added[..., : key.shape[2]])
        if seen is not None:
            allowed = seen if allowed is None else allowed & seen
        if extra is not None:
            bias = extra if bias is None else bias + extra
    sinks = given.get("s_aux")
    return Call(
        q=query,
        k=key,
        v=value,
        run=partial(_eager, func, module, query, key, value, attention_mask, *args, **kwargs),
        finish=lambda mixed: (mixed.transpose(1, 2).contiguous(), None),
        mask=Full(),
        allowed=allowed,
        bias=bias,
        scale=query.shape[-1] ** -0.5 if scale is None else float(scale),
        softcap=given.get("softcap"),
        heads_first=False,
        sink=None if sinks is None else sinks.reshape(-1),
    )
