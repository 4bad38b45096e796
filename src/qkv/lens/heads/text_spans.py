"""Spans of tokens: as they are given, or found in the text by line, sentence or expression."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from operator import index
from typing import Any, TypeAlias

from qkv.errors import ConfigError, TextError
from qkv.lens.maps.cells import GLYPHS, visible

__all__ = ["SpansLike", "read_spans"]

# From where to where in tokens, and names with that, or a way to find spans in the text.
SpanLike: TypeAlias = "tuple[int, int] | range | slice"
SpansLike: TypeAlias = "Mapping[str, SpanLike] | Iterable[SpanLike] | str | re.Pattern[str]"

# What ends a sentence: a stop before white space, one of Chinese or Japanese, or an empty line.
SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*\s+|[。！？]+[”’」』）]*\s*|\n\s*\n")
# A match's text is its span's name, up to so many characters.
LONGEST_NAME = 24


def read_spans(spans: SpansLike, texts: Sequence[str], tokens: int) -> dict[str, range]:
    """Spans as ranges of tokens, in the order of the text.

    Args:
        spans: names with (start, stop), ranges or slices, in tokens; or these alone, named after
            their bounds; or "line", "sentence", or a regular expression, whose matches are the
            spans.
        texts: the tokens' text; needed only to look for spans. A token belongs to the line or
            sentence in which its first visible character stands, and to a match that it overlaps.
        tokens: how many tokens there are.

    Raises:
        ConfigError: spans that overlap, are empty or lie outside of the text; a wrong expression.
        TextError: where the text of the tokens isn't known, or nothing in it matches.

    >>> read_spans("line", ["to", " be", "\\n", "or"], 4)
    {'line 1': range(0, 3), 'line 2': range(3, 4)}
    >>> read_spans("b.", ["to", " be", "\\n", "or"], 4)
    {'be': range(1, 2)}
    >>> read_spans([(0, 3), (3, 4)], [], 4)
    {'0–3': range(0, 3), '3–4': range(3, 4)}
    """
    if isinstance(spans, Mapping):
        return _checked({name: _range(name, given, tokens) for name, given in spans.items()})
    if not isinstance(spans, str | re.Pattern):
        given: Any = spans
        if isinstance(given, range | slice) or not isinstance(given, Iterable):
            raise _unreadable(given)
        ranges = [_range("", each, tokens) for each in given]
        return _checked([(f"{span.start}–{span.stop}", span) for span in ranges])
    if not texts:
        raise TextError(
            "tokens without text",
            "their text, to look for spans in it",
            "capture with tokenizer=, call trace.label([...]), or give spans as (start, stop)",
        )
    if spans == "line":
        return _by_ends(texts, re.compile(r"\n"), "line")
    if spans == "sentence":
        return _by_ends(texts, SENTENCE_END, "sentence")
    return _by_matches(texts, spans)


def _unreadable(given: object) -> ConfigError:
    return ConfigError(
        f"spans of {reprlib.repr(given)}",
        "names with (start, stop), a list of these, 'line', 'sentence' or a regular expression",
        'give {"system": (0, 412)} or [(0, 412), (412, 500)]',
    )


def _range(name: str, given: SpanLike, tokens: int) -> range:
    if isinstance(given, slice):
        given = range(*given.indices(tokens))
    if isinstance(given, range):
        start, stop, step = given.start, given.stop, given.step
    else:
        try:
            start, stop = map(index, given)
        except (TypeError, ValueError):
            raise _unreadable({name: given} if name else given) from None
        step = 1
    if step != 1 or not 0 <= start < stop <= tokens:
        raise ConfigError(
            f"the span {name!r} of tokens {start} to {stop}".replace(" ''", ""),
            f"a start from 0, and a stop above it and up to {tokens}",
            "give (start, stop) in tokens, the stop not included",
        )
    return range(start, stop)


def _checked(spans: Mapping[str, range] | list[tuple[str, range]]) -> dict[str, range]:
    if not spans:
        raise ConfigError("no span", "one or more", 'give names: {"system": (0, 412)}')
    pairs = spans.items() if isinstance(spans, Mapping) else spans
    ordered = sorted(pairs, key=lambda item: item[1].start)
    for (one, first), (other, second) in pairwise(ordered):
        if second.start < first.stop:
            raise ConfigError(
                f"the spans {one!r} and {other!r}, which share token {second.start}",
                "spans that don't overlap",
                f"let {other!r} begin at {first.stop} or later",
            )
    return dict(ordered)


def _plain(texts: Sequence[str]) -> list[str]:
    """Texts without the glyphs that stand for white space, where they are all that is known."""
    if any(mark in text for text in texts for mark in (" ", "\n")):
        return list(texts)
    white = {ord(glyph): mark for mark, glyph in GLYPHS.items() if mark != "\u00a0"}
    return [text.translate(white) for text in texts]


def _by_ends(texts: Sequence[str], end: re.Pattern[str], name: str) -> dict[str, range]:
    """The spans between what ends them, numbered from 1; those where no token begins are left out.

    Numbers are those of the text: an empty line counts too.
    """
    texts = _plain(texts)
    whole = "".join(texts)
    ends = [match.end() for match in end.finditer(whole)]
    found: dict[str, range] = {}
    at = number = 0
    for place, text in enumerate(texts):
        begins = at + len(text) - len(text.lstrip()) if text.strip() else at
        while number < len(ends) and begins >= ends[number]:
            number += 1
        key = f"{name} {number + 1}"
        found[key] = range(found[key].start if key in found else place, place + 1)
        at += len(text)
    return found


def _by_matches(texts: Sequence[str], wanted: str | re.Pattern[str]) -> dict[str, range]:
    try:
        expression = re.compile(wanted)
    except re.error as error:
        raise ConfigError(
            f"the expression {wanted!r}, which is none ({error})",
            "a regular expression, 'line' or 'sentence'",
            "escape what is meant as it stands with re.escape",
        ) from error
    texts = _plain(texts)
    found: dict[str, range] = {}
    free = 0
    for said, tokens in _tokens_of(texts, expression):
        # A token that two matches share is the first one's.
        if tokens.stop > free:
            found[_unused(said, found)] = range(max(tokens.start, free), tokens.stop)
            free = tokens.stop
    if not found:
        raise TextError(
            f"the expression {expression.pattern!r}, which matches nothing in this text",
            "one that matches some of it",
            "give another",
        )
    return found


def _tokens_of(texts: Sequence[str], expression: re.Pattern[str]) -> Iterator[tuple[str, range]]:
    """What each match says, and the tokens that it overlaps."""
    place = at = 0
    for match in expression.finditer("".join(texts)):
        first, last = match.span()
        if first == last:
            continue
        while at + len(texts[place]) <= first:
            at += len(texts[place])
            place += 1
        stop, behind = place, at
        while stop < len(texts) and behind < last:
            behind += len(texts[stop])
            stop += 1
        yield match.group(), range(place, stop)


def _unused(said: str, names: Mapping[str, range]) -> str:
    name = visible(" ".join(said.split()) or said).replace("␣", " ")
    name = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
    number = 2
    unused = name
    while unused in names:
        unused, number = f"{name} #{number}", number + 1
    return unused
