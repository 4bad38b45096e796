"""The ladder: each rung is causal, starts at ln V, and equals a slow and obvious twin."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qkv.attention import Causal, multi_head_steps
from qkv.errors import ShapeError
from qkv.models import (
    RUNGS,
    RungConfig,
    Sampling,
    TransformerConfig,
    build_model,
    count_parameters,
    generate,
    has_attention,
)
from qkv.models.assembly import outline
from qkv.models.rungs import Average, BigramCounts, RecurrentNetwork, WaveNet

from .conftest import scramble, tokens

V, T, D, H = 17, 23, 35, 5
EMBEDDED = [kind for kind in RUNGS if kind not in ("uniform", "bigram-counts", "bigram")]
ATTENTION = ["one-head", "heads", "feed-forward", "residual", "norm"]


def rung(kind: str, **more: Any) -> Any:
    """A rung of prime sizes, as it is before training."""
    return build_model(
        RungConfig(kind, **{"vocab": V, "context": T, "width": D, "heads": H, **more})
    )


def trained(kind: str, **more: Any) -> Any:
    """A rung whose every weight is random, in float64."""
    model = scramble(rung(kind, **more), scale=2.0).double()
    if isinstance(model, BigramCounts):
        model.fit(tokens(1, 500, V)[0])
    return model


@pytest.mark.parametrize("kind", RUNGS)
def test_every_position_gets_logits(kind: str) -> None:
    model = trained(kind)
    assert model(tokens(3, T, V)).shape == (3, T, V)
    assert model(tokens(2, 1, V)).shape == (2, 1, V)
    assert model.config.kind == kind


@pytest.mark.parametrize("kind", RUNGS)
def test_a_future_token_changes_no_earlier_logit(kind: str) -> None:
    model, ids = trained(kind), tokens(2, T, V)
    before = model(ids)
    for at in (0, 1, 11, T - 1):
        changed = ids.clone()
        changed[:, at] = (changed[:, at] + 1) % V
        after = model(changed)
        assert torch.equal(after[:, :at], before[:, :at])
        assert torch.equal(after[:, at], before[:, at]) is (kind == "uniform")


@pytest.mark.parametrize("kind", RUNGS)
def test_untrained_it_guesses_uniformly(kind: str) -> None:
    model, ids = rung(kind, vocab=65), tokens(2, T, 65)
    loss = F.cross_entropy(model(ids).flatten(0, 1), tokens(2, T, 65, seed=1).flatten())
    assert loss.item() == pytest.approx(math.log(65), abs=1e-6)
    assert round(loss.item(), 3) == 4.174


@pytest.mark.parametrize("kind", RUNGS)
def test_what_is_longer_than_the_context_is_refused(kind: str) -> None:
    with pytest.raises(ShapeError, match=f"^got {T + 1} tokens; expected at most .* {T}; give .*"):
        rung(kind)(tokens(2, T + 1, V))


@pytest.mark.parametrize("kind", EMBEDDED)
def test_every_parameter_can_learn(kind: str) -> None:
    model = trained(kind)
    F.cross_entropy(model(tokens(2, T, V)).flatten(0, 1), tokens(2, T, V).flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("pseudo_count", [1.0, 0.25])
def test_bigram_counts_equal_a_plain_count(pseudo_count: float) -> None:
    ids = tokens(1, 997, V)[0]
    model = rung("bigram-counts")
    model.fit(ids, pseudo_count)
    pairs = Counter(zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True))
    firsts = Counter(ids[:-1].tolist())
    for a in range(V):
        for b in range(V):
            share = (pairs[a, b] + pseudo_count) / (firsts[a] + V * pseudo_count)
            assert model.table[a, b].item() == pytest.approx(math.log(share), abs=1e-6)


def test_counting_is_what_the_gradient_looks_for() -> None:
    ids = tokens(1, 2000, V)[0]
    counted, learnt = rung("bigram-counts"), rung("bigram", context=2000)
    counted.fit(ids, pseudo_count=0.01)
    optimizer = torch.optim.Adam(learnt.parameters(), lr=0.1)
    for _ in range(200):
        loss = F.cross_entropy(learnt(ids[None, :-1])[0], ids[1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    best = F.cross_entropy(counted.table[ids[:-1]], ids[1:])
    assert loss.item() == pytest.approx(best.item(), abs=1e-3)


def test_the_average_equals_a_loop() -> None:
    model, x = trained("average"), torch.randn(3, T, D, dtype=torch.float64)
    assert isinstance(model, Average)
    values = x @ model.value.weight.T
    looped = torch.stack([values[:, : t + 1].mean(dim=1) for t in range(T)], dim=1)
    torch.testing.assert_close(model.mix(x), looped, rtol=0, atol=1e-12)


def test_the_recurrent_network_equals_torchs() -> None:
    model, x = trained("rnn"), torch.randn(3, T, D, dtype=torch.float64)
    assert isinstance(model, RecurrentNetwork)
    reference = nn.RNN(D, D, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        reference.weight_ih_l0.copy_(model.read.weight)
        reference.bias_ih_l0.copy_(model.read.bias)
        reference.weight_hh_l0.copy_(model.carry.weight)
        reference.bias_hh_l0.zero_()
    torch.testing.assert_close(model.mix(x), reference(x)[0], rtol=0, atol=1e-12)


def seen_from_the_end(model: Any, length: int) -> list[bool]:
    """For each position, whether the last position's mixture depends on it."""
    x = torch.randn(1, length, D, dtype=torch.float64, requires_grad=True)
    model.mix(x)[0, -1].sum().backward()
    assert x.grad is not None
    return [bool(row.abs().max() > 0) for row in x.grad[0]]


