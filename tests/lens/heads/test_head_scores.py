"""Every score against a perfect head, uniform attention, and loops over the dense pattern."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from qkv.attention import Causal, Full, Padding, Prefix, Window
from qkv.lens import AttentionMap
from qkv.lens.heads import layouts as layouts_module
from qkv.lens.heads.head_scores import FORMULAS, Score, name_of, score_head, strongest
from qkv.lens.heads.head_table import score_heads

Q, K, C = 31, 37, 5
MASSES = ("self", "previous", "first", "duplicate", "induction")
GIVEN = np.random.default_rng(6).random((Q, K)) > 0.4
MASKS: list[Any] = [
    Full(),
    Causal(),
    Window(7),
    Prefix(11),
    Causal() & Padding((29,)),
    GIVEN,
]


def tokens(rng: np.random.Generator, kinds: int = 9) -> np.ndarray:
    return rng.integers(0, kinds, K)


def wanted(head: AttentionMap) -> dict[str, np.ndarray]:
    """What each score asks about, (Q, K), by definition and pair by pair."""
    ids, places = head.key_ids, head.places
    assert ids is not None
    assert head.query_ids is not None
    found = {name: np.zeros((head.Q, head.K), bool) for name in (*MASSES, "retrieval")}
    for i, place in enumerate(places):
        for j in range(head.K):
            found["self"][i, j] = j == place
            found["previous"][i, j] = j == place - 1
            found["first"][i, j] = j == 0
            found["duplicate"][i, j] = j < place and ids[j] == head.query_ids[i]
            found["induction"][i, j] = 1 <= j < place and ids[j - 1] == head.query_ids[i]
            if place + 1 < head.K:
                found["retrieval"][i, j] = j <= place and ids[j] == ids[place + 1]
    return found


def eligible(targets: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Rows that could score and could fail."""
    reached = (targets & allowed).sum(1)
    return np.flatnonzero((reached > 0) & (reached < allowed.sum(1)))


def head_on(
    targets: np.ndarray, mask: Any, ids: np.ndarray, strength: float = 90.0, **others: Any
) -> AttentionMap:
    """A head whose queries give all of their weight to certain keys, evenly."""
    queries, keys = targets.shape
    return AttentionMap.of(
        targets * strength,
        np.eye(keys),
        mask=mask,
        scale=1.0,
        query_ids=ids[-queries:],
        key_ids=ids,
        **others,
    )


def blank(mask: Any, ids: np.ndarray) -> AttentionMap:
    return head_on(np.zeros((Q, K)), mask, ids)


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: str(mask)[:16])
@pytest.mark.parametrize("name", [*MASSES, "retrieval"])
def test_a_perfect_head_scores_its_ceiling(name: str, mask: Any, rng: np.random.Generator) -> None:
    ids = tokens(rng)
    even = blank(mask, ids)
    targets = wanted(even)[name]
    head = head_on(targets & even.allowed(range(Q), range(K)), mask, ids)
    found = score_head(head)[name]
    rows = eligible(targets, head.allowed(range(Q), range(K)))
    assert found is not None
    assert found.score == pytest.approx(found.ceiling, abs=1e-6)
    assert found.ceiling == FORMULAS[name].ceiling == 1
    assert found.count == len(rows) > 0


@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: str(mask)[:16])
def test_uniform_attention_scores_chance(mask: Any, rng: np.random.Generator) -> None:
    head = blank(mask, tokens(rng))
    allowed = head.allowed(range(Q), range(K))
    scores = score_head(head)
    for name, found in scores.items():
        if name != "norm":
            assert found is not None
            assert found.score == pytest.approx(found.chance, abs=1e-9), name
    for name, targets in wanted(head).items():
        rows = eligible(targets, allowed)
        share = (targets & allowed)[rows].sum(1) / allowed[rows].sum(1)
        assert scores[name].chance == pytest.approx(share.mean(), abs=1e-12), name
    assert scores["uniform"].score == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", ["self", "previous", "duplicate", "induction", "retrieval"])
def test_a_perfect_head_bears_its_name(name: str, rng: np.random.Generator) -> None:
    # Few repetitions, so that tokens that repeat mostly go on another way than before.
    ids = tokens(rng, 14)
    targets = wanted(blank(Causal(), ids))[name]
    assert (
        name_of(score_head(head_on(targets & np.tri(Q, K, K - Q, dtype=bool), Causal(), ids)))
        == name
    )


