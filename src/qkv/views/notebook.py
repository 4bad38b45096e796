"""`show`: a trace or a map where one works: a live view in a notebook, a picture in a terminal."""

from __future__ import annotations

import base64
import html
import io
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from qkv.views.gather import Gathered, gather
from qkv.views.palette import LIGHT, mixed
from qkv.views.widget import create_widget, has_widgets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from qkv.lens.heads.head_table import HeadTable
    from qkv.views.gather import Showable

__all__ = ["mimebundle", "show"]

PNG, HTML, PLAIN = "image/png", "text/html", "text/plain"
WIDGET = "application/vnd.jupyter.widget-view+json"
# 160 + 5 * 19 of 256 colours.
RAMP_SHADES, PEN_SHADES = 160, 19
SHOWN_HEADS = 12


def show(
    thing: Showable,
    *,
    layer: int | str | None = None,
    head: int | None = None,
    log: bool = True,
    light: bool = False,
    width: int | None = None,
) -> None:
    """Show a trace or a map: the live view in a notebook, a picture in a terminal.

    Args:
        thing: a trace of one sequence, a map, or some maps.
        layer, head: only this layer, only heads of this number; both for one map.
        log: whether colours follow the logarithm of the weight, from .001, or the weight itself.
        light: whether a terminal's colours are for a light one.
        width: columns of the terminal to use; all unless given.

    Raises:
        QkvError: where there is no such head.

    >>> import numpy as np
    >>> from qkv.lens import AttentionMap
    >>> x = np.zeros((2, 1))
    >>> head = AttentionMap.of(x, x, mask=np.tri(2, dtype=bool), labels="ab", name="L3H7")
    >>> show(head, width=60)
    L3H7  this token ↓ looks at →
      a b
    a @@
    b %%%%
    <BLANKLINE>
      ..::::----====+++****####%%%│@@
      .001     .01       .1         1
      weight, logarithmic  │ even, mean row .67  blank: masked
    “b” at 1 gives .50 to “a” at 0
    """
    found = gather(thing, layer=layer, head=head)
    if _shell() == "kernel":
        from IPython.display import display

        display(_bundle(found, _line(thing)), raw=True)  # type: ignore[no-untyped-call]
        return
    _print(found, log=log, light=light, width=width)


def mimebundle(thing: Showable, include: Any = None, exclude: Any = None) -> dict[str, Any]:
    """What a notebook keeps of a trace or a map: the live view, and for later a picture and HTML.

    In a terminal of IPython it is one line.

    Args:
        thing: a trace of one sequence, a map, or some maps.
        include, exclude: MIME types that are wanted, or aren't.

    >>> import numpy as np
    >>> from qkv.lens import AttentionMap
    >>> x = np.zeros((2, 1))
    >>> sorted(mimebundle(AttentionMap.of(x, x), exclude=["image/png"]))
    ['text/html', 'text/plain']
    """
    if _shell() == "terminal":
        return {PLAIN: _line(thing)}
    bundle = _bundle(gather(thing), _line(thing))
    wanted = set(bundle) if include is None else set(bundle) & set(include)
    return {kind: bundle[kind] for kind in bundle if kind in wanted - set(exclude or ())}


def _line(thing: Any) -> str:
    """What it is, without the numbers in it."""
    if hasattr(thing, "sites"):
        return repr(thing)
    maps = [thing] if hasattr(thing, "lse") else list(thing)
    return f"maps of {len(maps):,} heads" if len(maps) > 1 else f"map of {maps[0].name or 'a head'}"


def _shell() -> str:
    """Where we are: in the "kernel" of a notebook, in a "terminal" of IPython, or "" elsewhere."""
    if "IPython" not in sys.modules:
        return ""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return ""
    return "kernel" if getattr(shell, "kernel", None) is not None else _kind_of(shell)


def _kind_of(shell: Any) -> str:
    return "terminal" if type(shell).__name__ == "TerminalInteractiveShell" else ""


