"""The exported page as a reader has it: in Chromium, by pointer, keyboard and screen reader."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qkv.lens import AttentionMap
from qkv.views.html import write_html
from qkv.views.palette import DARK, LIGHT, Palette, level
from qkv.views.payload import Layer, Payload, of_maps

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("no chromium among the commands", allow_module_level=True)

# What the page's policy forbade, as the browser reports it.
WATCH = """
globalThis.violations = [];
document.addEventListener("securitypolicyviolation", (e) => violations.push(e.violatedDirective));
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


class Opened:
    """A page, with all that it asked for and complained of."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, **options}
        )
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.add_init_script(WATCH)
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]")

    def map(self) -> Any:
        return self.page.locator(".qkv-map canvas").first

    def sentence(self) -> str:
        """The sentence at the top; byte marks of direction taken out."""
        return str(self.page.locator(".read").inner_text())

    def select(self, name: str, row: int, col: int) -> None:
        self.page.evaluate(f"qkvPage.select('{name}', {row}, {col})")


@pytest.fixture
def written(tmp_path: Path, payload: Payload) -> Path:
    return write_html(tmp_path / "heads.html", payload)


@pytest.fixture
def opened(browser: Any, written: Path) -> Iterator[Opened]:
    opened = Opened(browser, written)
    yield opened
    assert opened.complaints == []
    assert opened.page.evaluate("violations") == []
    opened.context.close()


def test_it_opens_alone(opened: Opened, written: Path) -> None:
    assert opened.requests == [written.as_uri()]
    assert opened.page.title() == "</title><script>alert(1)</script> · qkv"
    assert opened.page.locator("h1").inner_text() == "</title><script>alert(1)</script>"
    assert "looks" in opened.sentence()


def test_the_policy_holds(browser: Any, written: Path) -> None:
    opened = Opened(browser, written)
    opened.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "globalThis.intruder = true";
          document.body.append(script);
          const style = document.createElement("style");
          style.textContent = "body { display: none }";
          document.body.append(style);
          fetch("https://example.org/").catch(() => {});
        }"""
    )
    opened.page.wait_for_timeout(100)
    assert opened.page.evaluate("violations.length") >= 3
    assert opened.page.evaluate("globalThis.intruder") is None
    assert not [url for url in opened.requests if url.startswith("http")]
    opened.context.close()


def test_any_cell_is_looked_up_to_its_level(
    opened: Opened, payload: Payload, heads: list[Layer], rng: np.random.Generator
) -> None:
    maps = {head.name: head for layer in heads for head in layer.maps}
    wanted = []
    for name in rng.choice(list(maps), 200):
        head = maps[str(name)]
        wanted.append((str(name), int(rng.integers(head.Q)), int(rng.integers(head.K))))
    found = opened.page.evaluate(
        "(wanted) => Promise.all(wanted.map((cell) => qkvPage.read(...cell)))", wanted
    )
    for (name, row, col), cell in zip(wanted, found, strict=True):
        reading, weight = payload.head(name).read(row, col), maps[name].tile([row], [col])[0, 0]
        assert cell["allowed"] == (reading is not None)
        if reading is None:
            continue
        assert cell["low"] <= min(weight, 1.0) <= cell["high"]
        assert (cell["low"], cell["high"]) == (reading.low, reading.high)
        assert cell["exact"] == (None if reading.weight is None else pytest.approx(reading.weight))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_is_drawn_is_what_is_said(browser: Any, written: Path, theme: str) -> None:
    opened = Opened(browser, written, color_scheme=theme)
    opened.select("L0H2", 20, 4)
    palette: Palette = LIGHT if theme == "light" else DARK
    box, checked = opened.map().bounding_box(), 0
    opened.page.mouse.move(1, 1)
    for across, down in np.random.default_rng(5).uniform(0.2, 1, size=(60, 2)):
        x, y = round(across * box["width"]), round(down * box["height"])
        opened.page.mouse.move(box["x"] + x, box["y"] + y)
        opened.page.wait_for_timeout(20)
        tip = opened.page.locator(".qkv-map .qkv-tip")
        said = tip.locator("b").inner_text() if tip.is_visible() else ""
        if not re.fullmatch(r"\.\d\d", said) or float(said) < 0.1:
            continue
        color = opened.page.evaluate(
            "([x, y]) => [...document.querySelector('.qkv-map canvas').getContext('2d')"
            ".getImageData(x, y, 1, 1).data].slice(0, 3)",
            [x, y],
        )
        shades = [palette.shade(level(float(said) + off)) for off in (-0.005, 0.005)]
        ends = [[int(shade[at : at + 2], 16) for at in (1, 3, 5)] for shade in shades]
        for value, *limits in zip(color, *ends, strict=True):
            assert min(limits) - 4 <= value <= max(limits) + 4
        checked += 1
    assert checked >= 3
    opened.context.close()


