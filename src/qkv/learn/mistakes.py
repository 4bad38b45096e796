"""The catalogue of mistakes: each a wrong way of one row of attention, with what is said of it.

A mistake is the right way with one step, or two, done otherwise. So it can be worked from the
start, or from what a person has written so far.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

import numpy as np

from qkv.learn.exercises import Array, Exercise, solve, stages
from qkv.learn.rows import Found, Step, difference, known_values, mix, root, share, work

__all__ = ["LEAST_DIFFERENCE", "MISTAKES", "Mistake", "shown_mistakes"]

LEAST_DIFFERENCE = 0.01


@dataclass(frozen=True, eq=False)
class Mistake:
    """One wrong way.

    Args:
        id, name: what it is called, in a log and on a page.
        deed: what was done, as it follows "if".
        why: what is wrong with it.
        steps: what it does otherwise, by stage.
        needs: whether an exercise can show it.
    """

    id: str
    name: str
    deed: str
    why: str
    steps: Mapping[str, Step]
    needs: Callable[[Exercise], bool] = field(default=lambda _: True)

    @property
    def says(self) -> str:
        """What a person who made it is told."""
        return f"That is what comes out if {self.deed}. {self.why}"

    def run(self, exercise: Exercise, given: Mapping[str, Array] | None = None) -> Found:
        """Return the numbers that it gives at the stages of an exercise.

        >>> from qkv.learn.exercises import worked_exercises
        >>> (zero,) = [mistake for mistake in MISTAKES if mistake.id == "mask-of-zero"]
        >>> zero.run(worked_exercises()[0])["weights"].round(3).tolist()
        [0.297, 0.297, 0.297, 0.109]
        """
        found = work(exercise, given, self.steps)
        return {stage: found[stage] for stage in stages(exercise)}


@lru_cache(maxsize=256)
def shown_mistakes(exercise: Exercise) -> Mapping[Mistake, Found]:
    """Return what each mistake gives that an exercise can show: something else than the right."""
    right = solve(exercise)
    shown = {}
    for mistake in MISTAKES:
        if mistake.needs(exercise):
            found = mistake.run(exercise)
            if any(difference(found[s], right[s]) >= LEAST_DIFFERENCE for s in found):
                shown[mistake] = found
    return MappingProxyType(shown)


def _seeing(allowed: Callable[[Array, int], Array]) -> dict[str, Step]:
    """A mask that lets in other tokens, by their places and that of the one that asks."""

    def masked(exercise: Exercise, found: Found) -> Array:
        seen = allowed(np.arange(exercise.tokens), exercise.place)
        return np.where(seen, found["scaled"], -np.inf)

    return {"masked": masked}


def _filled(filler: float) -> dict[str, Step]:
    """A mask that writes another number than −∞."""
    return {"masked": lambda exercise, found: np.where(exercise.allowed, found["scaled"], filler)}


def _divided(divisor: Callable[[Exercise], float]) -> dict[str, Step]:
    return {"scaled": lambda exercise, found: found["scores"] / divisor(exercise)}


def _one_hot(exercise: Exercise, found: Found) -> Array:
    return np.asarray(np.eye(exercise.tokens)[int(np.argmax(found["masked"]))])


def _finite(numbers: Array) -> Array:
    return np.where(np.isneginf(numbers), 0.0, numbers)


def _has_query(exercise: Exercise) -> bool:
    return exercise.q is not None


def _has_scale(exercise: Exercise) -> bool:
    return exercise.scale and exercise.width != 1


def _has_future(exercise: Exercise) -> bool:
    return exercise.place + 1 < exercise.tokens


def _has_past(exercise: Exercise) -> bool:
    return exercise.place > 0


def _has_like_values(exercise: Exercise) -> bool:
    return exercise.q is not None and exercise.width == exercise.channels


def _count_seen(exercise: Exercise) -> int:
    return exercise.place + 1


MISTAKES = (
    Mistake(
        "first-channel", "first channel only",
        "only the first channel of query and key is multiplied",
        "A score is the whole dot product: multiply channel by channel, then add them all up.",
        {"scores": lambda e, _: np.array(e.keys)[:, 0] * np.array(e.q)[0]},
        lambda e: _has_query(e) and e.width != 1,
    ),
    Mistake(
        "added-channels", "q and k added",
        "query and key are added in place of multiplied",
        "A score is q·k: multiply channel by channel, then add up the products.",
        {"scores": lambda e, _: (np.array(e.keys) + np.array(e.q)).sum(axis=1)},
        _has_query,
    ),
    Mistake(
        "keys-not-transposed", "sum over the wrong axis",
        "q is multiplied with the columns of the keys in place of their rows",
        "Each token's score is q with that token's own key: q·kᵀ, a sum over channels.",
        {"scores": lambda e, _: np.array(e.q) @ np.array(e.keys)},
        lambda e: _has_query(e) and e.width == e.tokens,
    ),
    Mistake(
        "keys-for-values", "k and v swapped",
        "keys and values change places",
        "Keys are what is matched with the query; values are what is mixed.",
        {
            "scores": lambda e, _: known_values(e) @ np.array(e.q),
            "output": lambda e, found: found["weights"] @ np.array(e.keys),
        },
        _has_like_values,
    ),
    Mistake(
        "scale-forgotten", "scale forgotten",
        "the scale is forgotten",
        "Scores are divided by √d_head before the mask and the softmax, or the row becomes too "
        "sharp.",
        _divided(lambda _: 1.0), _has_scale,
    ),
    Mistake(
        "scale-twice", "divided by d_head",
        "scores are divided by d_head, the head's width, which is its root twice over",
        "The variance of a dot product grows with the width, its spread with the root: divide by "
        "√d_head.",
        _divided(lambda e: root(e.width) ** 2), _has_scale,
    ),
    Mistake(
        "scale-multiplied", "multiplied by √d_head",
        "scores are multiplied by √d_head in place of divided",
        "The scale makes scores smaller, so that the softmax stays soft.",
        _divided(lambda e: 1 / root(e.width)), _has_scale,
    ),
    Mistake(
        "scale-of-model", "√d_model for √d_head",
        "scores are divided by the root of the model's width",
        "Each head has its own dot product: what counts is d_head, not d_model.",
        _divided(lambda e: root(e.model_width)),
        lambda e: _has_scale(e) and e.model_width not in (None, e.width),
    ),
    Mistake(
        "scale-of-tokens", "√T for √d_head",
        "scores are divided by the root of the number of tokens",
        "A dot product sums over channels: it is their number that counts, √d_head.",
        _divided(lambda e: root(e.tokens)),
        lambda e: _has_scale(e) and e.tokens != e.width,
    ),
    Mistake(
        "no-mask", "no mask",
        "nothing is masked in this row",
        "The asking token looks at tokens that have not been written yet.",
        _seeing(lambda at, _: at >= 0), _has_future,
    ),
    Mistake(
        "mask-of-zero", "0 for −∞",
        "the mask writes 0 in place of −∞",
        "e⁰ is 1, so later tokens keep a weight; only −∞ has the exponential 0.",
        _filled(0.0), _has_future,
    ),
    Mistake(
        "mask-of-minus-one", "−1 for −∞",
        "the mask writes −1 in place of −∞",
        "e⁻¹ is .37, so later tokens keep a weight; only −∞ has the exponential 0.",
        _filled(-1.0), _has_future,
    ),
    Mistake(
        "mask-after-softmax", "masked after the softmax",
        "the mask is applied after the softmax",
        "Later tokens had their share of the sum already: what is left no longer sums to 1.",
        {
            "masked": lambda _, found: found["scaled"],
            "weights": lambda e, found: share(e, found) * e.allowed,
        },
        _has_future,
    ),
    Mistake(
        "mask-too-late", "one token too many",
        "the mask begins one token too late",
        "The next token is let in, the very one that is to be predicted.",
        # With one later token, this is a row without a mask.
        _seeing(lambda at, place: at <= place + 1), lambda e: e.place + 2 < e.tokens,
    ),
    Mistake(
        "mask-too-early", "one token too few",
        "the mask begins one token too early",
        "A token may look at itself: its own place is the last that is allowed.",
        _seeing(lambda at, place: at < place), _has_past,
    ),
    Mistake(
        "mask-inverted", "inverted mask",
        "the mask is inverted: it hides what should be seen and shows what should be hidden",
        "A token sees itself and those before it; −∞ goes to those after it.",
        _seeing(lambda at, place: at > place), _has_future,
    ),
    Mistake(
        "mask-of-past", "past masked",
        "the past is masked in place of the future",
        "The upper triangle is masked, the lower one is kept: earlier tokens are what may be seen.",
        _seeing(lambda at, place: at >= place), _has_past,
    ),
    Mistake(
        "base-two", "base 2",
        "powers of 2 are taken in place of powers of e",
        "The softmax is of base e = 2.718…; base 2 makes it softer.",
        {"exponentials": lambda _, found: np.exp2(found["masked"])},
    ),
    Mistake(
        "no-exponential", "no exponential",
        "scores are shared out as they are, without e to their power",
        "Exponentials make every share positive, and let differences of scores decide.",
        {"exponentials": lambda _, found: _finite(found["masked"])},
    ),
    Mistake(
        "e-times", "e times x",
        "e is multiplied with the score in place of raised to it",
        "eˣ is a power: e² is 7.39, while 2·e is 5.44.",
        {"exponentials": lambda _, found: np.e * _finite(found["masked"])},
    ),
    Mistake(
        "averaged", "only averaged",
        "the visible tokens are averaged",
        "That is attention with equal scores; here each token has its share by its own score.",
        {"weights": lambda e, _: e.allowed / _count_seen(e)}, _has_past,
    ),
    Mistake(
        "not-normalised", "not divided by the sum",
        "the exponentials are not divided by their sum",
        "Weights are shares: they sum to 1.",
        {"weights": lambda _, found: found["exponentials"]},
    ),
    Mistake(
        "divided-by-count", "divided by the count",
        "the exponentials are divided by how many they are, not by their sum",
        "Weights are shares of the sum, so that they sum to 1.",
        {"weights": lambda e, found: found["exponentials"] / _count_seen(e)}, _has_past,
    ),
    Mistake(
        "hard-maximum", "hard maximum",
        "all the weight goes to the highest score",
        "A softmax is soft: the others keep their share, and gradients a way back.",
        {"weights": _one_hot}, _has_past,
    ),
    Mistake(
        "softmax-over-queries", "softmax over the wrong axis",
        "the softmax runs over the wrong axis, so that each weight is alone and 1",
        "The shares of one row sum to 1: divide by the sum over the keys of this query.",
        {"weights": lambda _, found: np.where(found["exponentials"] > 0, 1.0, 0.0)}, _has_past,
    ),
    Mistake(
        "values-summed", "values not weighted",
        "the visible values are summed without their weights",
        "Each value counts by its weight: Σ weight·v.",
        {"output": lambda e, _: e.allowed @ known_values(e)}, _has_past,
    ),
    Mistake(
        "keys-mixed", "keys mixed",
        "the keys are mixed in place of the values",
        "The keys did their work in the scores; what a token takes in is values.",
        {"output": lambda e, found: found["weights"] @ np.array(e.keys)}, _has_like_values,
    ),
    Mistake(
        "output-averaged", "divided once more",
        "the weighted values are averaged in place of summed",
        "The weights sum to 1 already: nothing more is to be divided.",
        {"output": lambda e, found: mix(e, found) / _count_seen(e)}, _has_past,
    ),
)  # fmt: skip
