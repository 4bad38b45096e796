r"""Formulas: LaTeX to MathML for pages, and to one line of text for terminals.

What MathML Core draws is allowed and no more: `aligned` and `\boxed` come out broken, `\href` and
`\style` have no business in a lesson. `\class{q}{…}` gives a part the hue of queries.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from xml.etree import ElementTree as ET

from qkv.errors import TextError

__all__ = ["FormulaError", "formula_text", "mathml"]

REFUSED = ("href", "style", "boxed", "aligned", "align", "color", "textcolor")
LARGEST = 2_000
ELEMENTS = frozenset(
    ("math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "msup", "msub", "msubsup", "munder",
     "mover", "munderover", "mfrac", "msqrt", "mroot", "mtable", "mtr", "mtd", "mstyle", "mpadded",
     "mphantom")
)  # fmt: skip
ATTRIBUTES = frozenset(
    ("display", "class", "stretchy", "fence", "form", "separator", "accent", "mathvariant", "width",
     "height", "depth", "voffset", "lspace", "rspace", "minsize", "maxsize", "linethickness",
     "columnalign", "columnspacing", "rowspacing", "columnlines", "rowlines", "movablelimits",
     "displaystyle", "scriptlevel", "largeop", "symmetric")
)  # fmt: skip
_REFUSED = re.compile(r"\\(?:begin\s*\{)?(" + "|".join(REFUSED) + r")\b\*?")
_PARTS = {
    "mfrac": 2, "msub": 2, "msup": 2, "munder": 2, "mover": 2, "msubsup": 3, "munderover": 3,
}  # fmt: skip
_SPACE = "{http://www.w3.org/1998/Math/MathML}"
_LOW = str.maketrans("0123456789aehijklmnoprstuvx+-−", "₀₁₂₃₄₅₆₇₈₉ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ₊₋₋")
_HIGH = str.maketrans("0123456789ijklmnopdt+-−⊤", "⁰¹²³⁴⁵⁶⁷⁸⁹ⁱʲᵏˡᵐⁿᵒᵖᵈᵗ⁺⁻⁻ᵀ")
_SPACED = frozenset("=≈≤≥<>+−×·∼∈→")


class FormulaError(TextError):
    """A formula that isn't LaTeX, or that MathML Core can't show."""


@lru_cache(maxsize=2_048)
def mathml(latex: str, block: bool = False) -> str:
    """Return a formula as MathML.

    Args:
        latex: without its dollars.
        block: whether it stands on a line of its own.

    Raises:
        FormulaError: what doesn't convert, or is refused.

    >>> mathml("q")
    '<math display="inline"><mrow><mi>q</mi></mrow></math>'
    """
    tree = _tree(latex, block)
    for element in tree.iter():  # HTML knows MathML without its namespace
        element.tag = element.tag.removeprefix(_SPACE)
    return ET.tostring(tree, encoding="unicode")


@lru_cache(maxsize=2_048)
def formula_text(latex: str) -> str:
    r"""Return a formula as one line of text.

    Raises:
        FormulaError: as `mathml`.

    >>> formula_text(r"\frac{q \cdot k}{\sqrt{d}}")
    '(q · k) / √d'
    """
    return re.sub(r"\s+", " ", _say(_tree(latex, False))).strip()


def _tree(latex: str, block: bool) -> ET.Element:
    from latex2mathml.converter import convert

    if len(latex) > LARGEST:
        raise FormulaError(f"{len(latex):,} characters", f"at most {LARGEST:,}", "part it")
    refused = _REFUSED.search(latex)
    if refused:
        raise FormulaError(
            f"\\{refused[1]} in ${latex}$", "LaTeX that MathML Core shows", "write it without"
        )
    # The library takes a true minus for a letter.
    latex = latex.replace("−", "-").replace("∞", r"\infty ")
    try:
        tree = ET.fromstring(convert(latex, display="block" if block else "inline"))
    except Exception as error:  # it raises what it likes
        what = f"the formula ${latex}$ ({type(error).__name__})"
        raise FormulaError(what, "LaTeX", "check its braces and names") from error
    _check(tree, latex)
    _tidy(tree)
    return tree


def _check(tree: ET.Element, latex: str) -> None:
    """Raise a FormulaError for what no browser should be handed."""
    for element in tree.iter():
        name = element.tag.removeprefix(_SPACE)
        if len(element) != _PARTS.get(name, len(element)):
            raise FormulaError(f"a part missing in ${latex}$", "LaTeX", "check its braces")
        # What stands in a \text is handed through as it is, markup and all.
        extra = [*({name} - ELEMENTS), *(set(element.attrib) - ATTRIBUTES)]
        if extra:
            what = f"{extra[0]} in ${latex}$"
            raise FormulaError(what, "LaTeX that MathML Core shows", "leave it out")
        if (element.text or "").startswith("\\"):
            raise FormulaError(f"{element.text} in ${latex}$", "a name that LaTeX has", "check it")


def _tidy(element: ET.Element) -> None:
    """Names are no operators with spaces around; a thin space parts them from what they're of."""
    for child in element:
        text = child.text or ""
        if child.tag == _SPACE + "mo" and (text.isalpha() or text == "∞"):
            child.tag = _SPACE + "mi"
        _tidy(child)
    children = list(element)
    if element.tag.removeprefix(_SPACE) not in ("mrow", "mtd", "math", "mstyle"):
        return
    for at in range(len(children) - 1, 0, -1):
        if _is_name(children[at - 1]) and _is_bare(children[at]):
            element.insert(at, ET.Element(_SPACE + "mspace", {"width": "0.17em"}))


