"""Products with narrow matrices: as exact as their type can be, for any number of vectors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qkv.errors import ConfigError
from qkv.models.products import NARROW_ROWS, prepare_product, resolve_precision

K = 53


def linear(bias: bool, N: int = 36) -> nn.Linear:
    """A layer whose columns differ in size and are not centred."""
    layer = nn.Linear(K, N, bias=bias)
    with torch.no_grad():
        layer.weight.copy_((torch.randn(N, K) + 0.5) * torch.linspace(0.1, 3, K))
    return layer


def vectors(batch: int) -> Tensor:
    """What is multiplied: (K,) or (batch, K)."""
    x = torch.randn(batch, K)
    return x[0] if batch == 1 else x


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [1, 2, NARROW_ROWS, NARROW_ROWS + 1])
@pytest.mark.parametrize("N", [36, 37, 38])
def test_the_error_is_what_rounding_allows(N: int, batch: int, bias: bool, precision: Any) -> None:
    layer, x = linear(bias, N), vectors(batch)
    out = torch.full((N,) if batch == 1 else (batch, N), torch.nan)
    with torch.inference_mode():
        exact = layer.double()(x.double())
        layer.float()
        fresh = prepare_product(layer, batch, precision)(x)
        assert prepare_product(layer, batch, precision, out)(x) is out
        before = torch.randn_like(out)
        total = before.clone()
        assert prepare_product(layer, batch, precision, total, add=True)(x) is total
    assert torch.equal(fresh, out)
    torch.testing.assert_close(total, before + fresh, rtol=1e-5, atol=1e-4)
    assert fresh.dtype is torch.float32
    weight, size = layer.weight.detach().double(), x.double().abs()
    if precision == "fp32" or batch > NARROW_ROWS:
        allowed = 1e-5 * (size @ weight.abs().T)
    elif precision == "int8":
        # Each weight is at most half a step from where it was, of 255 from least to greatest.
        steps = (weight.amax(0) - weight.amin(0)) / 255
        allowed = (size @ (0.5 * steps))[..., None] + 1e-5 * (size @ weight.abs().T)
    else:
        # bf16 has 8 bits, so rounding is within 2^-9: of W, of x, and of the sum.
        allowed = 3.01 * 2**-9 * (size @ weight.abs().T)
    assert ((fresh - exact).abs() <= allowed + 1e-6).all()


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("batch", [1, 3])
def test_threads_change_nothing(batch: int, precision: Any) -> None:
    layer, x = linear(bias=True), vectors(batch)
    threads = torch.get_num_threads()
    found = []
    with torch.inference_mode():
        try:
            for count in (1, 2, 5):
                torch.set_num_threads(count)
                found.append(prepare_product(layer, batch, precision)(x))
        finally:
            torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_model_is_read_narrowly_only_where_that_is_right() -> None:
    weight = torch.zeros(3, 3)
    assert resolve_precision("fp32", weight.double()) == "fp32"
    assert resolve_precision("auto", weight.double()) == "fp32"
    assert resolve_precision("auto", weight) in ("fp32", "int8")
    assert resolve_precision("auto", weight) == resolve_precision("auto", weight)
    assert resolve_precision("bf16", weight) == "bf16"
    for narrow in ("bf16", "int8"):
        with pytest.raises(ConfigError, match=f"{narrow} weights of a model in torch.float64"):
            resolve_precision(narrow, weight.double())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="precision 'int4'; expected one of auto, fp32"):
        resolve_precision("int4", weight)  # type: ignore[arg-type]
