"""A PDF that is begun, and closes what it opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fpdf import FPDF

__all__ = ["open_pdf"]


@contextmanager
def open_pdf(title: str, unit: str, paper: str | tuple[float, float]) -> Iterator[FPDF]:
    """Yield a PDF without pages; the files of its fonts, which fpdf leaves open, are closed."""
    from fpdf import FPDF
    from fpdf.fonts import TTFFont

    pdf = FPDF(unit=unit, format=paper)
    pdf.set_title(title)
    pdf.set_lang("en")
    pdf.set_auto_page_break(False)
    try:
        yield pdf
    finally:
        for font in pdf.fonts.values():
            if isinstance(font, TTFFont):
                font.ttfont.close()
