"""Loss over all of a text equals a plain loop in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from qkv.errors import TextError
from qkv.models import RungConfig, Sampling, TransformerConfig, build_model
from qkv.text import corpus_from_text
from qkv.training import evaluate, evaluation, sample_text, stream_text
from qkv.training.run import Data

Tiny = Callable[..., TransformerConfig]


def test_loss_is_that_of_a_plain_loop(data: Data, tiny: Tiny) -> None:
    torch.manual_seed(4)
    model = build_model(tiny(zero_init=False)).train()
    ids = data.validation
    found = evaluate(model, ids, batch=5)
    exact = build_model(model.config).double().eval()  # type: ignore[arg-type]
    exact.load_state_dict(model.state_dict())
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, 11):  # windows do not overlap: each starts afresh
            stop = min(start + 11, len(ids) - 1)
            logits = exact(torch.from_numpy(ids[start:stop])[None])[0]
            chances = logits.log_softmax(-1)
            for place in range(stop - start):
                total -= float(chances[place, ids[start + place + 1]])
    assert found.tokens == len(ids) - 1
    assert found.loss == pytest.approx(total / (len(ids) - 1), rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert found.context == 11
    assert model.training


def test_batches_do_not_change_the_loss(
    data: Data, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(tiny(zero_init=False))
    together = evaluate(model, data.validation)
    monkeypatch.setattr(evaluation, "LOGITS", 1)  # as if the vocabulary were huge
    assert evaluate(model, data.validation).loss == pytest.approx(together.loss, rel=1e-6)


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_loss_a_character_compares_tokenizers(kind: str, text: str) -> None:
    data = Data.prepare(corpus_from_text("é" + text), kind)  # type: ignore[arg-type]
    model = build_model(RungConfig("uniform", vocab=data.tokenizer.size, context=11))
    found = evaluate(model, data.validation, characters=data.validation_characters)
    assert found.loss == pytest.approx(math.log(data.tokenizer.size), rel=1e-6)
    assert found.per_character == pytest.approx(
        found.loss * found.tokens / (len(data.corpus.split()[1]) - 1)
    )
    assert evaluate(model, data.validation).per_character is None


def test_one_token_cannot_be_scored(data: Data) -> None:
    model = build_model(RungConfig("bigram", vocab=data.tokenizer.size))
    with pytest.raises(TextError):
        evaluate(model, np.zeros(1, np.int64))


def test_samples_are_streamed_repeatable_and_go_beyond_the_context(data: Data, tiny: Tiny) -> None:
    torch.manual_seed(4)
    model = build_model(tiny(zero_init=False))
    pieces = list(stream_text(model, data.tokenizer, "a", 40, Sampling(seed=3)))
    assert len(pieces) == 40  # characters come one by one, past the 11 tokens of context
    again = sample_text(model, data.tokenizer, "a", 40, Sampling(seed=3))
    assert again == "".join(pieces)
    assert again != sample_text(model, data.tokenizer, "a", 40, Sampling(seed=4))
    with pytest.raises(TextError, match="'Z'"):
        sample_text(model, data.tokenizer, "Z", 1)
