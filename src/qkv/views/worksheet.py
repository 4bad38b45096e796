"""One row of attention as it is worked by hand: a line for each step, a column for each key."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from qkv.attention import AffinitySteps, Steps
from qkv.views.palette import DARK, LIGHT, Palette

__all__ = ["Worked", "Worksheet", "digits", "row_sentence", "tokens_named", "tuple_of"]

# Up to this width the terms of q·k are written out.
WIDTH_OF_TERMS = 4
GAP = 2
ASCII = {"−∞": "-inf", "−": "-", "·": "*", "√": "sqrt", "×": "x", "eˣ": "e^x", "∞": "inf"}


@dataclass(frozen=True)
class Worked:
    """One token's row, worked by `qkv.attention`.

    Args:
        token, tokens: which token asks, counted from 1, of how many.
        seen: what the mask is, in words.
        scale: what the scale is, in words: "1/√2"; empty where scores are taken as they are.
        steps: the row up to the softmax, q (1, C), k (K, C); where affinities were given they stand
            as `scores`, and `given` is true.
        mix: the same row from its affinities on, with exponentials as by hand, and the values.
    """

    token: int
    tokens: int
    seen: str
    scale: str
    given: bool
    steps: Steps
    mix: AffinitySteps


def digits(number: float) -> str:
    """A number to three places without a zero before the point; short where it is exact.

    >>> [digits(x) for x in (1 / 3, 8.1548, 0.14, 0.13999, 0.5, -2.0, 0.0001, math.nan)]
    ['.333', '8.155', '.14', '.140', '.5', '−2', '1.0e−4', '_']
    """
    if math.isnan(number):
        return "_"
    if math.isinf(number):
        return "∞" if number > 0 else "−∞"
    size = abs(number)
    if size != 0 and not 0.0005 <= size < 1e6:
        mantissa, exponent = f"{size:.1e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        places = next((n for n in range(3) if math.isclose(size, round(size, n), abs_tol=1e-9)), 3)
        text = f"{size:.{places}f}"
        if text.startswith("0."):
            text = text[1:]
    sign = "−" if number < 0 else ""
    return sign + text.replace("-", "−")


def tuple_of(numbers: Any) -> str:
    """A number, or a vector in brackets.

    >>> tuple_of(np.array([0.5, 2.0])), tuple_of(3.0)
    ('(.5, 2)', '3')
    """
    row = np.atleast_1d(np.asarray(numbers))
    if row.size == 1:
        return digits(float(row[0]))
    return "_" if np.isnan(row).all() else f"({', '.join(digits(float(x)) for x in row)})"


def tokens_named(places: Sequence[int]) -> str:
    """Tokens counted from 1, in words, for places counted from 0.

    >>> tokens_named([0]), tokens_named([0, 2]), tokens_named([0, 1, 2, 3])
    ('token 1', 'tokens 1 and 3', 'tokens 1 to 4')
    """
    numbers = [place + 1 for place in places]
    if len(numbers) == 1:
        return f"token {numbers[0]}"
    if len(numbers) > 3 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"tokens {numbers[0]} to {numbers[-1]}"
    return f"tokens {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def row_sentence(token: int, pattern: Any, allowed: Any, mixed: Any) -> str:
    """What a row says, in words, for a token counted from 1.

    >>> row_sentence(2, np.array([0.5, 0.5, 0.0]), np.array([True, True, False]), np.array([3.0]))
    'Token 2 gives .5 to each of tokens 1 and 2, and takes in 3.'
    >>> row_sentence(3, np.array([0.4, 0.2, 0.4]), np.ones(3, bool), np.array([3.0]))
    'Token 3 gives most, .4, to each of tokens 1 and 3, and takes in 3.'
    """
    seen, taken = np.flatnonzero(allowed).tolist(), tuple_of(mixed)
    asker = f"Token {token}"
    if not seen:
        return f"{asker} may look at nothing: its weights, and what it takes in, are 0."
    if len(seen) == 1:
        return f"{asker} can look at {tokens_named(seen)} only, and takes in its value, {taken}."
    if np.allclose(pattern[seen], pattern[seen[0]]):
        each = digits(float(pattern[seen[0]]))
        return f"{asker} gives {each} to each of {tokens_named(seen)}, and takes in {taken}."
    largest = float(pattern.max())
    most = np.flatnonzero(np.isclose(pattern, largest)).tolist()
    each = "each of " if len(most) > 1 else ""
    return (
        f"{asker} gives most, {digits(largest)}, to {each}{tokens_named(most)}, "
        f"and takes in {taken}."
    )


@dataclass(frozen=True)
class _Line:
    name: str
    formula: str
    cells: list[str]
    total: str = ""
    color: str = ""

    def in_ascii(self) -> _Line:
        formula, total = _in_ascii(self.formula), _in_ascii(self.total)
        return _Line(self.name, formula, [_in_ascii(c) for c in self.cells], total, self.color)


@dataclass(frozen=True)
class Worksheet:
    """A rich renderable of one worked row; q blue, k vermilion, v green, each with its letter."""

    worked: Worked
    light: bool = False

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        colors = LIGHT if self.light else DARK
        for text in (
            self._heading(colors),
            Text(),
            *self._table(colors, options.max_width, plain=options.ascii_only),
            Text(),
            Text(self.sentence(), style="italic"),
            *self._note(colors),
        ):
            yield Text(_in_ascii(text.plain)) if options.ascii_only else text

    def sentence(self) -> str:
        """What the row says, in words."""
        mix = self.worked.mix
        return row_sentence(self.worked.token, mix.pattern, mix.allowed, mix.mixed)

    def _note(self, colors: Palette) -> list[Text]:
        """Why the sum may be useless by hand, and the weights are right all the same."""
        total = float(self.worked.mix.total)
        if 0 < total < math.inf or not self.worked.mix.allowed.any():
            return []
        words = (
            "eˣ is out of a computer's range here; softmax first takes the row's largest score "
            "off every score, which changes no weight."
        )
        return [Text(words, style=colors.soft)]

    def _heading(self, colors: Palette) -> Text:
        worked = self.worked
        text = Text(f"token {worked.token} of {worked.tokens} asks", style=Style(bold=True))
        if not worked.given:
            text.append("   ").append(f"q = {tuple_of(worked.steps.q[0])}", Style(color=colors.q))
        seen = np.flatnonzero(worked.mix.allowed).tolist()
        sees = f"it may look at {tokens_named(seen)}" if seen else "it may look at nothing"
        return text.append(f"   {worked.seen}: {sees}", Style(color=colors.soft, bold=False))

    def _lines(self, colors: Palette) -> list[_Line]:
        """Every step that is taken, in order."""
        worked, steps, mix = self.worked, self.worked.steps, self.worked.mix
        lines = [_Line("", "", [f"token {place + 1}" for place in range(worked.tokens)])]
        width = steps.q.shape[-1]
        if not worked.given:
            lines.append(_Line("k", "", [tuple_of(key) for key in steps.k], color=colors.k))
            if 1 < width <= WIDTH_OF_TERMS:
                terms = [
                    " + ".join(
                        f"{digits(float(a))}·{digits(float(b))}"
                        for a, b in zip(steps.q[0], key, strict=True)
                    )
                    for key in steps.k
                ]
                lines.append(_Line("", "q·k, term by term", terms))
        lines.append(_Line("scores", "as given" if worked.given else "q·k", _row(steps.scores)))
        if worked.scale:
            lines.append(_Line("scaled", f"× {worked.scale}", _row(steps.scaled)))
        if steps.softcap is not None:
            cap = digits(steps.softcap)
            lines.append(_Line("capped", f"{cap}·tanh(x/{cap})", _row(steps.capped)))
        if steps.bias is not None:
            lines.append(_Line("biased", "+ bias", _row(steps.biased)))
        lines.append(_Line("masked", "−∞: forbidden", _row(steps.masked)))
        powers = _row(mix.exponentials)
        lines.append(_Line("exponentials", "eˣ", powers, f"sum {digits(float(mix.total))}"))
        whole = digits(float(mix.pattern.sum()))
        lines.append(_Line("weights", "eˣ / sum", _row(mix.pattern), f"sum {whole}"))
        values = [tuple_of(value) for value in mix.values]
        lines.append(_Line("v", "", values, color=colors.v))
        products = [
            f"{digits(float(weight))}·{value}" if allowed else "0"
            for weight, value, allowed in zip(mix.pattern, values, mix.allowed, strict=True)
        ]
        lines.append(_Line("mixed", "weight·v", products, f"sum {tuple_of(mix.mixed)}"))
        blank = [""] * worked.tokens
        lines.append(_Line("lse", "ln sum", blank, digits(float(mix.lse))))
        return lines

    def _table(self, colors: Palette, width: int, *, plain: bool) -> list[Text]:
        """The lines as columns; what is too wide loses its formulas, then goes below itself."""
        lines = self._lines(colors)
        if plain:
            lines = [line.in_ascii() for line in lines]
        widths = [
            max(cell_len(line.cells[place]) for line in lines)
            for place in range(len(lines[0].cells))
        ]
        name = max(cell_len(line.name) for line in lines)
        formula = max(cell_len(line.formula) for line in lines)
        total = max(cell_len(line.total) for line in lines)
        if name + formula + total + sum(widths) + GAP * (len(widths) + 2) > width:
            formula = 0
        room = width - name - total - GAP - (formula + GAP if formula else 0)
        blocks: list[list[int]] = [[]]
        for place, size in enumerate(widths):
            if blocks[-1] and sum(widths[p] + GAP for p in [*blocks[-1], place]) > room:
                blocks.append([])
            blocks[-1].append(place)
            del size
        found: list[Text] = []
        for block in blocks:
            if found:
                found.append(Text())
            for line in lines:
                text = Text(line.name.ljust(name), Style(bold=True, color=line.color or None))
                if formula:
                    text.append(" " * GAP + line.formula.ljust(formula), _plain(colors.soft))
                for place in block:
                    cell = " " * (GAP + widths[place] - cell_len(line.cells[place]))
                    heading = line.name == "" and not line.formula
                    shade = _plain(line.color or (colors.soft if heading else None))
                    text.append(cell + line.cells[place], shade)
                if block is blocks[-1] and line.total:
                    text.append(" " * GAP + line.total, Style(bold=True))
                text.rstrip()
                found.append(text)
        return found


def _plain(color: str | None) -> Style:
    # Said outright, for pieces added to a bold text would be bold too.
    return Style(bold=False, color=color)


def _row(table: np.ndarray[Any, Any]) -> list[str]:
    return [digits(float(number)) for number in np.atleast_2d(table)[0]]


def _in_ascii(text: str) -> str:
    for sign, said in ASCII.items():
        text = text.replace(sign, said)
    return text.encode("ascii", "replace").decode("ascii")