def test_a_head_of_single_keys_is_as_sure_as_can_be(rng: np.random.Generator) -> None:
    ids = tokens(rng)
    # It looks two tokens back, where there are two.
    places = np.arange(K - Q, K)
    targets = np.eye(K)[np.maximum(places - 2, 0)] > 0
    head = head_on(targets, Causal(), ids)
    found = {name: score for name, score in score_head(head).items() if score is not None}
    assert found["confidence"].score == pytest.approx(found["confidence"].ceiling, abs=1e-6)
    assert found["confidence"].chance == pytest.approx((1 / (places + 1)).mean(), abs=1e-6)
    assert found["entropy"].score == pytest.approx(0, abs=1e-6)
    assert found["entropy"].chance == pytest.approx(np.log(places + 1).mean(), abs=1e-6)
    assert found["distance"].score == pytest.approx(2, abs=1e-6)
    assert found["distance"].chance == pytest.approx(places.mean() / 2, abs=1e-6)
    assert found["uniform"].score == pytest.approx((1 / (places + 1)).mean(), abs=1e-6)


def test_the_norm_of_a_head_of_single_keys_is_that_of_their_outputs(
    rng: np.random.Generator,
) -> None:
    ids, v, w_o = tokens(rng), rng.normal(size=(K, 3)), rng.normal(size=(3, 5))
    places = np.arange(K - Q, K)
    targets = np.eye(K)[np.maximum(places - 1, 0)] > 0
    found = score_head(head_on(targets, Causal(), ids, v=v, w_o=w_o))["norm"]
    wanted_norm = np.linalg.norm(v[np.maximum(places - 1, 0)] @ w_o, axis=-1).mean()
    assert found is not None
    assert found.score == pytest.approx(wanted_norm, rel=1e-6)


def test_uniform_attention_bears_its_name(rng: np.random.Generator) -> None:
    assert name_of(score_head(blank(Causal(), tokens(rng)))) == "uniform"


def test_a_sink_is_set_aside_and_is_no_name(rng: np.random.Generator) -> None:
    ids = tokens(rng)
    causal = np.tri(Q, K, K - Q)
    # Where it doesn't look back by one it rests on the first key: nine tenths of each row.
    back = wanted(blank(Causal(), ids))["previous"] * 1.0
    logits = np.where(back > 0, 20 - np.log(9), 0.0)
    logits[:, 0] = 20
    half = head_on(logits * causal, Causal(), ids, strength=1.0)
    scores = score_head(half)
    assert scores["first"].score == pytest.approx(0.9, abs=1e-6)
    assert scores["previous"].score == pytest.approx(0.1, abs=1e-6)
    assert scores["previous"].lift == pytest.approx(1, abs=1e-6)
    assert scores["first"].lift is None
    assert name_of(scores) == "previous"
    # Of less than a tenth nothing is said.
    logits[:, 0] += 0.2
    assert name_of(score_head(head_on(logits * causal, Causal(), ids, strength=1.0))) == ""
    sink = np.zeros((Q, K))
    sink[:, 0] = 1
    assert name_of(score_head(head_on(sink, Causal(), ids))) == ""


def test_half_of_a_head_lifts_it_half_way(rng: np.random.Generator) -> None:
    ids = tokens(rng)
    back = wanted(blank(Full(), ids))["previous"]
    # Half of each row goes one token back, half to all of the K keys alike.
    head = head_on(back * np.log(K + 1), Full(), ids, strength=1.0)
    found = score_head(head)["previous"]
    assert found is not None
    assert found.score == pytest.approx((K + 1) / (2 * K), abs=1e-9)
    # Without the first key there are K - 1 keys to be uniform over.
    assert found.lift == pytest.approx(K / (2 * K - 1), abs=0.02)


