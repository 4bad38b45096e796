"""The view in a notebook: what Python answers, and that a browser draws it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qkv.attention import Causal, Window
from qkv.errors import ConfigError
from qkv.lens import AttentionMap, brief
from qkv.views import gather as gathering
from qkv.views import widget as widgets
from qkv.views.assets import bundle
from qkv.views.gather import gather
from qkv.views.widget import Answers, create_widget

TEXT = "the cat sat on the mat"


def heads(tokens: int = 22, count: int = 3, **options: Any) -> list[AttentionMap]:
    rng = np.random.default_rng(11)
    labels = list(TEXT) if tokens == len(TEXT) else ()
    return [
        AttentionMap.of(
            rng.normal(size=(tokens, 13)) * 2,
            rng.normal(size=(tokens, 13)),
            mask=options.get("mask", Causal()),
            labels=labels,
            name=f"L0H{head}",
        )
        for head in range(count)
    ]


def ask(one: AttentionMap, kind: str, **question: Any) -> tuple[dict[str, Any], list[Any]]:
    answers = Answers({one.name: one})
    reply, data = answers({"kind": kind, "id": 7, "head": one.name, **question})
    assert reply["id"] == 7
    return reply, [np.frombuffer(numbers, "<f4") for numbers in data]


def test_tiles_are_the_weights_and_nan_where_forbidden() -> None:
    one = heads()[0]
    reply, (numbers,) = ask(one, "tile", level=0, rows=[3, 10], cols=[1, 6], how="max")
    assert reply["kind"] == "tile"
    tile = numbers.reshape(reply["shape"])
    pattern = one.pattern()
    seen = np.tri(22, dtype=bool)[3:10, 1:6]
    assert np.isnan(tile[~seen]).all()
    assert tile[seen] == pytest.approx(pattern[3:10, 1:6][seen], rel=1e-6)


@pytest.mark.parametrize("how", ["max", "sum"])
@pytest.mark.parametrize("level", [1, 2, 4, 6])
def test_pooled_tiles_have_the_shape_that_was_asked_for(level: int, how: str) -> None:
    one = heads(101, mask=Window(17))[0]
    block, pattern = 2**level, one.pattern()
    most = -(-101 // block)
    reply, (numbers,) = ask(
        one, "tile", level=level, rows=[most // 2, most], cols=[0, most], how=how
    )
    tile = numbers.reshape(reply["shape"])
    assert tile.shape == (most - most // 2, most)
    allowed = Window(17).dense(101, 101)
    for row, col in np.ndindex(*tile.shape):
        top = (most // 2 + row) * block
        cells = slice(top, top + block), slice(col * block, (col + 1) * block)
        if not allowed[cells].any():
            assert np.isnan(tile[row, col])
        else:
            found = pattern[cells].max() if how == "max" else pattern[cells].sum(1).mean()
            assert tile[row, col] == pytest.approx(found, rel=1e-4, abs=1e-6)


def test_rows_columns_tracks_and_thumbnails() -> None:
    one = heads()[1]
    pattern, seen = one.pattern(), np.tri(22, dtype=bool)
    _, (row,) = ask(one, "row", place=5)
    _, (column,) = ask(one, "column", place=5)
    assert row[:6] == pytest.approx(pattern[5, :6], rel=1e-6)
    assert np.isnan(row[6:]).all()
    assert column[5:] == pytest.approx(pattern[5:, 5], rel=1e-6)
    assert np.isnan(column[:5]).all()
    reply, (received, entropy) = ask(one, "tracks")
    assert received == pytest.approx(pattern.sum(0), rel=1e-4)
    assert entropy[1:] == pytest.approx(
        [-(p[p > 0] * np.log(p[p > 0])).sum() for p in pattern[1:]], rel=1e-4
    )
    query, key, weight = reply["strongest"]
    assert weight == pytest.approx(pattern[query, key])
    reply, (levels,) = ask(one, "thumbnail")
    picture = levels.reshape(reply["rows"], reply["cols"])
    assert ((picture == 0) == ~seen).all()
    assert picture.max() <= 16


def test_a_cell_comes_with_its_arithmetic() -> None:
    one = heads()[2]
    reply, _ = ask(one, "cell", row=9, col=4)
    why = reply["arithmetic"]
    assert reply["weight"] == pytest.approx(one.pattern()[9, 4])
    assert reply["count"] == 10
    assert [each["key"] for each in reply["top"]] == np.argsort(-one.pattern()[9])[:8].tolist()
    terms = one.q[9] * one.k[4]
    assert [each["channel"] for each in why["terms"]] == np.argsort(-np.abs(terms)).tolist()
    total = sum(each["product"] for each in why["terms"])
    steps = {step["name"]: step["value"] for step in why["steps"]}
    assert steps["q·k"] == pytest.approx(total) == pytest.approx(terms.sum())
    names = list(steps)
    assert np.exp(steps[names[1]] - steps["− the row's log-sum-exp"]) == pytest.approx(
        reply["weight"]
    )
    reply, _ = ask(one, "cell", row=4, col=9)
    assert not reply["allowed"]
    assert reply["arithmetic"]["exponent"] is None
    steps = {step["name"]: step["value"] for step in reply["arithmetic"]["steps"]}
    assert steps["q·k"] == pytest.approx(one.q[4] @ one.k[9])
    assert list(steps)[-1] == "masked"
    json.dumps(reply)


@pytest.mark.parametrize(
    "question",
    [
        None,
        [],
        {},
        {"kind": "tile"},
        {"kind": "nonsense", "head": "L0H0"},
        {"kind": "row", "head": "L9H9", "place": 0},
        {"kind": "row", "head": "L0H0", "place": 22},
        {"kind": "row", "head": "L0H0", "place": "x"},
        {"kind": "tile", "head": "L0H0", "level": 0, "rows": [0, 4000], "cols": [0, 1]},
        {"kind": "tile", "head": "L0H0", "level": 99, "rows": [0, 1], "cols": [0, 1]},
        {"kind": "tile", "head": "L0H0", "level": 1, "rows": [50, 51], "cols": [0, 1]},
        {"kind": "tile", "head": "L0H0", "level": 1, "rows": [0, 1], "cols": [0, 1], "how": "?"},
        {"kind": "cell", "head": "L0H0", "row": -1, "col": 0},
    ],
)
def test_what_makes_no_sense_is_answered_in_one_line(question: Any) -> None:
    reply, data = Answers({"L0H0": heads()[0]})(question)
    assert reply["kind"] == "error"
    assert "\n" not in reply["message"]
    assert data == []


def test_a_long_text_is_told_of_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widgets, "SLOW_CELLS", 0)
    told: list[dict[str, Any]] = []
    one = heads(101)[0]
    Answers({one.name: one}, told.append)(
        {"kind": "tile", "head": one.name, "level": 2, "rows": [0, 9], "cols": [0, 9]}
    )
    assert told[-1] == {"kind": "progress", "head": "L0H0", "done": 1.0}


def test_the_widget_answers_by_messages() -> None:
    widget = create_widget(gather(heads()).scored())
    sent: list[Any] = []
    widget.send = lambda content, buffers=None: sent.append((content, buffers))
    widget._handle_custom_msg({"kind": "row", "id": 3, "head": "L0H2", "place": 1}, [])
    ((content, buffers),) = sent
    assert (content["kind"], content["id"]) == ("row", 3)
    assert np.frombuffer(buffers[0], "<f4")[:2].sum() == pytest.approx(1)
    assert widget.head in {"L0H0", "L0H1", "L0H2"}
    assert widget.header["layers"][0]["heads"][0]["name"] == "L0H0"
    assert len(widget.body) > 100
    json.dumps(widget.header, allow_nan=False)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widgets, "has_widgets", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install 'qkv\[notebook\]'"):
        create_widget(gather(heads()))


def test_a_trace_that_is_too_long_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    found = gather(heads())
    stored, _ = found.wire()
    monkeypatch.setattr(gathering, "QUICK_CELLS", 100)
    header, body = found.wire()
    assert body == b""
    assert header["texts"] == stored["texts"]
    for key in ("queries", "keys", "places", "query_text", "key_text", "cross"):
        assert header["layers"][0][key] == stored["layers"][0][key]
    assert [head["name"] for head in header["layers"][0]["heads"]] == ["L0H0", "L0H1", "L0H2"]


def test_the_bundle_is_one_module_without_imports() -> None:
    text = bundle("widget")
    assert "export default" in text
    assert "import " not in [line[:7] for line in text.splitlines()]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = next((p for p in ("/usr/bin/chromium", "/usr/bin/chromium-browser")
                     if Path(p).exists()), None)  # fmt: skip
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as manager:
        opened = manager.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


MODEL = """
globalThis.makeModel = (state, alone) => {
  const listeners = {};
  const tell = (name, ...rest) => [...(listeners[name] ?? [])].forEach((each) => each(...rest));
  return {
    listeners,
    get: (name) => state[name],
    set: (name, value) => { state[name] = value; tell(`change:${name}`); },
    save_changes: () => {},
    on: (name, each) => (listeners[name] ??= new Set()).add(each),
    off: (name, each) => listeners[name]?.delete(each),
    send: async (content) => {
      if (alone) return;
      const [reply, buffers] = await globalThis.askPython(content);
      const bytes = buffers.map((text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
      tell("msg:custom", reply, bytes.map((each) => new DataView(each.buffer)));
    },
  };
};
"""
RENDER = """
async ([source, header, body, head, alone]) => {
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const { default: widget } = await import(url);
  const bytes = Uint8Array.from(atob(body), (c) => c.charCodeAt(0));
  globalThis.model = makeModel({ header, body: new DataView(bytes.buffer), head, cursor: [], log: true }, alone);
  const el = document.createElement("div");
  document.body.append(el);
  globalThis.cleanUp = await widget.render({ model, el });
}
"""  # noqa: E501


def mount(browser: Any, found: Any, *, alone: bool = False) -> tuple[Any, list[str]]:
    """A blank page with the view on it; `alone` has no Python behind it."""
    header, body = found.wire()
    page, errors = browser.new_page(viewport={"width": 1100, "height": 900}), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda told: errors.append(told.text) if told.type == "error" else None)
    page.route("http*://*", lambda route: (errors.append(route.request.url), route.abort()))
    answers = Answers(found.maps)

    def python(content: Any) -> Any:
        reply, data = answers(content)
        return [reply, [base64.b64encode(numbers).decode() for numbers in data]]

    page.set_content("<!doctype html><html lang=en><title>a notebook</title><body></body></html>")
    page.expose_function("askPython", python)
    page.evaluate(MODEL)
    page.evaluate(
        RENDER,
        [bundle("widget"), header, base64.b64encode(body).decode(), found.telling, alone],
    )
    return page, errors


@pytest.mark.parametrize("how", ["stored", "live", "alone"])
def test_a_browser_draws_it(browser: Any, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = heads()
    found = gather(maps).scored()
    if how == "live":
        monkeypatch.setattr(gathering, "QUICK_CELLS", 100)
    page, errors = mount(browser, found, alone=how == "alone")
    first = found.maps[found.telling]
    said = page.locator(".qkv-read")
    # Where nothing is stored the strongest cell comes a little later.
    said.filter(has_text=first.sentence()).wait_for()
    other = next(name for name in found.maps if name != found.telling)
    key = int(found.maps[other].row(9).argmax())
    weight = float(found.maps[other].cell(9, key))
    script = "([head, cell]) => { model.set('cursor', cell); model.set('head', head); }"
    page.evaluate(script, [other, [9, key]])
    # The row's largest weight is known exactly even where only levels are stored.
    said.filter(has_text=f"“{TEXT[9]}” at 9 gives {brief(weight)} to").wait_for()
    if how != "alone":
        page.get_by_text("− the row's log-sum-exp").wait_for()
    page.wait_for_timeout(300)
    dark = page.evaluate(
        """() => {
          const canvas = document.querySelector(".qkv-map canvas");
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let count = 0;
          for (let at = 0; at < data.length; at += 4)
            if (data[at + 3] > 200 && data[at] < 120 && data[at + 2] > data[at + 1] + 30) count++;
          return count;
        }"""
    )
    assert dark > 500  # plum: the map is drawn
    page.evaluate("() => cleanUp()")
    assert page.locator(".qkv-widget").count() == 0
    assert page.evaluate("() => Object.values(model.listeners).every((each) => each.size === 0)")
    assert errors == []
    page.close()
