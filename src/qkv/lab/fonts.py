"""The fonts that pages are set in: from data-only packages, cut down to what pages write.

A whole face is 220 kB; its letters for Europe's Latin and Greek, and the signs, are 25. What lies
outside them is drawn by the system's fonts. A cut is made once and kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import io
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

__all__ = ["FACES", "Face", "font_styles", "has_cut", "read_font"]

LETTERS = ((0x20, 0x17F), (0x370, 0x3FF), (0x2000, 0x206F), (0x2070, 0x209F), (0x2190, 0x22FF))
FEATURES = ["kern", "liga", "tnum", "lnum", "mark", "mkmk", "ccmp", "locl"]
VERSION = 1


@dataclass(frozen=True)
class Face:
    """One face of a family.

    Args:
        family: as style sheets call it.
        file: as pages ask for it.
        package, source: where it lies.
        weight, style: as CSS says them.
        whole: whether it is served as it is.
    """

    family: str
    file: str
    package: str
    source: str
    weight: int = 400
    style: str = "normal"
    whole: bool = False


_SANS, _SERIF = "font_source_sans_pro", "font_source_serif_pro"
FACES = (
    Face("Source Sans 3", "sans.woff", _SANS, "files/SourceSansPro-Regular.otf"),
    Face("Source Sans 3", "sans-bold.woff", _SANS, "files/SourceSansPro-Semibold.otf", 600),
    Face("Source Serif 4", "serif.woff", _SERIF, "files/SourceSerifPro-Regular.otf"),
    Face("Source Serif 4", "serif-bold.woff", _SERIF, "files/SourceSerifPro-Semibold.otf", 600),
    Face(
        "Source Serif 4", "serif-italic.woff", _SERIF, "files/SourceSerifPro-It.otf", 400, "italic"
    ),
    Face("STIX Two Math", "math.ttf", "ziamath", "fonts/STIXTwoMath-Regular.ttf", whole=True),
)


def font_styles() -> str:
    """Return the style sheet that names the faces; a browser asks for one when it needs it."""
    ranges = ", ".join(f"U+{low:X}-{high:X}" for low, high in LETTERS)
    rules = []
    for face in FACES:
        only = "" if face.whole else f" unicode-range: {ranges};"
        rules.append(
            f'@font-face {{ font-family: "{face.family}"; font-weight: {face.weight}; '
            f"font-style: {face.style}; font-display: swap; src: url({face.file});{only} }}\n"
        )
    return "".join(rules)


def read_font(face: Face) -> bytes:
    """Return a face's file, from the cache or cut now."""
    from qkv.text.fetch import write_atomically

    data = _read_whole(face)
    if face.whole:
        return data
    kept = _kept(data)
    with suppress(OSError):
        return kept.read_bytes()
    made = _cut(data)
    with suppress(OSError):  # a cache that can't be written only costs time
        write_atomically(kept, made)
    return made


def has_cut(face: Face) -> bool:
    """Return whether a face can be read at once."""
    return face.whole or _kept(_read_whole(face)).is_file()


def _read_whole(face: Face) -> bytes:
    return (resources.files(face.package) / face.source).read_bytes()


def _kept(data: bytes) -> Path:
    """Where the cut of a whole face is kept."""
    from qkv.text.fetch import cache_folder

    name = hashlib.sha256(repr((VERSION, LETTERS, FEATURES)).encode() + data).hexdigest()[:24]
    return cache_folder() / "fonts" / f"{name}.woff"


def _cut(data: bytes) -> bytes:
    """Return the letters that pages write, as WOFF."""
    from fontTools.subset import Options, Subsetter
    from fontTools.ttLib import TTFont

    options = Options()
    options.layout_features, options.hinting, options.notdef_outline = FEATURES, False, True
    font = TTFont(io.BytesIO(data), lazy=True)
    cutter = Subsetter(options)
    cutter.populate(unicodes=[code for low, high in LETTERS for code in range(low, high + 1)])
    cutter.subset(font)
    font.flavor = "woff"
    made = io.BytesIO()
    font.save(made)
    return made.getvalue()
