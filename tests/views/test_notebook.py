"""`show` and what a notebook keeps: a picture and plain HTML, whatever is installed."""

from __future__ import annotations

import base64
import importlib.util
import io
import sys
from html.parser import HTMLParser
from typing import Any

import nbformat
import numpy as np
import pytest
from PIL import Image

from qkv.attention import Causal
from qkv.errors import QkvError
from qkv.lens import AttentionMap
from qkv.views import gather as gathering
from qkv.views import notebook
from qkv.views.notebook import mimebundle, show

WIDGET = "application/vnd.jupyter.widget-view+json"


def heads(layers: int = 2, count: int = 2, labels: Any = "to be or not") -> list[AttentionMap]:
    rng = np.random.default_rng(2)
    size = len(labels)
    return [
        AttentionMap.of(
            rng.normal(size=(size, 5)) * 2,
            rng.normal(size=(size, 5)),
            mask=Causal(),
            labels=labels,
            name=f"L{layer}H{head}",
        )
        for layer in range(layers)
        for head in range(count)
    ]


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words.append(data)


class Kernel:
    """A shell as a notebook's kernel has it."""

    kernel = object()


@pytest.fixture
def in_kernel(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    shown: list[Any] = []
    import IPython.display

    monkeypatch.setattr("IPython.get_ipython", Kernel)
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: shown.append(data))
    return shown


def test_a_bundle_has_a_picture_plain_html_and_a_line() -> None:
    maps = heads()
    bundle = mimebundle(maps)
    assert list(bundle) == ["text/html", "image/png", "text/plain"]
    image = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert image.format == "PNG"
    assert image.width > 400
    assert len(bundle["text/html"]) < 300_000
    page = Tags(bundle["text/html"])
    assert not {"script", "style", "link", "iframe"} & {*page.tags}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.tags.count("table") == 1
    assert page.tags.count("tr") == 5
    assert {"L0H0", "L1H1", "chance", "entropy"} <= {*page.words}
    assert dict(page.attributes)["src"] == f"data:image/png;base64,{bundle['image/png']}"


def test_one_map_says_its_sentence_with_its_tokens_escaped() -> None:
    one = heads(1, 1, ["</figcaption><script>alert(1)</script>", "b", "\udc80"])[0]
    page = Tags(mimebundle(one)["text/html"])
    assert "script" not in page.tags
    assert "table" not in page.tags
    assert "".join(page.words) == one.sentence()
    assert dict(page.attributes)["alt"] == one.sentence()


def test_what_is_wanted_and_what_is_not() -> None:
    one = heads(1, 1)[0]
    assert list(mimebundle(one, include=["image/png"])) == ["image/png"]
    assert list(mimebundle(one, exclude={"image/png"})) == ["text/html", "text/plain"]


def test_a_notebook_with_it_is_valid_and_keeps_it() -> None:
    data = mimebundle(heads())
    output = nbformat.v4.new_output("execute_result", data=data, execution_count=1)
    cell = nbformat.v4.new_code_cell("trace", outputs=[output], execution_count=1)
    book = nbformat.v4.new_notebook(cells=[cell])
    nbformat.validate(book)
    again = nbformat.reads(nbformat.writes(book), as_version=4)
    assert again.cells[0].outputs[0].data["image/png"] == data["image/png"]


def test_in_a_kernel_the_live_view_comes_too(in_kernel: list[Any]) -> None:
    bundle = mimebundle(heads())
    assert next(iter(bundle)) == WIDGET
    assert set(bundle[WIDGET]) == {"version_major", "version_minor", "model_id"}
    show(heads(), layer=1, head=0)
    assert {WIDGET, "text/html", "image/png"} <= set(in_kernel[0])
    assert "L1H0" in in_kernel[0]["text/plain"]


def test_without_anywidget_a_notebook_still_shows_something(
    in_kernel: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_spec(name: str, package: str | None = None) -> Any:
        return None if name == "anywidget" else object()

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    assert list(mimebundle(heads())) == ["text/html", "image/png", "text/plain"]


def test_ipython_in_a_terminal_is_given_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class TerminalInteractiveShell:
        kernel = None

    monkeypatch.setattr("IPython.get_ipython", TerminalInteractiveShell)
    assert list(mimebundle(heads())) == ["text/plain"]


def test_ipythons_own_formatter_takes_it() -> None:
    from IPython.core.interactiveshell import InteractiveShell

    class Shown:
        def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
            return mimebundle(heads(), include, exclude)

    data, _ = InteractiveShell().display_formatter.format(Shown())
    assert {"text/html", "image/png", "text/plain"} <= set(data)


def test_long_texts_show_one_head_and_no_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "QUICK_CELLS", 100)
    page = Tags(mimebundle(heads())["text/html"])
    assert "table" not in page.tags
    assert dict(page.attributes)["alt"] == heads()[0].sentence()


def test_in_a_terminal_it_prints(capsys: pytest.CaptureFixture[str]) -> None:
    maps = heads()
    show(maps, layer=1, head=1, width=70)
    told = capsys.readouterr().out
    assert told.startswith("L1H1  this token")
    assert maps[3].sentence() in told
    show(maps, width=70, log=False)
    told = capsys.readouterr().out
    assert told.startswith("every head")
    assert "weight, linear" in told
    assert max(map(len, told.splitlines())) <= 70


def test_what_is_not_there_is_one_line() -> None:
    for layer, head, line in (
        (2, 0, "got layer 2; expected 0 to 1"),
        ("x", None, "got layer x"),
        (1, 5, "got head 5 of layer 1; expected 0 to 1"),
        (None, 7, "got head 7; expected 0 to 1"),
    ):
        with pytest.raises(QkvError, match=line):
            show(heads(), layer=layer, head=head)
    with pytest.raises(QkvError, match="a trace or a map"):
        show([1, 2])  # type: ignore[list-item]
    with pytest.raises(QkvError, match="no head to draw"):
        show([])


def test_a_trace_shows_its_layers(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from qkv.lens import capture

    q, k, v = torch.randn(3, 1, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    with capture() as trace:
        torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    show(trace.label("hello"), width=60)
    assert "L0" in capsys.readouterr().out
    bundle = notebook.mimebundle(trace)
    assert bundle["text/plain"].startswith("Trace: 1 layer, 2 heads, 5 tokens")
