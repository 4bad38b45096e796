"""How fast text is generated: with the cache, without it, and beside nanoGPT's sampler."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from qkv.bench.measure import Measurement, Timing, compare, ratio
from qkv.bench.nanogpt import SHAPE, open_sampler
from qkv.models import (
    Sampling,
    Transformer,
    TransformerConfig,
    build_model,
    count_parameters,
    generate,
)
from qkv.models.decode import Decoder
from qkv.models.embedded import load_embedded
from qkv.models.products import Precision
from qkv.training.recipes import configure, find_preset

__all__ = ["beside_nanogpt", "generation"]


WARM_UP_TOKENS = 8


def generation(
    rounds: int = 5, *, nanogpt: Path | None = None, config: TransformerConfig | None = None
) -> list[Measurement]:
    """Time generation with the cache against recomputing the whole prefix for each token.

    The model is the preset `small` (2.7 M parameters, context 256), fp32, one prompt. Two cases:
    the last 32 tokens of a context, where the prefix is nearly all of T; and a whole context from
    one token on, where the prefix is half of T on average. Whether both ways drew the same tokens
    is among the figures.

    Args:
        rounds: the median counts.
        nanogpt: a checkout of nanoGPT: :func:`beside_nanogpt` in place of both cases.
        config: of another model than `small`, with a context above 32.
    """
    if nanogpt is not None:
        return [beside_nanogpt(nanogpt, rounds)]
    config = config or cast("TransformerConfig", configure(find_preset("small"), vocab=65)[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # Projections that start at zero would make every token as likely, whatever the cache does.
        model = build_model(replace(config, zero_init=False))
    T = config.context
    return [
        _generate(model, T, prompt=prompt, tokens=T - prompt, rounds=rounds)
        for prompt in (T - 32, 1)
    ]


def _generate(model: Any, T: int, *, prompt: int, tokens: int, rounds: int) -> Measurement:
    """Time the tokens after the prompt; reading the prompt is not counted, on either side."""
    ids = torch.arange(prompt)[None] % model.config.vocab
    spent: dict[str, list[float]] = {"cached": [], "recomputed": []}
    drawn: dict[str, list[int]] = {}
    for turn in range(rounds + 1):
        for name, seconds in spent.items():
            steps = generate(model, ids, tokens + 1, Sampling(seed=1), cached=name == "cached")
            drawn[name] = [int(next(steps)[0])]
            started = time.perf_counter()
            drawn[name] += [int(step[0]) for step in steps]
            if turn:
                seconds.append(time.perf_counter() - started)
    times = {name: Timing(seconds) for name, seconds in spent.items()}
    return Measurement(
        "generation, key/value cache against recomputing the prefix, fp32",
        {
            "parameters": count_parameters(model),
            "T": T,
            "prompt_tokens": prompt,
            "tokens": tokens,
        },
        {
            **{name: timing.to_json() for name, timing in times.items()},
            "cached_tokens_per_second": tokens / times["cached"].median,
            "recomputed_tokens_per_second": tokens / times["recomputed"].median,
            "times_as_fast": ratio(times["recomputed"], times["cached"]),
            "same_tokens": drawn["cached"] == drawn["recomputed"],
        },
        rounds,
    )


def beside_nanogpt(
    folder: Path, rounds: int = 5, *, shape: dict[str, Any] | None = None
) -> Measurement:
    """Time our `generate` in turn with nanoGPT's, on the same weights, one prompt of one token.

    Each side draws as many tokens as the context has, with the defaults of nanoGPT's sampler
    (temperature 0.8, the 200 likeliest tokens), in a process that is warm: each turn starts with a
    few tokens that are not timed. All of a call counts: ours makes its cache ready in it. Ours
    reads its weights as `qkv sample` does (``auto``, see `qkv.models.products`; ``precision`` names
    what it is here), and once more as they are; of those the likeliest tokens are compared with
    nanoGPT's. What narrow weights change is measured on a model that has learnt something, the one
    that comes with qkv: ``nats_from_fp32`` is the mean absolute difference of the log-probabilities
    of a text that it drew.

    Args:
        folder: a checkout of nanoGPT, which is left as it is.
        rounds: the median counts.
        shape: of nanoGPT's model, by its own names; unless given, its model of characters.

    Raises:
        ConfigError: no checkout of nanoGPT, or a process that failed.
    """
    shape = shape or SHAPE
    tokens = int(shape["block_size"])
    with open_sampler(folder, shape) as sampler:
        model = sampler.checkpoint.model

        def draw(tokens: int, precision: Precision, temperature: float = 0.8) -> list[int]:
            prompt = torch.zeros((1, 1), dtype=torch.long)
            sampling = Sampling(temperature=temperature, top_k=200)
            steps = generate(model, prompt, tokens, sampling, precision=precision)
            return [int(step[0]) for step in steps]

        likeliest = draw(tokens, "fp32", temperature=0)
        same = likeliest == sampler.draw([0], tokens, 1.0, top_k=1)
        precision, nats = _compare_precisions()
        few = min(WARM_UP_TOKENS, tokens)
        ways: dict[str, Callable[[int], object]] = {
            "generate": lambda tokens: draw(tokens, "auto"),
            "generate_fp32": lambda tokens: draw(tokens, "fp32"),
            "nanogpt": lambda tokens: sampler.draw([0], tokens, 0.8, top_k=200),
        }
        times = compare(
            {name: partial(way, tokens) for name, way in ways.items()},
            rounds,
            warm_ups={name: partial(way, few) for name, way in ways.items()},
        )
        narrow = "" if precision == "fp32" else f"narrow weights ({precision}) and as they are "
        return Measurement(
            "generation, one prompt of one token, and nanoGPT's sampler in turn: "
            f"{narrow or 'weights as they are '}(fp32)",
            {"parameters": sampler.parameters, "T": tokens, "tokens": tokens},
            {
                **{name: timing.to_json() for name, timing in times.items()},
                "tokens_per_second": tokens / times["generate"].median,
                "nanogpt_tokens_per_second": tokens / times["nanogpt"].median,
                "times_as_fast": ratio(times["nanogpt"], times["generate"]),
                "times_as_fast_fp32": ratio(times["nanogpt"], times["generate_fp32"]),
                "same_likeliest_tokens": same,
                "precision": precision,
                "nats_from_fp32": nats,
            },
            rounds,
        )


def _compare_precisions() -> tuple[Precision, float]:
    """Return what ``auto`` is, and how far log-probabilities are from fp32's with it."""
    model = load_embedded().model
    assert isinstance(model, Transformer)
    start, tokens = torch.zeros((1, 1), dtype=torch.long), model.config.context
    drawn = torch.cat(list(generate(model, start, tokens, Sampling(seed=0), precision="fp32")))

    def read(decoder: Decoder) -> torch.Tensor:
        logits = [decoder.read(start)]
        logits += [decoder.step(token[None]).clone() for token in drawn[:-1]]
        return torch.cat(logits).log_softmax(-1).gather(1, drawn[:, None])

    with torch.inference_mode():
        narrow, exact = Decoder(model, 1, "auto"), Decoder(model, 1, "fp32")
        return narrow.precision, float((read(narrow) - read(exact)).abs().mean())
