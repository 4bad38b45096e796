"""The worked numbers, and the wrong methods that give the wrong answers quoted beside them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qkv.attention import Causal, attend_gradients, steps, steps_from_affinities
from qkv.errors import ShapeError

AFFINITIES, VALUES = np.array([1.0, 1.0, 1.0, 8.0]), np.array([3.0, 6.0, 0.0, 0.0])
Q3, K3 = np.array([[1.0, 1.0]]), np.array([[1.0, 0.0], [2.0, 1.0], [1.0, 1.0]])
V3 = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])


def softmax(row: np.ndarray) -> np.ndarray:
    return np.exp(row) / np.exp(row).sum()


@pytest.mark.parametrize("missing", [None, math.nan])
def test_masked_step_token_3_of_4(missing: float | None) -> None:
    done = steps_from_affinities(AFFINITIES, [3, 6, 0, missing], mask=Causal(), row=2)
    assert done.pattern == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0], abs=1e-12)
    assert done.exponentials == pytest.approx([math.e] * 3 + [0])
    assert round(float(done.exponentials[0]), 3) == 2.718
    assert round(float(done.total), 3) == 8.155
    assert done.lse == pytest.approx(math.log(3 * math.e))
    assert done.mixed == pytest.approx(3)


def test_masked_step_token_2_of_3() -> None:
    q, keys = np.array([[1.0, 2.0]]), np.array([[1.0, 0.0], [0.5, 0.25], [1.0, 2.0]])
    done = steps(q, keys, np.array([[2.0], [4.0], [0.0]]), mask=np.array([1, 1, 0], bool), scale=1)
    assert done.scores.tolist() == [[1, 1, 5]]
    assert done.pattern == pytest.approx(np.array([[0.5, 0.5, 0]]))
    assert done.mixed.item() == pytest.approx(3)
    given = steps_from_affinities([1, 1, 5], [2, 4, None], mask=Causal(), row=1)
    assert given.mixed == pytest.approx(3)


def test_scaled_step() -> None:
    done = steps(Q3, K3, V3)
    assert done.scores.tolist() == [[1, 3, 2]]
    assert done.scaled.round(3).tolist() == [[0.707, 2.121, 1.414]]
    assert done.pattern.round(3).tolist() == [[0.140, 0.576, 0.284]]
    assert done.mixed.round(3).tolist() == [[0.424, 1.436]]


def test_untrained_loss_of_65_characters() -> None:
    uniform = steps_from_affinities(np.zeros(65), np.zeros(65))
    assert round(float(-np.log(uniform.pattern[0])), 3) == round(math.log(65), 3) == 4.174


def test_without_scale_softmax_is_nearly_one_hot_and_its_gradient_vanishes(
    rng: np.random.Generator,
) -> None:
    q, k, v = rng.normal(size=(31, 256)), rng.normal(size=(37, 256)), rng.normal(size=(37, 3))
    scaled, raw = steps(q, k, v), steps(q, k, v, scale=1.0)
    assert np.median(raw.pattern.max(-1)) > 0.95
    assert np.median(scaled.pattern.max(-1)) < 0.5

    def slope(done: np.ndarray) -> float:
        """Median over rows of the size of softmax's Jacobian, diag(p) - p p^T."""
        jacobian = done[:, :, None] * np.eye(37) - done[:, :, None] * done[:, None, :]
        return float(np.median(np.linalg.norm(jacobian, axis=(1, 2))))

    assert slope(raw.pattern) < 0.3 * slope(scaled.pattern)
    # The gradient that reaches the scaled scores (q by scale undone) is smaller likewise.
    d_mixed = rng.normal(size=(31, 3))
    reach = [
        np.median(np.linalg.norm(attend_gradients(done, d_mixed).q, axis=-1)) / done.scale
        for done in (raw, scaled)
    ]
    assert reach[0] < 0.4 * reach[1]


def test_wrong_no_mask_gives_the_future_token_997() -> None:
    assert round(float(softmax(AFFINITIES)[3]), 3) == 0.997


def test_wrong_mask_of_zero_gives_297_and_109_and_2_67() -> None:
    pattern = softmax(np.array([1.0, 1.0, 1.0, 0.0]))
    assert pattern.round(3).tolist() == [0.297, 0.297, 0.297, 0.109]
    assert round(float(pattern @ VALUES), 2) == 2.67


def test_wrong_mask_after_softmax_gives_a_row_sum_of_0027_and_008() -> None:
    pattern = softmax(AFFINITIES) * [1, 1, 1, 0]
    assert round(float(pattern.sum()), 4) == 0.0027
    assert round(float(pattern @ VALUES), 3) == 0.008


def test_wrong_no_scale_gives_335_and_1_575() -> None:
    assert (softmax(np.array([1.0, 3.0, 2.0])) @ V3).round(3).tolist() == [0.335, 1.575]
    assert steps(Q3, K3, V3, scale=1.0).mixed.round(3).tolist() == [[0.335, 1.575]]


def test_ties_hide_the_average_and_the_missing_scale_and_a_fourth_value_tells_methods_apart() -> (
    None
):
    assert np.mean(VALUES[:3]) == 3.0
    assert (softmax(AFFINITIES[:3] / math.sqrt(2)) @ VALUES[:3]).round(12) == 3.0
    wrong = {
        "no mask": softmax(AFFINITIES),
        "mask of 0": softmax(np.array([1.0, 1.0, 1.0, 0.0])),
        "mask after softmax": softmax(AFFINITIES) * [1, 1, 1, 0],
    }
    # With a fourth value of 0 no mask and mask-after-softmax give the same; with 9 they don't.
    assert (wrong["no mask"] @ VALUES) == pytest.approx(wrong["mask after softmax"] @ VALUES)
    outputs = {name: round(float(row @ [3, 6, 0, 9]), 3) for name, row in wrong.items()}
    assert len({*outputs.values(), 3.0}) == 4


def test_rows_and_vectors_as_well() -> None:
    rows = np.array([[0.0, 9.0, 9.0], [0.0, 0.0, 9.0], [0.0, 0.0, 0.0]])
    done = steps_from_affinities(rows, [[3, 0], [6, 1], [0, 2]], mask=Causal())
    assert done.mixed == pytest.approx(np.array([[3, 0], [4.5, 0.5], [3, 1]]))


def test_a_row_that_allows_nothing_needs_no_value() -> None:
    done = steps_from_affinities([1, 2], [None, None], mask=np.array([False, False]))
    assert done.pattern.tolist() == [0, 0]
    assert float(done.mixed) == 0
    assert done.lse == -np.inf


def test_errors_say_what_to_do() -> None:
    with pytest.raises(ShapeError, match="no value for token 3"):
        steps_from_affinities([1, 1, -2000, 8], [3, 6, None, None], mask=Causal(), row=2)
    with pytest.raises(ShapeError, match="one value for each affinity"):
        steps_from_affinities([1, 1], [3, 6, 0])
    with pytest.raises(ShapeError, match="number of axes"):
        steps_from_affinities([[1, 1]], [3, 6], row=0)
