"""The numbers that lessons quote, against other code; and what they claim of the project."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from qkv.attention import Causal, attend, steps
from qkv.learn.facts import own_facts, written
from qkv.learn.library import own_library

QUOTED = {
    "e": "2.718", "third-weight": ".333", "third-total": "8.155", "third-output": "3",
    "naked-future": ".997", "zeroed-weight": ".297", "zeroed-future": ".109",
    "zeroed-output": "2.67", "struck-sum": ".0027", "struck-output": ".008",
    "scaled-scores": "1, 3, 2", "scaled-scaled": ".707, 2.121, 1.414",
    "scaled-weights": ".140, .576, .284", "scaled-output": ".424, 1.436",
    "raw-output": ".335, 1.575", "start-loss": "4.174",
    "tanh-slope-0": "1", "tanh-slope-1": ".42", "tanh-slope-2": ".07", "tanh-slope-3": ".01",
    "cells-allowed": "32,896", "four-matrices": "147,456", "pair-slope": ".25",
    "hot-slope": ".0099", "even-outputs": "3, 4.5, 3, 4.5",
}  # fmt: skip
"""As the design has them, or as one counts them on paper."""


@pytest.mark.parametrize("name", QUOTED)
def test_numbers_are_as_they_must_be(name: str) -> None:
    assert own_facts()[name] == QUOTED[name]


def test_every_number_is_quoted_somewhere() -> None:
    text = "\n".join(part for entry in own_library().entries() for part in entry.parts)
    assert set(own_facts()) == set(re.findall(r"\{\{([a-z0-9-]+)\}\}", text))


@pytest.mark.parametrize(
    ("value", "places", "said"),
    [(1 / 3, 3, ".333"), (-1 / 3, 2, "−.33"), (0.5, 3, ".5"), (1.0, 3, "1"), (-0.0001, 3, "0"),
     (-math.inf, 3, "−∞"), (math.inf, 3, "∞"), (20.0, 0, "20"), (100.0, 2, "100")],
)  # fmt: skip
def test_how_numbers_are_written(value: float, places: int, said: str) -> None:
    assert written(value, places) == said


def test_the_spread_of_scores_is_as_the_theory_says() -> None:
    facts = own_facts()
    for width in (4, 16, 64, 256):
        assert float(facts[f"variance-{width}"]) == pytest.approx(width, rel=0.07)
        assert float(facts[f"largest-scaled-{width}"]) == pytest.approx(0.24, abs=0.03)
    # In code of its own: a softmax over 16 normal scores of spread √64.
    scores = np.random.default_rng(5).normal(size=(20_000, 16)) * 8
    weights = np.exp(scores - scores.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    assert float(facts["largest-raw-64"]) == pytest.approx(weights.max(1).mean(), abs=0.03)
    slope = (weights * (1 - weights)).sum(1).mean()
    assert float(facts["slope-raw-64"]) == pytest.approx(slope, abs=0.03)


def test_tanh_saturates_as_said() -> None:
    for at in range(4):
        slope = (math.tanh(at + 1e-5) - math.tanh(at - 1e-5)) / 2e-5
        assert float(own_facts()[f"tanh-slope-{at}"]) == pytest.approx(slope, abs=0.005)


# What the guide says in words, each under its section.


def test_without_positions_and_mask_a_shuffled_text_gives_shuffled_outputs() -> None:
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 7, 5))
    order = rng.permutation(7)
    shuffled = steps(q[order], k[order], v[order]).mixed
    assert shuffled == pytest.approx(steps(q, k, v).mixed[order], abs=1e-12)


def test_a_value_moves_no_weight_and_a_key_its_column_and_the_rows_from_there() -> None:
    rng = np.random.default_rng(1)
    q, k, v = rng.normal(size=(3, 5, 3))
    before = steps(q, k, v, mask=Causal())
    other = v.copy()
    other[2, 1] += 1
    assert (steps(q, k, other, mask=Causal()).pattern == before.pattern).all()
    other = k.copy()
    other[2, 1] += 1
    after = steps(q, other, v, mask=Causal())
    changed = after.scores != before.scores
    assert changed[:, 2].all()
    assert changed.sum() == 5
    moved = after.pattern != before.pattern
    assert not moved[:2].any()
    assert all(moved[row, : row + 1].all() for row in (2, 3, 4))


def test_one_vector_for_query_and_key_makes_scores_symmetric() -> None:
    x = np.random.default_rng(2).normal(size=(6, 4))
    scores = steps(x, x, x).scores
    assert scores == pytest.approx(scores.T, abs=1e-12)


def test_renormalising_after_the_softmax_is_right_on_paper_only() -> None:
    def struck(future: float) -> np.ndarray:
        scores = np.array([1, 1, 1, future], np.float32)
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        with np.errstate(invalid="ignore"):
            return weights[:3] / weights[:3].sum()

    assert struck(8) == pytest.approx(np.full(3, 1 / 3), abs=1e-6)
    assert np.isnan(struck(200)).all()


def test_a_row_that_allows_nothing_gives_zeros() -> None:
    off_by_one = np.tril(np.ones((3, 3), bool), -1)
    done = steps(np.ones((3, 2)), np.ones((3, 2)), np.ones((3, 2)), mask=off_by_one)
    assert done.mixed[0].tolist() == [0, 0]


def test_a_lead_of_8_is_a_factor_of_nearly_3000_and_ln_2_doubles() -> None:
    assert 2900 < math.exp(8) < 3000
    weights = steps(np.ones((1, 1)), np.array([[0.0], [math.log(2)]]), np.ones((2, 1))).pattern[0]
    assert weights[1] == pytest.approx(2 * weights[0])


def test_viewing_heads_without_swapping_axes_fits_and_is_wrong() -> None:
    T, heads, width = 6, 2, 3
    q, k, v = np.random.default_rng(3).normal(size=(3, T, heads * width))
    right = [x.reshape(T, heads, width).swapaxes(0, 1)[None] for x in (q, k, v)]
    wrong = [x.reshape(heads, T, width)[None] for x in (q, k, v)]
    found = [attend(*each, mask=Causal()) for each in (right, wrong)]
    assert found[0].shape == found[1].shape
    assert not np.allclose(found[0], found[1])


def test_the_code_of_the_cheat_sheet_is_attention() -> None:
    sheet = own_library().find("page", "cheat-sheet")
    assert sheet is not None
    (code,) = re.findall(r"```python\n(.*?)```", sheet.parts[0], re.DOTALL)
    q, k, v = np.random.default_rng(4).normal(size=(3, 7, 5))
    names = {"np": np, "q": q, "k": k, "v": v}
    exec(code, names)
    assert names["mixed"] == pytest.approx(steps(q, k, v, mask=Causal()).mixed, abs=1e-12)


def test_the_ladder_is_as_the_guide_describes_it() -> None:
    from qkv.training.recipes import find_preset

    assert find_preset("rnn").model["width"] == 128
    assert math.log2(64) == 6


@pytest.mark.parametrize(
    "text",
    ["ROMEO: Romeo, wherefore art thou Romeo?", "To be, or not to be: that is the question."],
)
def test_heads_of_our_own_model_are_as_the_guide_describes_them(text: str) -> None:
    import torch

    import qkv
    from qkv.models.embedded import load_embedded

    found = load_embedded()
    ids = np.asarray(found.tokenizer.encode(text))[None].astype(np.int64)
    with torch.no_grad(), qkv.capture(found.model) as trace:
        found.model(torch.from_numpy(ids))
    rows = {row.name: row for row in trace.heads()}
    assert len(rows) == 6 * int(own_facts()["heads"])
    previous = {name: row["previous"] for name, row in rows.items()}
    above = [name for name, score in previous.items() if score.score > 2 * score.chance]
    assert len(above) >= 16  # nearly all, far above chance
    clearest = sorted(previous, key=lambda name: previous[name].lift, reverse=True)
    assert "L2H2" in clearest[:5]
    assert sum(row["first"].score < row["first"].chance + 0.02 for row in rows.values()) >= 16
