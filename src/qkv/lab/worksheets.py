"""One attention step as it is worked by hand: given numbers in, every step out, in float64.

All of it is computed by `qkv.attention`; what a page changed in the middle is pinned, and what
follows is computed from it. The wrong ways of masking are here too, since a worksheet shows them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from qkv.attention import AffinitySteps, Causal, steps, steps_from_affinities
from qkv.attention.multihead import split_heads
from qkv.attention.steps import concat_heads, project
from qkv.errors import ConfigError, ShapeError

__all__ = ["GIVEN", "Sheet", "Worked", "as_it_should_be", "read_sheet", "work"]

Array: TypeAlias = "np.ndarray[Any, Any]"
MaskKind = Literal["causal", "none", "zero", "after"]
Pin: TypeAlias = tuple[str, int, int, int]

GIVEN = ("x", "w_q", "w_k", "w_v", "w_o", "q", "k", "v", "scores")
PINNED = (
    "q", "k", "v", "scores", "scaled", "masked", "exponentials", "pattern", "mixed", "output",
)  # fmt: skip
MASKS = ("causal", "none", "zero", "after")
MOST_TOKENS, MOST_HEADS, WIDEST, LARGEST = 16, 8, 64, 1e6
MOST_PINS = 4096
_PIN = re.compile(r"([a-z]+)\.([0-9]{1,2})\.([0-9]{1,2})\.([0-9]{1,2})", re.ASCII)


@dataclass(frozen=True)
class Sheet:
    """What a worksheet starts from.

    Args:
        given: matrices by name: x (T, D) with w_q and w_k (D, H*C) and w_v (D, H*Cv); or
            q (Q, H*C), k (K, H*C) and v (K, H*Cv); or, of one head, scores (Q, K) and v; and
            w_o (H*Cv, D) or none.
        heads: how many share the widths.
        mask: ``causal`` as it should be; ``none``; ``zero`` for -inf; ``after`` the softmax.
        scale: what scores are multiplied by; none for 1/sqrt(C), or for 1 where scores are given.
        places: where in the text each query stands, from 0; the last tokens unless given.
        pins: numbers that stand in place of computed ones, by (name, head, row, column); -inf may
            stand among the masked ones. The output has the one head 0.
    """

    given: Mapping[str, Array]
    heads: int = 1
    mask: MaskKind = "causal"
    scale: float | None = None
    places: tuple[int, ...] | None = None
    pins: Mapping[Pin, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Worked:
    """A worksheet with every number; tables have a head axis (H, rows, columns) but for `output`.

    `exponentials` are as by hand, `total` (H, Q) their sums, `weights` (H, Q) the sums of the
    pattern's rows; `entropy` (H, Q) is the softmax's, in nats, and `gradient` (H, Q) the Frobenius
    norm of its Jacobian diag(p) - p pᵀ: how much weights move when scaled scores do. Both are of
    what the softmax gave, whatever was pinned or masked after it. `computed` holds what would stand
    where a number is pinned.
    """

    sheet: Sheet
    scale: float
    places: tuple[int, ...]
    allowed: Array
    tables: dict[str, Array]
    total: Array
    weights: Array
    entropy: Array
    gradient: Array
    output: Array | None
    computed: dict[Pin, float]


def read_sheet(asked: Mapping[str, Any]) -> Sheet:
    """Return the worksheet that a page's JSON asks for.

    Raises:
        ConfigError: options that are none, or numbers out of range.
        ShapeError: what is no matrix, or too large a one.

    >>> read_sheet({"scores": [[1, 1, 1, 8]], "v": [[3], [6], [0], [0]], "places": [2]}).places
    (2,)
    """
    known = {*GIVEN, "heads", "mask", "scale", "places", "pins"}
    if unknown := sorted(set(asked) - known):
        raise ConfigError(f"{unknown[0][:40]!r}", ", ".join(sorted(known)), "reload the page")
    given = {name: _matrix(name, asked[name]) for name in GIVEN if asked.get(name) is not None}
    heads, mask, scale = asked.get("heads", 1), asked.get("mask", "causal"), asked.get("scale")
    if not _whole(heads, 1, MOST_HEADS):
        raise ConfigError(f"{str(heads)[:20]} heads", f"1 to {MOST_HEADS}", "take fewer")
    if not isinstance(mask, str) or mask not in MASKS:
        raise ConfigError(f"the mask {str(mask)[:20]!r}", ", ".join(MASKS), "choose one")
    scale = None if scale is None else _number("the scale", scale)
    places = asked.get("places")
    if places is not None and not (
        isinstance(places, list) and all(_whole(place, 0, MOST_TOKENS - 1) for place in places)
    ):
        raise ConfigError("places that are none", "a token's for each query", "reload the page")
    pins = asked.get("pins") or {}
    if not isinstance(pins, dict) or len(pins) > MOST_PINS:
        raise ConfigError("pinned numbers that are none", "numbers by place", "reload the page")
    found = dict(_pin(name, value) for name, value in pins.items())
    kind: MaskKind = mask  # type: ignore[assignment]
    return Sheet(given, heads, kind, scale, None if places is None else tuple(places), found)


def work(sheet: Sheet) -> Worked:
    """Return every step of a worksheet.

    Raises:
        ShapeError: where matrices are missing, do not fit together, or pins lie beside them.

    >>> given = {"scores": np.array([[1.0, 1, 1, 8]]), "v": np.array([[3.0], [6], [0], [0]])}
    >>> done = work(Sheet(given, places=(2,)))
    >>> done.tables["pattern"].round(3).tolist(), done.tables["mixed"].tolist()
    ([[[0.333, 0.333, 0.333, 0.0]]], [[[3.0]]])
    """
    pins = _Pins(sheet.pins)
    tables = _project(sheet, pins)
    v = tables["v"]
    if "scores" in sheet.given:
        scores, usual = sheet.given["scores"][None], 1.0
    else:
        compared = steps(tables["q"], tables["k"], v)
        scores, usual = compared.scores, compared.scale
    scale = usual if sheet.scale is None else sheet.scale
    queries, keys = scores.shape[-2:]
    if v.shape[-2] != keys:
        raise ShapeError(f"{keys} keys, {v.shape[-2]} values", "one of each a token", "add a row")
    places, allowed = _places(sheet, queries, keys)
    tables["scores"] = scores = pins.set("scores", scores)
    # Keys that are the identity leave scores as they are, so that pinned ones go the same way.
    same = np.broadcast_to(np.eye(keys), (len(scores), keys, keys))
    tables["scaled"] = scaled = pins.set("scaled", steps(scores, same, v, scale=scale).scaled)
    if sheet.mask == "zero":
        scaled = np.where(allowed, scaled, 0.0)
    seen = np.broadcast_to(allowed if sheet.mask == "causal" else np.True_, scaled.shape)
    done = _softmax(tables, pins, scaled, v, seen)
    pattern = done.pattern * allowed if sheet.mask == "after" else done.pattern
    tables["pattern"] = pattern = pins.set("pattern", pattern)
    if pattern is done.pattern:
        mixed = done.mixed
    else:
        mixed = np.stack([project(p, each, "v") for p, each in zip(pattern, v, strict=True)])
    tables["mixed"] = mixed = pins.set("mixed", mixed)
    w_o, output = sheet.given.get("w_o"), None
    if w_o is not None:
        output = pins.set("output", project(concat_heads(mixed), w_o, "W_O")[None])[0]
    pins.check()
    return Worked(
        sheet,
        scale,
        places,
        allowed,
        tables,
        done.total,
        pattern.sum(axis=-1),
        *_spread(done.pattern),
        output,
        pins.computed,
    )


def as_it_should_be(sheet: Sheet) -> Sheet:
    """Return a worksheet with the mask and the scale in force."""
    return replace(sheet, mask="causal", scale=None)


def _softmax(
    tables: dict[str, Array], pins: _Pins, scaled: Array, v: Array, seen: Array
) -> AffinitySteps:
    """Put the masked numbers and their exponentials into tables; return what follows from them."""
    done = steps_from_affinities(scaled, v, mask=seen)
    tables["masked"] = masked = pins.set("masked", done.masked)
    if masked is not done.masked:
        done = _from_masked(masked, v)
    tables["exponentials"] = exponentials = pins.set("exponentials", done.exponentials)
    if exponentials is not done.exponentials:
        with np.errstate(divide="ignore"):
            logs = np.log(exponentials)
        # What wasn't changed is taken from before, where it can't have been too large.
        done = _from_masked(np.where(exponentials == done.exponentials, masked, logs), v)
    return done


def _from_masked(masked: Array, v: Array) -> AffinitySteps:
    seen = ~np.isneginf(masked)
    return steps_from_affinities(np.where(seen, masked, 0.0), v, mask=seen)


class _Pins:
    """Sets pinned numbers into tables, and keeps what stood there."""

    def __init__(self, pins: Mapping[Pin, float]) -> None:
        self.left, self.computed = dict(pins), dict[Pin, float]()

    def set(self, name: str, table: Array) -> Array:
        mine = {pin: value for pin, value in self.left.items() if pin[0] == name}
        changed = table.copy() if mine else table
        for pin, value in mine.items():
            place = pin[1:]
            if all(at < size for at, size in zip(place, table.shape, strict=True)):
                self.computed[pin], changed[place] = float(table[place]), value
                del self.left[pin]
        return changed

    def check(self) -> None:
        for name, *place in self.left:
            raise ShapeError(f"{name} pinned at {place}", "a place in the table", "reset it")


def _project(sheet: Sheet, pins: _Pins) -> dict[str, Array]:
    """Return q, k and v by head, given or from x; without q and k where scores are given."""
    found, x = {}, sheet.given.get("x")
    for name in ("q", "k", "v"):
        whole, weight = sheet.given.get(name), sheet.given.get(f"w_{name}")
        if whole is None and x is not None and weight is not None:
            whole = project(x, weight, f"W_{name.upper()}")
        if whole is None and name != "v" and "scores" in sheet.given and sheet.heads == 1:
            continue
        if whole is None:
            raise ShapeError(f"no {name}", "it, or x and its weights", "take a worked example")
        found[name] = pins.set(name, split_heads(whole, sheet.heads, name))
    return found


def _places(sheet: Sheet, queries: int, keys: int) -> tuple[tuple[int, ...], Array]:
    """Return where queries stand, and what causality allows them (Q, K)."""
    places = sheet.places or tuple(range(keys - queries, keys))
    if len(places) != queries or min(places) < 0 or max(places) >= keys:
        raise ShapeError(f"{queries} queries among {keys} tokens", "a place for each", "add tokens")
    return places, np.asarray(Causal().allowed(places, range(keys), queries=keys, keys=keys))


def _spread(pattern: Array) -> tuple[Array, Array]:
    """Return the entropy of each row, in nats, and the Frobenius norm of its Jacobian."""
    logs = np.log(np.where(pattern > 0, pattern, 1.0))
    outer = pattern[..., :, None] * pattern[..., None, :]
    jacobian = np.eye(pattern.shape[-1]) * pattern[..., None] - outer
    return np.abs((pattern * logs).sum(axis=-1)), np.linalg.norm(jacobian, axis=(-2, -1))


def _matrix(name: str, rows: object) -> Array:
    good = isinstance(rows, list) and rows and all(isinstance(row, list) and row for row in rows)
    if not good or len({len(row) for row in rows}) != 1:  # type: ignore[attr-defined]
        raise ShapeError(f"{name} that is no matrix", "rows of one length", "reload the page")
    assert isinstance(rows, list)
    most = WIDEST if name.startswith("w_") else MOST_TOKENS
    widest = WIDEST * (1 if name in ("x", "w_o") else MOST_HEADS)
    if len(rows) > most * (MOST_HEADS if name == "w_o" else 1) or len(rows[0]) > widest:
        size = f"{len(rows)} × {len(rows[0])}"
        raise ShapeError(f"{name} of {size}", f"at most {most} × {widest}", "take fewer")
    return np.array([[_number(name, value) for value in row] for row in rows])


def _number(name: str, value: object) -> float:
    good = not isinstance(value, bool)
    # Compared before it is a float, and not shown, for a whole number may be longer than any.
    if not isinstance(value, int | float) or not good or not -LARGEST <= value <= LARGEST:
        shown = "that is none" if isinstance(value, int) else f"{str(value)[:20]!r}"
        raise ConfigError(f"{name} {shown}", "a number from −1,000,000 to 1,000,000", "type one")
    return float(value)


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _pin(name: str, value: object) -> tuple[Pin, float]:
    match = _PIN.fullmatch(name)
    if match is None or match[1] not in PINNED:
        raise ConfigError(f"{name[:40]!r} pinned", f"one of {', '.join(PINNED)}", "reload the page")
    # JSON has no word for -inf.
    hidden = value is None and match[1] == "masked"
    number = -np.inf if hidden else _number(name[:40], value)
    if match[1] == "exponentials" and number < 0:
        raise ConfigError(f"{name[:40]} {number:g}", "0 or more: a power of e", "type another")
    return (match[1], int(match[2]), int(match[3]), int(match[4])), number
