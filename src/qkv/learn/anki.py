"""Cards as a package for Anki: imported again, its notes are updated and none is doubled."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from datetime import datetime

from qkv.learn.prose import as_html, fill
from qkv.learn.sheets import Entry

__all__ = ["export_anki"]

# Anki knows decks and kinds of notes by these numbers, and a note by its guid: they never change.
DECK, MODEL = 1_748_302_119, 1_748_302_251
NAME = "qkv: causal self-attention"
HUES = {"q": "#0067A5", "k": "#B34700", "v": "#00734F"}
STYLE = """
.card { max-width: 34em; margin: 0 auto; padding: 1em; text-align: left;
  font: 20px/1.5 "Source Serif 4", Charter, Georgia, serif; color: #1C1D22; background: #FBFAF7; }
.card.nightMode { color: #E8E6E1; background: #15171C; }
.q { color: #0067A5; } .k { color: #B34700; } .v { color: #00734F; }
.nightMode .q { color: #56B4E9; } .nightMode .k { color: #E69F00; }
.nightMode .v { color: #2BC48A; }
"""
_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$(?=\S)(.+?)(?<=[^\s\\])\$", re.DOTALL)
_HUED = re.compile(r"\\class\{([a-z]+)\}\{")


def export_anki(cards: Sequence[Entry], now: datetime) -> bytes:
    r"""Return an Anki package (`.apkg`) of cards, formulas as `\( \)`.

    Args:
        cards: with a front and a back each; a note is known again by its card's id.
        now: the moment of export; on import Anki takes what is newer.
    """
    import genanki  # type: ignore[import-untyped]

    fields = [{"name": "Front"}, {"name": "Back"}]
    template = {
        "name": "Card",
        "qfmt": "{{Front}}",
        "afmt": '{{FrontSide}}<hr id="answer">{{Back}}',
    }
    model = genanki.Model(MODEL, "qkv card", fields=fields, templates=[template], css=STYLE)
    deck = genanki.Deck(DECK, NAME)
    for place, card in enumerate(cards):
        note = genanki.Note(
            model=model,
            fields=[as_anki(part) for part in card.parts],
            guid=genanki.guid_for("qkv", card.id),
            tags=[f"qkv::{card.fields['section']}"],
            due=place,
        )
        deck.add_note(note)
    found = io.BytesIO()
    genanki.Package(deck).write_to_file(found, timestamp=now.timestamp())
    return found.getvalue()


def as_anki(markdown: str) -> str:
    r"""Return a lesson's Markdown as HTML with its formulas in MathJax's brackets.

    >>> as_anki("It is $a < b$.").strip()
    '<p>It is \\(a &lt; b\\).</p>'
    """
    formulas: list[str] = []

    def keep(match: re.Match[str]) -> str:
        opening, closing = (r"\[", r"\]") if match[1] else (r"\(", r"\)")
        formulas.append(opening + html.escape(_hued(match[1] or match[2]).strip()) + closing)
        return f"\ue000{len(formulas) - 1}\ue001"

    shown = as_html(_FORMULA.sub(keep, fill(markdown)))
    return re.sub("\ue000(\\d+)\ue001", lambda place: formulas[int(place[1])], shown)


def _hued(latex: str) -> str:
    r"""Colours in place of classes; the braces around hold for both meanings of `\color`."""
    while found := _HUED.search(latex):
        depth, end = 1, found.end()
        while depth and end < len(latex):
            depth += {"{": 1, "}": -1}.get(latex[end], 0)
            end += 1
        inside = latex[found.end() : end - 1]
        hue = HUES.get(found[1])
        said = f"{{\\color{{{hue}}}{{{inside}}}}}" if hue else f"{{{inside}}}"
        latex = latex[: found.start()] + said + latex[end:]
    return latex
