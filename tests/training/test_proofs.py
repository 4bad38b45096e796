"""The proofs hold for causal models, and the right one fails for each way of cheating."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qkv.attention.fused
import qkv.models.blocks
import qkv.models.rungs
from qkv.attention import Causal, Window, attend
from qkv.errors import TextError
from qkv.models import RungConfig, TransformerConfig, build_model
from qkv.models.blocks import Attention
from qkv.training import TrainingConfig, TrainingState, train
from qkv.training.proofs import measure_influence, prove
from qkv.training.run import Data

Tiny = Callable[..., TransformerConfig]
ATTENTION = ["one-head", "heads", "feed-forward", "residual", "norm"]
OTHERS = ["uniform", "bigram", "average", "rnn", "wavenet"]
TRANSFORMERS: list[dict[str, Any]] = [
    {},
    {"positions": "learned", "norm": "layer", "bias": True, "qk_norm": False},
    {"positions": "alibi"},
    {"window": 4},
    {"heads": 6, "kv_heads": 2, "width": 36},
]
TRAINING = TrainingConfig(tokens=25 * 4 * 11, batch=4, precision="fp32", learning_rate=0.01)


def rung(kind: str, data: Data, context: int = 11) -> nn.Module:
    torch.manual_seed(2)
    vocab = data.tokenizer.size
    return build_model(RungConfig(kind, vocab=vocab, context=context, width=24, heads=3))


def trained(model: nn.Module, data: Data) -> nn.Module:
    if any(p.requires_grad for p in model.parameters()):
        list(train(TrainingState(model, TRAINING), data.train, TRAINING))
    return model


def verdicts(model: nn.Module, data: Data) -> dict[str, bool]:
    proofs = prove(model, data.validation)
    assert all(proof.tried > 0 for proof in proofs)
    return {proof.name: proof.holds for proof in proofs}


@pytest.mark.parametrize("kind", ATTENTION)
def test_every_rung_with_attention_keeps_every_law(kind: str, data: Data) -> None:
    model = trained(rung(kind, data), data)
    expected = {"lower-triangular": True, "no future": True, "equal scores": True}
    assert verdicts(model, data) == expected
    assert not any(proof.note for proof in prove(model, data.validation))


@pytest.mark.parametrize("fields", TRANSFORMERS, ids=str)
def test_every_transformer_keeps_every_law(fields: dict[str, Any], data: Data, tiny: Tiny) -> None:
    torch.manual_seed(2)
    model = trained(build_model(tiny(**fields)), data)
    proofs = {proof.name: proof for proof in prove(model, data.validation)}
    assert all(proof.holds for proof in proofs.values())
    assert proofs["lower-triangular"].worst == 0.0
    sequences, layers, T = 4, 2, 11
    heads = model.config.heads  # type: ignore[union-attr]
    assert proofs["lower-triangular"].tried == sequences * layers * heads * T * (T - 1) // 2  # type: ignore[operator]
    assert proofs["no future"].tried == sequences * T * (T - 1) // 2


@pytest.mark.parametrize("kind", OTHERS)
def test_rungs_without_attention_are_held_to_the_one_law_that_applies(
    kind: str, data: Data
) -> None:
    assert verdicts(trained(rung(kind, data), data), data) == {"no future": True}


@pytest.mark.parametrize("kind", ["bigram", "rnn", "heads"])
def test_logits_that_depend_on_no_token_show_nothing(kind: str, data: Data) -> None:
    model = rung(kind, data)  # untrained: its unembedding, or its table, is zero
    law = next(proof for proof in prove(model, data.validation) if proof.name == "no future")
    assert (law.worst, law.shown, law.holds) == (0.0, False, False)
    assert law.note == "shows nothing: no logit depends on any token"
    assert sum(not proof.holds for proof in prove(model, data.validation)) == 1


def test_a_model_that_looks_at_nothing_by_design_holds_by_itself(data: Data) -> None:
    (law,) = prove(rung("uniform", data), data.validation)
    assert law.holds
    assert "looks at no token" in law.note


@pytest.mark.parametrize(
    ("windows", "claim"),
    [
        ((None,), "equal scores give the uniform average of the past"),
        ((11,), "equal scores give the uniform average of the past"),
        ((4,), "equal scores average the last 4 tokens"),
        ((1,), "equal scores average the last 1 token"),
        ((2, 4), "equal scores average the last 2 to 4 tokens"),
        ((None, 4), "equal scores average the last 4 or all tokens"),
    ],
)
def test_a_window_is_part_of_the_claim(
    windows: tuple[int | None, ...], claim: str, data: Data, tiny: Tiny
) -> None:
    model = build_model(tiny())
    attentions = [part for part in model.modules() if isinstance(part, Attention)]
    for attention, window in zip(attentions, windows * 2, strict=False):
        attention.mask = Window(window) if window else Causal()
    proofs = {proof.name: proof for proof in prove(model, data.validation)}
    assert proofs["equal scores"].holds
    assert proofs["equal scores"].claim == claim
    assert all(len(proof.claim) <= 52 for proof in proofs.values())


def cheat(monkeypatch: pytest.MonkeyPatch, kernel: Callable[..., Tensor]) -> None:
    monkeypatch.setattr(qkv.models.rungs, "attend", kernel)


def without_mask(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
    return attend(q, k, v)


def off_by_one(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
    T = q.shape[2]
    return attend(q, k, v, mask=torch.ones(T, T, dtype=torch.bool).tril(1))


def mask_after_softmax(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.softmax(-1).tril() @ v


def not_itself(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
    T = q.shape[2]
    return attend(q, k, v, mask=torch.ones(T, T, dtype=torch.bool).tril(-1))


@pytest.mark.parametrize("kernel", [without_mask, off_by_one])
def test_seeing_the_future_breaks_all_laws(
    kernel: Callable[..., Tensor], data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheat(monkeypatch, kernel)
    found = verdicts(trained(rung("heads", data), data), data)
    assert found == {"lower-triangular": False, "no future": False, "equal scores": False}


@pytest.mark.parametrize("kind", ["one-head", "norm"])
def test_a_rung_without_its_mask_is_found_to_look_ahead(kind: str, data: Data) -> None:
    torch.manual_seed(2)
    sizes: dict[str, Any] = {"vocab": data.tokenizer.size, "context": 11, "width": 24, "heads": 3}
    model = trained(build_model(RungConfig(kind, masked=False, **sizes)), data)
    found = verdicts(model, data)
    assert found == {"lower-triangular": False, "no future": False, "equal scores": False}


def test_a_token_that_does_not_see_itself_breaks_the_average(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheat(monkeypatch, not_itself)
    found = verdicts(trained(rung("heads", data), data), data)
    assert found == {"lower-triangular": True, "no future": True, "equal scores": False}


def test_a_bias_does_not_hide_that_there_is_no_mask(
    data: Data, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unmasked(q: Tensor, k: Tensor, v: Tensor, *, bias: Any, **_: Any) -> Tensor:
        return attend(q, k, v, bias=bias)

    monkeypatch.setattr(qkv.models.blocks, "attend", unmasked)
    found = verdicts(trained(build_model(tiny(positions="alibi")), data), data)
    assert found == {"lower-triangular": False, "no future": False, "equal scores": False}


def test_a_kernel_that_masks_after_the_softmax_breaks_the_average(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(rung("heads", data), data)
    monkeypatch.setattr(qkv.attention.fused, "through_sdpa", mask_after_softmax)
    found = verdicts(model, data)
    assert found == {"lower-triangular": True, "no future": False, "equal scores": False}


def test_masking_after_the_softmax_is_found_out(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    cheat(monkeypatch, mask_after_softmax)
    assert verdicts(trained(rung("heads", data), data), data) == {"no future": False}


class Leaking(nn.Module):
    """Its attention is causal; the mean over time it adds is not."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.config = inner, inner.config

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.inner(tokens)
        return logits + 0.01 * logits.mean(dim=1, keepdim=True)