@pytest.mark.parametrize("context", [1, 2, 8, 23, 32])
def test_wavenet_sees_its_context(context: int) -> None:
    model = trained("wavenet", context=context)
    assert isinstance(model, WaveNet)
    assert all(seen_from_the_end(model, context))


@pytest.mark.parametrize("context", [2, 8, 32])
def test_wavenet_sees_no_further_than_its_tree(context: int) -> None:
    seen = seen_from_the_end(trained("wavenet", context=context), context + 5)
    assert seen == [False] * 5 + [True] * context


def numpy_attention(attention: Any, x: Tensor) -> np.ndarray[Any, Any]:
    """The same attention through `qkv.attention`, in NumPy float64."""
    weights = (attention.query, attention.key, attention.value, attention.output)
    return multi_head_steps(
        x.detach().double().numpy(),
        *(layer.weight.detach().double().numpy().T for layer in weights),
        heads=attention.heads,
        mask=Causal(),
    ).output


@pytest.mark.parametrize("kind", ATTENTION)
def test_heads_equal_the_steps_in_numpy(kind: str) -> None:
    assert rung(kind).attention.heads == (1 if kind == "one-head" else H)
    x = torch.randn(3, T, D)
    for model, tolerance in ((trained(kind), 1e-11), (scramble(rung(kind)), 1e-5)):
        found = model.attention(x.to(model.tokens.dtype)).detach().numpy()
        wanted = numpy_attention(model.attention, x)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", ["feed-forward", "residual", "norm"])
def test_sublayers_are_joined_as_the_rung_says(kind: str) -> None:
    model, x = trained(kind), torch.randn(2, T, D, dtype=torch.float64)

    def attend(given: Tensor) -> Tensor:
        return torch.from_numpy(numpy_attention(model.attention, given))

    def think(given: Tensor) -> Tensor:
        hidden = (given @ model.up.weight.T + model.up.bias).clamp(min=0)
        return hidden @ model.down.weight.T + model.down.bias

    if kind == "feed-forward":
        wanted = think(attend(x))
    elif kind == "residual":
        after = x + attend(x)
        wanted = after + think(after)
    else:
        after = model.after_attention(x + attend(x))
        wanted = model.after_thinking(after + think(after))
    torch.testing.assert_close(model.mix(x), wanted, rtol=0, atol=1e-10)


