"""Text in figures: fonts that are there, glyphs that they have, and how wide a text is.

matplotlib brings DejaVu and STIX along, so a figure looks alike everywhere; Source Sans and Source
Serif are taken where the system has them, and fonts of other scripts where a token needs one.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from matplotlib.font_manager import FontProperties

__all__ = ["Face", "drawable", "fitting", "font", "width_of"]

Face: TypeAlias = Literal["sans", "bold", "serif", "mono"]

# Each face's fonts, best first; the last of them matplotlib brings along.
FAMILIES: dict[str, tuple[str, ...]] = {
    "sans": ("Source Sans 3", "Source Sans Pro", "DejaVu Sans"),
    "bold": ("Source Sans 3", "Source Sans Pro", "DejaVu Sans"),
    "serif": ("Source Serif 4", "Source Serif Pro", "STIXGeneral"),
    "mono": ("DejaVu Sans Mono",),
}
# For what the face's own font lacks, as far as the system has them.
OTHER_SCRIPTS = (
    "DejaVu Sans",
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Bengali",
    "Noto Sans Tamil",
    "Noto Sans Thai",
    "Nirmala UI",
    "Leelawadee UI",
    "Arial Unicode MS",
    "Noto Emoji",
    "Segoe UI Symbol",
)
MISSING = "\u25a1"
# They ask for another look of the character before them, and have none of their own.
SELECTORS = dict.fromkeys(range(0xFE00, 0xFE10))


def font(face: Face, size: float) -> FontProperties:
    """A face at a size in points; each glyph is taken from the first of its fonts that has it."""
    from matplotlib.font_manager import FontProperties

    return FontProperties(
        family=list(_families(face)),
        size=size,
        style="italic" if face == "serif" else "normal",
        weight="bold" if face == "bold" else "normal",
    )


def drawable(text: str, face: Face) -> str:
    """The text with a box in place of each character that no font at hand has.

    >>> drawable("l⏎" + chr(0x10FFFD), "mono")
    'l⏎□'
    """
    kept = text.translate(SELECTORS)
    return "".join(c if _has_glyph(ord(c), face) else MISSING for c in kept)


def width_of(text: str, face: Face, size: float) -> float:
    """How wide a text is drawn, in points.

    >>> width_of("iiii", "mono", 10) == width_of("WWWW", "mono", 10)
    True
    """
    return _width(text, face) * size / 100


def fitting(text: str, face: Face, size: float, room: float) -> str:
    """The text, or as much of its start as fits into `room` points, and an ellipsis.

    >>> fitting("internationalisation", "mono", 10, 60), fitting("ten", "mono", 10, 60)
    ('internat…', 'ten')
    """
    text = drawable(text, face)
    if width_of(text, face, size) <= room:
        return text
    kept = text
    while kept and width_of(kept + "…", face, size) > room:
        kept = kept[:-1]
    return kept + "…"


@cache
def _families(face: Face) -> tuple[str, ...]:
    found = [name for name in FAMILIES[face] if _path(name, face) is not None][:1]
    return (*found, *(name for name in OTHER_SCRIPTS if _path(name, face) is not None))


@cache
def _path(family: str, face: Face) -> str | None:
    from matplotlib.font_manager import FontProperties, fontManager

    # Asked of the list first, for a search in vain is logged as a warning.
    if not any(entry.name == family for entry in fontManager.ttflist):
        return None
    wanted = FontProperties(
        family=family,
        style="italic" if face == "serif" else "normal",
        weight="bold" if face == "bold" else "normal",
    )
    return str(fontManager.findfont(wanted, fallback_to_default=False))


@cache
def _has_glyph(code: int, face: Face) -> bool:
    return any(_glyphs(family, face).get_char_index(code) for family in _families(face))


def _glyphs(family: str, face: Face) -> Any:
    from matplotlib.font_manager import get_font

    return get_font(str(_path(family, face)))


@lru_cache(4096)
def _width(text: str, face: Face) -> float:
    from matplotlib.textpath import text_to_path

    if not text:
        return 0.0
    measured = text_to_path.get_text_width_height_descent(text, font(face, 100), ismath=False)
    return float(measured[0])