def _is_name(element: ET.Element) -> bool:
    """Whether an element is a function's name, with a power or without."""
    if element.tag in (_SPACE + "msup", _SPACE + "msub"):
        return _is_name(element[0])
    text = element.text or ""
    return element.tag == _SPACE + "mi" and len(text) > 1 and text.isalpha()


def _is_bare(element: ET.Element) -> bool:
    """Whether an element begins with no bracket and no sign."""
    if element.tag == _SPACE + "mrow" and len(element):
        return _is_bare(element[0])
    return element.tag not in (_SPACE + "mo", _SPACE + "mspace")


def _say(element: ET.Element) -> str:
    """An element of MathML in words of one line."""
    kind = element.tag.removeprefix(_SPACE)
    children = ["−" if _is_sign(element, at) else _say(child) for at, child in enumerate(element)]
    special = _SAID.get(kind)
    if special:
        return special(children)
    if children:
        return "".join(children)
    text = element.text or ""
    if kind == "mo" and text in _SPACED:
        return f" {text} "
    if kind == "mo" and text == ",":
        return ", "
    return " " if kind == "mspace" else text


def _is_sign(row: ET.Element, at: int) -> bool:
    """Whether a minus has nothing before it to be taken from."""
    return (
        row[at].tag == _SPACE + "mo"
        and row[at].text == "−"
        and (at == 0 or (row[at - 1].tag == _SPACE + "mo" and row[at - 1].text != ")"))
    )


def _fraction(parts: list[str]) -> str:
    return " / ".join(_held(part) for part in parts)


def _held(part: str) -> str:
    """In brackets, unless it stands for itself."""
    part = part.strip()
    whole = re.fullmatch(r"[\w√.′ₐ-ₜ⁰-ⁿ]+|\([^()]*\)|\w*√?\([^()]*\)", part)
    return part if whole else f"({part})"


def _below(parts: list[str]) -> str:
    base, low = parts[0], parts[1].strip()
    if base == "∑":
        return f"{base}_{_held(low)} "
    small = low.translate(_LOW)
    return base + (small if _moved(low, _LOW) else f"_{low}" if low.isalnum() else f"_({low})")


def _above(parts: list[str]) -> str:
    base, high = parts[0], parts[1].strip()
    if high == "′":
        return f"{base.rstrip()}′"
    small = high.translate(_HIGH)
    return base.rstrip() + (small if _moved(high, _HIGH) else f"^{_held(high)}")


def _moved(text: str, table: dict[int, int]) -> bool:
    return all(ord(letter) in table for letter in text)


_SAID: dict[str, Callable[[list[str]], str]] = {
    "mfrac": _fraction,
    "msqrt": lambda parts: "√" + _held("".join(parts)),
    "msub": _below,
    "msup": _above,
    "msubsup": lambda parts: _above([_below(parts[:2]), parts[2]]),
    "munder": _below,
    "mtd": lambda parts: "".join(parts).strip(),
    "mtr": "  ".join,
    "mtable": "; ".join,
}
