"""Weights packed into few bytes: what is lost is bounded, what fits is the finest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qkv.errors import CheckpointError, ConfigError
from qkv.models.packing import SMALL, annotate, encode, pack, read_header, unpack


@pytest.fixture
def weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Rows of very different sizes, a row of zeros, and tensors that are no matrices."""
    large = rng.normal(size=(257, 131)) * np.exp(rng.normal(size=(257, 1)) * 3)
    large[7] = 0
    return {
        "large": large.astype(np.float32),
        "small": rng.normal(size=(13, 11)).astype(np.float32),
        "gain": (1 + rng.normal(size=17) / 9).astype(np.float32),
        "heads": rng.normal(size=(5, 1, 3)).astype(np.float32),
    }


def steps_of(weight: np.ndarray, fraction: float) -> np.ndarray:
    """What the steps are to be, (rows, 1), in float64."""
    wide = weight.astype(np.float64)
    rms = np.sqrt(np.mean(wide**2, axis=1, keepdims=True))
    return np.maximum(fraction * rms, np.abs(wide).max(1, keepdims=True) / 127)


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.3, 2.0])
def test_errors_are_at_most_half_a_step(weights: dict[str, np.ndarray], fraction: float) -> None:
    found, notes = unpack(encode(weights, fraction, {"loss": 1.5}), "here")
    assert notes == {"loss": 1.5}
    assert list(found) == list(weights)
    for name, weight in weights.items():
        back = found[name]
        assert (back.dtype, back.shape) == (np.float32, weight.shape)
        error = np.abs(back.astype(np.float64) - weight)
        if weight.ndim == 2:
            used = fraction if weight.size >= SMALL else 0.0
            # fp16 rounds a step up by a thousandth, or by its smallest number.
            assert (error <= 0.5005 * steps_of(weight, used) + 2.0**-24).all()
        else:
            assert (error <= 2.0**-11 * np.abs(weight) + 2.0**-25).all()
    assert (found["large"][7] == 0).all()


@settings(max_examples=50, deadline=None)
@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=7),
        elements=st.floats(-60000, 60000, width=32),
    ),
    st.floats(0, 4),
)
def test_any_finite_weights_come_back(weight: np.ndarray, fraction: float) -> None:
    found, _ = unpack(encode({"a": weight}, fraction, {}), "here")
    assert found["a"].shape == weight.shape
    if weight.ndim == 2 and weight.size:
        error = np.abs(found["a"].astype(np.float64) - weight)
        assert (error <= 0.5005 * steps_of(weight, 0.0) + 2.0**-24).all()


@pytest.mark.parametrize("allowed", [32_000, 25_000, 15_000])
def test_the_finest_that_fits_is_taken(weights: dict[str, np.ndarray], allowed: int) -> None:
    packed = pack(weights, {"loss": 1.5}, allowed)
    fraction = read_header(packed)[0]["fraction"]
    assert len(packed) <= allowed
    assert len(packed) > 0.99 * allowed
    assert len(encode(weights, 0.97 * fraction, {"loss": 1.5})) > allowed


def test_where_there_is_room_steps_are_as_fine_as_bytes_can(
    weights: dict[str, np.ndarray],
) -> None:
    assert pack(weights, {}, 10**6) == encode(weights, 0.0, {})


def test_the_code_comes_near_the_entropy(rng: np.random.Generator) -> None:
    weight = rng.normal(size=(256, 1024))
    numbers = np.rint(weight / (0.2 * np.sqrt(np.mean(weight**2, 1, keepdims=True))))
    shares = np.unique(numbers, return_counts=True)[1] / numbers.size
    entropy_bytes = -(shares * np.log2(shares)).sum() * numbers.size / 8
    assert len(encode({"a": weight}, 0.2, {})) < 1.02 * entropy_bytes + 1000


def test_what_cannot_be_packed_is_refused(weights: dict[str, np.ndarray]) -> None:
    with pytest.raises(ConfigError, match=r"at most 5,000; allow more bytes"):
        pack(weights, {}, 5_000)
    for wrong in (np.nan, np.inf, 1e6):
        with pytest.raises(ConfigError, match="gain with numbers that fp16 does not hold"):
            encode({"gain": np.array([1.0, wrong])}, 0.0, {})


def test_notes_can_be_changed_alone(weights: dict[str, np.ndarray]) -> None:
    packed = encode(weights, 0.3, {"loss": 1.5})
    found, notes = unpack(annotate(packed, {"loss": 2.5}), "here")
    assert notes == {"loss": 2.5}
    for name, weight in unpack(packed, "here")[0].items():
        np.testing.assert_array_equal(found[name], weight)


def test_damage_is_one_line(weights: dict[str, np.ndarray]) -> None:
    packed = encode(weights, 0.3, {})
    for at in (0, 9, 17, 60, len(packed) // 2, len(packed) - 1):
        changed = bytearray(packed)
        changed[at] ^= 0x55
        with pytest.raises(CheckpointError, match=r"got the file: .*; install qkv again") as caught:
            unpack(bytes(changed), "the file")
        assert "\n" not in str(caught.value)
    for cut in (b"", packed[:5], packed[:40], packed[:-1], packed[: len(packed) // 2]):
        with pytest.raises(CheckpointError):
            unpack(cut, "the file")