def _bundle(found: Gathered, line: str) -> dict[str, Any]:
    """Everything at once, richest first."""
    if found.quick and len(found.maps) > 1:
        found = found.scored()
    figure = _picture(found)
    png = _small_png(figure)
    encoded = base64.b64encode(png).decode("ascii")
    said = str(figure.get_label())
    bundle: dict[str, Any] = {}
    if has_widgets() and _shell() == "kernel":
        bundle[WIDGET] = create_widget(found)._repr_mimebundle_()[0][WIDGET]
    bundle[HTML] = _html(found, said, encoded, int(figure.get_size_inches()[0] * 96))
    bundle[PNG] = encoded
    bundle[PLAIN] = f"{line}; {next(iter(found.maps))}: {said}" if len(found.maps) == 1 else line
    return bundle


def _picture(found: Gathered) -> Figure:
    """Every head, or the only one; of a long text only the head to begin with."""
    from qkv.views.atlas import draw_atlas
    from qkv.views.figure import draw_head

    if len(found.maps) > 1 and found.quick:
        return draw_atlas(found.maps.values(), marked=found.telling)
    name = found.telling or next(iter(found.maps))
    return draw_head(found.maps[name])


def _small_png(figure: Figure) -> bytes:
    """A PNG with a palette of the colours that figures have: a third of the size, and sharp."""
    from PIL import Image

    from qkv.views.sheet import encode_figure

    shades = [LIGHT.shade(place / (RAMP_SHADES - 1)) for place in range(RAMP_SHADES)]
    pens = [LIGHT.ink, LIGHT.soft, LIGHT.hatch, LIGHT.q, LIGHT.k]
    # Letters have soft edges, so every pen comes let down with paper too.
    shades += [
        mixed(pen, LIGHT.paper, share / PEN_SHADES)
        for pen in pens
        for share in range(1, PEN_SHADES + 1)
    ]
    palette = np.array([[int(shade[i : i + 2], 16) for i in (1, 3, 5)] for shade in shades])
    image = np.asarray(Image.open(io.BytesIO(encode_figure(figure, "png"))).convert("RGB"))
    red, green, blue = (image[..., i].astype(np.int32) for i in range(3))
    packed = (red << 16) | (green << 8) | blue
    # A table of all colours, since sorting some million pixels takes seconds.
    nearest = np.zeros(2**24, dtype=np.uint8)
    nearest[packed] = 1
    found = np.flatnonzero(nearest)
    parts = np.stack([found >> 16, (found >> 8) & 255, found & 255], axis=1)
    nearest[found] = ((parts[:, None] - palette) ** 2).sum(-1).argmin(1)
    small = Image.fromarray(nearest[packed])
    small.putpalette(palette.astype(np.uint8).tobytes())
    buffer = io.BytesIO()
    small.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def _html(found: Gathered, said: str, encoded: str, width: int) -> str:
    """The picture and the scores as they are, without scripts and styles that others could see."""
    text = html.escape(said)
    table = "" if found.table is None else _table(found.table)
    return (
        f'<figure style="margin:0"><img alt="{text}" width="{width}" '
        f'style="max-width:100%" src="data:image/png;base64,{encoded}">'
        f"<figcaption>{text}</figcaption></figure>{table}"
    )


def _table(table: HeadTable) -> str:
    from qkv.views.heads import head_legend, head_lines

    columns, rows = head_lines(table, SHOWN_HEADS)
    names = "".join(f'<th style="text-align:left">{html.escape(name)}</th>' for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    more = len(table) - len(rows)
    rest = f"<p>and {more:,} more heads: trace.heads()</p>" if more > 0 else ""
    told = html.escape("; ".join(head_legend(table, SHOWN_HEADS)))
    return (
        f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>{rest}"
        f"<p><small>{told}</small></p>"
    )


def _print(found: Gathered, *, log: bool, light: bool, width: int | None) -> None:
    """To standard output, since that is what was asked for."""
    from rich.console import Console

    from qkv.views.terminal import heatmap, thumbnails

    console = Console(highlight=False, width=width)
    if len(found.maps) > 1 and found.quick:
        found = found.scored()
        marked = found.telling
        console.print(
            thumbnails(found.maps.values(), log=log, light=light, marked=marked, width=width)
        )
        console.print()
    head = found.maps[found.telling or next(iter(found.maps))]
    console.print(heatmap(head, log=log, light=light, width=width))
