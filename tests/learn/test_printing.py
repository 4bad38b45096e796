"""Cards on paper, read back: pages, words, fonts, and nothing beyond the margins."""

from __future__ import annotations

import dataclasses
import io
import re
from typing import Any

import pytest

from qkv.errors import ConfigError
from qkv.learn.flow import Formula, Word, flow
from qkv.learn.library import own_library
from qkv.learn.printing import PAPERS, print_cards
from qkv.learn.schedule import in_order
from qkv.learn.sheets import LessonError

pypdf = pytest.importorskip("pypdf", reason="pypdf isn't installed: pip install pypdf")
MM = 72 / 25.4
RGB = rb"([\d.]+) ([\d.]+) ([\d.]+) rg"
SIZES = {"a6": (105, 148), "a4": (210, 297), "letter": (215.9, 279.4)}


@pytest.fixture(scope="module", params=list(PAPERS))
def printed(request: pytest.FixtureRequest) -> tuple[str, Any]:
    """A paper's name and its PDF, opened."""
    made = print_cards(in_order(own_library().cards), request.param)
    return request.param, pypdf.PdfReader(io.BytesIO(made))


def test_question_and_answer_of_a_card_are_the_two_sides_of_a_sheet(
    printed: tuple[str, Any],
) -> None:
    paper, pdf = printed
    cards = in_order(own_library().cards)
    assert len(pdf.pages) == 2 * len(cards) == 80
    assert pdf.trailer["/Root"]["/ViewerPreferences"]["/Duplex"] == "/DuplexFlipLongEdge"
    for number, card in enumerate(cards, 1):
        for side, part in enumerate(card.parts):
            page = pdf.pages[2 * number - 2 + side]
            width, height = SIZES[paper]
            assert float(page.mediabox.width) == pytest.approx(width * MM, abs=0.5)
            assert float(page.mediabox.height) == pytest.approx(height * MM, abs=0.5)
            told = " ".join(page.extract_text().split())
            assert f"{('question', 'answer')[side]} {number} of 40" in told
            for word in words(part):
                assert word in told, f"{word!r} isn't on the {paper} page of {card.id}"


def words(part: str) -> list[str]:
    found = (piece for paragraph in flow(part) for piece in paragraph.pieces)
    return [piece.text for piece in found if isinstance(piece, Word)]


def test_fonts_are_embedded(printed: tuple[str, Any]) -> None:
    _, pdf = printed
    seen = set()
    for page in pdf.pages:
        for font in page["/Resources"]["/Font"].values():
            inner = font.get_object()["/DescendantFonts"][0].get_object()
            assert len(inner["/FontDescriptor"]["/FontFile2"].get_data()) > 1000
            assert "/ToUnicode" in font.get_object()
            seen.add(str(inner["/BaseFont"]).partition("+")[2])
    assert {"SourceSerifPro", "SourceSerifProItalic"} <= {name.replace("-", "") for name in seen}


def test_nothing_is_cut(printed: tuple[str, Any]) -> None:
    paper, pdf = printed
    margin = PAPERS[paper].margin - 1
    sizes = set()
    for page in pdf.pages:
        right, top = float(page.mediabox.width) - margin, float(page.mediabox.height) - margin
        for x, y, size in places(page, sizes):
            assert margin <= x <= right + 0.01
            assert margin - 0.3 * size <= y <= top
    assert min(sizes) >= PAPERS[paper].smallest * 0.5  # the foot's is about half of the text's
    assert max(sizes) == PAPERS[paper].largest


def places(page: Any, sizes: set[float]) -> list[tuple[float, float, float]]:
    """Where text begins and ends, and every point of every outline, in points from the corner."""
    found: list[tuple[float, float, float]] = []
    fonts = {name: font.get_object() for name, font in page["/Resources"]["/Font"].items()}
    state: dict[str, Any] = {}

    def before(operator: bytes, operands: list[Any], cm: list[float], tm: list[float]) -> None:
        if operator == b"Tf":
            state["font"], state["size"] = fonts[operands[0]], float(operands[1])
            sizes.add(round(state["size"], 2))
        elif operator in (b"Td", b"Tm"):
            state["at"] = [float(number) for number in operands[-2:]]
        elif operator in (b"Tj", b"TJ"):
            x, y = moved(cm, *state["at"])
            found.append((x, y, state["size"]))
            found.append((x + width_of(operands[0], state), y, state["size"]))
        elif operator in (b"m", b"l", b"c", b"re"):
            numbers = [float(number) for number in operands]
            for at in range(0, len(numbers) - 1, 2):
                found.append((*moved(cm, numbers[at], numbers[at + 1]), 0.0))

    page.extract_text(visitor_operand_before=before)
    return found


def moved(cm: list[float], x: float, y: float) -> tuple[float, float]:
    return cm[0] * x + cm[2] * y + cm[4], cm[1] * x + cm[3] * y + cm[5]


def width_of(shown: Any, state: dict[str, Any]) -> float:
    """The width of what is shown, by the font's own table of widths."""
    inner = state["font"]["/DescendantFonts"][0].get_object()
    widths: dict[int, float] = {}
    table = list(inner["/W"])
    while table:
        first, second = table.pop(0), table.pop(0)
        if isinstance(second, list):
            widths.update({first + at: float(width) for at, width in enumerate(second)})
        else:
            third = float(table.pop(0))
            widths.update(dict.fromkeys(range(first, second + 1), third))
    parts = shown if isinstance(shown, list) else [shown]
    total = 0.0
    for part in parts:
        if isinstance(part, int | float):
            total -= float(part)
            continue
        data = getattr(part, "original_bytes", part)
        codes = [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]
        total += sum(widths.get(code, float(inner["/DW"])) for code in codes)
    return total * state["size"] / 1000


def test_formulas_are_outlines_in_their_hues() -> None:
    card = next(card for card in own_library().cards if card.id == "one-line")
    pdf = pypdf.PdfReader(io.BytesIO(print_cards([card])))
    content = pdf.pages[1].get_contents().get_data()
    drawn = {tuple(map(float, found)) for found in re.findall(RGB, content)}
    for hue in ("#0067A5", "#B34700", "#00734F"):
        channels = [int(hue[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        assert any(each == pytest.approx(channels, abs=1e-3) for each in drawn), hue
    assert content.count(b" c\n") + content.count(b" c ") > 100


def test_another_paper_and_a_card_that_is_too_long_are_refused() -> None:
    card = own_library().cards[0]
    with pytest.raises(ConfigError, match="a6 or a4 or letter"):
        print_cards([card], "a5")
    long = dataclasses.replace(card, parts=("Why?", "word " * 900))
    with pytest.raises(LessonError, match=r"cards\.md:1: card 'attention', too long"):
        print_cards([long])


def test_prose_becomes_words_formulas_and_marks() -> None:
    found = flow("Two *of* [them]{.q}:\n\n1. $a < b$, and\n2. `code`.\n\n$$c$$")
    assert [paragraph.mark for paragraph in found] == ["", "1.", "2.", ""]
    assert [piece.hue for piece in found[0].pieces if isinstance(piece, Word)] == ["", "", "q", ""]
    formula = found[1].pieces[0]
    assert isinstance(formula, Formula)
    assert "&lt;" in formula.mathml
    assert found[3].display
