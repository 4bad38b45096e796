"""A worksheet to take along: as formulas for a paper, as a script that computes it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from qkv.lab.worksheets import Worked
from qkv.views.worksheet import digits

__all__ = ["as_latex", "as_numpy"]

Array: TypeAlias = "np.ndarray[Any, Any]"
LETTERS = {"x": "X", "w_q": "W_Q", "w_k": "W_K", "w_v": "W_V", "w_o": "W_O"}
MOST = " - masked.max(axis=-1, keepdims=True)"
MASK_CODE = {
    "causal": "masked = np.where(allowed, scaled, -np.inf)",
    "none": "masked = scaled  # no mask",
    "zero": "masked = np.where(allowed, scaled, 0.0)  # 0 for -inf: wrong",
    "after": "masked = scaled  # masked after the softmax: wrong",
}


def as_latex(worked: Worked) -> str:
    r"""Return the steps as formulas; they need amsmath.

    >>> from qkv.lab.worksheets import Sheet, work
    >>> given = {"scores": np.array([[2.0, 1.0]]), "v": np.array([[1.0], [3.0]])}
    >>> as_latex(work(Sheet(given))).splitlines()[1]
    'v = \\begin{bmatrix} 1 \\\\ 3 \\end{bmatrix} \\\\'
    """
    sheet, tables = worked.sheet, worked.tables
    blocks = [
        [
            f"{LETTERS[name]} = {_bmatrix(sheet.given[name])}"
            for name in LETTERS
            if name in sheet.given
        ]
    ]
    heads = len(tables["v"])
    for head in range(heads):
        mark = f"^{{({head + 1})}}" if heads > 1 else ""
        vectors = [name for name in ("q", "k", "v") if name in tables]
        blocks.append([f"{name}{mark} = {_bmatrix(tables[name][head])}" for name in vectors])
        blocks += [
            [f"{left(mark)} = {_bmatrix(tables[name][head])}"]
            for name, left in _formulas(worked).items()
        ]
    if worked.output is not None:
        mixed = "y" if heads == 1 else rf"[{', '.join(f'y^{{({n + 1})}}' for n in range(heads))}]"
        blocks.append([f"{mixed} W_O = {_bmatrix(worked.output)}"])
    lines = [" \\qquad\n".join(block) for block in blocks if block]
    return "\\begin{gather*}\n" + " \\\\\n".join(lines) + "\n\\end{gather*}\n"


def _formulas(worked: Worked) -> dict[str, Callable[[str], str]]:
    """What stands to the left of each step's equals sign, given a head's mark."""
    times = digits(worked.scale)
    if worked.sheet.scale is None and "q" in worked.tables:
        times = rf"\tfrac{{1}}{{\sqrt{{{worked.tables['q'].shape[-1]}}}}}"
    has_q, softmax = "q" in worked.tables, r"\operatorname{softmax}"
    pinned = any(name == "masked" for name, *_ in worked.sheet.pins)
    mask = "m" if pinned or worked.sheet.mask in ("causal", "zero") else "z"
    found: dict[str, Callable[[str], str]] = {
        "scores": lambda at: f"s{at} = q{at} {{k{at}}}^{{\\top}}" if has_q else f"s{at}",
        "scaled": lambda at: f"z{at} = {times}\\, s{at}",
    }
    if mask == "m":
        found["masked"] = lambda at: rf"m{at} = \operatorname{{mask}}(z{at})"
    after = r" \odot \operatorname{allowed}" if worked.sheet.mask == "after" else ""
    found["pattern"] = lambda at: f"p{at} = {softmax}({mask}{at}){after}"
    found["mixed"] = lambda at: f"y{at} = p{at} v{at}"
    return found


def _bmatrix(table: Array) -> str:
    rows = r" \\ ".join(" & ".join(_tex(float(x)) for x in row) for row in table)
    return rf"\begin{{bmatrix}} {rows} \end{{bmatrix}}"


def _tex(number: float) -> str:
    return digits(number).replace("−", "-").replace("∞", r"\infty")


def as_numpy(worked: Worked) -> str:
    """Return a script that computes the worksheet again, prints it, and checks it.

    >>> from qkv.lab.worksheets import Sheet, work
    >>> given = {"scores": np.array([[2.0, 1.0]]), "v": np.array([[1.0], [3.0]])}
    >>> script = as_numpy(work(Sheet(given)))
    >>> "pattern = " in script and "assert np.allclose(mixed, " in script
    True
    """
    sheet, tables = worked.sheet, worked.tables
    heads = len(tables["v"])
    lines = ["import numpy as np", ""]
    lines += [f"{LETTERS[n]} = {_literal(sheet.given[n])}" for n in LETTERS if n in sheet.given]
    for name in ("q", "k", "v"):
        lines += _vectors(worked, name)
    if "scores" in sheet.given:
        lines.append(f"scores = {_literal(sheet.given['scores'][None])}  # (H, Q, K)")
    else:
        lines.append("scores = q @ k.swapaxes(-1, -2)  # (H, Q, K)")
    lines += _pinned(worked, "scores")
    root = sheet.scale is None and "q" in tables
    scale = "/ np.sqrt(q.shape[-1])" if root else f"* {worked.scale!r}"
    lines += [f"scaled = scores {scale}", *_pinned(worked, "scaled")]
    lines += [
        f"places = np.array({list(worked.places)})  # where each query stands",
        "allowed = np.arange(scaled.shape[-1]) <= places[:, None]",
        MASK_CODE[sheet.mask],
        *_softmax(worked),
    ]
    if sheet.mask == "after":
        lines.append("pattern = pattern * allowed")
    lines += [*_pinned(worked, "pattern"), "mixed = pattern @ v  # (H, Q, Cv)"]
    lines += _pinned(worked, "mixed")
    last, found = "mixed", tables["mixed"]
    if worked.output is not None:
        joined = "np.concatenate(mixed, axis=-1)" if heads > 1 else "mixed[0]"
        lines += [f"output = {joined} @ W_O  # (Q, D)", *_pinned(worked, "output")]
        last, found = "output", worked.output
    lines += ["", "print(pattern.round(3))", f"print({last}.round(3))"]
    lines.append(f"assert np.allclose({last}, {_literal(found)})")
    return "\n".join(lines) + "\n"


def _softmax(worked: Worked) -> list[str]:
    """The lines from masked numbers to the pattern; plainer where a row can't be without tokens."""
    masked, powers = _pinned(worked, "masked"), _pinned(worked, "exponentials")
    if not masked and not powers:
        total = worked.total
        # As by hand, where floats reach.
        less = "" if np.isfinite(total).all() and total.all() else MOST
        return [
            f"exponentials = np.exp(masked{less})",
            "pattern = exponentials / exponentials.sum(axis=-1, keepdims=True)",
        ]
    return [
        *(["masked = masked.copy()", *masked] if masked else []),
        "exponentials = np.exp(masked)",
        *powers,
        "total = exponentials.sum(axis=-1, keepdims=True)",
        "pattern = exponentials / np.where(total == 0, 1, total)",
    ]


def _vectors(worked: Worked, name: str) -> list[str]:
    """The lines that give q, k or v by head."""
    if name not in worked.tables:
        return []
    sheet, heads = worked.sheet, len(worked.tables["v"])
    own = sheet.given.get(name)
    made = f"X @ {LETTERS[f'w_{name}']}" if own is None else _literal(own)
    split = f"np.stack(np.split({made}, {heads}, axis=-1))"
    return [f"{name} = {split}  # (H, T, C)", *_pinned(worked, name)]


def _pinned(worked: Worked, name: str) -> list[str]:
    first = 1 if name == "output" else 0  # which has no heads
    return [
        f"{name}[{', '.join(map(str, place[first:]))}] = "
        f"{'-np.inf' if np.isneginf(value) else repr(value)}  # changed by hand"
        for (pinned, *place), value in sorted(worked.sheet.pins.items())
        if pinned == name
    ]


def _literal(table: Array) -> str:
    whole = bool((table == np.rint(table)).all())  # which reads more easily without points
    return f"np.array({(table.astype(int) if whole else table).tolist()}, dtype=float)"
