"""Cards as a PDF to print on both sides: the question on one page, its answer on the next.

Prose is text in embedded fonts, that can be searched and copied; formulas are outlines.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from itertools import cycle
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from qkv.errors import ConfigError
from qkv.learn.flow import Formula, Paragraph, Word, flow
from qkv.learn.pdf import open_pdf
from qkv.learn.sheets import Entry

if TYPE_CHECKING:
    from fpdf import FPDF

__all__ = ["PAPERS", "Paper", "print_cards"]

INK, SOFT = "#1C1D22", "#6A6B70"
HUES = {"q": "#0067A5", "k": "#B34700", "v": "#00734F", "": INK}
_SERIF, _SANS = "font_source_serif_pro", "font_source_sans_pro"
TITLE = "qkv: cards on causal self-attention"
FACES = {
    "regular": (_SERIF, "files/SourceSerifPro-Regular.ttf"),
    "italic": (_SERIF, "files/SourceSerifPro-It.ttf"),
    "bold": (_SERIF, "files/SourceSerifPro-Semibold.ttf"),
    "code": (_SANS, "files/SourceSansPro-Regular.ttf"),
}
LEADING, ASCENT, DESCENT, SPACE = 1.4, 0.76, 0.26, 0.25
"""In ems; a line with a tall formula takes what the formula needs."""
BETWEEN = 0.55
THIN = 0.05
SVG = "{http://www.w3.org/2000/svg}"
_NUMBER = re.compile(r"-?[\d.]+(?:e-?\d+)?")


@dataclass(frozen=True)
class Paper:
    """A page, in points.

    Args:
        width, height: of the page.
        margin: on all sides.
        largest, smallest: sizes of type; a card is set as large as it fits.
    """

    width: float
    height: float
    margin: float
    largest: float
    smallest: float


def _paper(width_mm: float, height_mm: float, margin_mm: float, largest: float) -> Paper:
    point = 72 / 25.4
    return Paper(width_mm * point, height_mm * point, margin_mm * point, largest, largest / 2)


PAPERS = {
    "a6": _paper(105, 148, 11, 14),
    "a4": _paper(210, 297, 26, 26),
    "letter": _paper(215.9, 279.4, 26, 26),
}


def print_cards(cards: Sequence[Entry], paper: str = "a6") -> bytes:
    """Return a PDF of cards: pages 2n − 1 and 2n are question and answer of card n.

    Raises:
        ConfigError: an unknown paper.
        LessonError: a card that doesn't fit on one at half of the usual size.
    """
    from fpdf.enums import Duplex
    from fpdf.prefs import ViewerPreferences

    if paper not in PAPERS:
        raise ConfigError(f"paper {paper!r}", " or ".join(PAPERS), "choose one of them")
    page = PAPERS[paper]
    with open_pdf(TITLE, "pt", (page.width, page.height)) as pdf:
        pdf.viewer_preferences = ViewerPreferences(duplex=Duplex.DUPLEX_FLIP_LONG_EDGE)
        for face, (package, file) in FACES.items():
            pdf.add_font(face, fname=str(resources.files(package) / file))
        for number, card in enumerate(cards, 1):
            for side, part in zip(("question", "answer"), card.parts, strict=True):
                pdf.add_page()
                _draw_side(pdf, page, card, flow(part))
                _draw_foot(pdf, page, f"{side} {number} of {len(cards)}")
        return bytes(pdf.output())


@dataclass(frozen=True)
class _Drawing:
    """A formula's outlines, its baseline at 0: (path, colour) in points, down is positive."""

    paths: tuple[tuple[str, str], ...]
    width: float
    above: float
    below: float


@dataclass(frozen=True)
class _Line:
    """Pieces with their places from the left."""

    pieces: tuple[tuple[float, Word | _Drawing], ...]
    width: float
    above: float
    below: float
    mark: str = ""
    gap: float = 0.0


