"""A lesson's prose as paragraphs of words and formulas, for what sets its own lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser

from qkv.learn.prose import as_html

__all__ = ["Formula", "Paragraph", "Word", "flow"]

FACES = {"em": "italic", "strong": "bold", "code": "code", "th": "bold"}
HUES = ("q", "k", "v")


@dataclass(frozen=True)
class Word:
    """A word as it is set.

    Args:
        text: its letters.
        spaced: whether a space stands before it.
        face: regular, italic, bold or code.
        hue: q, k, v or none.
    """

    text: str
    spaced: bool
    face: str = "regular"
    hue: str = ""


@dataclass(frozen=True)
class Formula:
    """A formula as MathML; `spaced` as of a word."""

    mathml: str
    spaced: bool


@dataclass(frozen=True)
class Paragraph:
    """Words and formulas that run on.

    Args:
        pieces: in order.
        mark: what stands before them in a list.
        display: whether it is one formula on a line of its own.
    """

    pieces: tuple[Word | Formula, ...]
    mark: str = ""
    display: bool = False


def flow(markdown: str, facts: Mapping[str, str] | None = None) -> tuple[Paragraph, ...]:
    """Return a lesson's Markdown as paragraphs.

    Raises:
        ProseError: as `qkv.learn.prose.as_html`.

    >>> [piece.text for piece in flow("A *query* asks.")[0].pieces]
    ['A', 'query', 'asks.']
    """
    reader = _Reader()
    reader.feed(as_html(markdown, facts))
    reader.close()
    reader.end()
    return tuple(reader.found)


class _Reader(HTMLParser):
    """Reads the HTML that `prose` writes."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[Paragraph] = []
        self._pieces: list[Word | Formula] = []
        self._faces: list[str] = []
        self._hues: list[str] = []
        self._lists: list[int | None] = []
        self._mark = ""
        self._math: list[str] | None = None
        self._display = self._spaced = False

    def end(self) -> None:
        """End a paragraph, if there is one."""
        if self._pieces:
            self.found.append(Paragraph(tuple(self._pieces), self._mark, self._display))
            self._mark = ""
        self._pieces, self._spaced = [], False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "math" or self._math is not None:
            self._math = [] if self._math is None else self._math
            self._math.append(self.get_starttag_text() or "")
        elif tag in {"ol", "ul"}:
            self._lists.append(int(named.get("start") or 1) if tag == "ol" else None)
        elif tag in {"p", "li", "div", "tr", "pre", "h1", "h2", "h3", "blockquote"}:
            self.end()
            self._display = tag == "div" and named.get("class") == "formula"
            if tag == "li":
                self._mark = self._next_mark()
        elif tag in FACES:
            self._faces.append(FACES[tag])
        elif tag == "span":
            self._hues.append(str(named.get("class") or ""))
        elif tag == "small":
            self.handle_data(" (")

    def handle_startendtag(self, *_: object) -> None:
        if self._math is not None:
            self._math.append(self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        if self._math is not None:
            self._math.append(f"</{tag}>")
            if tag == "math":
                self._pieces.append(Formula("".join(self._math), self._spaced))
                self._math, self._spaced = None, False
        elif tag in {"ol", "ul"}:
            self._lists.pop()
        elif tag in {"p", "li", "div", "tr", "pre", "h1", "h2", "h3"}:
            self.end()
            self._display = False
        elif tag in FACES:
            self._faces.pop()
        elif tag == "span":
            self._hues.pop()
        elif tag == "small":
            self.handle_data(")")
        if tag in {"td", "th"}:
            self._spaced = True

    def handle_data(self, data: str) -> None:
        if self._math is not None:
            self._math.append(data.replace("&", "&amp;").replace("<", "&lt;"))
            return
        face = self._faces[-1] if self._faces else "regular"
        hue = next((name for name in reversed(self._hues) if name in HUES), "")
        for at, text in enumerate(data.split()):
            spaced = self._spaced or at > 0 or data[:1].isspace()
            self._pieces.append(Word(text, spaced and bool(self._pieces), face, hue))
            self._spaced = False
        self._spaced = self._spaced or (bool(data) and data[-1].isspace())

    def _next_mark(self) -> str:
        if not self._lists or self._lists[-1] is None:
            return "•"
        number = self._lists[-1]
        self._lists[-1] = number + 1
        return f"{number}."