def test_the_trap_of_averaging_over_all_rows() -> None:
    """TransformerLens gives a perfect induction head .495; uniform attention scores .059, .074."""
    half = np.random.default_rng(0).permutation(101)
    ids = np.concatenate([half, half])
    T = len(ids)
    targets = np.zeros((T, T), bool)
    targets[np.arange(101, T), np.arange(1, 102)] = True
    head = AttentionMap.of(
        targets * 90.0, np.eye(T), scale=1.0, mask=Causal(), query_ids=ids, key_ids=ids, name="L0H0"
    )
    pattern = head.pattern()
    assert (pattern * targets).sum() / pattern.sum() == pytest.approx(0.5, abs=1e-3)
    found = score_head(head)["induction"]
    assert found is not None
    assert (found.score, found.count) == (pytest.approx(1, abs=1e-6), 101)
    assert score_heads([head])["L0H0"].role == "induction"
    x = np.zeros((64, 1))
    uniform = AttentionMap.of(x, x, mask=Causal())
    assert np.trace(uniform.pattern(), -1) / 64 == pytest.approx(0.059, abs=1e-3)
    assert uniform.pattern()[:, 0].mean() == pytest.approx(0.074, abs=1e-3)
    for name in ("previous", "first"):
        scored = score_head(uniform)[name]
        assert scored is not None
        assert scored.score == pytest.approx(scored.chance, abs=1e-12)
        assert scored.count == 63


def by_loops(head: AttentionMap) -> dict[str, tuple[float, float | None, int]]:
    """All scores from the dense pattern: score, chance, count."""
    pattern, allowed = head.pattern(), head.allowed(range(head.Q), range(head.K))
    n, away = allowed.sum(1), np.abs(head.places[:, None] - np.arange(head.K))
    found: dict[str, tuple[float, float | None, int]] = {}
    for name, targets in wanted(head).items():
        rows, reached = eligible(targets, allowed), targets & allowed
        if name == "retrieval":
            top = allowed & (pattern >= pattern.max(1, keepdims=True) * (1 - 1e-6))
            each = (top & reached).sum(1) / np.maximum(top.sum(1), 1)
        else:
            each = (pattern * reached).sum(1)
        share = reached.sum(1) / np.maximum(n, 1)
        found[name] = each[rows].mean(), share[rows].mean(), len(rows)
    choosing, some = n > 1, n > 0
    logs = np.log(np.where(pattern > 0, pattern, 1.0))
    even = np.minimum(pattern, 1 / np.maximum(n, 1)[:, None]) * allowed
    for name, each, expected in (
        ("uniform", even.sum(1), np.ones(head.Q)),
        ("entropy", -(pattern * logs).sum(1), np.log(np.maximum(n, 1))),
        ("confidence", pattern.max(1), 1 / np.maximum(n, 1)),
        ("distance", (pattern * away).sum(1), (allowed * away).sum(1) / np.maximum(n, 1)),
    ):
        found[name] = each[choosing].mean(), expected[choosing].mean(), int(choosing.sum())
    assert head.v is not None
    assert head.w_o is not None
    lengths = np.linalg.norm(pattern @ head.v @ head.w_o, axis=1)
    found["norm"] = lengths[some].mean(), None, int(some.sum())
    return found


def pull(scores: np.ndarray, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    return scores - 0.1 * np.abs(np.asarray(rows)[:, None] - np.asarray(cols))


OPTIONS: list[dict[str, Any]] = [
    {},
    {"softcap": 2.0},
    {"bias": np.random.default_rng(1).normal(size=(Q, K))},
    {"bias": np.random.default_rng(1).normal(size=K)},
    {"score_mod": pull},
    {"sink": 1.0},
]


def drawn(rng: np.random.Generator, mask: Any, **options: Any) -> AttentionMap:
    ids = tokens(rng)
    return AttentionMap.of(
        rng.normal(size=(Q, C)) * 2,
        rng.normal(size=(K, C)),
        mask=mask,
        query_ids=ids[-Q:],
        key_ids=ids,
        v=rng.normal(size=(K, 3)),
        w_o=rng.normal(size=(3, 7)),
        **options,
    )


EMPTY_ROW = np.where(np.arange(Q)[:, None] == 3, False, GIVEN)


@pytest.mark.parametrize("mask", [*MASKS, EMPTY_ROW], ids=lambda mask: str(mask)[:16])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "".join(options) or "plain")
def test_scores_equal_loops_over_the_pattern(
    mask: Any, options: dict[str, Any], rng: np.random.Generator
) -> None:
    head = drawn(rng, mask, **options)
    expected = by_loops(head)
    scores = score_head(head)
    assert list(scores) == list(FORMULAS)
    for name, found in scores.items():
        assert found is not None
        score, chance, count = expected[name]
        assert found.score == pytest.approx(score, abs=1e-9), name
        assert found.chance == (None if chance is None else pytest.approx(chance, abs=1e-9)), name
        assert found.count == count, name


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "".join(options) or "plain")
def test_of_a_long_text_rows_are_sampled_where_cells_are_many(
    options: dict[str, Any], rng: np.random.Generator
) -> None:
    head = drawn(rng, Window(9), **options, name="L0H0")
    whole, part = score_head(head), score_head(head, cells=13 * K)
    for name in MASSES:
        assert whole[name] is not None
        assert part[name].score == pytest.approx(whole[name].score, abs=1e-9)
        assert part[name].count == whole[name].count
    for name in ("uniform", "entropy", "confidence", "distance", "norm"):
        assert part[name].count == 13
        assert part[name].score == pytest.approx(whole[name].score, rel=0.5)
    assert score_head(head, cells=13 * K) == part
    assert "13 of 31 queries, drawn with seed 0" in score_heads([head], cells=13 * K).notes[0]