def test_the_cursor_moves_by_keyboard_and_is_read_aloud(opened: Opened, heads: list[Layer]) -> None:
    opened.select("L0H1", 9, 4)
    canvas = opened.page.get_by_role("application", name="L0H1: who looks at whom")
    canvas.focus()
    live = opened.page.locator(".qkv-map [aria-live]")

    def at(*keys: str) -> str:
        for key in keys:
            opened.page.keyboard.press(key)
        opened.page.wait_for_timeout(30)
        return str(live.inner_text())

    assert at("ArrowDown", "ArrowLeft").startswith("“⇥⏎” at 9 gives") is False
    assert at("ArrowUp", "ArrowRight").startswith("“⇥⏎” at 9 gives")
    assert "“\u2068حبا\u2069” at 4" in at("Home", *["ArrowRight"] * 4)
    assert "may not look at “end” at 22" in at("End")
    assert at("PageUp").startswith("“\u2068שלום\u2069” at 0 may not")
    assert at("Control+End").startswith("“end” at 22 gives")
    spoken = heads[0].maps[1].cell(22, 22)
    assert opened.sentence().startswith("end at 22 looks at itself, and gives it")
    assert spoken.allowed


def test_zoom_by_keyboard_wheel_and_button_shows_less(opened: Opened) -> None:
    opened.select("L0H0", 12, 6)

    def picture() -> str:
        opened.page.mouse.move(1, 1)
        opened.page.wait_for_timeout(60)
        return str(opened.page.evaluate("document.querySelector('.qkv-map canvas').toDataURL()"))

    opened.map().focus()
    seen = [picture()]
    opened.page.keyboard.press("+")
    seen.append(picture())
    opened.page.get_by_role("button", name="Zoom in").click()
    opened.map().focus()
    seen.append(picture())
    box = opened.map().bounding_box()
    opened.page.mouse.move(box["x"] + 300, box["y"] + 300)
    opened.page.mouse.wheel(0, -300)
    seen.append(picture())
    opened.page.mouse.move(box["x"] + 300, box["y"] + 300)
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + 240, box["y"] + 260, steps=4)
    opened.page.mouse.up()
    seen.append(picture())
    assert len(set(seen)) == len(seen)
    opened.page.keyboard.press("0")
    assert picture() == seen[0]


def test_odd_tokens_are_shown_as_they_are(opened: Opened) -> None:
    opened.select("L0H0", 22, 0)
    tokens = opened.page.locator("[role=option]").all_inner_texts()
    assert tokens == [
        "שלום", "␣עולם", "⏎", "مر", "حبا", "</script>", "<!--", "<b>&amp;", "␣", "⇥⏎",
        "👩‍👩‍👧", "e", "◌\u0301", "\\xe2", "�", "∅", "␛", "U+202E", "␣x", "def", "␣f", "␍⏎",
        "end",
    ]  # fmt: skip
    lines = opened.page.locator(".qkv-line")
    assert lines.count() == 4
    directions = lines.evaluate_all("(all) => all.map((line) => getComputedStyle(line).direction)")
    assert directions == ["rtl", "rtl", "ltr", "ltr"]
    # In a line from right to left, the second token stands left of the first.
    first, second = (opened.page.locator("[role=option]").nth(at).bounding_box() for at in (0, 1))
    assert second["x"] + second["width"] <= first["x"] + 1


def test_tokens_are_chosen_pinned_and_asked_the_other_way(opened: Opened) -> None:
    opened.select("L0H2", 20, 4)
    opened.page.locator("[role=option]").nth(18).click()
    assert opened.sentence().startswith("␣x at 18 looks")
    opened.page.get_by_role("button", name="pin this token").click()
    opened.page.get_by_role("listbox").focus()
    opened.page.keyboard.press("ArrowRight")
    assert opened.sentence().startswith("def at 19 looks")
    assert "“␣x” at 18 gives" in opened.page.locator(".qkv-looks").inner_text()
    opened.page.keyboard.press("Enter")
    assert opened.page.locator(".qkv-looks p").count() == 2
    opened.page.get_by_role("button", name="unpin “␣x” at 18").click()
    assert opened.page.locator(".qkv-looks p").count() == 1
    opened.page.get_by_role("button", name="who looks at it").click()
    opened.page.locator("[role=option]").nth(18).click()
    assert "at ␣x at 18" in re.sub(r"\s+", " ", opened.sentence())
    # A line from right to left is walked the other way.
    opened.page.locator("[role=option]").nth(3).click()
    opened.page.keyboard.press("ArrowLeft")
    assert "حبا" in opened.sentence()