def test_a_leak_elsewhere_than_in_attention_is_found_out(data: Data) -> None:
    found = verdicts(Leaking(trained(rung("heads", data), data)), data)
    assert found == {"lower-triangular": True, "no future": False, "equal scores": True}


def test_numbers_that_are_none_prove_nothing(data: Data) -> None:
    model = rung("heads", data)
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    found = verdicts(model, data)
    assert not found["no future"]
    assert not found["equal scores"]
    assert not any(proof.note for proof in prove(model, data.validation))


def test_too_little_text_to_prove_anything_on(data: Data) -> None:
    for ids in (np.zeros(0, np.int64), np.zeros(1, np.int64)):
        with pytest.raises(TextError, match="at least 2"):
            prove(rung("heads", data), ids)
        with pytest.raises(TextError, match="at least 2"):
            measure_influence(rung("heads", data), ids)


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        ("uniform", 0, 0), ("bigram", 1, 1), ("average", 16, 16), ("rnn", 1, 16),
        ("wavenet", 16, 16), ("one-head", 16, 16),
    ],
)  # fmt: skip
def test_influence_reaches_as_far_as_the_model_looks(
    kind: str, least: int, most: int, data: Data
) -> None:
    influence = measure_influence(trained(rung(kind, data, context=16), data), data.validation)
    assert least <= influence.reach <= most
    assert influence.distances[0] == 0
    assert influence.distances[-1] == 15
    assert all(0 <= effect <= 1 for effect in influence.effects)


def test_window_limits_influence(data: Data, tiny: Tiny) -> None:
    torch.manual_seed(2)
    model = trained(build_model(tiny(window=3, layers=1, context=16)), data)
    assert 1 < measure_influence(model, data.validation).reach <= 3
    assert model.training, "the model is left in the mode it was in"


@pytest.mark.parametrize("window", [20, 50])
def test_the_reach_of_a_window_is_exact(window: int, data: Data, tiny: Tiny) -> None:
    torch.manual_seed(2)
    model = trained(build_model(tiny(window=window, layers=1, context=64)), data)
    influence = measure_influence(model, data.validation)
    assert window - 1 not in influence.distances
    assert influence.reach == window


class Distant(nn.Module):
    """It looks at the last token and at one far back, and at none between."""

    def __init__(self, back: int, vocab: int) -> None:
        super().__init__()
        self.back, self.config = back, RungConfig("bigram", vocab=vocab, context=64)
        self.table = torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(1))

    def forward(self, tokens: Tensor) -> Tensor:
        logits = self.table[tokens]
        logits[:, self.back :] += self.table[tokens[:, : -self.back]]
        return logits


@pytest.mark.parametrize("back", [5, 37, 62, 63])
def test_reach_is_exact_where_influence_does_not_fade_evenly(back: int, data: Data) -> None:
    model = Distant(back, data.tokenizer.size)
    assert measure_influence(model, data.validation).reach == back + 1
