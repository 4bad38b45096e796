"""The address of the page that looks into heads: a link to it is a link to what is seen."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

Open = Callable[..., Any]
expect = pytest.importorskip("playwright.sync_api", reason="no playwright").expect


def settled(page: Any) -> None:
    page.wait_for_selector("main:not([aria-busy])")


@pytest.fixture
def inspect(visit: Open) -> Open:
    """Open the page, and wait until it shows something."""

    def open_page(query: str = "", **options: Any) -> Any:
        page = visit(f"inspect{query}", **options)
        settled(page)
        return page

    return open_page


def losses(page: Any) -> list[float]:
    text = page.locator(".loss").inner_text().replace("−", "-")
    return [float(number) for number in re.findall(r"[-+]?\d*\.\d+", text)]


def query_of(page: Any) -> dict[str, str]:
    return {name: value for name, (value,) in parse_qs(urlsplit(page.url).query).items()}


def press(page: Any, name: str) -> None:
    """Press a button by the keyboard alone."""
    page.get_by_role("button", name=name, exact=True).focus()
    page.keyboard.press("Enter")
    settled(page)


@pytest.mark.parametrize(
    ("name", "field"),
    [("drop the mask", "mask"), ("drop the scale", "qk"), ("make L3H1 uniform", "uniform")],
)
def test_each_change_is_kept_in_the_address(inspect: Open, name: str, field: str) -> None:
    page = inspect("?head=L3H1")
    press(page, name)
    assert len(losses(page)) == 3
    changed = query_of(page)
    assert field in changed
    shown = losses(page)
    page.reload()
    page.wait_for_selector("html[data-ready=true]", state="attached")
    settled(page)
    assert (query_of(page), losses(page)) == (changed, shown)


def test_a_link_brings_back_what_is_seen(inspect: Open) -> None:
    page = inspect("?head=L3H1&cell=40,39")
    for _ in range(2):
        page.locator(".short").get_by_role("button", name="lift").press("Enter")
    assert (query_of(page)["sort"], query_of(page)["order"]) == ("lift", "up")
    order = page.locator(".short tbody th").all_inner_texts()
    map_canvas = page.locator(".qkv-map canvas").first
    map_canvas.focus()
    for _ in range(4):
        page.keyboard.press("+")
    expect(page).to_have_url(re.compile("zoom="))
    page.mouse.move(0, 0)
    link, picture = query_of(page), map_canvas.evaluate("(one) => one.toDataURL()")
    row, col = map(float, link["corner"].split(","))
    assert 0 < row < 40
    assert 0 < col < 40
    for kind in ("PNG", "SVG", "CSV"):
        saved = parse_qs(urlsplit(_saved(page, kind)).query)
        top, bottom = map(int, saved["rows"][0].split(":"))
        assert top == int(row)
        assert 40 < bottom < 96
    assert "rows" not in _saved(page, "HTML")
    page.reload()
    page.wait_for_selector("html[data-ready=true]", state="attached")
    settled(page)
    map_canvas.focus()
    expect(page.locator(".saves a[aria-label*='this part']")).to_have_count(3)
    assert query_of(page) == link
    assert page.locator(".short tbody th").all_inner_texts() == order
    assert map_canvas.evaluate("(one) => one.toDataURL()") == picture
    with page.expect_download() as waiting:
        page.locator(".saves a[aria-label$='SVG']").click()
    assert waiting.value.suggested_filename.endswith("-L3H1-part.svg")
    map_canvas.focus()
    page.keyboard.press("0")
    expect(page.locator(".saves a[aria-label*='this part']")).to_have_count(0)


def _saved(page: Any, kind: str) -> str:
    return str(page.locator(f".saves a[aria-label$='{kind}']").get_attribute("href"))