def test_rows_are_sampled_where_tokens_repeat_too_often(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = drawn(rng, Causal())
    whole = score_head(head)["duplicate"]
    assert whole is not None
    monkeypatch.setattr(layouts_module, "MOST_PAIRS", 40)
    part = score_head(head)["duplicate"]
    assert part is not None
    assert 0 < part.count < whole.count
    table = score_heads([head])
    assert f"duplicate is of {part.count} queries, drawn with seed 0" in table.notes
    assert score_heads([head], seed=1)[""]["duplicate"] != part


def test_half_precision_is_read_as_it_is(rng: np.random.Generator) -> None:
    q, k = rng.normal(size=(Q, C)).astype(np.float16), rng.normal(size=(K, C)).astype(np.float16)
    half = score_head(AttentionMap.of(q, k, mask=Causal()))
    wide = score_head(AttentionMap.of(q.astype(float), k.astype(float), mask=Causal()))
    assert half["previous"].score == pytest.approx(wide["previous"].score, abs=1e-9)


def test_across_texts_only_what_makes_sense_is_told(rng: np.random.Generator) -> None:
    ids = tokens(rng)
    head = AttentionMap.of(
        rng.normal(size=(Q, C)), rng.normal(size=(K, C)), cross=True, query_ids=ids[:Q], key_ids=ids
    )
    told = {name for name, found in score_head(head).items() if found is not None}
    assert told == {"first", "uniform", "entropy", "confidence"}


def test_without_tokens_their_scores_are_none_and_one_key_says_nothing() -> None:
    x = np.zeros((1, 2))
    assert set(score_head(AttentionMap.of(x, x)).values()) == {None}
    x = np.zeros((5, 2))
    scores = score_head(AttentionMap.of(x, x, mask=Causal()))
    assert {name for name, found in scores.items() if found is None} == {
        "duplicate", "induction", "retrieval", "norm"
    }  # fmt: skip


def test_heads_with_other_masks_have_other_chances(rng: np.random.Generator) -> None:
    heads = [drawn(rng, mask, name=f"L{i}H0") for i, mask in enumerate((*MASKS, EMPTY_ROW))]
    table = score_heads(heads)
    for head in heads:
        assert table[head.name].scores == score_head(head)


def test_names_need_enough_of_a_lift() -> None:
    def scored(**lifts: float | None) -> dict[str, Score | None]:
        return {name: Score(0.5, 0.1, 1.0, 9, lift=lift) for name, lift in lifts.items()}

    assert name_of(scored(self=0.3, previous=0.4)) == "previous"
    assert name_of(scored(self=0.1, uniform=0.4)) == "mixed"
    assert name_of(scored(self=0.3, uniform=0.4)) == "self"
    assert name_of(scored(self=0.3, uniform=0.6)) == "uniform"
    # A lift alone is no name: the score itself must be there too.
    faint = {name: replace(one, score=0.04) for name, one in scored(self=0.9).items() if one}
    assert name_of(faint) == "mixed"
    assert strongest(faint, "mixed") is None
    half = {name: replace(one, score=0.4) for name, one in scored(uniform=0.9).items() if one}
    assert name_of(half) == "mixed"
    assert strongest(scored(self=0.15, previous=0.1, uniform=0.4), "mixed") == ("self", 0.15)
    assert strongest(scored(self=-0.15), "mixed") is None
    assert strongest(scored(self=0.3, previous=0.4), "previous") == ("previous", 0.4)
    assert name_of(scored(self=None)) == ""
    assert name_of({"self": None}) == ""
