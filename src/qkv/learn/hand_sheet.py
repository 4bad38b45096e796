"""Exercises by hand on paper: numbers, empty boxes, and a key on a page of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from qkv.errors import ConfigError, ResourceError
from qkv.learn.answers import write_number, write_vector
from qkv.learn.exercises import Exercise, count_answers, solve, stages
from qkv.learn.hand_words import STAGE_NAMES, introduce
from qkv.learn.pdf import open_pdf

if TYPE_CHECKING:
    from fpdf import FPDF

__all__ = ["PAPERS", "as_pdf", "write_sheet"]

PAPERS = {"a4": (210.0, 297.0), "letter": (215.9, 279.4)}
FONTS = {
    "": ("font_source_sans_pro", "files/SourceSansPro-Regular.ttf"),
    "B": ("font_source_sans_pro", "files/SourceSansPro-Semibold.ttf"),
}
SANS = "Source Sans"
MARGIN, LINE, ROW, LABEL = 20.0, 5.0, 9.0, 34.0
WIDEST_CELL = 24.0
HUES = {"q": (0, 103, 165), "k": (179, 71, 0), "v": (0, 115, 79)}
INK, SOFT, RULE = (28, 29, 34), (96, 96, 100), (150, 150, 152)
HOW = "Two decimals will do. Write −∞ where a score is forbidden."
Rows = list[tuple[str, list[str]]]


def write_sheet(path: Path, exercises: Sequence[Exercise], paper: str = "a4") -> None:
    """Write exercises to be printed, the key at the end.

    Args:
        path: a .pdf, with its fonts embedded, or a .txt.
        paper: "a4" or "letter", for a .pdf.

    Raises:
        ConfigError: another ending, or paper.
        ResourceError: a place that can't be written.
    """
    writers: dict[str, Callable[[], bytes]] = {
        ".pdf": lambda: as_pdf(exercises, paper),
        ".txt": lambda: _as_text(exercises).encode(),
    }
    if path.suffix.lower() not in writers:
        raise ConfigError(f"a sheet {path.name}", "a .pdf or a .txt", "name it so")
    data = writers[path.suffix.lower()]()
    try:
        path.write_bytes(data)
    except OSError as error:
        raise ResourceError(
            f"{path}, {error.strerror or error}", "a place to write", "choose another"
        ) from error


def _given(exercise: Exercise) -> Rows:
    """What is given, a cell for each token."""
    rows: Rows = []
    if exercise.q is not None and exercise.keys is not None:
        asking = [""] * exercise.tokens
        asking[exercise.place] = write_vector(exercise.q)
        rows += [("q", asking), ("k", list(map(write_vector, exercise.keys)))]
    if exercise.affinities is not None:
        rows.append(("scores", list(map(write_number, exercise.affinities))))
    values = [
        "not given" if value[0] != value[0] else write_vector(value) for value in exercise.values
    ]
    return [*rows, ("v", values)]


def _boxes(exercise: Exercise, *, filled: bool) -> Rows:
    """A row for each stage, empty or with the right numbers."""
    right = solve(exercise)
    return [
        (
            STAGE_NAMES[stage],
            [write_number(float(number)) for number in right[stage]]
            if filled
            else [""] * count_answers(exercise, stage),
        )
        for stage in stages(exercise)
    ]


def _named(exercise: Exercise, number: int) -> str:
    seed = "" if exercise.seed is None else f" (seed {exercise.seed})"
    return f"{number}  {exercise.title}{seed}"


def _as_text(exercises: Sequence[Exercise]) -> str:
    def rows(found: Rows, width: int) -> list[str]:
        return [
            f"  {name:<15}" + "".join(f"{cell:>{width}}" for cell in cells) for name, cells in found
        ]

    sheet, key = ["Attention by hand", HOW], ["\fKey"]
    for number, exercise in enumerate(exercises, 1):
        given = _given(exercise)
        tokens = ("", [f"token {at + 1}" for at in range(exercise.tokens)])
        width = max(len(cell) for _, cells in [tokens, *given] for cell in cells) + 3
        blank = [
            (name, ["____".rjust(width)] * len(cells))
            for name, cells in _boxes(exercise, filled=False)
        ]
        story = [exercise.story] if exercise.story else []
        sheet += ["", _named(exercise, number), *story, introduce(exercise), ""]
        sheet += rows([tokens, *given, ("", []), *blank], width)
        key += ["", _named(exercise, number), *rows(_boxes(exercise, filled=True), 11)]
    return "\n".join(line.rstrip() for line in [*sheet, *key]) + "\n"


def as_pdf(exercises: Sequence[Exercise], paper: str) -> bytes:
    """Return exercises to be printed as a PDF, the key on a page of its own.

    Raises:
        ConfigError: paper that is neither "a4" nor "letter".
    """
    if paper not in PAPERS:
        raise ConfigError(f"paper {paper!r}", " or ".join(PAPERS), "choose one")
    with open_pdf("Attention by hand", "mm", PAPERS[paper]) as page:
        page.set_margins(MARGIN, MARGIN)
        _draw(page, exercises)
        return bytes(page.output())


def _draw(page: FPDF, exercises: Sequence[Exercise]) -> None:
    for style, (package, source) in FONTS.items():
        with resources.as_file(resources.files(package) / source) as font:
            page.add_font(SANS, style, font)
    page.set_text_shaping(False)
    page.set_draw_color(*RULE)
    page.set_line_width(0.2)
    _head(page, "Attention by hand", f"Name ____________________________     {HOW}")
    for number, exercise in enumerate(exercises, 1):
        words = " ".join(filter(None, [" ".join(exercise.story.split()), introduce(exercise)]))
        lines = _lines(page, words)
        given, boxes = _given(exercise), _boxes(exercise, filled=False)
        tall = LINE * (len(lines) + 3 + len(given)) + len(given) + 4 + ROW * len(boxes)
        _make_room(page, tall, "Attention by hand")
        _title(page, _named(exercise, number))
        for line in lines:
            page.cell(0, LINE, line, new_x="LMARGIN", new_y="NEXT")
        page.ln(2)
        wide = _cell_width(page, exercise.tokens)
        page.set_text_color(*SOFT)
        _row(page, "", [f"token {at + 1}" for at in range(exercise.tokens)], wide, LINE)
        for name, cells in given:
            _row(page, name, cells, wide, LINE + 1)
        page.ln(2)
        for name, cells in boxes:
            _row(page, name, cells, wide, ROW, boxed=True)
        page.ln(8)
    _head(page, "Key", "")
    for number, exercise in enumerate(exercises, 1):
        boxes = _boxes(exercise, filled=True)
        _make_room(page, LINE * (len(boxes) + 3), "Key")
        _title(page, _named(exercise, number))
        for name, cells in boxes:
            _row(page, name, cells, _cell_width(page, exercise.tokens), LINE)
        page.ln(4)


def _head(page: FPDF, title: str, note: str) -> None:
    """Begin a page."""
    page.add_page()
    page.set_text_color(*INK)
    page.set_font(SANS, "B", 18)
    page.cell(0, 9, title, new_x="LMARGIN", new_y="NEXT")
    page.set_font(SANS, "", 10)
    if note:
        page.set_text_color(*SOFT)
        page.cell(0, 8, note, new_x="LMARGIN", new_y="NEXT")
    page.ln(3)


def _make_room(page: FPDF, tall: float, title: str) -> None:
    """Go on with a new page where so much doesn't stand on this one."""
    if page.get_y() + tall > page.h - MARGIN:
        _head(page, title, "")


