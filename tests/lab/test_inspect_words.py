"""What stands beside the numbers: bars, digits, what terms mean, and where a list goes on."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest

Open = Callable[..., Any]
expect = pytest.importorskip("playwright.sync_api", reason="no playwright").expect


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("main:not([aria-busy])")


@pytest.fixture
def inspect(visit: Open) -> Open:
    """Open the page, and wait until it shows something."""

    def open_page(query: str = "", **options: Any) -> Any:
        page = visit(f"inspect{query}", **options)
        page.wait_for_selector("main:not([aria-busy])")
        page.locator(".why-view").get_by_text("× scale").wait_for()
        return page

    return open_page


def plain(text: str) -> str:
    return text.replace("−", "-")


def test_products_of_nothing_have_no_bars(inspect: Open) -> None:
    page = inspect("?head=L3H1&cell=40,39")
    bars = page.locator(".why-view table").first.locator(".qkv-bar i")
    widths = "(all) => all.map((one) => parseFloat(one.style.width))"
    assert bars.evaluate_all(widths)[0] == 100
    press(page, "make L3H1 uniform")
    expect(page.locator(".why-view table").first).to_contain_text("exp(.00 − 3.71) = weight")
    assert set(bars.evaluate_all(widths)) == {0}


@pytest.mark.parametrize("cell", ["33,32", "64,27", "40,39", "95,3", "0,0"])
def test_an_exponential_can_be_worked_out_as_it_is_written(inspect: Open, cell: str) -> None:
    page = inspect(f"?head=L3H1&cell={cell}")
    words = plain(page.locator(".why-view table").first.inner_text())
    told = re.search(r"exp\((-?[\d.]+) ([-+]) (-?[\d.]+)\) = weight", words)
    assert told is not None
    sign = -1 if told[2] == "-" else 1
    precise = page.locator(".why-view table").nth(1).locator("tr", has_text="weight")
    weight = float(plain(precise.locator("td").nth(1).inner_text()))
    assert math.exp(float(told[1]) + sign * float(told[3])) == pytest.approx(weight, rel=0.011)


def test_what_heads_add_is_known_beside_one_that_is_left_out(inspect: Open) -> None:
    page = inspect("?head=L3H1&without=L3H1")
    table = page.locator(".scores-view table")
    names = table.locator("thead th").all_inner_texts()
    assert names[-1] == "norm"
    norms = {
        name: table.locator("tbody tr", has=page.get_by_role("button", name=name, exact=True))
        .locator("td.qkv-number")
        .last.inner_text()
        for name in ("L3H0", "L3H1", "L3H2")
    }
    assert float(norms["L3H0"]) > 1
    assert float(norms["L3H2"]) > 1
    assert float(norms["L3H1"]) == 0


def test_bars_stand_beside_the_score_that_they_are_of(inspect: Open) -> None:
    page = inspect("?head=L3H1")
    for table in (".short", ".scores-view"):
        for name in ("self", "lift"):
            page.locator(table).get_by_role("button", name=name, exact=True).press("Enter")
            found = page.locator(f"{table} table")
            headings = found.locator("thead tr > *").all_inner_texts()
            place = next(at for at, text in enumerate(headings) if text.startswith(name)) + 1
            rows = found.locator("tbody tr")
            cells = rows.first.locator("> *")
            assert "qkv-bars" in str(cells.nth(place).get_attribute("class"))
            assert headings[place].strip() == ""
            assert cells.count() == len(headings)


def test_terms_are_explained_under_pointer_and_keyboard(inspect: Open, axe: Any) -> None:
    page = inspect("?head=L3H1&cell=40,39")
    tip = page.get_by_role("tooltip")
    for name, words in (("lift", "from chance"), ("retrieval", "the strongest key holds")):
        heading = page.locator(".scores-view").get_by_role("button", name=name, exact=True)
        heading.hover()
        expect(tip).to_contain_text(words)
        page.mouse.move(0, 0)
        expect(tip).to_have_count(0)
    term = page.locator(".why-view").get_by_text("behind W_O, to the output")
    page.keyboard.press("Tab")
    term.focus()
    expect(tip).to_contain_text("turns what a head mixed")
    axe(page)
    page.keyboard.press("Escape")
    expect(tip).to_have_count(0)
    assert page.get_by_text("What it says comes after the text").is_visible()


@pytest.mark.parametrize("dark", [False, True])
def test_a_list_that_goes_on_casts_a_shadow(inspect: Open, *, dark: bool) -> None:
    page = inspect(dark=dark)
    frame = page.locator(".short .qkv-scroll")
    assert frame.evaluate("(one) => one.scrollHeight > one.clientHeight + 20")
    cut = frame.screenshot()
    frame.evaluate("(one) => (one.scrollTop = one.scrollHeight)")
    page.mouse.move(0, 0)
    assert "scroll" in frame.evaluate("(one) => getComputedStyle(one).backgroundAttachment")
    assert frame.screenshot() != cut
