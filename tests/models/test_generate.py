"""Generation: the cache changes nothing, nor do top-k and top-p but what they say."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from qkv.errors import ConfigError, ShapeError
from qkv.models import (
    RungConfig,
    Sampling,
    Transformer,
    TransformerConfig,
    build_model,
    generate,
)
from qkv.models.decode import Decoder
from qkv.models.generate import choose

from .conftest import scramble, tokens

CONTEXT = 13
VARIANTS: dict[str, dict[str, Any]] = {
    "rotary": {"positions": "rotary"},
    "learned": {"positions": "learned"},
    "sinusoidal": {"positions": "sinusoidal"},
    "alibi": {"positions": "alibi"},
    "none": {"positions": "none"},
    "grouped": {"kv_heads": 3},
    "one key head": {"kv_heads": 1, "positions": "alibi"},
    "window": {"window": 5},
    "window, learned": {"window": 3, "positions": "learned"},
    "softcap": {"softcap": 2.0, "logit_softcap": 3.0},
    "no qk-norm": {"qk_norm": False, "norm": "layer", "bias": True, "tied": True},
    "gate": {"activation": "swiglu", "bias": True},
    "convolution": {"convolution": 3},
    "everything": {
        "convolution": 4,
        "window": 4,
        "softcap": 2.0,
        "kv_heads": 2,
        "positions": "alibi",
    },
}


def small(**more: Any) -> Transformer:
    """A small Transformer in float64 whose logits vary, its context prime."""
    config = {"vocab": 17, "context": CONTEXT, "layers": 2, "width": 24, "heads": 6}
    model = Transformer(TransformerConfig(**{**config, **more}))
    scramble(model, scale=2.0)
    assert isinstance(model, Transformer)
    return model.double()


def run(model: Any, prompt: Tensor, count: int, *args: Any, **more: Any) -> Tensor:
    """All the tokens that `generate` yields, (B, count)."""
    return torch.stack(list(generate(model, prompt, count, *args, **more)), dim=1)


@pytest.mark.parametrize("variant", VARIANTS)
def test_cached_logits_equal_full_ones(variant: str) -> None:
    model, ids = small(**VARIANTS[variant]), tokens(3, CONTEXT, 17)
    with torch.no_grad():
        whole, cache = model(ids), model.new_cache(batch=3)
        # First the prompt, then single tokens, then several at once.
        ends = (0, 4, 5, 6, 9, CONTEXT)
        pieces = [model(ids[:, a:b], cache) for a, b in pairwise(ends)]
        last = model(ids, model.new_cache(batch=3), last=True)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0, atol=1e-10)
    torch.testing.assert_close(last, whole[:, -1:], rtol=0, atol=1e-10)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("variant", [*VARIANTS, "odd hidden", "tanh", "scale"])
def test_single_steps_give_the_logits_of_a_whole_pass(variant: str, batch: int) -> None:
    more: dict[str, Any] = {
        "odd hidden": {"hidden": 31, "activation": "gelu"},
        "tanh": {"activation": "gelu_tanh", "convolution": 2},
        "scale": {"scale": 0.3, "qk_norm": False},
    }
    model, ids = small(**{**VARIANTS, **more}[variant]), tokens(batch, CONTEXT, 17)
    with torch.inference_mode():
        whole, decoder = model(ids), Decoder(model, batch)
        for prompt in (5, 2):  # what the first pass left behind must not be seen in the second
            found = [decoder.read(ids[:, :prompt])]
            found += [decoder.step(ids[:, at]) for at in range(prompt, CONTEXT)]
            torch.testing.assert_close(
                torch.stack(found, 1), whole[:, prompt - 1 :], rtol=0, atol=1e-10
            )


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(0.9, top_k=11, seed=5)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_cached_tokens_equal_full_ones_and_go_on_beyond_the_context(
    variant: str, sampling: Sampling
) -> None:
    model, prompt = small(**VARIANTS[variant]), tokens(3, 4, 17)
    count = 3 * CONTEXT
    cached = run(model, prompt, count, sampling)
    assert cached.shape == (3, count)
    assert torch.equal(cached, run(model, prompt, count, sampling, cached=False))


@pytest.mark.parametrize("context", [1, 2, 3])
def test_tiny_contexts_go_on_too(context: int) -> None:
    model, prompt = small(context=context), tokens(2, 1, 17)
    assert torch.equal(run(model, prompt, 9), run(model, prompt, 9, cached=False))


def test_of_a_prompt_beyond_the_context_the_end_counts() -> None:
    model, prompt = small(), tokens(2, 40, 17)
    assert torch.equal(run(model, prompt, 20), run(model, prompt[:, -CONTEXT:], 20))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_of_a_batch_gives_what_it_gives_alone(variant: str) -> None:
    model, prompt = small(**VARIANTS[variant]), tokens(3, 4, 17)
    greedy = Sampling(temperature=0)
    together = run(model, prompt, 30, greedy)
    for row in range(3):
        assert torch.equal(together[row], run(model, prompt[row : row + 1], 30, greedy)[0])


def trained_like(**more: Any) -> Transformer:
    """A model in fp32 that is as sure of its next token as a trained one, 2 nats on average."""
    config = {"vocab": 65, "context": 40, "layers": 3, "width": 96, "heads": 3}
    model = Transformer(TransformerConfig(**{**config, **more}))
    scramble(model)
    assert isinstance(model, Transformer)
    with torch.no_grad():
        weight = model.tokens if model.unembed is None else model.unembed.weight
        weight.copy_(0.25 * torch.randn_like(weight))
    return model


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-5), ("bf16", 0.02), ("int8", 0.06)])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("variant", ["rotary", "no qk-norm", "gate"])
def test_narrow_weights_move_probabilities_by_no_more_than_they_are_said_to(
    variant: str, batch: int, precision: Any, bound: float
) -> None:
    model, ids = trained_like(**VARIANTS[variant]), tokens(batch, 40, 65)
    with torch.inference_mode():
        whole = model(ids).log_softmax(-1)
        decoder = Decoder(model, batch, precision)
        steps = [decoder.read(ids[:, :3]), *(decoder.step(ids[:, at]) for at in range(3, 40))]
    moved = torch.stack(steps, 1).log_softmax(-1) - whole[:, 2:]
    assert float(moved.square().mean().sqrt()) < bound
    assert float(moved.abs().max()) < 5 * bound
    if precision != "fp32":
        assert float(moved.abs().max()) > 1e-4
    assert float(-(whole.exp() * whole).sum(-1).mean()) < 3  # nats: far from all alike


@pytest.mark.parametrize("precision", ["auto", "bf16", "int8"])
def test_narrow_weights_repeat_a_text_and_go_on_beyond_the_context(precision: Any) -> None:
    model, prompt = trained_like(), tokens(2, 4, 65)
    sampling = Sampling(0.8, top_k=20, seed=7)
    first = run(model, prompt, 100, sampling, precision=precision)
    assert torch.equal(first, run(model, prompt, 100, sampling, precision=precision))
    assert first.shape == (2, 100)


def test_weights_are_read_as_they_are_when_a_text_begins() -> None:
    model, prompt = trained_like(), tokens(1, 4, 65)
    before = run(model, prompt, 30, precision="int8")
    with torch.no_grad():
        model.blocks[0].attention.project.weight.neg_()  # type: ignore[union-attr, operator]
    assert not torch.equal(before, run(model, prompt, 30, precision="int8"))


def test_rungs_generate_too() -> None:
    config = RungConfig("heads", vocab=17, context=CONTEXT, width=12, heads=3)
    model = scramble(build_model(config))
    drawn = run(model, tokens(2, 3, 17), 30)
    assert drawn.shape == (2, 30)
    assert int(drawn.max()) < 17


def test_the_seed_alone_decides() -> None:
    model, prompt = small(), tokens(2, 3, 17)
    first = run(model, prompt, 20, Sampling(seed=3))
    torch.manual_seed(99)
    assert torch.equal(first, run(model, prompt, 20, Sampling(seed=3)))
    assert not torch.equal(first, run(model, prompt, 20, Sampling(seed=4)))


@pytest.mark.parametrize(
    ("sampling", "equals"),
    [
        (Sampling(top_k=1), True),
        (Sampling(top_p=1e-9), True),
        (Sampling(temperature=5, top_k=1, top_p=0.5), True),
        (Sampling(temperature=1e-40), False),  # it draws among equal logits
    ],
)
def test_the_narrowest_choice_is_the_greedy_one(sampling: Sampling, equals: bool) -> None:
    logits = torch.randn(500, 29)
    for row in (logits, logits.round()) if equals else (logits,):
        drawn = choose(row, sampling, torch.Generator().manual_seed(0))
        assert torch.equal(drawn, choose(row, Sampling(temperature=0), torch.Generator()))


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(), 5),
        (Sampling(top_k=3), 3),
        (Sampling(top_k=50), 5),
        (Sampling(top_p=0.75), 3),  # .4 + .3 < .75 <= .4 + .3 + .15
        (Sampling(top_p=0.69), 2),
        (Sampling(top_p=1.0), 5),
        (Sampling(top_k=4, top_p=0.8), 3),  # of the four kept: .42 + .32 < .8
        (Sampling(temperature=2.0, top_k=4), 4),
    ],
)
def test_what_is_kept_is_drawn_in_proportion(sampling: Sampling, kept: int) -> None:
    probabilities = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15], dtype=torch.float64)
    draws = 40_000
    logits = probabilities.log().expand(draws, 5) + 7.0
    drawn = choose(logits, sampling, torch.Generator().manual_seed(11))
    counts = torch.bincount(drawn, minlength=5).double()
    order = probabilities.argsort(descending=True)
    assert counts[order[kept:]].sum() == 0
    wanted = probabilities[order[:kept]] ** (1 / sampling.temperature)
    wanted = draws * wanted / wanted.sum()
    # Pearson's statistic; with at most 4 degrees of freedom, above 25 once in 20,000 tries.
    assert ((counts[order[:kept]] - wanted) ** 2 / wanted).sum() < 25


@pytest.mark.parametrize("sampling", [Sampling(0.7, seed=3), Sampling(1.3, top_k=65, seed=3)])
def test_draws_are_those_of_torchs_multinomial(sampling: Sampling) -> None:
    logits = 3 * torch.randn(4, 65)
    ours, theirs = (torch.Generator().manual_seed(sampling.seed) for _ in range(2))
    for _ in range(20):
        probabilities = (logits.double() / sampling.temperature).softmax(-1)
        drawn = torch.multinomial(probabilities, 1, generator=theirs)[:, 0]
        assert torch.equal(choose(logits, sampling, ours), drawn)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_restored_even_when_stopped_early(training: bool) -> None:
    model = small(dropout=0.5).train(training)
    list(generate(model, tokens(1, 3, 17), 4))
    assert model.training is training
    stream = generate(model, tokens(1, 3, 17), 4)
    next(stream)
    assert not model.training
    stream.close()  # type: ignore[attr-defined]
    assert model.training is training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_asking_for_nothing_gives_nothing() -> None:
    assert list(generate(small(), tokens(1, 3, 17), 0)) == []


@pytest.mark.parametrize("prompt", [torch.zeros(1, 0, dtype=torch.long), torch.zeros(3).long()])
def test_a_prompt_needs_tokens(prompt: Tensor) -> None:
    with pytest.raises(ShapeError, match="start from at least one token"):
        next(generate(small(), prompt, 3))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^got .*; expected .*; .*"):
        Sampling(**wrong)
