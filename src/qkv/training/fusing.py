"""Blocks whose small operations a compiler has fused, for training.

Between its products a block spends as much time as in them: every norm, rotation, rounding and
nonlinearity reads and writes all activations. `torch.compile` makes one pass of each run of them.
A block is compiled in two halves, before and after tokens look at one another, each of which treats
every token alone: all blocks share them, and so do contexts of any length with as many tokens.
"""

from __future__ import annotations

import shutil
import sysconfig
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qkv.errors import ResourceError
from qkv.models.blocks import Angles, Block, BlockCall, Product, apply
from qkv.models.transformer import Transformer
from qkv.training.config import TrainingConfig
from qkv.training.int8 import int8_linear
from qkv.training.sublayers import fits, run_block

__all__ = ["block_call", "compiler_found", "training_forward"]


def compiler_found() -> bool:
    """Return whether torch can compile: it needs a C++ compiler and Python's headers."""
    headers = Path(sysconfig.get_path("include"), "Python.h")
    return headers.is_file() and any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def training_forward(model: nn.Module, config: TrainingConfig) -> Callable[[Tensor], Tensor]:
    """Return the model's forward pass as training runs it: (B, T) ids to (B, T, V) logits."""
    int8, compiled = config.precision == "int8", config.compile == "on"
    if isinstance(model, Transformer):
        if int8 or compiled:
            return partial(model, call=block_call(int8=int8, compiled=compiled))
        if config.precision == "fp32" and fits(model.config):
            return partial(model, call=run_block)
    forward: Callable[[Tensor], Tensor] = model
    return forward


def block_call(*, int8: bool, compiled: bool) -> BlockCall:
    """Return how to run a block in training.

    Args:
        int8: products of whole numbers, forward and backward.
        compiled: whether to fuse; the first call then takes half a minute, and the shapes of
            later calls should be the same.
    """
    product = int8_linear if int8 else apply
    before: Callable[..., Any] = partial(_before, product=product)
    after: Callable[..., Any] = partial(_after, product=product)
    if compiled:
        before, after = _compiled(before), _compiled(after)

    def call(block: Block, x: Tensor, angles: Angles | None) -> Tensor:
        B, T, _ = x.shape
        flat = x.flatten(0, 1)  # (N, D), N = B T
        turns = None if angles is None else (angles[0].repeat(B, 1, 1), angles[1].repeat(B, 1, 1))
        places = torch.arange(T, device=x.device).repeat(B)[:, None]
        q, k, v = before(block, flat, places, turns)  # (N, H, C)
        mixed = block.attention.mix(
            *(heads.unflatten(0, (B, T)).transpose(1, 2) for heads in (q, k, v))
        )
        stream: Tensor = after(block, flat, mixed.transpose(1, 2).reshape(B * T, -1))
        return stream.view_as(x)

    return call


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is compiled when first called, without the compiler's own warnings."""
    compiled: Callable[..., Any] = torch.compile(function, dynamic=False, fullgraph=True)
    ready = False

    def call(*args: Any) -> Any:
        nonlocal ready
        if ready:
            return compiled(*args)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = compiled(*args)
        except Exception as error:
            last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise ResourceError(
                f"a compiler that failed ({last[0][:200]})",
                "a C++ compiler that torch can use, with Python's headers",
                "mend it, or start a run with --set compile=off",
            ) from error
        ready = True
        return result

    return call


def _before(
    block: Block, x: Tensor, places: Tensor, angles: Angles | None, product: Product
) -> Any:
    return block.before(x, places, angles, product)


def _after(block: Block, x: Tensor, mixed: Tensor, product: Product) -> Tensor:
    return block.after(x, mixed, product)
