"""One ramp, of even lightness; hues of q, k and v that nothing else has."""

from __future__ import annotations

import numpy as np
import pytest

from qkv.views import DARK, LIGHT, Palette
from qkv.views.palette import level


def lightness(color: str) -> float:
    """CIE L* of an sRGB colour."""
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ [0.2126, 0.7152, 0.0722])
    return 116 * luminance ** (1 / 3) - 16 if luminance > 0.008856 else 903.3 * luminance


@pytest.mark.parametrize(("palette", "sign"), [(DARK, 1), (LIGHT, -1)])
def test_lightness_goes_evenly_from_paper_to_ink(palette: Palette, sign: int) -> None:
    values = np.array([lightness(palette.shade(at)) for at in np.linspace(0, 1, 33)])
    slopes = np.diff(values) * sign
    assert (slopes > 0).all()
    assert slopes == pytest.approx(slopes.mean(), rel=0.25)
    assert palette.shade(0) == palette.paper
    assert abs(values[-1] - values[0]) > 80


def test_q_k_and_v_have_the_colours_of_the_design() -> None:
    assert (DARK.q, DARK.k, DARK.v) == ("#56B4E9", "#E69F00", "#2BC48A")
    assert (LIGHT.q, LIGHT.k, LIGHT.v) == ("#0067A5", "#B34700", "#00734F")


def test_the_scale_is_logarithmic_from_a_thousandth() -> None:
    assert [level(x) for x in (1, 0.1, 0.01, 0.001, 0.0)] == pytest.approx([1, 2 / 3, 1 / 3, 0, 0])
    assert [level(x, log=False) for x in (1, 0.1, 0.0)] == [1, 0.1, 0.0]
