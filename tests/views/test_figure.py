"""A head as a figure: each cell in its colour, any token as a label, the same bytes each time."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from qkv.attention import Causal, Full, Window
from qkv.errors import ConfigError
from qkv.lens import AttentionMap, brief
from qkv.views import DARK, LIGHT
from qkv.views.figure import draw_head
from qkv.views.palette import level
from qkv.views.pictures import Picture
from qkv.views.sheet import DPI, encode_figure, save_figure

ODD = [
    "The", " quick", "\n", "", "שלום", " مرحبا", "我看", "🙂", "\udc80", "</script>", "$x^2$",
    "\\frac{", "\u200b", "\u0301", "\x00", "a" * 300, "<|endoftext|>",
]  # fmt: skip


def head(queries: int, keys: int = 0, labels: Any = (), **options: Any) -> AttentionMap:
    rng = np.random.default_rng(7)
    q, k = rng.normal(size=(queries, 11)) * 2, rng.normal(size=(keys or queries, 11))
    return AttentionMap.of(q, k, **{"mask": Causal(), "name": "L3H7", **options}, labels=labels)


def picture(figure: Any) -> np.ndarray[Any, Any]:
    image = Image.open(io.BytesIO(encode_figure(figure, "png")))
    return np.asarray(image.convert("RGB"))


def color_at(figure: Any, image: np.ndarray[Any, Any], x: float, y: float) -> str:
    """The colour at a place of the map's own coordinates."""
    right, up = figure.axes[0].transData.transform((x, y))
    red, green, blue = image[int(image.shape[0] - up), int(right)]
    return f"#{red:02X}{green:02X}{blue:02X}"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("log", [False, True])
def test_every_cell_has_its_weights_colour(log: bool, dark: bool) -> None:
    one, palette = head(13), DARK if dark else LIGHT
    figure = draw_head(one, log=log, dark=dark)
    image, pattern = picture(figure), one.pattern()
    for row in range(13):
        for col in range(row + 1):
            expected = palette.shade(level(float(pattern[row, col]), log=log))
            got = color_at(figure, image, col + 0.2, row + 0.2)
            near = [abs(int(got[i : i + 2], 16) - int(expected[i : i + 2], 16)) for i in (1, 3, 5)]
            assert max(near) <= 1, (row, col, got, expected)


def test_what_is_forbidden_is_hatched_and_not_coloured() -> None:
    figure = draw_head(head(13))
    image = picture(figure)
    box = figure.axes[0].transData
    (left, bottom), (right, top) = box.transform((5.6, 4.4)), box.transform((12.4, 0.0))
    corner = image[image.shape[0] - int(top) : image.shape[0] - int(bottom), int(left) : int(right)]
    paper = np.array([int(LIGHT.paper[i : i + 2], 16) for i in (1, 3, 5)])
    lines = (np.abs(corner.astype(int) - paper).max(-1) > 12).mean()
    assert 0.03 < lines < 0.4
    # Grey as the hatching is, and never plum.
    assert np.ptp(corner.astype(int), axis=-1).max() < 20


def test_a_part_has_the_weights_and_the_tokens_of_its_places() -> None:
    one = head(13, labels="abcdefghijklm")
    figure = draw_head(one, rows=range(5, 11), cols=range(2, 7))
    image, pattern = picture(figure), one.pattern()
    for row in range(5, 11):
        for col in range(2, min(row + 1, 7)):
            expected = LIGHT.shade(level(float(pattern[row, col]), log=True))
            got = color_at(figure, image, col - 2 + 0.2, row - 5 + 0.2)
            near = [abs(int(got[i : i + 2], 16) - int(expected[i : i + 2], 16)) for i in (1, 3, 5)]
            assert max(near) <= 1, (row, col, got, expected)
    texts = [text.get_text() for text in figure.texts]
    assert "queries 5 to 10, keys 2 to 6" in texts
    assert not {"a", "b", "m"} & {*texts}
    # Read aloud by its own strongest cell, off the diagonal.
    part = np.where(np.arange(5, 11)[:, None] == np.arange(2, 7), 0, pattern[5:11, 2:7])
    query, key = divmod(int(part.argmax()), 5)
    assert f"at {query + 5} gives" in figure.get_label()
    assert figure.get_label().endswith(f"at {key + 2}")


@pytest.mark.parametrize("how", ["max", "sum"])
def test_a_long_part_is_pooled_as_the_whole_is(how: Any) -> None:
    one = head(3_300)
    part = Picture.of(one, how, range(1, 3_200), range(1_000))
    pooled = one.pool(part.block, how) / (part.block if how == "sum" else 1)
    assert (part.block, part.rows, part.cols) == (4, range(3_200), range(1_000))
    np.testing.assert_allclose(part.weights, pooled[:800, :250], rtol=1e-6, atol=1e-9)
    assert part.strongest is not None
    assert part.strongest.key < 1_000


def test_axes_have_places_as_coordinates_and_the_sentence_is_its_title() -> None:
    one = head(13, labels="abcdefghijklm")
    figure = draw_head(one)
    assert figure.get_label() == one.sentence()
    assert figure.axes[0].get_xlim() == (-0.5, 12.5)
    assert figure.axes[0].get_ylim() == (12.5, -0.5)
    texts = [text.get_text() for text in figure.texts]
    assert {"this token ↓", " looks at →", "L3H7", "13 tokens", "masked", ".001", ".01"} <= {*texts}
    assert "even, mean row .14" in texts  # a row may look at 7 keys on average
    assert [text for text in texts if text in "abcdefghijklm"].count("m") == 2
    linear = [text.get_text() for text in draw_head(one, log=False).texts]
    assert {"weight, linear", "0", ".5", "1"} <= {*linear}


