"""A blank figure on which things are placed in points from its top left corner, and its file.

No pyplot: a figure belongs to whoever asked for it, and nobody's settings change it or are changed
by it.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, UInt8

from qkv.errors import ConfigError, ResourceError
from qkv.views.lettering import Face, drawable, font
from qkv.views.palette import LOWEST, Palette, mixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DPI", "FORMATS", "Sheet", "encode_figure", "pixels", "save_figure", "settings"]

Array: TypeAlias = "np.ndarray[Any, Any]"
Format: TypeAlias = Literal["png", "svg", "pdf"]
# Left, top, width and height, in points.
Box: TypeAlias = "tuple[float, float, float, float]"

DPI = 200
FORMATS: tuple[Format, ...] = ("png", "svg", "pdf")
POINT = DPI / 72
# Pixels that a cell's side is drawn with at least: what is finer a viewer may blur.
CELL_PIXELS = 8
HATCH_GAP = 4.0  # points


@contextmanager
def settings() -> Iterator[None]:
    """matplotlib as it comes, whatever the user's own settings are; theirs are back afterwards."""
    from matplotlib import style

    # The salt makes the names within an SVG the same each time.
    with style.context(["default", {"svg.hashsalt": "qkv", "path.simplify": False}]):
        yield


class Sheet:
    """A figure of `width` by `height` points, in a palette's colours; sizes are whole pixels."""

    def __init__(self, width: float, height: float, colors: Palette) -> None:
        from matplotlib.figure import Figure

        self.width, self.height = round(width * POINT), round(height * POINT)
        self.colors = colors
        self.figure = Figure(
            figsize=(self.width / DPI, self.height / DPI), dpi=DPI, facecolor=colors.paper
        )

    def axes(self, left: float, top: float, width: float, height: float, name: str) -> Axes:
        """Bare axes at whole pixels, without frame or ticks."""
        x, y, w, h = (round(value * POINT) for value in (left, top, width, height))
        axes = self.figure.add_axes(
            (
                x / self.width,
                1 - (y + h) / self.height,
                w / self.width,
                h / self.height,
            ),
            label=name,
            facecolor="none",
        )
        axes.set_axis_off()
        return axes

    def whole(self, name: str) -> Axes:
        """Axes all over the sheet, with points from its top left corner as coordinates."""
        axes = self.axes(0, 0, self.width / POINT, self.height / POINT, name)
        axes.set_xlim(0, self.width / POINT)
        axes.set_ylim(self.height / POINT, 0)
        axes.set_autoscale_on(False)
        return axes

    def write(
        self,
        left: float,
        top: float,
        text: str,
        *,
        size: float,
        face: Face = "sans",
        color: str = "",
        align: Literal["left", "center", "right"] = "left",
        turned: bool = False,
        vertical: Literal["baseline", "center", "top", "bottom"] = "baseline",
    ) -> None:
        """A line of text with its baseline at `top`; `turned`, it reads upwards."""
        self.figure.text(
            left * POINT / self.width,
            1 - top * POINT / self.height,
            drawable(text, face),
            fontproperties=font(face, size),
            color=color or self.colors.ink,
            ha=align,
            va=vertical,
            rotation=90 if turned else 0,
            rotation_mode="anchor",
            parse_math=False,
        )

    def hatch(self, axes: Axes, box: Box | None = None) -> None:
        """Diagonal lines all over the axes, or a box in points on them, below what comes later."""
        from matplotlib.collections import LineCollection
        from matplotlib.patches import Rectangle

        if box is None:
            extent = axes.get_window_extent()
            left, top, width, height = 0.0, 0.0, extent.width / POINT, extent.height / POINT
        else:
            left, top, width, height = box
        starts = np.arange(-height, width, HATCH_GAP).tolist()
        if box is None:
            lines = [((x / width, 0.0), ((x + height) / width, 1.0)) for x in starts]
        else:
            lines = [((left + x, top + height), (left + x + height, top)) for x in starts]
        drawn = LineCollection(
            lines,
            colors=self.colors.hatch,
            linewidths=0.4,
            transform=axes.transAxes if box is None else axes.transData,
            zorder=0,
        )
        axes.add_collection(drawn, autolim=False)
        if box is not None:
            drawn.set_clip_path(Rectangle((left, top), width, height, transform=axes.transData))

    def cells(
        self,
        axes: Axes,
        levels: Float[Array, "rows cols"],
        allowed: Bool[Array, "rows cols"],
        *,
        size: float = 1.0,
        box: Box | None = None,
        name: str | None = None,
    ) -> None:
        """Weights as squares of `size` places, or all over a box in points on the axes.

        They are clear where forbidden, so that hatching shows; `name` is their id in an SVG.
        """
        rows, cols = levels.shape
        image = pixels(levels, allowed, self.colors)
        if box is None:
            extent = axes.get_window_extent()
            wide, high = extent.width / POINT, extent.height / POINT
            edges = (-0.5, cols * size - 0.5, rows * size - 0.5, -0.5)
        else:
            left, top, wide, high = box
            edges = (left, left + wide, top + high, top)
        down = max(1, math.ceil(min(CELL_PIXELS, high * POINT / rows)))
        along = max(1, math.ceil(min(CELL_PIXELS, wide * POINT / cols)))
        drawn = axes.imshow(
            image.repeat(down, 0).repeat(along, 1),
            extent=edges,
            interpolation="none",
            aspect="auto",
            zorder=1,
        )
        drawn.set_gid(name)

    def bars(
        self, axes: Axes, values: Array, color: str, *, size: float, sideways: bool = False
    ) -> None:
        """A bar for every `size` places, as one shape; sideways ones grow to the left."""
        starts = np.arange(len(values)) * size - 0.5
        # Up to some hundred bars stand apart from each other.
        gap = 0.16 * size if len(values) <= 120 else 0.0
        edges = np.stack([starts + gap / 2, starts + size - gap / 2], axis=1).reshape(-1)
        heights = np.stack([values, np.zeros(len(values))], axis=1).reshape(-1)[:-1]
        axes.stairs(
            heights,
            edges,
            fill=True,
            color=mixed(color, self.colors.paper, 0.6),
            orientation="horizontal" if sideways else "vertical",
        )
        top = max(float(values.max()), 1e-9)
        if sideways:
            axes.set_xlim(top, 0)
        else:
            axes.set_ylim(0, top)


