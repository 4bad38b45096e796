"""What an exercise by hand says before its numbers, and what its stages are called."""

from __future__ import annotations

import math
from collections.abc import Sequence

from qkv.learn.exercises import Exercise

__all__ = ["STAGE_NAMES", "ask_stage", "introduce", "name_places", "write_root"]

STAGE_NAMES = {
    "scores": "scores",
    "scaled": "scaled scores",
    "masked": "masked scores",
    "exponentials": "exponentials",
    "weights": "weights",
    "output": "output",
}


def introduce(exercise: Exercise) -> str:
    """Return what is told before the numbers: who asks, how wide, in how wide a model.

    >>> from qkv.learn.exercises import worked_exercises
    >>> introduce(worked_exercises()[1])
    'Token 3 of 4 asks, with causal attention. The scores q·k are there; the head has 4 channels.'
    """
    says = f"Token {exercise.place + 1} of {exercise.tokens} asks, with causal attention."
    if exercise.q is not None:
        says += f" The head has {_channels(exercise.width)}"
        if exercise.model_width is not None:
            says += f", the model a width of {exercise.model_width}"
        return f"{says}." if exercise.scale else f"{says}; scores are not scaled."
    if exercise.scale:
        return f"{says} The scores q·k are there; the head has {_channels(exercise.width)}."
    return f"{says} Its scores are there, already scaled."


def ask_stage(exercise: Exercise, stage: str) -> str:
    """Return what is asked at a stage; how it is done is for the person to know."""
    return {
        "scores": "the query with each key, q·k",
        "scaled": "the scores, scaled for the width of the head",
        "masked": "what the causal mask leaves of them (−∞ is typed -inf)",
        "exponentials": "what the softmax makes of each",
        "weights": "the share of each token",
        "output": f"what token {exercise.place + 1} takes in",
    }[stage]


def name_places(stage: str, places: Sequence[int]) -> str:
    """Return places in words, counted from 1.

    >>> name_places("weights", (0, 2)), name_places("output", (1,))
    ('tokens 1 and 3', 'channel 2')
    """
    word = "channel" if stage == "output" else "token"
    numbers = [str(place + 1) for place in places]
    if len(numbers) == 1:
        return f"{word} {numbers[0]}"
    return f"{word}s {', '.join(numbers[:-1])} and {numbers[-1]}"


def write_root(width: int) -> str:
    """Return a width's root as one writes it.

    >>> write_root(2), write_root(4)
    ('√2', '√4 = 2')
    """
    root = math.isqrt(width)
    return f"√{width} = {root}" if root * root == width else f"√{width}"


def _channels(width: int | None) -> str:
    return f"{width} channel{'s' * (width != 1)}"