def _draw_side(pdf: FPDF, page: Paper, card: Entry, paragraphs: Sequence[Paragraph]) -> None:
    width, height = page.width - 2 * page.margin, page.height - 2.5 * page.margin
    size = page.largest
    while True:
        lines = list(_lines(pdf, paragraphs, size, width))
        total = sum(line.gap + line.above + line.below for line in lines)
        if total <= height and all(line.width <= width for line in lines):
            break
        size *= 0.96
        if size < page.smallest:
            got = f"card {card.id!r}, too long for the paper"
            raise card.wrong(got, "what fits on one card", "shorten it, or part it in two")
    down = page.margin + (height - total) * 0.42
    for line in lines:
        down += line.gap + line.above
        indent = page.margin
        if line.mark:
            _draw_word(pdf, Word(line.mark, False), size, indent, down)
        _draw_line(pdf, line, size, indent, down)
        down += line.below


def _draw_line(pdf: FPDF, line: _Line, size: float, left: float, down: float) -> None:
    """Draw a line; words of one face and hue are one text, so that they are copied whole."""
    run: list[Word] = []
    start = 0.0
    for at, piece in line.pieces:
        if isinstance(piece, _Drawing):
            _draw_run(pdf, run, size, left + start, down)
            run = []
            _draw_formula(pdf, piece, left + at, down)
        elif run and (run[0].face, run[0].hue) == (piece.face, piece.hue):
            run.append(piece)
        else:
            _draw_run(pdf, run, size, left + start, down)
            run, start = [piece], at
    _draw_run(pdf, run, size, left + start, down)


def _draw_run(pdf: FPDF, run: Sequence[Word], size: float, left: float, down: float) -> None:
    if run:
        text = "".join(" " * (word.spaced and at > 0) + word.text for at, word in enumerate(run))
        _draw_word(pdf, Word(text, False, run[0].face, run[0].hue), size, left, down)


def _draw_word(pdf: FPDF, word: Word, size: float, left: float, down: float) -> None:
    pdf.set_font(word.face, size=size)
    pdf.set_text_color(HUES[word.hue])
    pdf.text(left, down, word.text)


def _draw_foot(pdf: FPDF, page: Paper, words: str) -> None:
    size = page.largest * 0.55
    pdf.set_font("code", size=size)
    pdf.set_text_color(SOFT)
    down = page.height - page.margin
    pdf.text(page.margin, down, "qkv")
    pdf.text(page.width - page.margin - pdf.get_string_width(words), down, words)


def _lines(
    pdf: FPDF, paragraphs: Sequence[Paragraph], size: float, width: float
) -> Iterator[_Line]:
    """Break paragraphs into lines."""
    above, below = (LEADING - ASCENT - DESCENT) / 2 + ASCENT, (LEADING - ASCENT - DESCENT) / 2
    for number, paragraph in enumerate(paragraphs):
        gap = BETWEEN * size if number and not _in_list(paragraphs, number) else 0.0
        indent = 1.5 * size if paragraph.mark else 0.0
        rows = _break(pdf, paragraph, size, width - indent)
        for at, row in enumerate(rows):
            drawings = [piece for _, piece, _ in row if isinstance(piece, _Drawing)]
            end = row[-1][0] + row[-1][2]
            shift = indent + (max(0.0, width - end) / 2 if paragraph.display else 0.0)
            air = 0.12 * size if drawings else 0.0
            yield _Line(
                tuple((place + shift, piece) for place, piece, _ in row),
                shift + end,
                max(above * size, *(each.above + air for each in drawings), 0.0),
                max((below + DESCENT) * size, *(each.below + air for each in drawings), 0.0),
                paragraph.mark if at == 0 else "",
                gap if at == 0 else 0.0,
            )


def _in_list(paragraphs: Sequence[Paragraph], at: int) -> bool:
    return bool(paragraphs[at].mark and paragraphs[at - 1].mark)


_Placed = tuple[float, Word | _Drawing, float]


