"""Any text can be lettered: what fonts lack is a box, what is too long is cut."""

from __future__ import annotations

import pytest
from matplotlib.font_manager import findfont, get_font

from qkv.views.lettering import drawable, fitting, font, width_of

FACES = ["sans", "bold", "serif", "mono"]


@pytest.mark.parametrize("face", FACES)
def test_what_is_drawable_has_glyphs(face) -> None:  # type: ignore[no-untyped-def]
    text = "aé␣⏎⇥�∅“”·→↓▾◂×√ш א مπ"
    kept = drawable(text, face)
    assert kept[:4] == "aé␣⏎"
    fonts = [get_font(findfont(family)) for family in font(face, 9).get_family()]
    for character in kept:
        assert any(one.get_char_index(ord(character)) for one in fonts), character


@pytest.mark.parametrize("face", FACES)
def test_what_is_missing_becomes_a_box_and_selectors_go(face) -> None:  # type: ignore[no-untyped-def]
    assert drawable("x\U0010fffdy☃\ufe0f", face) == "x□y☃"


def test_widths_add_up_and_scale() -> None:
    assert width_of("", "mono", 10) == 0
    assert width_of("abc", "mono", 10) == pytest.approx(3 * width_of("a", "mono", 10), rel=0.02)
    assert width_of("abc", "sans", 20) == pytest.approx(2 * width_of("abc", "sans", 10))


@pytest.mark.parametrize("room", [3, 9, 40, 200])
def test_what_is_fitted_fits(room: float) -> None:
    text = "the quick brown fox"
    kept = fitting(text, "sans", 9, room)
    if kept != "…":
        assert width_of(kept, "sans", 9) <= room
    assert kept == text or (kept.endswith("…") and text.startswith(kept[:-1]))
    assert (kept == text) == (width_of(text, "sans", 9) <= room)