def _title(page: FPDF, words: str) -> None:
    page.set_text_color(*INK)
    page.set_font(SANS, "B", 12)
    page.cell(0, LINE + 2, words, new_x="LMARGIN", new_y="NEXT")
    page.set_font(SANS, "", 10)


def _lines(page: FPDF, words: str) -> list[str]:
    """Words in lines as wide as the page."""
    page.set_font(SANS, "", 10)
    found = page.multi_cell(page.epw, LINE, words, dry_run=True, output="LINES", align="L")
    assert isinstance(found, list)
    return found


def _cell_width(page: FPDF, tokens: int) -> float:
    return float(min(WIDEST_CELL, (page.epw - LABEL) / tokens))


def _row(
    page: FPDF, name: str, cells: list[str], wide: float, tall: float, *, boxed: bool = False
) -> None:
    """A name, and its cells below the tokens'."""
    hue = HUES.get(name, INK)
    if name:
        page.set_text_color(*hue)
    page.set_font(SANS, "B" if name in HUES else "", 10)
    page.cell(LABEL, tall, name)
    for cell in cells:
        # A long vector is set smaller, before it runs into its neighbour.
        size = min(10.0, 10.0 * (wide - 1) / max(page.get_string_width(cell), 0.1))
        page.set_font_size(size)
        page.cell(wide, tall, cell, border=1 if boxed else 0, align="C")
        page.set_font_size(10)
    page.ln(tall)
    page.set_text_color(*INK)