def test_a_chosen_cell_is_what_the_picture_is_read_aloud_by() -> None:
    drawn = head(6, labels="abcdef")
    weight = drawn.pattern()[4, 1]
    said = draw_head(drawn, cell=(4, 1)).get_label()
    assert said == f"“e” at 4 gives {brief(weight)} to “b” at 1"
    assert draw_head(drawn, cell=(1, 4)).get_label() == "“b” at 1 may not look at “e” at 4"
    # Where it isn't drawn, the strongest of what is speaks.
    part = range(2, 4)
    shown = [draw_head(drawn, rows=part, cell=cell).get_label() for cell in (None, (5, 0), (3, 0))]
    assert shown[0] == shown[1] != shown[2]


def test_a_sink_is_cut_so_that_the_other_bars_are_seen() -> None:
    q, k = np.ones((13, 1)), np.zeros((13, 1))
    k[0] = 5.0
    figure = draw_head(AttentionMap.of(q, k, mask=Causal()))
    received = next(axes for axes in figure.axes if axes.get_label() == "received")
    others = AttentionMap.of(q, k, mask=Causal()).received()[1:].max()
    assert received.get_ylim()[1] == pytest.approx(1.5 * others)
    told = next(t.get_text() for t in figure.texts if t.get_text().startswith("received"))
    assert re.fullmatch(r"received, up to \.\d+; cut: 13", told)


def test_cells_are_whole_pixels() -> None:
    for tokens in (3, 13, 61, 401):
        box = draw_head(head(tokens)).axes[0].get_window_extent()
        assert box.width / tokens == pytest.approx(round(box.width / tokens), abs=1e-6)
        assert box.x0 == pytest.approx(round(box.x0), abs=1e-6)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
@pytest.mark.parametrize(
    "one",
    [
        head(len(ODD), labels=ODD),
        head(1, labels="a"),
        head(1, 41, labels="x" * 41),
        head(29, 3, mask=Full(), cross=True),
        head(7, mask=np.zeros((7, 7), dtype=bool)),
        head(3, name="", note="5 padding tokens left out"),
    ],
    ids=["odd labels", "one token", "one query", "tall", "nothing allowed", "nameless"],
)
def test_anything_can_be_drawn_without_a_warning(one: AttentionMap, kind: Any) -> None:
    assert len(encode_figure(draw_head(one), kind)) > 1000


@pytest.mark.parametrize("how", ["max", "sum"])
def test_long_texts_are_pooled(how: Any) -> None:
    one = head(1511, mask=Window(97))
    figure = draw_head(one, how=how)
    image, pattern = picture(figure), one.pattern()
    for row, col in ((0, 0), (700, 640), (1508, 1508)):
        block = pattern[row : row + 2, col : col + 2]
        expected = block.max() if how == "max" else block.sum() / len(block)
        got = color_at(figure, image, col + 0.2, row + 0.2)
        shade = LIGHT.shade(level(float(expected)))
        near = [abs(int(got[i : i + 2], 16) - int(shade[i : i + 2], 16)) for i in (1, 3, 5)]
        assert max(near) <= 1
    said = {
        "max": "each cell is the largest of 2×2 weights",
        "sum": "each cell is what 2 queries, on average, give to 2 keys",
    }
    assert said[how] in [text.get_text() for text in figure.texts]
    assert figure.get_size_inches().max() * DPI < 2400


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_same_bytes_whatever_the_users_settings(kind: Any) -> None:
    one = head(5, labels="abcde")
    first = encode_figure(draw_head(one), kind)
    wild = {
        "axes.facecolor": "red",
        "font.size": 40.0,
        "savefig.dpi": 31,
        "savefig.bbox": "tight",
        "text.usetex": True,
        "svg.hashsalt": "x",
        "image.interpolation": "bicubic",
        "axes.grid": True,
        "hatch.linewidth": 9.0,
        "lines.linestyle": "--",
    }
    with matplotlib.rc_context(wild):
        before = dict(matplotlib.rcParams)
        again = encode_figure(draw_head(one), kind)
        assert dict(matplotlib.rcParams) == before
    assert again == first


def test_an_svg_says_its_sentence() -> None:
    one = head(5, labels=["</script>", "&", "c", "d", "e"])
    root = ET.fromstring(encode_figure(draw_head(one), "svg"))
    assert next(root.iter("{http://www.w3.org/2000/svg}title")).text == one.sentence()


def test_no_pyplot_and_nothing_at_import() -> None:
    script = """
import sys
import qkv.views.terminal, qkv.views.figure, qkv.views.atlas
assert "matplotlib" not in sys.modules
import numpy as np
from qkv.lens import AttentionMap
from qkv.views.sheet import encode_figure
x = np.zeros((3, 1))
encode_figure(qkv.views.figure.draw_head(AttentionMap.of(x, x)), "png")
assert "matplotlib.pyplot" not in sys.modules
"""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr


def test_save_by_ending_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = draw_head(head(3))
    for name, start in (("a.png", b"\x89PNG"), ("a.SVG", b"<?xml"), ("a.pdf", b"%PDF")):
        assert save_figure(figure, tmp_path / name).read_bytes().startswith(start)
    with pytest.raises(ConfigError, match=r"ends in \.png, \.svg or \.pdf"):
        save_figure(figure, tmp_path / "a.jpg")
    with pytest.raises(ConfigError, match="no folder"):
        save_figure(figure, tmp_path / "missing" / "a.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ConfigError, match="the name of a file"):
        save_figure(figure, tmp_path / "folder.png")
    before = (tmp_path / "a.png").read_bytes()

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(Exception, match="No space left"):
        save_figure(figure, tmp_path / "a.png")
    monkeypatch.undo()
    assert (tmp_path / "a.png").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.SVG", "a.pdf", "a.png", "folder.png"]
