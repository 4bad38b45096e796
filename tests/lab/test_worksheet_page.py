"""The worksheet as a reader has it: by pointer, by keyboard, in a link, on a phone, in the dark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Visit = Callable[..., Any]
EMPTY = "worksheet"


def grid(page: Any, title: str) -> Any:
    """The matrix with a title, where it stands first."""
    return (
        page.locator("figure.matrix")
        .filter(
            has=page.locator("figcaption b", has_text=title).locator(f"xpath=self::*[.='{title}']")
        )
        .first
    )


def cell(page: Any, title: str, row: int, col: int) -> Any:
    return grid(page, title).locator(f"[data-at='{row},{col}']")


def numbers(page: Any, title: str) -> list[list[str]]:
    rows = grid(page, title).locator("tr[role=row]:has([role=gridcell])")
    return [row.locator("[role=gridcell]").all_inner_texts() for row in rows.all()]


def wait_for(page: Any, title: str, row: int, col: int, text: str) -> None:
    cell(page, title, row, col).filter(has_text=text).wait_for()
    assert cell(page, title, row, col).inner_text() == text


def choose(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()
    page.wait_for_selector(f".choice[aria-pressed=true]:text-is('{name}')")


def test_every_step_is_there(visit: Visit) -> None:
    page = visit(EMPTY)
    titles = page.locator("figure.matrix:not(.copy) figcaption b").all_inner_texts()
    assert titles == [
        "X", "WQ", "q", "WK", "k", "WV", "v", "scores", "scaled", "masked", "exponentials",
        "pattern", "each row", "mixed", "WO", "output",
    ]  # fmt: skip
    captions = page.locator("figure.matrix:not(.copy) figcaption small").all_inner_texts()
    assert captions[0] == "4 × 3 · T × D"
    assert "4 × 4 · Q × K" in captions


WORKED: list[tuple[str, list[str], list[str]]] = [
    ("Token 3 of 4", [".333", ".333", ".333", "0"], ["3"]),
    ("no mask", [".001", ".001", ".001", ".997"], [".008"]),
    ("0 for −∞", [".297", ".297", ".297", ".109"], ["2.672"]),
    ("masked after the softmax", [".001", ".001", ".001", "0"], [".008"]),
    ("Token 2 of 3", [".5", ".5", "0"], ["3"]),
    ("The scaled step", [".140", ".576", ".284"], [".424", "1.436"]),
    ("scale forgotten", [".090", ".665", ".245"], [".335", "1.575"]),
]


def test_worked_examples_are_a_click_away(visit: Visit) -> None:
    page = visit(EMPTY)
    for name, pattern, mixed in WORKED:
        choose(page, name)
        assert numbers(page, "pattern") == [pattern]
        assert numbers(page, "mixed") == [mixed]
        if name == "masked after the softmax":
            assert ".0027" in page.locator(".prose").inner_text()
            assert "sum to .0027, not 1" in page.locator(".read").inner_text()
            assert page.locator(".stats .wrong").inner_text() == ".0027"


def test_a_cell_explains_itself_and_lights_what_it_comes_from(visit: Visit) -> None:
    page = visit(EMPTY)
    choose(page, "The scaled step")
    cell(page, "scaled", 0, 2).hover()
    why = page.locator(".why")
    assert why.inner_text().endswith("1.414 = 2 / √2")
    cell(page, "scores", 0, 1).hover()
    assert why.inner_text().endswith("3 = 1·2 + 1·1")
    lit = page.locator("td.lit").all_inner_texts()
    assert lit == ["1", "1", "2", "1"]  # q, and the second key
    cell(page, "pattern", 0, 1).hover()
    assert why.inner_text().endswith(".576 = 8.342 / 14.484")
    cell(page, "mixed", 0, 1).hover()
    assert why.inner_text().endswith("1.436 = .140·0 + .576·2 + .284·1")
    choose(page, "Token 3 of 4")
    cell(page, "masked", 0, 3).hover()
    assert why.inner_text().endswith("−∞: token 4 comes after token 3")
    assert "banned" in cell(page, "masked", 0, 3).get_attribute("class")


def test_a_number_that_is_typed_is_followed_while_it_is_typed(visit: Visit) -> None:
    page = visit(EMPTY)
    choose(page, "Token 3 of 4")
    cell(page, "scores", 0, 3).click()
    page.keyboard.type("80")
    wait_for(page, "scaled", 0, 3, "80")
    assert numbers(page, "pattern")[0] == [".333", ".333", ".333", "0"]
    page.keyboard.press("Enter")
    cell(page, "scores", 0, 0).click()
    page.keyboard.type("9")
    wait_for(page, "pattern", 0, 0, ".999")
    page.keyboard.press("Escape")
    wait_for(page, "pattern", 0, 0, ".333")


def test_a_computed_number_can_be_changed_and_taken_back(visit: Visit) -> None:
    page = visit(EMPTY)
    assert numbers(page, "q")[3] == ["1", "0"]
    cell(page, "q", 3, 0).click()
    page.keyboard.type("−2")
    page.keyboard.press("Enter")
    wait_for(page, "scores", 3, 1, "−4")
    assert "pinned" in cell(page, "q", 3, 0).get_attribute("class")
    cell(page, "q", 3, 0).hover()
    assert page.locator(".why").inner_text().endswith("−2, changed by hand; computed: 1")
    page.get_by_role("button", name="reset 1 changed number").click()
    wait_for(page, "scores", 3, 1, "2")


def test_what_the_mask_hides_can_be_let_in_and_the_rest_hidden(visit: Visit, lab_url: str) -> None:
    page = visit(EMPTY)
    choose(page, "Token 3 of 4")
    hidden = cell(page, "masked", 0, 3)
    assert "banned" in hidden.get_attribute("class")
    hidden.click()
    page.keyboard.type("8")
    page.keyboard.press("Enter")
    wait_for(page, "pattern", 0, 3, ".997")
    assert "leak" in hidden.get_attribute("class")
    hidden.click()
    page.keyboard.type("-inf")
    wait_for(page, "pattern", 0, 3, "0")
    page.keyboard.press("Enter")
    cell(page, "exponentials", 0, 0).click()
    page.keyboard.type("0")
    page.keyboard.press("Enter")
    wait_for(page, "pattern", 0, 1, ".5")
    page.wait_for_url("**exponentials.0.0.0=0**")
    other = visit(page.url.removeprefix(lab_url))
    assert numbers(other, "pattern") == [["0", ".5", ".5", "0"]]
    cell(other, "exponentials", 0, 0).click()
    other.keyboard.type("-1")
    other.keyboard.press("Enter")
    assert "no number from 0 to" in other.locator(".problem").inner_text()


def test_heads_that_stand_side_by_side_can_be_changed(visit: Visit) -> None:
    page = visit(EMPTY)
    choose(page, "Two heads")
    last = len(numbers(page, "joined")[0]) - 1
    cell(page, "joined", 2, last).click()
    page.keyboard.type("7")
    page.keyboard.press("Enter")
    wait_for(page, "joined", 2, last, "7")
    page.locator("fieldset:has(legend:text-is('head')) label").last.click()
    page.get_by_role("radio", name="2", exact=True).and_(page.locator(":checked")).wait_for()
    assert numbers(page, "mixed")[2][-1] == "7"
    cell(page, "output", 0, 1).click()
    page.keyboard.type("5")
    page.keyboard.press("Enter")
    wait_for(page, "output", 0, 1, "5")
    page.get_by_role("button", name="reset 2 changed numbers").wait_for()


def test_switches_show_what_breaks(visit: Visit) -> None:
    page = visit(EMPTY)
    choose(page, "Width 64")
    rows = page.locator(".stats tr")
    before = rows.last.locator("td").all_inner_texts()
    page.get_by_text("off", exact=True).click()
    page.wait_for_selector(".stats .soft")
    total, entropy, usual, gradient, usual_gradient = rows.last.locator("td").all_inner_texts()
    assert [total, usual, usual_gradient] == before
    assert float(entropy.replace("−", "-")) < float(usual) / 10
    assert float(gradient.replace("−", "-")) < float(usual_gradient) / 10
    page.get_by_text("no mask", exact=True).click()
    page.wait_for_selector("td.leak")
    assert page.locator("td.banned").count() == 0


def test_tokens_are_added_and_taken_away(visit: Visit, lab_url: str) -> None:
    page = visit(EMPTY)
    for name, pattern in (("From X to output", 5), ("Token 3 of 4", 5), ("The scaled step", 4)):
        choose(page, name)
        page.get_by_role("button", name="one token more").click()
        page.wait_for_function(
            "(size) => document.querySelectorAll('.stats').length && "
            "[...document.querySelectorAll('figure.matrix')].find((one) => "
            "one.innerText.startsWith('pattern')).querySelectorAll('thead th, tr:first-child th')"
            ".length === size",
            arg=pattern,
        )
        assert len(numbers(page, "pattern")[-1]) == pattern
        page.wait_for_url("**0**")
    page.get_by_role("button", name="one token less").click()
    page.get_by_role("button", name="one token less").click()
    cell(page, "pattern", 0, 2).wait_for(state="detached")
    assert len(numbers(page, "pattern")[0]) == 2
    page.wait_for_url("**k=1%2C0%3B2%2C1&**")
    assert len(numbers(visit(page.url.removeprefix(lab_url)), "pattern")[0]) == 2


@pytest.mark.parametrize("name", ["Token 3 of 4", "Token 2 of 3", "The scaled step"])
def test_one_query_stays_one_whatever_the_tokens(visit: Visit, name: str) -> None:
    page = visit(EMPTY)
    choose(page, name)
    tokens = page.get_by_role("group", name="how many tokens")
    count = len(numbers(page, "pattern")[0])
    for _ in range(count - 1):
        count -= 1
        tokens.get_by_role("button", name="one token less").click()
        tokens.get_by_text(str(count), exact=True).wait_for()
    for _ in range(3):
        count += 1
        tokens.get_by_role("button", name="one token more").click()
        tokens.get_by_text(str(count), exact=True).wait_for()
    assert page.locator(".problem").is_hidden()
    assert [len(row) for row in numbers(page, "pattern")] == [count]


def test_without_the_lab_what_is_shown_stays(visit: Visit) -> None:
    page = visit(EMPTY, allowed="ERR_FAILED")
    before = numbers(page, "pattern")
    page.route("**/api/worksheet", lambda route: route.abort())
    page.get_by_role("button", name="The scaled step").click()
    page.locator(".problem").filter(has_text="can't be reached").wait_for()
    cell(page, "scores", 1, 1).hover()
    assert page.locator(".why").inner_text().startswith("scores, t2")
    page.get_by_role("button", name="one token more").click()
    page.locator(".choice[aria-pressed=true]").first.wait_for()
    assert numbers(page, "pattern") == before
    page.unroute("**/api/worksheet")
    page.get_by_role("button", name="The scaled step").click()
    page.locator(".problem").wait_for(state="hidden")
    assert len(numbers(page, "pattern")) == 1


def test_numbers_out_of_range_are_explained_all_the_same(visit: Visit) -> None:
    page = visit(EMPTY)
    choose(page, "Token 3 of 4")
    for col, typed in ((0, "900"), (1, "899")):
        cell(page, "scores", 0, col).click()
        page.keyboard.type(typed)
        page.keyboard.press("Enter")
        wait_for(page, "scaled", 0, col, typed)
    cell(page, "pattern", 0, 1).hover()
    assert page.locator(".why").inner_text().endswith(".269 = e899 − 900 / Σ ex − 900")


def test_what_was_copied_follows_what_is_changed(visit: Visit) -> None:
    page = visit(EMPTY)
    page.get_by_role("button", name="Copy as NumPy").click()
    box = page.get_by_label("the worksheet to copy")
    box.wait_for()
    cell(page, "X", 0, 0).click()
    page.keyboard.type("1/8")
    page.keyboard.press("Enter")
    page.wait_for_function(
        "() => document.querySelector('.copies textarea').value.includes('0.125')"
    )


def test_the_row_that_looks_ahead_most_is_told(visit: Visit) -> None:
    page = visit(EMPTY)
    page.get_by_text("no mask", exact=True).click()
    page.wait_for_function("""() => {
        const found = document.querySelector(".why").textContent.match(/^pattern, t(.) → t(.)/);
        return found && found[2] > found[1];
    }""")


def test_by_keyboard_alone(visit: Visit) -> None:
    page = visit(EMPTY)
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Token 3 of 4":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector(".choice[aria-pressed=true]:text-is('Token 3 of 4')")
    assert page.evaluate("document.activeElement.textContent") == "Token 3 of 4"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type") == "radio":
            break
    page.keyboard.press("ArrowRight")  # to no mask
    wait_for(page, "pattern", 0, 3, ".997")
    assert page.evaluate("document.activeElement.value") == "none"
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(
            "document.activeElement.closest('figure')?.innerText.startsWith('scores')"
        ):
            break
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.dataset.at") == "0,3"
    page.keyboard.type("1")
    page.keyboard.press("Enter")
    wait_for(page, "pattern", 0, 3, ".25")
    page.keyboard.press("ArrowLeft")
    assert page.locator(".why").inner_text().startswith("scores, t3 → t3")


def test_the_address_has_all_that_was_changed(visit: Visit, lab_url: str) -> None:
    page = visit(EMPTY)
    choose(page, "Two heads")
    cell(page, "X", 0, 0).click()
    page.keyboard.type("3")
    page.keyboard.press("Enter")
    cell(page, "scaled", 2, 1).click()
    page.keyboard.type("0.5")
    page.keyboard.press("Enter")
    page.get_by_text("0 for −∞", exact=True).click()
    page.locator("fieldset:has(legend:text-is('head')) label").last.click()
    page.wait_for_url("**head=1**")
    page.wait_for_url("**mask=zero**")
    output = numbers(page, "output")
    other = visit(page.url.removeprefix(lab_url))
    assert numbers(other, "output") == output
    assert other.get_by_role("radio", name="2", exact=True).is_checked()
    assert other.get_by_role("radio", name="0 for −∞").is_checked()


def test_what_an_address_says_wrongly_is_left_out(visit: Visit, lab_url: str) -> None:
    page = visit(None, allowed="400")
    for query in (
        "example=nowhere", "example=scaled&q=1,2;3", "q=%F0&x=;;;", "mask=future&scale=big&head=9",
        "cell=pattern.9.9", "x=1,2", "cell=__proto__.1.1", "q.0.0.0=x&scores.0.1.1=7", "x=1,NaN,2",
    ):  # fmt: skip
        page.goto(f"{lab_url}{EMPTY}?{query}")
        page.wait_for_selector("html[data-ready=true]")
        assert page.locator(".why").inner_text()
        assert page.locator(".problem").is_hidden()


@pytest.mark.parametrize(
    ("typed", "shown"),
    [("0,5", ".5"), ("1/4", ".25"), ("-.5e1", "−5"), ("+3", "3"), ("1,000", None), ("0x10", None),
     ("1/0", None), ("1/2/3", None), ("1e7", None), (".", None), ("4x", None)],
)  # fmt: skip
def test_numbers_as_they_are_written(visit: Visit, typed: str, shown: str | None) -> None:
    page = visit(f"{EMPTY}?example=third")
    before = numbers(page, "scores")
    cell(page, "scores", 0, 1).click()
    page.keyboard.type(typed, delay=20)
    page.keyboard.press("Enter")
    if shown is None:
        assert "is no number" in page.locator(".problem").inner_text()
        wait_for(page, "scores", 0, 1, before[0][1])
        wait_for(page, "scaled", 0, 1, before[0][1])
    else:
        wait_for(page, "scores", 0, 1, shown)


def test_a_number_that_is_none_is_answered_in_the_page(visit: Visit) -> None:
    page = visit(EMPTY)
    cell(page, "X", 0, 0).click()
    page.keyboard.type("abc")
    page.keyboard.press("Enter")
    assert "“abc” is no number" in page.locator(".problem").inner_text()
    assert cell(page, "X", 0, 0).inner_text() == "1"


@pytest.mark.parametrize(("name", "has"), [("LaTeX", "\\begin{bmatrix}"), ("NumPy", "np.exp(")])
def test_it_can_be_copied(visit: Visit, name: str, has: str) -> None:
    page = visit(EMPTY, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name=f"Copy as {name}").click()
    page.get_by_text(f"copied as {name}").wait_for()
    assert has in page.locator(".copies textarea").input_value()
    kept = page.evaluate("navigator.clipboard.readText()")
    assert kept == page.locator(".copies textarea").input_value()


@pytest.mark.parametrize(
    ("width", "query", "dark"),
    [
        (360, "", True), (1440, "", False), (360, "?example=wide", False),
        (1440, "?example=heads", True),
    ],
)  # fmt: skip
def test_it_fits(  # noqa: PLR0917
    visit: Visit,
    axe: Callable[[Any], None],
    overflow: Callable[[Any], list[str]],
    width: int,
    query: str,
    dark: bool,
) -> None:
    page = visit(EMPTY + query, width=width, dark=dark)
    assert overflow(page) == []
    axe(page)