def _break(pdf: FPDF, paragraph: Paragraph, size: float, width: float) -> list[list[_Placed]]:
    """Fill lines one after another; what no space parts stays together."""
    rows: list[list[_Placed]] = [[]]
    right = 0.0
    for cluster in _clusters(paragraph):
        placed: list[_Placed] = []
        end = 0.0
        for piece in cluster:
            drawn: Word | _Drawing = piece if isinstance(piece, Word) else _outline(piece, size)
            wide = drawn.width if isinstance(drawn, _Drawing) else _width(pdf, drawn, size)
            placed.append((end, drawn, wide))
            end += wide
        space = SPACE * size if rows[-1] else 0.0
        if rows[-1] and right + space + end > width:
            rows.append([])
            right = space = 0.0
        rows[-1] += [(right + space + at, piece, wide) for at, piece, wide in placed]
        right += space + end
    return rows


def _clusters(paragraph: Paragraph) -> list[list[Word | Formula]]:
    clusters: list[list[Word | Formula]] = []
    for piece in paragraph.pieces:
        if piece.spaced or not clusters:
            clusters.append([])
        clusters[-1].append(piece)
    return clusters


def _width(pdf: FPDF, word: Word, size: float) -> float:
    pdf.set_font(word.face, size=size)
    return float(pdf.get_string_width(word.text))


@lru_cache(maxsize=4_096)
def _outline(formula: Formula, size: float) -> _Drawing:
    """Return a formula's outlines, what is marked as a query, key or value in its hue."""
    with warnings.catch_warnings():  # of its import alone, which isn't ours to mend
        warnings.simplefilter("ignore", DeprecationWarning)
        from ziamath.config import config
        from ziamath.zmath import Math

    tree = ET.fromstring(formula.mathml)
    for element in tree.iter():
        if (hue := element.attrib.pop("class", "")) in HUES and hue:
            for part in element.iter():
                part.set("mathcolor", HUES[hue])
    before, config.svg2 = config.svg2, False  # paths, with no references
    try:
        drawn = Math(tree, size=size, margin=0)
        image = ET.fromstring(drawn.svg())
    finally:
        config.svg2 = before
    _, top, width, height = (float(number) for number in image.attrib["viewBox"].split())
    paths = tuple(_paths(image))
    # What hangs over, such as the end of a subscript, isn't in the width that is told.
    inked = max((x for path, _ in paths for x in _numbers(path)[::2]), default=0.0)
    return _Drawing(paths, max(width, inked) + THIN * size, -top, height + top)


def _paths(image: ET.Element) -> Iterator[tuple[str, str]]:
    for shape in image.iter():
        colour = shape.get("fill", "black")
        colour = INK if colour == "black" else colour
        if shape.tag == f"{SVG}path":
            yield shape.attrib["d"], colour
        elif shape.tag == f"{SVG}rect":
            x, y, wide, high = (float(shape.attrib[name]) for name in ("x", "y", "width", "height"))
            yield f"M {x} {y} L {x + wide} {y} L {x + wide} {y + high} L {x} {y + high} Z", colour


def _draw_formula(pdf: FPDF, drawing: _Drawing, left: float, down: float) -> None:
    from fpdf.drawing import PaintedPath
    from fpdf.enums import PathPaintRule
    from fpdf.svg import svg_path_converter

    with pdf.drawing_context() as context:
        for shape, colour in drawing.paths:
            path = PaintedPath()
            path.style.paint_rule = PathPaintRule.FILL_NONZERO
            path.style.fill_color = colour
            svg_path_converter(path, _moved(shape, left, down))
            context.add_item(path)


def _numbers(path: str) -> list[float]:
    return [float(number) for number in _NUMBER.findall(path)]


def _moved(path: str, left: float, down: float) -> str:
    """A path whose commands take pairs of numbers (M, L, Q, C, Z), moved."""
    ways = cycle((left, down))
    return _NUMBER.sub(lambda number: f"{float(number[0]) + next(ways):.3f}", path)
