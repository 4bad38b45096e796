"""Lessons in a terminal: their words, and formulas in a line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from qkv.learn.formulas import formula_text
from qkv.learn.markdown import figure_options, fill, parse, show_formula

if TYPE_CHECKING:
    from markdown_it.token import Token

__all__ = ["as_plain_markdown", "as_text"]

_ENDS = frozenset(
    ("paragraph_close", "heading_close", "table_close", "fence", "code_block", "math_block")
)
_MARKS = {"em_open": "*", "em_close": "*", "strong_open": "**", "strong_close": "**"}
_SPECIAL = re.compile(r"([\\\\`*_\[\]<>|])")


def as_text(markdown: str, facts: Mapping[str, str] | None = None) -> str:
    r"""Return a lesson's Markdown as text for a terminal, a paragraph a line.

    Raises:
        ProseError: as `qkv.learn.prose.as_html`.

    >>> as_text("The *scale* is $\\frac{1}{\\sqrt{d}}$.")
    'The scale is 1 / √d.'
    """
    return _write(parse(fill(markdown, facts)), marked=False)


def as_plain_markdown(markdown: str, facts: Mapping[str, str] | None = None) -> str:
    r"""Return a lesson as Markdown that any program reads: no formulas, hues, terms, figures.

    Raises:
        ProseError: as `qkv.learn.prose.as_html`.

    >>> as_plain_markdown("The *scale* of [q]{.q} is $\\frac{1}{\\sqrt{d}}$.")
    'The *scale* of q is 1 / √d.'
    """
    return _write(parse(fill(markdown, facts)), marked=True)


def _write(tokens: list[Token], *, marked: bool) -> str:
    lines: list[str] = []
    mark = ""
    row: list[str] | None = None
    for token in tokens:
        if token.type == "list_item_open":
            mark = f"{token.info}{token.markup} " if token.info else "- " if marked else "• "
        elif token.type == "heading_open" and marked:
            mark = f"{token.markup} "
        elif token.type == "tr_open":
            row = []
        elif token.type == "inline" and row is not None:
            row.append(_say(token, marked))
        elif token.type == "inline":
            lines.append(mark + _say(token, marked))
            mark = ""
        elif token.type == "tr_close" and row is not None:
            lines.append(f"| {' | '.join(row)} |" if marked else "   ".join(row))
            columns, row = len(row), None
        elif token.type == "thead_close" and marked:
            lines.append("|---" * columns + "|")
        elif token.type in ("fence", "code_block"):
            lines += _say_block(token, marked)
        elif token.type == "math_block":
            lines.append(f"{'> ' if marked else '    '}{_say_formula(token, marked)}")
        if token.type in _ENDS and lines and lines[-1]:
            lines.append("")
    return "\n".join(lines).strip("\n")


def _say(token: Token, marked: bool) -> str:
    """The words of a paragraph."""
    said = ""
    for child in token.children or []:
        if child.type.startswith("math_inline"):
            said += _say_formula(child, marked)
        elif child.type == "text":
            said += _escape(child.content) if marked else child.content
        elif child.type == "code_inline":
            said += f"{child.markup}{child.content}{child.markup}" if marked else child.content
        elif child.type in ("softbreak", "hardbreak"):
            said += " "
        elif marked and child.type in _MARKS:
            said += _MARKS[child.type]
        elif child.meta.get("tag") == "small":
            said = f"{said.rstrip()} (" if child.type == "span_open" else f"{said.rstrip('.')})"
    return said


def _say_formula(token: Token, marked: bool) -> str:
    said = show_formula(token, formula_text)
    return _escape(said) if marked else said


def _say_block(token: Token, marked: bool) -> list[str]:
    kind, _blank, name = token.info.strip().partition(" ")
    if kind == "figure" and name:
        caption = str(figure_options(token).get("caption", ""))
        said = f"[A live figure, in the lab: {caption}]" if caption else ""
        return [f"*{_escape(said)}*" if marked else said] if said else []
    if kind == "ask" and name:
        return []
    code = token.content.rstrip("\n").split("\n")
    return [f"```{kind}", *code, "```"] if marked else ["    " + line for line in code]


def _escape(said: str) -> str:
    return _SPECIAL.sub(lambda found: f"\\{found[0]}", said)
