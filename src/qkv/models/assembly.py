"""A Transformer around weights that are there already: none is drawn, none is held twice.

Weights from elsewhere come with a config that may lie. Every size in it is held against the
tensors before anything of that size is built, so that a damaged file costs no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from qkv.errors import CheckpointError
from qkv.models import build_model
from qkv.models.config import ModelConfig, TransformerConfig
from qkv.models.transformer import Transformer, position_table

__all__ = ["assemble", "broken", "own", "require_shapes"]

TABLE = 2**23
"""Numbers that a table of positions may have, however few weights there are."""


def broken(path: Path, what: str) -> CheckpointError:
    """Return the error for a file from elsewhere that is not as it was published."""
    return CheckpointError(f"{path}: {what}", "the file as published", "download the model again")


def own(tensor: Tensor) -> Tensor:
    """Return a copy as a model keeps it: float32, contiguous, no part of a file in memory."""
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()


def assemble(config: TransformerConfig, weights: Mapping[str, Tensor], path: Path) -> Transformer:
    """Return a Transformer, in evaluation mode, whose parameters are the given tensors.

    They are taken over, not copied: pass float32 tensors that nothing else writes to
    (:func:`own` makes such). torch's random state is left alone.

    Args:
        config: as the file describes itself; not trusted.
        weights: a tensor for every parameter, under our names.
        path: where they came from, for errors.

    Raises:
        CheckpointError: sizes that the tensors don't have, or numbers that are not finite.

    >>> config = TransformerConfig(vocab=5, context=7, layers=1, width=4, heads=2)
    >>> weights = {name: own(each) for name, each in Transformer(config).state_dict().items()}
    >>> assemble(config, weights, Path("here")).tokens is None
    False
    >>> assemble(config, {"tokens": torch.zeros(5, 4)}, Path("here"))
    Traceback (most recent call last):
    qkv.errors.CheckpointError: got 5 tokens, width 4, 16 hidden, 2 heads of 2, 2 of keys, \
context 7 in the config of here; expected sizes that its 20 numbers can fill; download the model \
again
    """
    numbers = sum(weight.numel() for weight in weights.values())
    _require_sizes(config, len(weights), numbers, path)
    model = cast("Transformer", outline(config))
    require_shapes(model, weights, path)
    for name, weight in weights.items():
        # The extremes of a tensor with a NaN are NaN.
        if not all(bool(extreme.isfinite()) for extreme in weight.aminmax()):
            raise CheckpointError(
                f"{name} in {path} with numbers that are infinite or none",
                "finite weights",
                "download the model again",
            )
    model.load_state_dict(dict(weights), assign=True)
    model.angles = position_table(config)
    return model.eval()


def outline(config: ModelConfig) -> nn.Module:
    """Return a model whose weights have shapes alone, without memory or numbers.

    >>> outline(TransformerConfig(vocab=65)).tokens.shape
    torch.Size([65, 128])
    """
    shaped = config
    if isinstance(config, TransformerConfig) and config.positions == "rotary":
        shaped = replace(config, positions="none")  # no weight depends on angles
    with torch.device("meta"), _Undrawn():
        model = build_model(shaped)
    model.config = config  # type: ignore[assignment]
    return model


class _Undrawn(TorchFunctionMode):
    """Leaves weights undrawn: to draw without memory torch would import its compiler, over 1 s."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def require_shapes(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Raise a CheckpointError for the first tensor that is missing, surplus or wrongly shaped."""
    own = model.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        have = tuple(weights[name].shape) if name in weights else "nothing"
        want = tuple(own[name].shape) if name in own else "nothing"
        if have != want:
            raise CheckpointError(
                f"{name}: {have} in {path}",
                f"{want}, from its config",
                "the weights are from another config: use those saved with it",
            )


def _require_sizes(config: TransformerConfig, tensors: int, numbers: int, path: Path) -> None:
    C, H, G = config.head_width_, config.heads, config.kv_heads_
    if config.layers > tensors:
        raise CheckpointError(
            f"{config.layers} layers in the config of {path}",
            f"layers that its {tensors} tensors can fill",
            "download the model again",
        )
    widest = max(config.vocab, config.hidden_, (H + 2 * G) * C)
    if config.positions == "learned":
        widest = max(widest, config.context)
    if widest * config.width > numbers:
        raise CheckpointError(
            f"{config.vocab} tokens, width {config.width}, {config.hidden_} hidden, "
            f"{H} heads of {C}, {G} of keys, context {config.context} in the config of {path}",
            f"sizes that its {numbers} numbers can fill",
            "download the model again",
        )
    if config.positions == "rotary" and config.context * C > max(TABLE, numbers):
        raise CheckpointError(
            f"a context of {config.context} tokens in the config of {path}",
            f"at most {max(TABLE, numbers) // C}, beside weights as few as these",
            "lower the context length in its config",
        )