def test_heads_are_chosen_in_the_atlas_and_sorted_in_the_table(opened: Opened) -> None:
    atlas = opened.page.get_by_role("application", name="every head; arrow keys choose one")
    atlas.focus()
    chosen = opened.page.locator(".sub")

    def shown(start: str) -> None:
        sync_api.expect(chosen).to_have_text(re.compile(f"^{start}"))

    expected = "L1H2, induction · induction .92 over 22 rows (chance .05, lift .91) · window of 5"
    assert chosen.inner_text() == expected
    opened.page.keyboard.press("Home")
    shown("L1H0")
    opened.page.keyboard.press("ArrowUp")
    shown("L0H0")
    opened.page.keyboard.press("ArrowRight")
    shown("L0H1, previous token")
    table = opened.page.get_by_role("region", name="every score of every head")

    def names() -> list[str]:
        return list(table.locator("tbody th").all_inner_texts())

    assert names()[0] == "L1H2"
    table.get_by_role("button", name="entropy").click()
    assert names()[-1] == "L5H0"
    assert table.locator("th[aria-sort=descending]").inner_text().startswith("entropy")
    table.get_by_role("button", name="entropy").click()
    assert table.locator("th[aria-sort=ascending]").inner_text().startswith("entropy")
    table.get_by_role("button", name="head").click()
    assert names()[0] == "L0H0"
    table.get_by_role("button", name="L2H2").click()
    shown("L2H2")


@pytest.mark.parametrize(("width", "theme"), [(1440, "light"), (1440, "dark"), (360, "light")])
def test_it_can_be_read_by_all(browser: Any, written: Path, width: int, theme: str) -> None:
    playwright_axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    opened = Opened(browser, written, viewport={"width": width, "height": 800}, color_scheme=theme)
    found = playwright_axe.Axe().run(opened.page).response["violations"]
    grave = [v for v in found if v["impact"] in ("serious", "critical")]
    assert [(v["id"], [node["html"][:120] for node in v["nodes"][:3]]) for v in grave] == []
    opened.context.close()


@pytest.mark.parametrize("width", [360, 720, 1180, 1440])
def test_nothing_sticks_out(browser: Any, written: Path, width: int) -> None:
    opened = Opened(browser, written, viewport={"width": width, "height": 740})
    for name in ("L0H0", "L3H1", "L4H0"):
        opened.select(name, 0, 0)
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    opened.context.close()


def test_the_theme_is_the_systems_until_it_is_changed(opened: Opened) -> None:
    def paper() -> str:
        script = "getComputedStyle(document.documentElement).backgroundColor"
        return str(opened.page.evaluate(script))

    def rgb(color: str) -> str:
        return f"rgb({', '.join(str(int(color[at : at + 2], 16)) for at in (1, 3, 5))})"

    assert paper() == rgb(LIGHT.paper)
    opened.page.emulate_media(color_scheme="dark")
    opened.page.wait_for_selector("html[data-theme=dark]")
    assert paper() == rgb(DARK.paper)
    opened.page.get_by_role("button", name="change to light colours").click()
    assert paper() == rgb(LIGHT.paper)
    opened.page.get_by_role("button", name="change to dark colours").click()
    assert len(opened.page.pdf()) > 1000  # printed in light colours, and then as before
    assert paper() == rgb(DARK.paper)


def test_a_text_longer_than_the_screen_is_wide(
    browser: Any, tmp_path: Path, rng: np.random.Generator
) -> None:
    q, k = rng.normal(size=(2, 1201, 7)) * 2
    head = AttentionMap.of(q, k, mask=np.tri(1201, dtype=bool), labels=["ab\n"] * 1201)
    opened = Opened(browser, write_html(tmp_path / "long.html", of_maps([[head]])))
    opened.select("L0H0", 1200, 3)
    assert opened.sentence().startswith("ab⏎ at 1200 looks back at ab⏎ at 3")
    assert opened.page.evaluate("document.querySelector('.qkv-text').scrollTop") > 0
    assert opened.complaints == []
    opened.context.close()
