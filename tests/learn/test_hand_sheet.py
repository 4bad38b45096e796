"""The sheet read back: exercises, then the key; embedded fonts; nothing beyond the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from qkv.errors import ConfigError, ResourceError
from qkv.learn.answers import write_number
from qkv.learn.exercises import Exercise, solve, worked_exercises
from qkv.learn.generation import draw_exercise
from qkv.learn.hand_sheet import PAPERS, write_sheet


@pytest.fixture
def read_pdf() -> Any:
    return pytest.importorskip("pypdf", reason="pypdf is not installed").PdfReader


@pytest.mark.parametrize("paper", sorted(PAPERS))
def test_a_sheet_has_exercises_and_a_key_on_a_page_of_its_own(
    tmp_path: Path, read_pdf: Any, paper: str
) -> None:
    exercises = [*worked_exercises(), *map(draw_exercise, range(6))]
    write_sheet(tmp_path / "sheet.pdf", exercises, paper)
    pages = read_pdf(tmp_path / "sheet.pdf").pages
    texts = [page.extract_text() for page in pages]
    first_key = next(at for at, text in enumerate(texts) if text.startswith("Key"))
    asked, key = "\n".join(texts[:first_key]), "\n".join(texts[first_key:])
    assert texts[0].startswith("Attention by hand")
    for number, exercise in enumerate(exercises, 1):
        assert f"{number} {exercise.title}" in re.sub(" +", " ", asked)
        output = " ".join(write_number(float(x)) for x in solve(exercise)["output"])
        assert f"output {output}" in key
    assert "−∞" in key
    assert not re.search(r"output [.\d]", asked)
    for page in pages:
        fonts = page["/Resources"]["/Font"].values()
        kept = [font.get_object()["/DescendantFonts"][0].get_object() for font in fonts]
        assert all("/FontFile2" in font["/FontDescriptor"].get_object() for font in kept)


def test_nothing_is_cut(tmp_path: Path, read_pdf: Any) -> None:
    wide = Exercise(
        "wide", "Wide", q=(-1.5,) * 6, keys=((-2.25,) * 6,) * 12, values=((100.0, -1000.5),) * 12,
        place=11, scale=True, story="Words. " * 60,
    )  # fmt: skip
    write_sheet(tmp_path / "sheet.pdf", [wide] * 3, "a4")
    for page in read_pdf(tmp_path / "sheet.pdf").pages:
        places: list[tuple[float, float]] = []
        page.extract_text(
            visitor_text=lambda text, cm, tm, *_, places=places: (
                places.append((tm[4], tm[5])) if text.strip() else None
            )
        )
        width, height = page.mediabox.width, page.mediabox.height
        assert all(50 < x < width - 50 and 50 < y < height - 50 for x, y in places)


def test_a_sheet_of_text(tmp_path: Path) -> None:
    write_sheet(tmp_path / "sheet.txt", [draw_exercise(7)])
    asked, key = (tmp_path / "sheet.txt").read_text(encoding="utf-8").split("\f")
    assert "1  Token 3 of 5 (seed 7)" in asked
    assert asked.count("____") == 27
    assert "output               7.490      4.241" in key


def test_what_cant_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a sheet one\.doc; expected a \.pdf or a \.txt"):
        write_sheet(tmp_path / "one.doc", [draw_exercise(1)])
    with pytest.raises(ConfigError, match="paper 'a3'"):
        write_sheet(tmp_path / "one.pdf", [draw_exercise(1)], "a3")
    with pytest.raises(ResourceError, match="a place to write"):
        write_sheet(tmp_path / "none" / "one.pdf", [draw_exercise(1)])
