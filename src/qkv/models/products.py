"""The product of one matrix with few vectors, which takes as long as reading the matrix does.

So a narrower matrix is a faster one, if the kernel keeps up with the memory. torch's products of
one row with bf16 or int8 matrices don't; its sum of weighted embeddings does, and is the same sum:

    y = W x = sum over k of x[k] W[:, k]

with the columns of W as the embeddings and x as their weights. Columns are cut into parts, each
with a sum of its own: that many threads can add.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.errors import ConfigError
from qkv.native import load_kernels

__all__ = ["Precision", "exact_product", "prepare_product", "resolve_precision"]

MatrixProduct: TypeAlias = Callable[[Tensor], Tensor]
"""x -> W x + bias."""

Precision = Literal["auto", "fp32", "bf16", "int8"]
PARTS = 4
"""At most, and not one for each thread: the same weights must be rounded alike everywhere."""
NARROW_ROWS = 8
"""Beyond so many vectors fp32 is as fast: here each of them is a pass of its own."""


def resolve_precision(precision: Precision, weight: Tensor, batch: int = 1) -> Precision:
    """Return the type that weights are read in: what is asked for, or for ``auto`` the fastest.

    ``auto`` is int8 where that was measured to be fastest: with AVX-512, and for a single text
    wherever there are kernels in C++ (`qkv.native`); otherwise it is fp32. It depends on the
    machine, not on timings, so that texts can be repeated.

    Raises:
        ConfigError: an unknown precision, or a narrow one for a model that is not fp32 on a CPU.
    """
    if precision not in get_args(Precision):
        names = ", ".join(get_args(Precision))
        raise ConfigError(f"precision {precision!r}", f"one of {names}", "try auto")
    narrowable = weight.device.type == "cpu" and weight.dtype is torch.float32
    if precision == "auto":
        wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
        fast = wide and "fbgemm" in torch.backends.quantized.supported_engines
        fast = fast or (batch == 1 and load_kernels() is not None)
        return "int8" if narrowable and fast else "fp32"
    if precision != "fp32" and not narrowable:
        raise ConfigError(
            f"{precision} weights of a model in {weight.dtype} on {weight.device.type}",
            "a model in torch.float32 on the CPU",
            "leave the precision at fp32, which is the model as it is",
        )
    return precision


def prepare_product(
    linear: nn.Linear,
    batch: int,
    precision: Precision,
    out: Tensor | None = None,
    *,
    add: bool = False,
) -> MatrixProduct:
    """Return x -> W x + bias, for (K,) vectors where ``batch`` is 1 and else for (batch, K).

    Args:
        linear: holds W, (N, K), and perhaps a bias.
        batch: how many vectors.
        precision: of W: ``fp32`` takes it as it is, in whatever type; ``bf16`` rounds x and sums
            too; ``int8`` has a step and an offset for each part of a column, and keeps x and sums
            in fp32.
        out: where the product is written, and then returned: (N,) or (batch, N).
        add: to what is in ``out``, instead of writing over it.

    >>> product = prepare_product(nn.Linear(3, 5), 2, "fp32")
    >>> product(torch.ones(2, 3)).shape
    torch.Size([2, 5])
    """
    bias: Tensor | None = linear.bias
    if precision == "fp32" or batch > NARROW_ROWS:
        return exact_product(linear.weight, bias, batch, out, add=add)
    return narrow_product(linear.weight, bias, batch, precision, out, add=add)


def exact_product(
    weight: Float[Tensor, "N K"],
    bias: Float[Tensor, " N"] | None,
    batch: int,
    out: Tensor | None = None,
    *,
    add: bool = False,
) -> MatrixProduct:
    """Return the product with a matrix as it is."""
    if add and out is not None:
        return exact_sum(weight, bias, batch, out)
    if batch == 1:
        if bias is None:
            return lambda x: torch.mv(weight, x, out=out)
        return lambda x: torch.addmv(bias, weight, x, out=out)
    transposed = weight.t()
    if bias is None:
        return lambda x: torch.mm(x, transposed, out=out)
    return lambda x: torch.addmm(bias, x, transposed, out=out)


def exact_sum(
    weight: Float[Tensor, "N K"], bias: Float[Tensor, " N"] | None, batch: int, total: Tensor
) -> MatrixProduct:
    """Return what adds the product with a matrix to a total."""
    transposed = weight.t()

    def product(x: Tensor) -> Tensor:
        if bias is not None:
            total.add_(bias)
        return total.addmv_(weight, x) if batch == 1 else total.addmm_(x, transposed)

    return product


def narrow_product(
    weight: Float[Tensor, "N K"],
    bias: Float[Tensor, " N"] | None,
    batch: int,
    precision: Precision,
    out: Tensor | None,
    *,
    add: bool,
) -> MatrixProduct:
    """Return the product with a matrix in bf16 or int8, as sums of weighted embeddings."""
    N, K = weight.shape
    parts = math.gcd(N, PARTS)
    indices = torch.arange(parts * K, dtype=torch.int32).repeat(batch)
    starts = torch.arange(0, batch * parts * K, K, dtype=torch.int32)
    sums = (bag_of_bytes if precision == "int8" else bag_of_bf16)(weight.chunk(parts))
    # Each part is a sum with all of x.
    copies = weight.new_empty(batch, parts, K)
    weights = copies.view(-1)
    shape = (N,) if batch == 1 else (batch, N)
    biases = None if bias is None else bias.view(parts, N // parts).repeat(batch, 1)

    def multiply(x: Tensor) -> Tensor:
        copies.copy_(x if batch == 1 else x.unsqueeze(1))
        total = sums(weights, indices, starts)
        return total if biases is None else total.add_(biases)

    if out is None:
        return lambda x: multiply(x).view(shape)
    in_parts = out.view(batch * parts, N // parts)
    write = in_parts.add_ if add else in_parts.copy_

    def product(x: Tensor) -> Tensor:
        write(multiply(x))
        return out

    return product


def bag_of_bytes(parts: Sequence[Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return weights, indices, starts -> weighted sums, one from each start to the next.

    Args:
        parts: of W, (N / parts, K) each. They are turned one by one, which takes torch half as long
            as all at once.
    """
    pack = torch.ops.quantized.embedding_bag_byte_prepack
    packed = torch.cat([pack(part.t().contiguous()) for part in parts])
    bag = torch.ops.quantized.embedding_bag_byte_rowwise_offsets.default

    def add(weights: Tensor, indices: Tensor, starts: Tensor) -> Tensor:
        total: Tensor = bag(packed, indices, starts, False, 0, False, weights, None, False)
        return total

    return add


def bag_of_bf16(parts: Sequence[Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The same with columns, weights and sums in bf16."""
    rounded = torch.cat([part.bfloat16().t() for part in parts])

    def add(weights: Tensor, indices: Tensor, starts: Tensor) -> Tensor:
        # What torch.nn.functional.embedding_bag calls, without its checks.
        bag = torch.embedding_bag(rounded, indices, starts, False, 0, False, weights.bfloat16())
        return bag[0].float()

    return add
