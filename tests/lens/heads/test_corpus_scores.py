"""Means and intervals over texts, against the formulas over all of them at once."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qkv.attention import Causal
from qkv.lens import AttentionMap
from qkv.lens.heads.corpus_scores import HeadScores, student


def text(rng: np.random.Generator, tokens: int) -> list[AttentionMap]:
    ids = rng.integers(0, 7, tokens)
    return [
        AttentionMap.of(
            rng.normal(size=(tokens, 3)),
            rng.normal(size=(tokens, 3)),
            mask=Causal(),
            query_ids=ids,
            key_ids=ids,
            name=f"L0H{head}",
        )
        for head in range(2)
    ]


def test_means_and_intervals_are_those_of_all_texts_at_once(rng: np.random.Generator) -> None:
    scores = HeadScores()
    tables = [scores.update(text(rng, tokens)) for tokens in (11, 23, 17, 31, 13)]
    table = scores.table()
    for head in ("L0H0", "L0H1"):
        for name in ("previous", "induction", "entropy"):
            each = [one[head][name] for one in tables]
            n = np.array([one.count for one in each])
            x = np.array([one.score for one in each])
            mean = (n * x).sum() / n.sum()
            half = 2.776 * math.sqrt(5 / 4 * (n**2 * (x - mean) ** 2).sum()) / n.sum()
            found = table[head][name]
            assert found.score == pytest.approx(mean, rel=1e-12)
            assert (found.low, found.high) == pytest.approx((mean - half, mean + half), rel=1e-9)
            assert found.count == n.sum()
            chances = np.array([one.chance for one in each])
            assert found.chance == pytest.approx((n * chances).sum() / n.sum(), rel=1e-12)
    assert table["L0H0"]["norm"] is None
    assert "means over 5 texts; 95 % intervals by Student's t over texts" in table.notes
    assert "induction_low" in table.to_csv().splitlines()[0]


def test_halves_merge_into_the_whole(rng: np.random.Generator) -> None:
    texts = [text(rng, tokens) for tokens in (11, 23, 17, 31)]
    whole, *halves = HeadScores(), HeadScores(), HeadScores()
    for place, one in enumerate(texts):
        table = whole.update(one)
        halves[place % 2].update(table)
    halves[0].merge(halves[1])
    empty = HeadScores()
    empty.merge(halves[0])
    for row, merged in zip(whole.table(), empty.table(), strict=True):
        assert row.role == merged.role
        for name, score in row.scores.items():
            if score is None:
                assert merged[name] is None
            else:
                for part in ("score", "chance", "count", "lift", "low", "high"):
                    one, other = getattr(score, part), getattr(merged[name], part)
                    assert other == (None if one is None else pytest.approx(one, rel=1e-9)), part
    assert empty.texts == 4


def test_large_offsets_do_not_cancel() -> None:
    from qkv.lens.heads.corpus_scores import Weighted

    sums = Weighted()
    for x in (1e9, 1e9 + 1, 1e9 + 2):
        sums.add(1.0, x)
    assert sums.spread == pytest.approx(2, rel=1e-9)


def test_one_text_has_no_interval(rng: np.random.Generator) -> None:
    scores = HeadScores()
    one = scores.update(text(rng, 9))
    assert scores.table().rows == one.rows
    assert scores.table()["L0H0"]["self"].low is None


def test_an_interval_holds_the_truth_as_often_as_it_says(rng: np.random.Generator) -> None:
    """Texts of one head whose score is drawn: nineteen intervals of twenty hold the mean."""
    x = np.zeros((8, 2))
    table = HeadScores().update([AttentionMap.of(x, x, mask=Causal(), name="L0H0")])
    row, tries, hits = table["L0H0"], 400, 0
    for _ in range(tries):
        scores = HeadScores()
        for value in rng.normal(0.3, 0.1, 6):
            score = type(row["self"])(float(value), 0.1, 1.0, 7)
            changed = type(row)(row.name, 0, 0, "", {**row.scores, "self": score})
            scores.update(type(table)((changed,)))
        found = scores.table()["L0H0"]["self"]
        hits += found.low <= 0.3 <= found.high
    assert hits / tries == pytest.approx(0.95, abs=0.03)


@pytest.mark.parametrize("freedom", [1, 2, 7, 30, 31, 60, 500])
def test_quantiles_are_those_of_the_density(freedom: int) -> None:
    reach = student(freedom)
    at = np.linspace(0, reach, 200_001)
    constant = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    density = (1 + at**2 / freedom) ** (-(freedom + 1) / 2) * constant
    density /= math.sqrt(freedom * math.pi)
    area = ((density[1:] + density[:-1]) / 2 * np.diff(at)).sum()
    assert area == pytest.approx(0.475, abs=5e-5)
