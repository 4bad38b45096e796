"""Positions: against complex numbers, and against formulas written another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from qkv.attention import ALiBi, alibi_slopes, rotary_angles, rotate, sinusoidal, unrotate
from qkv.errors import ConfigError, ShapeError


def test_sinusoids_follow_the_formula() -> None:
    table = sinusoidal(7, 10)
    for token in range(7):
        for pair in range(5):
            angle = token / 10000 ** (2 * pair / 10)
            assert table[token, 2 * pair] == pytest.approx(math.sin(angle), abs=1e-14)
            assert table[token, 2 * pair + 1] == pytest.approx(math.cos(angle), abs=1e-14)


def test_rotation_is_multiplication_by_a_unit_complex_number(rng: np.random.Generator) -> None:
    positions = np.array([0, 1, 5, 1000, 3])
    x = rng.normal(size=(2, 3, 5, 14))
    cos, sin = rotary_angles(positions, 14, theta=500.0)
    turns = np.exp(1j * positions[:, None] * 500.0 ** (-np.arange(7) / 7))
    expected = (x[..., :7] + 1j * x[..., 7:]) * turns
    turned = rotate(x, cos, sin)
    np.testing.assert_allclose(turned[..., :7], expected.real, atol=1e-12)
    np.testing.assert_allclose(turned[..., 7:], expected.imag, atol=1e-12)
    np.testing.assert_allclose(unrotate(turned, cos, sin), x, atol=1e-12)


def test_rotated_products_depend_on_the_distance_only(rng: np.random.Generator) -> None:
    q, k = rng.normal(size=(2, 1, 22))
    products = [
        (rotate(q, *rotary_angles([at], 22)) @ rotate(k, *rotary_angles([at - 3], 22)).T).item()
        for at in (3, 10, 500)
    ]
    np.testing.assert_allclose(products, products[0], rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rotation_takes_tensors_alike_and_keeps_their_type(dtype: torch.dtype) -> None:
    x = torch.randn(2, 3, 5, 14, dtype=dtype, generator=torch.Generator().manual_seed(0))
    angles = rotary_angles(range(5), 14)
    turned = rotate(x, *(torch.from_numpy(part).to(dtype) for part in angles))
    assert turned.dtype is dtype
    expected = rotate(x.double().numpy(), *angles)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.03}[dtype]
    np.testing.assert_allclose(turned.double().numpy(), expected, atol=tolerance)


def test_rotation_passes_gradients() -> None:
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    cos, sin = (torch.from_numpy(part) for part in rotary_angles(range(5), 6))
    assert torch.autograd.gradcheck(lambda value: rotate(value, cos, sin), (x,))


def test_alibi_slopes_are_those_of_the_paper() -> None:
    assert alibi_slopes(8) == tuple(2.0**-power for power in range(1, 9))
    assert alibi_slopes(16)[0] == pytest.approx(2**-0.5)
    # Six heads: the four of H = 4, then the first and third of H = 8.
    assert alibi_slopes(6) == (2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3)
    for heads in range(1, 70):
        slopes = alibi_slopes(heads)
        assert len(slopes) == len(set(slopes)) == heads


def test_alibi_tiles_are_cut_from_the_whole() -> None:
    alibi = ALiBi(alibi_slopes(3))
    whole = alibi.dense(5, 7)
    assert whole.shape == (3, 5, 7)
    for head, slope in enumerate(alibi.slopes):
        assert whole[head, 4, 2] == pytest.approx(-slope * 4)
        assert whole[head, 0, 0] == pytest.approx(-slope * 2)
    tile = alibi.tile(range(1, 3), range(2, 7), queries=5, keys=7)
    assert (tile == whole[:, 1:3, 2:7]).all()
    assert ALiBi.standard(3) == alibi


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ConfigError, match="even"):
        sinusoidal(5, 7)
    with pytest.raises(ConfigError, match="theta"):
        rotary_angles(range(3), 4, theta=0)
    with pytest.raises(ShapeError, match="half as many angles"):
        rotate(np.ones((3, 6)), np.ones((3, 6)), np.ones((3, 6)))
    with pytest.raises(ConfigError, match="heads"):
        alibi_slopes(0)
    with pytest.raises(ConfigError, match="slope"):
        ALiBi(())
