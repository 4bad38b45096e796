"""Every head at a glance, as a figure and in a terminal."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from qkv.attention import Causal
from qkv.errors import ConfigError
from qkv.lens import AttentionMap
from qkv.views import LIGHT
from qkv.views.atlas import draw_atlas, grid_of
from qkv.views.palette import level
from qkv.views.sheet import encode_figure
from qkv.views.terminal import thumbnails


def heads(layers: int, count: int, tokens: int = 7, **options: Any) -> list[AttentionMap]:
    rng = np.random.default_rng(3)
    return [
        AttentionMap.of(
            rng.normal(size=(tokens, 5)) * 2,
            rng.normal(size=(tokens, 5)),
            mask=Causal(),
            name=f"L{layer}H{head}",
            **options,
        )
        for layer in range(layers)
        for head in range(count)
    ]


def show(maps: list[AttentionMap], width: int, *, color: bool, **options: Any) -> list[str]:
    file = io.StringIO()
    system: Any = "truecolor" if color else None
    console = Console(file=file, width=width, force_terminal=color, color_system=system)
    console.print(thumbnails(maps, **options))
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()


def test_layers_down_and_heads_across_in_their_colours() -> None:
    maps = heads(3, 2)
    figure = draw_atlas(maps, marked="L1H1", captions={"L2H0": "previous .50"})
    image = np.asarray(Image.open(io.BytesIO(encode_figure(figure, "png"))).convert("RGB"))
    axes = figure.axes[0]
    edges = {drawn.get_gid(): drawn.get_extent() for drawn in axes.images}
    lefts = [edges[f"L0H{head}"][0] for head in range(2)]
    tops = [edges[f"L{layer}H0"][3] for layer in range(3)]
    assert lefts == sorted(lefts)
    assert tops == sorted(tops)
    for one in maps:
        pattern = one.pattern()
        for row, col in ((0, 0), (4, 1), (6, 6)):
            left, right, bottom, top = edges[one.name]
            place = (
                left + (right - left) * (col + 0.5) / 7,
                top + (bottom - top) * (row + 0.5) / 7,
            )
            x, y = axes.transData.transform(place)
            shade = LIGHT.shade(level(float(pattern[row, col])))
            expected = [int(shade[i : i + 2], 16) for i in (1, 3, 5)]
            assert np.abs(image[int(image.shape[0] - y), int(x)] - np.array(expected)).max() <= 1
    texts = {text.get_text() for text in figure.texts}
    assert {"6 heads in 3 layers", "H0", "H1", "L0", "L2", "previous .50"} <= texts


def test_holes_in_the_grid_and_maps_of_different_sizes() -> None:
    maps = [*heads(1, 2)[1:], *heads(2, 1, tokens=23)[1:]]
    assert list(grid_of(maps)) == [(0, 1), (1, 0)]
    assert len(encode_figure(draw_atlas(maps), "svg")) > 1000
    lines = show(maps, 60, color=False)
    assert lines[1].split() == ["H0", "H1"]
    assert [line[:2] for line in lines[2:]].count("L1") == 1


def test_no_head_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no head to draw"):
        draw_atlas([])


def test_in_a_terminal_each_head_has_its_cells() -> None:
    maps = heads(2, 3, tokens=5)
    lines = show(maps, 80, color=False, marked="L1H2")
    assert lines[0] == "every head  this token ↓ looks at →"
    assert lines[1].split() == ["H0", "H1", "▸H2"]
    assert [line[:2] for line in lines[2:]] == ["L0", "  ", "  ", "  ", "  ", "L1"] + ["  "] * 4
    signs = ".:-=+*#%@"
    for place, one in enumerate(maps):
        pattern = one.pattern()
        layer, head = divmod(place, 3)
        for row in range(5):
            text = lines[2 + 5 * layer + row].ljust(30)[3 + 6 * head :][:5]
            assert text[row + 1 :].strip() == ""
            order = np.argsort(pattern[row, : row + 1])
            assert (np.diff([signs.index(text[col]) for col in order]) >= 0).all()


@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("width", [40, 60, 80, 100])
@pytest.mark.parametrize("count", [1, 4, 12, 32])
def test_nothing_is_wider_than_the_terminal(count: int, width: int, color: bool) -> None:
    lines = show(heads(2, count, tokens=19), width, color=color, marked="L1H0")
    assert max(cell_len(line) for line in lines) <= width
    # Heads that have no room go below, all of them.
    assert len(re.findall(r"H\d+", " ".join(lines))) == count


def test_a_terminal_of_ascii_is_given_ascii() -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    Console(file=file, width=60).print(thumbnails(heads(1, 2), marked="L0H1"))
    file.flush()
    assert ">H1" in raw.getvalue().decode("ascii")
