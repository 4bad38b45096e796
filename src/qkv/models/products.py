"""The product of one matrix with few vectors, which takes as long as reading the matrix does.

So a narrower matrix is a faster one, if the kernel keeps up with the memory. torch's products of
one row with bf16 or int8 matrices don't; its sum of weighted embeddings does, and is the same sum:

    y = W x = sum over k of x[k] W[:, k]

with the columns of W as the embeddings and x as their weights. Columns are cut into parts, each
with a sum of its own: that many threads can add.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.errors import ConfigError

__all__ = ["Precision", "exact_product", "prepare_product", "resolve_precision"]

Precision = Literal["auto", "fp32", "bf16", "int8"]
PARTS = 4
"""At most, and not one for each thread: the same weights must be rounded alike everywhere."""
NARROW_ROWS = 8
"""Beyond so many vectors fp32 is as fast: here each of them is a pass of its own."""


def resolve_precision(precision: Precision, weight: Tensor) -> Precision:
    """Return the type that weights are read in: what is asked for, or for ``auto`` the fastest.

    ``auto`` is int8 on processors with AVX-512, where it was measured to be fastest, and otherwise
    fp32. It depends on the processor, not on timings, so that texts can be repeated.

    Raises:
        ConfigError: an unknown precision, or a narrow one for a model that is not fp32 on a CPU.
    """
    if precision not in get_args(Precision):
        names = ", ".join(get_args(Precision))
        raise ConfigError(f"precision {precision!r}", f"one of {names}", "try auto")
    narrowable = weight.device.type == "cpu" and weight.dtype is torch.float32
    if precision == "auto":
        fast = torch.backends.cpu.get_cpu_capability() == "AVX512"
        engines = torch.backends.quantized.supported_engines
        return "int8" if narrowable and fast and "fbgemm" in engines else "fp32"
    if precision != "fp32" and not narrowable:
        raise ConfigError(
            f"{precision} weights of a model in {weight.dtype} on {weight.device.type}",
            "a model in torch.float32 on the CPU",
            "leave the precision at fp32, which is the model as it is",
        )
    return precision


def prepare_product(
    linear: nn.Linear, batch: int, precision: Precision, out: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """Return x -> W x + bias, for (K,) vectors where ``batch`` is 1 and else for (batch, K).

    Args:
        linear: holds W, (N, K), and perhaps a bias.
        batch: how many vectors.
        precision: of W: ``fp32`` takes it as it is, in whatever type; ``bf16`` rounds x and sums
            too; ``int8`` has a step and an offset for each part of a column, and keeps x and sums
            in fp32.
        out: where the product is written, and then returned: (N,) or (batch, N).

    >>> product = prepare_product(nn.Linear(3, 5), 2, "fp32")
    >>> product(torch.ones(2, 3)).shape
    torch.Size([2, 5])
    """
    bias: Tensor | None = linear.bias
    if precision == "fp32" or batch > NARROW_ROWS:
        return exact_product(linear.weight, bias, batch, out)
    return narrow_product(linear.weight, bias, batch, out, precision)


def exact_product(
    weight: Float[Tensor, "N K"], bias: Float[Tensor, " N"] | None, batch: int, out: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """Return the product with a matrix as it is."""
    if batch == 1:
        if bias is None:
            return lambda x: torch.mv(weight, x, out=out)
        return lambda x: torch.addmv(bias, weight, x, out=out)
    transposed = weight.t()
    if bias is None:
        return lambda x: torch.mm(x, transposed, out=out)
    return lambda x: torch.addmm(bias, x, transposed, out=out)


def narrow_product(
    weight: Float[Tensor, "N K"],
    bias: Float[Tensor, " N"] | None,
    batch: int,
    out: Tensor | None,
    precision: Precision,
) -> Callable[[Tensor], Tensor]:
    """Return the product with a matrix in bf16 or int8, as sums of weighted embeddings."""
    N, K = weight.shape
    parts = math.gcd(N, PARTS)
    columns = weight.view(parts, N // parts, K).mT.reshape(parts * K, N // parts)
    indices = torch.arange(parts * K, dtype=torch.int32).repeat(batch)
    starts = torch.arange(0, batch * parts * K, K, dtype=torch.int32)
    add = bag_of_bytes(columns) if precision == "int8" else bag_of_bf16(columns)
    shape = (N,) if batch == 1 else (batch, N)

    def product(x: Tensor) -> Tensor:
        # Each part is a sum with all of x.
        total = add(torch.cat([x] * parts, -1).view(-1), indices, starts).view(shape)
        if bias is not None:
            total += bias
        return total if out is None else out.copy_(total)

    return product


def bag_of_bytes(columns: Float[Tensor, "rows part"]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return weights, indices, starts -> weighted sums, one from each start to the next."""
    packed = torch.ops.quantized.embedding_bag_byte_prepack(columns)
    bag = torch.ops.quantized.embedding_bag_byte_rowwise_offsets.default

    def add(weights: Tensor, indices: Tensor, starts: Tensor) -> Tensor:
        total: Tensor = bag(packed, indices, starts, False, 0, False, weights, None, False)
        return total

    return add


def bag_of_bf16(columns: Float[Tensor, "rows part"]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The same with columns, weights and sums in bf16."""
    rounded = columns.bfloat16()

    def add(weights: Tensor, indices: Tensor, starts: Tensor) -> Tensor:
        # What torch.nn.functional.embedding_bag calls, without its checks.
        bag = torch.embedding_bag(rounded, indices, starts, False, 0, False, weights.bfloat16())
        return bag[0].float()

    return add
