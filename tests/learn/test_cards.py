"""What our own cards and questions say: enough of them, short, and true."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from qkv.attention import Causal, attend, softmax, steps_from_affinities
from qkv.learn.library import own_library
from qkv.learn.prose import as_text
from qkv.models import RUNGS, RungConfig, build_model


def back(kind: str, name: str) -> str:
    """The answer of a card or question, as it is read."""
    entry = own_library().find(kind, name)
    assert entry is not None, name
    return " ".join(as_text(entry.parts[1]).split())


def test_there_are_forty_cards_seven_first_and_thirty_questions() -> None:
    library = own_library()
    assert len(library.cards) == 40
    assert len(library.questions) == 30
    first = [card.id for card in library.cards if card.fields.get("first")]
    assert first == [
        "attention", "causal", "query-key-value", "weight", "key-against-value", "scale",
        "why-attention",
    ]  # fmt: skip
    asked = [question.id for question in library.questions[:5]]
    assert asked == [
        "constraint", "average-and-attention", "three-roles", "how-the-mask-works",
        "why-the-scale",
    ]  # fmt: skip


def test_they_go_over_all_sections_and_the_whole_ladder() -> None:
    library = own_library()
    sections = {section.id for section in library.sections}
    for entries in (library.cards, library.questions):
        counted = Counter(str(entry.fields["section"]) for entry in entries)
        assert set(counted) == sections
        assert min(counted.values()) >= 2
    rungs = {question.fields.get("rung") for question in library.questions} - {None}
    assert rungs == {*RUNGS, "transformer"}


def test_answers_are_short_enough_to_be_remembered() -> None:
    for card in own_library().cards:
        assert len(as_text(card.parts[0]).split()) <= 30, card.id
        assert len(as_text(card.parts[1]).split()) <= 60, card.id
    for question in own_library().questions:
        assert len(as_text(question.parts[1]).split()) <= 75, question.id


def test_numbers_of_the_mask_are_right() -> None:
    affinities, seen = np.array([1.0, 1.0, 1.0, 8.0]), np.array([True, True, True, False])
    naked, _ = softmax(affinities)
    zeroed, _ = softmax(np.where(seen, affinities, 0.0))
    struck = float(naked[:3].sum())
    assert f"weight of {short(zeroed[3])}." in back("card", "minus-infinity")
    assert f"sum to {short(struck, 4)}." in back("card", "mask-after")
    told = back("question", "three-wrong-masks")
    assert f"Without it {short(naked[3])}" in told
    assert f"it is {short(zeroed[3])}" in told
    assert f"have {short(zeroed[0])} each" in told
    # With the division masking late is right; without, the row sums to less than 1.
    assert naked[:3] / struck == pytest.approx(softmax(affinities[:3])[0])
    assert struck < 1


def short(number: float, places: int = 3) -> str:
    return f"{number:.{places}f}".removeprefix("0")


def test_numbers_of_the_scale_are_right(rng: np.random.Generator) -> None:
    q, k = rng.normal(size=(2, 40_000, 64))
    scores = (q * k).sum(-1)
    assert scores.var() == pytest.approx(64, rel=0.03)
    assert (scores / 8).std() == pytest.approx(1, rel=0.02)
    assert back("card", "variance").startswith("64 and 8.")
    assert back("card", "which-width").startswith(f"By {math.isqrt(64 // 4)}.")
    score = float(np.dot([1, 1], [2, 1]))
    told = back("question", "work-a-score")
    assert told.startswith(f"The score is {score:.0f}.")
    assert f"√2: {score / math.sqrt(2):.3f}." in told
    told = back("question", "saturated")
    assert f"here {short(0.99 * 0.01, 4)}, while at w = .5 it is {short(0.25, 2)}" in told
    slopes = ", ".join(short(1 - math.tanh(x) ** 2, 2) if x else "1" for x in range(4))
    assert f"0, 1, 2, 3 is {slopes}." in told


def test_what_is_said_of_the_softmax_holds(rng: np.random.Generator) -> None:
    scores = rng.normal(size=6)
    weights, _ = softmax(scores)
    assert softmax(scores + 5)[0] == pytest.approx(weights)
    assert softmax(2 * scores)[0].max() > weights.max()
    step, _ = softmax(np.array([0.0, 1.0]))
    assert "e ≈ 2.718" in back("card", "ratio")
    assert step[1] / step[0] == pytest.approx(math.e, abs=5e-4)
    even = steps_from_affinities(np.ones(3), np.array([3.0, 6.0, 0.0]))
    assert f"weights {short(even.pattern[0])} each, output {float(even.mixed):.0f}" in back(
        "card", "equal-scores"
    )
    slope = (softmax(scores + np.eye(6)[2] * 1e-6)[0] - weights)[2] / 1e-6
    assert slope == pytest.approx(weights[2] * (1 - weights[2]), rel=1e-4)


def test_what_is_said_of_causal_attention_holds(rng: np.random.Generator) -> None:
    for tokens in (1, 5, 64):
        assert Causal().dense(tokens, tokens).sum() == tokens * (tokens + 1) / 2
    assert "T(T + 1)/2" in back("card", "triangle")
    q, k, v = rng.normal(size=(3, 1, 1, 7, 4))
    mixed = attend(q, k, v, mask=Causal())
    assert mixed[0, 0, 0] == pytest.approx(v[0, 0, 0])  # the first token's own value
    order = rng.permutation(7)
    last = attend(q[:, :, -1:], k, v)
    assert attend(q[:, :, -1:], k[:, :, order], v[:, :, order]) == pytest.approx(last)
    assert (mixed[0, 0] <= v[0, 0].max(axis=0)).all()
    assert attend(0 * q, k, v, mask=Causal())[0, 0, -1] == pytest.approx(v[0, 0].mean(axis=0))


def test_what_is_said_of_the_rungs_holds() -> None:
    import torch

    assert f"= {math.log(65):.3f}" in back("question", "uniform-guess")
    assert f"= {math.log(65):.3f}" in back("card", "starting-loss")
    wavenet = build_model(RungConfig("wavenet", vocab=5, context=64, width=6))
    assert len(list(wavenet.get_submodule("now").children())) == 6
    assert "= 6 layers reach 64 tokens" in back("question", "tree")
    torch.nn.init.normal_(wavenet.get_parameter("unembed.weight"))
    embedded = torch.randn(1, 80, 6, requires_grad=True)
    wavenet.mix(embedded)[0, 79].sum().backward()  # type: ignore[operator]
    assert embedded.grad is not None
    reached = embedded.grad[0].abs().sum(-1) > 0
    assert reached.tolist() == [False] * 16 + [True] * 64
    for kind, heads in (("one-head", 1), ("heads", 4)):
        model = build_model(RungConfig(kind, vocab=5, context=8, width=64, heads=heads))
        assert model.get_parameter("attention.query.weight").shape == (64, 64)
