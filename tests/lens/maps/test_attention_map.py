"""A map's cells, rows and tiles are the softmax's weights, whatever the mask, bias and softcap."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qkv.attention import ALiBi, Causal, Full, Mask, Padding, Prefix, Window, steps
from qkv.errors import ConfigError, QkvError, ShapeError
from qkv.lens import AttentionMap, Cell, brief, visible

Q, K, C = 11, 13, 7


def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(Q, C)), rng.normal(size=(K, C))


@pytest.mark.parametrize(
    "mask", [None, Full(), Causal(), Window(3), Prefix(5), Causal() & Padding((9,))]
)
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_map_equals_steps(
    mask: Mask | None, softcap: float | None, rng: np.random.Generator
) -> None:
    q, k = draw(rng)
    bias = rng.normal(size=(Q, K))
    options = {"mask": mask, "bias": bias, "softcap": softcap, "scale": 0.3}
    done = steps(q[None, None], k[None, None], k[None, None], **options)
    head = AttentionMap.of(q, k, **options)
    pattern = done.pattern[0, 0]
    assert head.pattern() == pytest.approx(pattern, abs=1e-12)
    assert head.lse == pytest.approx(done.lse[0, 0], abs=1e-12)
    assert head.row(4) == pytest.approx(pattern[4], abs=1e-12)
    some = pattern[2:9:3][:, [1, 12]]
    assert head.tile(range(2, 9, 3), [1, 12]) == pytest.approx(some, abs=1e-12)
    assert head.tile(slice(3, 5), slice(None)) == pytest.approx(pattern[3:5], abs=1e-12)
    assert float(head.cell(10, 12)) == pytest.approx(pattern[10, 12], abs=1e-12)


def test_map_equals_the_softmax_of_torch(rng: np.random.Generator) -> None:
    q, k = (x.astype(np.float32) for x in draw(rng))
    scores = torch.from_numpy(q) @ torch.from_numpy(k).T * C**-0.5
    head = AttentionMap.of(q, k)
    assert head.pattern() == pytest.approx(scores.softmax(-1).numpy(), abs=1e-6)


def test_alibi_and_a_bias_for_all_queries(rng: np.random.Generator) -> None:
    q, k = draw(rng)
    for bias in (ALiBi((0.5,)), rng.normal(size=(1, K)), rng.normal(size=K)):
        done = steps(q[None], k[None], k[None], bias=bias, mask=Causal())
        head = AttentionMap.of(q, k, bias=bias, mask=Causal())
        assert head.pattern() == pytest.approx(done.pattern[0], abs=1e-12)


def test_a_row_that_is_allowed_nothing_is_zeros(rng: np.random.Generator) -> None:
    q, k = draw(rng)
    allowed = np.ones((Q, K), dtype=bool)
    allowed[3] = False
    head = AttentionMap.of(q, k, mask=allowed)
    assert head.lse[3] == -np.inf
    assert head.row(3).tolist() == [0.0] * K
    sums = np.where(np.arange(Q) == 3, 0.0, 1.0)
    assert head.pattern().sum(-1) == pytest.approx(sums)
    nothing = AttentionMap.of(q, k, mask=np.zeros((Q, K), dtype=bool))
    assert nothing.strongest() is None
    assert "no token" in nothing.sentence()


def test_a_constant_added_to_the_scores_changes_nothing(rng: np.random.Generator) -> None:
    q, k = draw(rng)
    plain, raised = AttentionMap.of(q, k), AttentionMap.of(q, k, bias=np.full((1, 1), 700.0))
    assert raised.pattern() == pytest.approx(plain.pattern(), abs=1e-12)


@pytest.mark.parametrize("size", [1, 2, 5, 40])
def test_pooling_takes_the_largest_of_each_block(size: int, rng: np.random.Generator) -> None:
    head = AttentionMap.of(*draw(rng), mask=Causal())
    pooled, allowed = head.pool(size, "max"), head.pool_allowed(size)
    pattern, seen = head.pattern(), head.allowed(range(Q), range(K))
    for row in range(pooled.shape[0]):
        for col in range(pooled.shape[1]):
            block = np.s_[row * size : (row + 1) * size, col * size : (col + 1) * size]
            assert pooled[row, col] == pytest.approx(pattern[block].max(), abs=1e-15)
            assert allowed[row, col] == seen[block].any()


def test_pooling_and_scanning_by_strips(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k = draw(rng)
    whole = AttentionMap.of(q, k, mask=Causal(), labels=[str(x) for x in range(K)])
    expected = whole.pool(3, "max"), whole.strongest(), whole.lse
    monkeypatch.setattr("qkv.lens.maps.sweep.TILE_CELLS", 6)
    monkeypatch.setattr("qkv.lens.maps.sweep.TILE_ROWS", 2)
    cut = AttentionMap.of(q, k, mask=Causal())
    assert cut.pool(3, "max") == pytest.approx(expected[0], abs=1e-12)
    assert cut.strongest() == expected[1]
    assert cut.lse == pytest.approx(expected[2], abs=1e-12)


def test_strongest_leaves_out_the_diagonal_and_the_first_token() -> None:
    scores = np.array([[9.0, 0, 0, 0], [9, 9, 0, 0], [9, 2, 9, 0], [9, 1, 0, 9]])
    head = AttentionMap.of(scores, np.eye(4), mask=Causal(), scale=1.0, labels="wxyz")
    cell = head.strongest()
    assert cell is not None
    assert cell[:2] == (2, 1)
    assert head.sentence() == f"“y” at 2 gives {brief(cell.weight)} to “x” at 1"
    one = AttentionMap.of(np.ones((1, 2)), np.ones((1, 2)))
    assert one.strongest() == Cell(0, 0, 1.0)
    assert one.sentence() == "token 0 gives 1 to token 0"


def test_labels_of_a_cache_belong_to_the_last_tokens(rng: np.random.Generator) -> None:
    q, k = draw(rng)
    head = AttentionMap.of(q, k, labels="abcdefghijklm")
    assert "".join(head.query_labels) == "cdefghijklm"


def test_what_cannot_be_seen_is_shown() -> None:
    assert visible("\n \t") == "⏎␣⇥"
    assert visible("") == "∅"
    assert visible("\x00") == "�"


def test_errors_say_what_to_do(rng: np.random.Generator) -> None:
    q, k = draw(rng)
    head = AttentionMap.of(q, k)
    with pytest.raises(ShapeError, match="one head of one sequence"):
        AttentionMap(q=q[None], k=k, lse=np.zeros(Q))
    with pytest.raises(ShapeError, match="2 query labels"):
        AttentionMap.of(q, k, labels="ab")
    for places in ([Q], [-1]):
        with pytest.raises(QkvError, match="count tokens from 0"):
            head.tile(places, [0])
    with pytest.raises(QkvError, match="at least 1"):
        head.pool(0)
    with pytest.raises(QkvError, match="4,096"):
        AttentionMap(q=np.zeros((4097, 1)), k=np.zeros((4097, 1)), lse=np.zeros(4097)).pattern()


def test_a_map_holds_the_very_arrays_it_is_given(rng: np.random.Generator) -> None:
    q, k = (x.astype(np.float16) for x in draw(rng))
    lse = np.zeros(Q, np.float32)
    head = AttentionMap(q, k, lse)
    assert head.q is q
    assert head.k is k
    assert head.lse is lse
    assert head.tile([0], [1]).dtype == np.float64
    assert AttentionMap.of(q, k).q is q


def test_places_of_queries(rng: np.random.Generator) -> None:
    q, k = draw(rng)
    assert AttentionMap.of(q, k).places.tolist() == list(range(2, 13))
    at = rng.integers(0, K, Q)
    assert AttentionMap.of(q, k, at=at).places is at


def test_rows_with_a_sink_sum_to_what_it_leaves(rng: np.random.Generator) -> None:
    q, k = draw(rng)
    plain, sinking = AttentionMap.of(q, k), AttentionMap.of(q, k, sink=1.3)
    share = np.exp(1.3) / (np.exp(1.3) + np.exp(plain.lse))
    assert sinking.pattern().sum(1) == pytest.approx(1 - share, abs=1e-12)
    assert sinking.pattern() == pytest.approx(plain.pattern() * (1 - share)[:, None], abs=1e-12)


def test_what_does_not_fit_is_told(rng: np.random.Generator) -> None:
    q, k = draw(rng)
    for field, value in (
        ("v", np.zeros((Q, 3))),
        ("v", np.zeros(K)),
        ("at", np.arange(K)),
        ("query_ids", np.arange(K)),
        ("key_ids", np.arange(Q)),
    ):
        with pytest.raises(ShapeError, match=f"got {field} "):
            AttentionMap.of(q, k, **{field: value})
    with pytest.raises(ShapeError, match="output projection"):
        AttentionMap.of(q, k, v=np.zeros((K, 3)), w_o=np.zeros((5, 3)))
    with pytest.raises(ConfigError, match="score_mod with a softcap or a bias"):
        AttentionMap.of(q, k, softcap=3.0, score_mod=lambda s, i, j: s)


def test_a_map_says_what_it_is_and_shows_itself() -> None:
    x = np.random.default_rng(0).normal(size=(5, 3))
    head = AttentionMap.of(x[:2], x, mask=Causal(), labels="abcde", name="L3H7")
    assert repr(head) == "AttentionMap L3H7: Q 2, K 5, C 3"
    assert {"text/plain", "text/html", "image/png"} <= set(head._repr_mimebundle_())
    # A query is named by where it stands in the text, and not by its row.
    assert head.spoken("query", 1) == "“e” at 4"
    assert head.spoken("key", 1) == "“b” at 1"
