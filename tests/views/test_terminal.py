"""A map in the terminal: readable with and without colour, at any width, for any token."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from qkv.attention import Causal, Mask
from qkv.lens import AttentionMap
from qkv.views import DARK, LIGHT, heatmap, sparkline

TEXT = "To be,\nor not"


def draw(labels: object = TEXT, mask: Mask | None = None, tokens: int = 9) -> AttentionMap:
    names = list(labels) if labels is not None else []  # type: ignore[call-overload]
    size = len(names) or tokens
    rng = np.random.default_rng(5)
    q, k = rng.normal(size=(2, size, 7)) * 1.5
    return AttentionMap.of(q, k, mask=mask or Causal(), labels=names, name="L0H2")


def show(head: AttentionMap, width: int = 80, *, color: bool = False, **options: object) -> str:
    file = io.StringIO()
    console = Console(
        file=file,
        width=width,
        force_terminal=color,
        color_system="truecolor" if color else None,
        legacy_windows=False,
    )
    console.print(heatmap(head, **options))  # type: ignore[arg-type]
    return file.getvalue()


def strip(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def rgb(color: str) -> str:
    return ";".join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))


def test_without_colour_every_row_is_characters() -> None:
    head = draw()
    lines = show(head).splitlines()
    assert lines[0] == "L0H2  this token ↓ looks at →"
    assert lines[1] == "  T o ␣ b e , ⏎ o r ␣ n o t"
    assert lines[2] == "T @@"
    pattern = head.pattern()
    for row, line in enumerate(lines[2:15]):
        assert line[0] == "To␣be,⏎or␣not"[row]
        cells = line[2:].ljust(26)[::2]
        assert cells[row + 1 :].strip() == ""  # impossible is blank, and not small
        assert " " not in cells[: row + 1]
        strengths = [".:-=+*#%@".index(c) for c in cells[: row + 1]]
        order = np.argsort(pattern[row, : row + 1])
        assert (np.diff(np.array(strengths)[order]) >= 0).all()


def test_legend_ticks_uniform_and_sentence() -> None:
    head = draw()
    text = show(head)
    assert ".001     .01       .1         1" in text
    assert "weight, logarithmic  │ even, mean row .14  blank: masked" in text
    assert head.sentence() in text
    linear = show(head, log=False)
    assert "weight, linear" in linear
    assert "0             .5              1" in linear


def test_in_colour_two_rows_share_a_line_and_the_masked_is_hatched() -> None:
    head = draw("abcdefghij" * 3)
    text = show(head, color=True)
    lines = strip(text).splitlines()
    assert lines[1] == "    " + "abcdefghij" * 3
    assert lines[2] == "a b ▀▄" + "╱" * 28
    assert lines[3] == "c d ▀▀▀▄" + "╱" * 26
    assert "╱╱ masked" in text
    assert rgb(DARK.shade(1.0)) in text
    assert rgb(DARK.q) in text
    assert rgb(DARK.k) in text
    light = show(head, color=True, light=True)
    assert rgb(LIGHT.paper) in light
    assert rgb(LIGHT.q) in light


def test_small_maps_have_square_cells_in_colour() -> None:
    lines = strip(show(draw(), color=True)).splitlines()
    assert lines[1] == "  T o ␣ b e , ⏎ o r ␣ n o t"
    assert lines[3].startswith("o     ╱╱")


@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("width", [40, 60, 100])
@pytest.mark.parametrize("labels", ["我看见光线从窗户", "ab\n " * 60, ["The", " quick"] * 9])
def test_nothing_is_wider_than_the_terminal(labels: object, width: int, color: bool) -> None:
    text = strip(show(draw(labels), width, color=color))
    assert max(cell_len(line) for line in text.splitlines()) <= width


def test_wide_characters_have_two_columns() -> None:
    lines = strip(show(draw("我看见光"), color=True)).splitlines()
    assert lines[1] == "   我看见光"
    assert lines[2] == "我   ╱╱╱╱╱╱"


def test_words_stand_upright_above_their_column() -> None:
    lines = show(draw(["The", " quick", " fox"])).splitlines()
    # The longest label is 6 high; all end just above the map.
    column = [line.ljust(20)[9:11].strip() for line in lines[1:7]]
    assert "".join(column) == "␣quick"
    assert lines[4].ljust(20)[7] == "T"


def test_maps_that_are_too_wide_are_pooled_by_their_largest_weights() -> None:
    # One strong cell in a map of weak ones must not be lost.
    scores = np.zeros((120, 120))
    scores[100, 37] = 20.0
    head = AttentionMap.of(scores, np.eye(120), scale=1.0, name="L0H0", labels="a" * 120)
    text = show(head, 44)
    assert "each cell is the largest of 3×3 weights" in text
    rows = text.splitlines()[2:42]
    assert len(rows) == 40
    strong = [(y, x - 2) for y, row in enumerate(rows) for x, c in enumerate(row) if c == "@"]
    assert strong == [(33, 12)]


def test_unlabelled_maps_count_their_tokens() -> None:
    lines = show(draw(None, tokens=12)).splitlines()
    assert lines[1] == "   0 1 2 3 4 5 6 7 8 9 1011"
    assert lines[2].startswith("0  @@")


def test_a_terminal_of_ascii_is_given_ascii() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    Console(file=file, width=60).print(heatmap(draw("ab\né→漢" * 20)))
    file.flush()
    text = raw.getvalue().decode("ascii")
    assert "this token (down) looks at (right)" in text
    assert "largest of 3x3 weights" in text


def test_no_color_and_few_colours_give_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    for system in ("standard", "truecolor"):
        if system == "truecolor":
            monkeypatch.setenv("NO_COLOR", "1")
        file = io.StringIO()
        Console(file=file, width=80, force_terminal=True, color_system=system).print(  # type: ignore[arg-type]
            heatmap(draw())
        )
        assert "blank: masked" in file.getvalue()


def test_sparkline() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([3, 3]) == "▁▁"
    assert sparkline([float("nan")]) == " "
    assert sparkline([1, 9], low=0, high=8) == "▂█"
    assert sparkline([]) == ""
