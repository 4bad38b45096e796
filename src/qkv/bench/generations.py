"""How fast text is generated: with the cache, without it, and beside nanoGPT's sampler."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from qkv.bench.measure import Measurement, Timing, compare, ratio
from qkv.bench.nanogpt import SHAPE, open_sampler
from qkv.models import Sampling, build_model, count_parameters, generate
from qkv.models.products import Precision
from qkv.training.recipes import configure, find_preset

__all__ = ["beside_nanogpt", "generation"]


def generation(rounds: int = 5, *, nanogpt: Path | None = None) -> list[Measurement]:
    """Time generation with the cache against recomputing the whole prefix for each token.

    The model is the preset `small` (2.7 M parameters, context 256), fp32, one prompt. Two cases:
    the last 32 tokens of a context, where the prefix is nearly all of T; and a whole context from
    one token on, where the prefix is half of T on average. Both ways draw the same tokens.

    With a checkout of nanoGPT: :func:`beside_nanogpt` in their place.
    """
    if nanogpt is not None:
        return [beside_nanogpt(nanogpt, rounds)]
    config, _ = configure(find_preset("small"), vocab=65)
    torch.manual_seed(0)
    model = build_model(config)
    T = config.context
    return [
        _generate(model, T, prompt=prompt, tokens=T - prompt, rounds=rounds)
        for prompt in (T - 32, 1)
    ]


def _generate(model: Any, T: int, *, prompt: int, tokens: int, rounds: int) -> Measurement:
    """Time the tokens after the prompt; reading the prompt is not counted, on either side."""
    ids = torch.arange(prompt)[None] % 65
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
    assert drawn["cached"] == drawn["recomputed"]
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
        },
        rounds,
    )


def beside_nanogpt(
    folder: Path, rounds: int = 5, *, shape: dict[str, Any] | None = None
) -> Measurement:
    """Time our `generate` in turn with nanoGPT's, on the same weights, one prompt of one token.

    Each side draws as many tokens as the context has, with the defaults of nanoGPT's sampler
    (temperature 0.8, the 200 likeliest tokens), in a process that is warm. All of a call counts:
    ours makes its cache ready in it. Ours reads its weights as `qkv sample` does (``auto``, see
    `qkv.models.products`), and once more as they are; of those the likeliest tokens are compared.

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

        def draw(sampling: Sampling, precision: Precision = "fp32") -> list[int]:
            prompt = torch.zeros((1, 1), dtype=torch.long)
            steps = generate(model, prompt, tokens, sampling, precision=precision)
            return [int(step[0]) for step in steps]

        drawing = Sampling(temperature=0.8, top_k=200)
        same = draw(Sampling(temperature=0)) == sampler.draw([0], tokens, 1.0, top_k=1)
        times = compare(
            {
                "generate": lambda: draw(drawing, "auto"),
                "generate_fp32": lambda: draw(drawing),
                "nanogpt": lambda: sampler.draw([0], tokens, 0.8, top_k=200),
            },
            rounds,
        )
        return Measurement(
            "generation, one prompt of one token, and nanoGPT's sampler in turn, same weights",
            {"parameters": sampler.parameters, "T": tokens, "tokens": tokens},
            {
                **{name: timing.to_json() for name, timing in times.items()},
                "tokens_per_second": tokens / times["generate"].median,
                "nanogpt_tokens_per_second": tokens / times["nanogpt"].median,
                "times_as_fast": ratio(times["nanogpt"], times["generate"]),
                "times_as_fast_fp32": ratio(times["nanogpt"], times["generate_fp32"]),
                "same_likeliest_tokens": same,
            },
            rounds,
        )