def pixels(
    levels: Float[Array, "rows cols"], allowed: Bool[Array, "rows cols"], colors: Palette
) -> UInt8[Array, "rows cols 4"]:
    """The ramp's colour of each level, 0 to 1; fully transparent where nothing is allowed.

    >>> from qkv.views import LIGHT
    >>> pixels(np.array([[0.0, 1.0]]), np.array([[True, False]]), LIGHT).tolist()
    [[[251, 250, 247, 255], [0, 0, 0, 0]]]
    """
    stops = np.linspace(0, 1, len(colors.ramp))
    parts = [
        np.interp(levels, stops, [int(stop[i : i + 2], 16) for stop in colors.ramp])
        for i in (1, 3, 5)
    ]
    full = np.stack([*parts, np.full(levels.shape, 255.0)], axis=-1)
    image: Array = np.where(allowed[..., None], full.round(), 0.0).astype(np.uint8)
    return image


def levels_of(weights: Array, *, log: bool) -> Float[Array, "*S"]:
    """How far up the ramp each weight stands, as `palette.level` says of one."""
    places: Array = weights
    if log:
        places = 1 - np.log10(np.maximum(weights, LOWEST)) / np.log10(LOWEST)
    return places.clip(0.0, 1.0)


def encode_figure(figure: Figure, kind: Format) -> bytes:
    """A figure as the bytes of a file, the same each time.

    Raises:
        ConfigError: where the kind is none of png, svg and pdf.
    """
    if kind not in FORMATS:
        raise ConfigError(f"a picture as {kind}", "png, svg or pdf", "choose one of these")
    title = str(figure.get_label()) or "attention"
    metadata: dict[str, Any] = {
        "png": {"Title": title, "Software": "qkv"},
        "svg": {"Title": title, "Creator": "qkv", "Date": None},
        "pdf": {"Title": title, "Creator": "qkv", "CreationDate": None},
    }
    buffer = io.BytesIO()
    with settings():
        figure.savefig(
            buffer, format=kind, dpi=figure.dpi, metadata=metadata[kind], facecolor="auto"
        )
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path | str) -> Path:
    """Write a figure as PNG, SVG or PDF, by the name's ending; a reader sees all of it or nothing.

    Raises:
        ConfigError: where the ending is none of these, or the folder isn't there.
        ResourceError: where the disk is full or may not be written.
    """
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise ConfigError(
            f"a picture named {path.name}", "a name that ends in .png, .svg or .pdf", "rename it"
        )
    return write_whole(path, encode_figure(figure, kind))


def write_whole(path: Path, data: bytes) -> Path:
    """Write a file so that a reader sees the old one or the new one, whole."""
    if not path.parent.is_dir():
        raise ConfigError(f"no folder {path.parent}", "one that is there", "make it first")
    if path.is_dir():
        raise ConfigError(f"the folder {path}", "the name of a file", "add one")
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ResourceError(
            f"{error.strerror!r} while writing {path}",
            "a disk with room that may be written",
            "free some space or choose another place",
        ) from error
    return path
