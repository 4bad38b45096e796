"""The Markdown of lessons, taken apart; `qkv.learn.prose` says what is in it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from qkv.errors import TextError
from qkv.learn.formulas import FormulaError

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

__all__ = [
    "ProseError",
    "asked_in",
    "fenced_in",
    "figure_options",
    "fill",
    "make_parser",
    "opened_by",
    "parse",
    "show_formula",
]

_FACT = re.compile(r"\{\{([a-z][a-z0-9-]*)\}\}")


class ProseError(TextError):
    """Prose that can't be shown; `line` is counted from its own first."""

    def __init__(self, line: int, got: str, expected: str, remedy: str) -> None:
        super().__init__(got, expected, remedy)
        self.line = line


def fill(markdown: str, facts: Mapping[str, str] | None = None) -> str:
    """Return Markdown with its computed numbers in place.

    Raises:
        ProseError: a number that nobody computes.

    >>> fill("It is {{a}}.", {"a": ".333"})
    'It is .333.'
    """
    if not _FACT.search(markdown):
        return markdown
    if facts is None:
        from qkv.learn.facts import own_facts

        facts = own_facts()
    known = facts

    def one(match: re.Match[str]) -> str:
        if match[1] not in known:
            line = markdown.count("\n", 0, match.start()) + 1
            raise ProseError(line, match[0], "a number that is computed", "see qkv.learn.facts")
        return known[match[1]]

    return _FACT.sub(one, markdown)


def asked_in(markdown: str) -> list[str]:
    """Return the ids of what a lesson asks in the line, in order.

    >>> asked_in("```ask why")
    ['why']
    """
    return [name for kind, name, _ in fenced_in(markdown) if kind == "ask"]


def fenced_in(markdown: str) -> list[tuple[str, str, int]]:
    """Return the figures and questions that a text opens: the kind, the name, the line from 1.

    >>> fenced_in("Look:\\n\\n```figure mask\\n```")
    [('figure', 'mask', 3)]
    """
    if "```" not in markdown and "~~~" not in markdown:
        return []
    return [
        (*opened, token.map[0] + 1)
        for token in make_parser().parse(markdown)
        if token.map and (opened := opened_by(token))
    ]


def opened_by(token: Token) -> tuple[str, str] | None:
    """Return what a fence opens, a figure or a question, and its name; None of plain code."""
    kind, _, name = token.info.strip().partition(" ")
    if token.type != "fence" or kind not in {"ask", "figure"} or not name:
        return None
    return kind, name.strip()


@cache
def make_parser() -> MarkdownIt:
    """Return the parser of lessons; it renders nothing of theirs yet."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.attrs import attrs_plugin
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    parser = MarkdownIt("commonmark", {"html": False, "typographer": True})
    parser.enable(["table", "smartquotes"])
    dollarmath_plugin(parser, allow_labels=False, allow_space=False, double_inline=True)
    attrs_plugin(parser, spans=True, allowed=["class", "id"], after=())
    return parser


def parse(markdown: str) -> list[Token]:
    """A text's tokens; spans and formulas know their lines and what they are."""
    tokens = make_parser().parse(markdown)
    for token in tokens:
        line = token.map[0] + 1 if token.map else 1
        opened: list[str] = []
        for child in token.children or []:
            child.meta["line"] = line
            line += child.type in ("softbreak", "hardbreak")
            if child.type == "span_open":
                names = str(child.attrs.get("class", "")).split()
                opened.append("a" if "term" in names else "small" if "note" in names else "span")
                child.meta["tag"] = opened[-1]
            elif child.type == "span_close":
                child.meta["tag"] = opened.pop()
    return tokens


def show_formula(token: Token, convert: Callable[[str], str]) -> str:
    """Return a formula as something converts it, or raise a ProseError with its line."""
    try:
        return convert(token.content.strip())
    except FormulaError as error:
        line = token.map[0] + 1 if token.map else token.meta["line"]
        raise ProseError(line, error.got, error.expected, error.remedy) from error


def figure_options(token: Token) -> dict[str, Any]:
    """Return a figure's options, or raise a ProseError with its line."""
    try:
        return tomllib.loads(token.content)
    except tomllib.TOMLDecodeError as error:
        line = token.map[0] + 1 if token.map else 1
        raise ProseError(line, str(error), "a figure's options as TOML", "mend them") from error