def test_one_head_and_several_have_as_many_parameters() -> None:
    assert count_parameters(rung("one-head")) == count_parameters(rung("heads"))
    one, several = rung("one-head"), rung("heads")
    several.load_state_dict(one.state_dict())
    x = torch.randn(2, T, D)
    assert not torch.allclose(one.mix(x), several.mix(x))


def test_parameters_are_counted() -> None:
    assert [count_parameters(rung(kind, vocab=65)) for kind in list(RUNGS)[:3]] == [
        0,
        4225,
        4225,
    ]
    # tokens, positions, unembedding and its bias; then q, k, v and W_O.
    assert count_parameters(rung("heads")) == V * D + T * D + V * D + V + 4 * D * D


def test_rungs_with_heads_are_told_from_those_without() -> None:
    assert [kind for kind in RUNGS if has_attention(rung(kind))] == ATTENTION
    assert has_attention(build_model(TransformerConfig(vocab=V, layers=1, width=8, heads=2)))


@pytest.mark.parametrize("kind", RUNGS)
def test_an_outline_counts_as_the_model_does(kind: str) -> None:
    shapes = outline(rung(kind).config)
    assert count_parameters(shapes) == count_parameters(rung(kind))
    assert has_attention(shapes) == has_attention(rung(kind))


@pytest.mark.parametrize("kind", ATTENTION)
def test_without_its_mask_a_rung_looks_ahead(kind: str) -> None:
    model, ids = trained(kind, masked=False), tokens(2, T, V)
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % V
    assert not torch.allclose(model(changed)[:, :-1], model(ids)[:, :-1])


def test_without_its_mask_a_head_mixes_all_tokens_alike() -> None:
    model, ids = trained("one-head", masked=False), tokens(1, T, V)
    x = model.embed(ids)
    attention = model.attention
    weights = [getattr(attention, name).weight.T for name in ("query", "key", "value", "output")]
    q, k, v = (x[0] @ weight for weight in weights[:3])
    expected = ((q @ k.T) / math.sqrt(D)).softmax(-1) @ v @ weights[3]
    assert torch.allclose(model.mix(x)[0], expected, atol=1e-12)


def test_a_rung_that_cheats_still_writes() -> None:
    model = rung("one-head", masked=False)
    drawn = list(generate(model, tokens(2, 3, V), 2 * T, Sampling(seed=3)))
    assert len(drawn) == 2 * T
    assert all(0 <= int(token) < V for step in drawn for token in step)


PARTS = ["residual", "normalisation", "feed-forward"]


@pytest.mark.parametrize("part", [None, *PARTS])
def test_a_block_without_one_part_is_the_rest_of_it(part: str | None) -> None:
    model, ids = trained("norm", without=part), tokens(2, T, V)
    x = model.embed(ids)
    keep = 0.0 if part == "residual" else 1.0

    def normalise(y: Tensor, name: str) -> Tensor:
        if part == "normalisation":
            return y
        layer = getattr(model, name)
        centred = y - y.mean(-1, keepdim=True)
        spread = centred.square().mean(-1, keepdim=True)
        return centred / (spread + layer.eps).sqrt() * layer.weight + layer.bias

    expected = normalise(keep * x + model.attention(x), "after_attention")
    if part != "feed-forward":
        hidden = F.relu(expected @ model.up.weight.T + model.up.bias)
        thought = hidden @ model.down.weight.T + model.down.bias
        expected = normalise(keep * expected + thought, "after_thinking")
    assert torch.allclose(model.mix(x), expected, atol=1e-12)


@pytest.mark.parametrize("part", PARTS)
def test_what_is_left_out_is_neither_learnt_nor_counted(part: str) -> None:
    model = trained("norm", without=part)
    F.cross_entropy(model(tokens(2, T, V)).flatten(0, 1), tokens(2, T, V).flatten()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    left = {"residual": 0, "normalisation": 4 * D, "feed-forward": 8 * D * D + 5 * D + 2 * D}
    whole = count_parameters(rung("norm"))
    assert whole - count_parameters(rung("norm", without=part)) == left[part]
    assert count_parameters(outline(model.config)) == count_parameters(model)
