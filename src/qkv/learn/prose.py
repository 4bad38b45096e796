"""Markdown of lessons to pages and to terminals.

CommonMark and tables, and besides: `$…$` and `$$…$$` are formulas; `[words]{.q}`, `{.k}`, `{.v}`
give a hue; `[word]{.term}`, or `[words]{.term #id}`, points to the glossary; `[words]{.note}` is a
note in the margin; `{{name}}` is a number that is computed; fenced blocks `figure NAME` and
`ask ID` hold a place. Raw HTML is text.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from qkv.learn.formulas import mathml
from qkv.learn.markdown import (
    ProseError,
    asked_in,
    figure_options,
    fill,
    make_parser,
    opened_by,
    parse,
    show_formula,
)
from qkv.learn.plain import as_plain_markdown, as_text

if TYPE_CHECKING:
    from markdown_it.renderer import RendererHTML
    from markdown_it.token import Token

    from qkv.learn.library import Library
    from qkv.learn.sheets import LessonError

__all__ = [
    "ProseError",
    "as_html",
    "as_plain_markdown",
    "as_text",
    "asked_in",
    "check_prose",
    "fill",
    "term_id",
    "term_ids",
]

_WIDE = 'tabindex="0" role="group"'
"""What may be wider than a page is scrolled by itself, by keyboard too."""
CLASSES = frozenset(("q", "k", "v", "term", "note"))


def as_html(
    markdown: str, facts: Mapping[str, str] | None = None, terms: Mapping[str, str] | None = None
) -> str:
    """Return a lesson's Markdown as HTML with MathML; markup that is typed in it is text.

    Args:
        markdown: as lessons write it.
        facts: the computed numbers by name; those of `qkv.learn.facts` unless given.
        terms: the id of each term by its names in lower case, from `term_ids`; without them words
            lead where their own letters say.

    Raises:
        ProseError: an unknown number, a formula or a block that isn't one.

    >>> as_html("A [query]{.q} meets a [key]{.k}.").strip()
    '<p>A <span class="q">query</span> meets a <span class="k">key</span>.</p>'
    """
    tokens = parse(fill(markdown, facts))
    return _renderer().render(tokens, make_parser().options, {"terms": terms or {}})


def term_id(words: str, terms: Mapping[str, str]) -> str:
    """Return where a word of the text leads in a glossary.

    >>> term_id("Logits", {"logits": "logit"}), term_id("dot product", {})
    ('logit', 'dot-product')
    """
    word = words.lower()
    return terms.get(word) or re.sub(r"[^a-z0-9]+", "-", word).strip("-")


def term_ids(library: Library) -> dict[str, str]:
    """Return the id of each term of a glossary by its names, in lower case."""
    return {
        str(name).lower(): term.id
        for term in library.terms
        for name in (term.id, term.fields.get("name", term.id), *term.fields.get("also", []))
    }


def check_prose(library: Library) -> list[LessonError]:
    """Return what is wrong with the prose of a folder of lessons, each with its place."""
    faults = []
    for entry in library.entries():
        for part, start in zip(entry.parts, entry.starts, strict=True):
            try:
                as_html(part)
            except ProseError as error:
                at = start + error.line - 1
                faults.append(entry.wrong(error.got, error.expected, error.remedy, at))
    return faults


@cache
def _renderer() -> RendererHTML:
    from markdown_it.renderer import RendererHTML

    renderer = RendererHTML()
    rules: dict[str, Any] = {
        "fence": _show_fence,
        "math_inline": _show_formula,
        "math_inline_double": _show_formula,
        "math_block": _show_formula,
        "span_open": _open_span,
        "span_close": _close_span,
        "table_open": _open_table,
        "table_close": lambda *_: "</table></div>\n",
        "th_open": _open_cell,
        "td_open": _open_cell,
    }
    renderer.rules.update(rules)
    return renderer


def _show_formula(tokens: list[Token], at: int, _: Any, __: Any) -> str:
    token = tokens[at]
    if token.type == "math_inline":
        return show_formula(token, mathml)
    drawn = show_formula(token, lambda latex: mathml(latex, True))
    return f'<div class="formula" {_WIDE} aria-label="formula">{drawn}</div>\n'


def _open_span(tokens: list[Token], at: int, _: Any, env: dict[str, Any]) -> str:
    token = tokens[at]
    tag = token.meta["tag"]
    classes = [name for name in str(token.attrs.get("class", "")).split() if name in CLASSES]
    told = f' class="{" ".join(classes)}"' if classes else ""
    if tag == "a":
        words = "".join(
            each.content for each in tokens[at + 1 : _end(tokens, at)] if each.type == "text"
        )
        name = html.escape(str(token.attrs.get("id") or term_id(words, env["terms"])))
        told += f' href="learn?page=glossary#term-{name}" data-term="{name}"'
    return f"<{tag}{told}{' role=note' if tag == 'small' else ''}>"


def _close_span(tokens: list[Token], at: int, _: Any, __: Any) -> str:
    return f"</{tokens[at].meta['tag']}>"


def _end(tokens: list[Token], at: int) -> int:
    depth = 0
    for ahead in range(at, len(tokens)):
        depth += {"span_open": 1, "span_close": -1}.get(tokens[ahead].type, 0)
        if depth == 0:
            return ahead
    return len(tokens)


def _open_table(*_: Any) -> str:
    return f'<div class="table" {_WIDE} aria-label="table"><table>\n'


def _open_cell(tokens: list[Token], at: int, _: Any, __: Any) -> str:
    """A table's cell: how it is aligned is said by a class, for style attributes are blocked."""
    token = tokens[at]
    way = re.search(r"text-align:(\w+)", str(token.attrs.get("style", "")))
    side = f' class="{way[1]}"' if way else ""
    scope = ' scope="col"' if token.tag == "th" else ""
    return f"<{token.tag}{scope}{side}>"


def _show_fence(tokens: list[Token], at: int, _: Any, __: Any) -> str:
    token = tokens[at]
    kind, name = opened_by(token) or ("", "")
    if kind == "ask":
        return f'<div class="ask" data-ask="{html.escape(name)}"></div>\n'
    if kind == "figure":
        options = figure_options(token)
        caption = html.escape(str(options.pop("caption", "")))
        told = html.escape(json.dumps(options))
        named = html.escape(name)
        return (
            f'<figure class="live" data-figure="{named}" data-options="{told}">'
            f"<figcaption>{caption}</figcaption></figure>\n"
        )
    return f'<pre tabindex="0"><code>{html.escape(token.content)}</code></pre>\n'
