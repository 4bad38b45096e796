"""Home: one trained head on a sentence that can be retyped, the doors, and what there is."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Visit = Callable[..., Any]
FIRST = "ROMEO:\nWhat light through yonder window breaks?\n"


def test_a_trained_head_is_drawn_and_read_aloud(visit: Visit, axe: Callable[[Any], None]) -> None:
    page = visit("")
    assert page.title() == "qkv"
    assert re.search(r"looks back at .* gives it (over )?\.\d\d of its attention", sentence(page))
    assert page.locator(".qkv-map canvas").first.bounding_box()["width"] > 200
    assert page.locator("#sentence").input_value() == FIRST
    axe(page)


def sentence(page: Any) -> str:
    return " ".join(str(page.locator(".read").inner_text()).split())


def test_the_first_page_is_small(visit: Visit, lab_url: str) -> None:
    page = visit(None)
    sizes: list[int] = []
    page.on("response", lambda r: sizes.append(int(r.headers.get("content-length", 0))))
    page.goto(lab_url)
    page.wait_for_selector("html[data-ready=true]")
    assert 0 < sum(sizes) < 300_000


def test_another_sentence_is_read(visit: Visit) -> None:
    page = visit("")
    before = sentence(page)
    page.locator("#sentence").fill("JULIET:\nO gentle Romeo")
    page.wait_for_function("(was) => document.querySelector('.read').innerText !== was", arg=before)
    page.wait_for_function("document.querySelector('.problem').hidden")
    assert "looks" in sentence(page)


def test_the_sentence_goes_along(visit: Visit, lab_url: str) -> None:
    page = visit("")
    typed = "JULIET:\nO gentle Romeo & so on"
    page.locator("#sentence").fill(typed)
    page.wait_for_url("**?text=JULIET**")
    again = visit(page.url.removeprefix(lab_url))
    assert again.locator("#sentence").input_value() == typed
    again.get_by_role("link", name="Look inside a model").click()
    again.wait_for_selector("html[data-ready=true]")
    assert again.get_by_role("textbox", name="Text").input_value() == typed
    page.locator("#sentence").fill("a" * 400)
    assert "Inspect reads longer texts" in page.locator("#most").inner_text()


def test_a_sentence_that_cannot_be_read_is_answered_in_the_page(visit: Visit) -> None:
    page = visit("", allowed="400")  # which Chromium writes into the console
    page.locator("#sentence").fill("")
    page.wait_for_selector(".problem:not([hidden])")
    assert page.locator(".problem").get_attribute("role") == "alert"
    assert "the sentence before" in page.locator(".problem").inner_text()
    page.locator("#sentence").fill("To be")
    page.wait_for_selector(".problem", state="hidden")


def test_by_keyboard_alone(visit: Visit) -> None:
    page = visit("")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the page"
    page.keyboard.press("Enter")
    seen = []
    for _ in range(16):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.getAttribute('href')"))
        if page.evaluate("document.activeElement.id") == "sentence":
            before = sentence(page)
            page.keyboard.press("ControlOrMeta+A")
            page.keyboard.type("HAMLET:\nTo be, or not to be")
            page.wait_for_function(
                "(was) => document.querySelector('.read').innerText !== was", arg=before
            )
    assert [door for door in ("inspect", "train", "worksheet") if door not in seen] == []


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1440, False)])
def test_it_fits(
    visit: Visit,
    axe: Callable[[Any], None],
    overflow: Callable[[Any], list[str]],
    width: int,
    dark: bool,
) -> None:
    page = visit("", width=width, dark=dark)
    assert overflow(page) == []
    axe(page)


def test_while_the_model_is_being_loaded_the_page_says_so(visit: Visit, lab_url: str) -> None:
    page = visit(None)
    held: list[Any] = []
    page.route("**/api/open", lambda route: held.append(route))  # noqa: PLW0108 (playwright takes no builtin)
    page.goto(lab_url)
    page.wait_for_selector(".busy:not([hidden])")
    assert "being loaded" in page.locator(".busy").inner_text()
    assert page.locator(".doors a").count() == 3
    for one in held:
        one.continue_()
    page.wait_for_selector(".qkv-map canvas")
    page.wait_for_selector(".busy", state="hidden")


def test_when_the_model_cannot_be_read_the_doors_are_there(visit: Visit, lab_url: str) -> None:
    page = visit(None, allowed="500")
    told = {"error": "the lab itself failed here"}
    page.route("**/api/open", lambda r: r.fulfill(status=500, body=json.dumps(told)))
    page.goto(lab_url)
    page.wait_for_selector(".problem:not([hidden])")
    assert "failed" in page.locator(".problem").inner_text()
    assert page.locator(".doors a").count() == 3


def test_what_is_there_is_named(visit: Visit, server: Any) -> None:
    run: Path = server.folder / "runs" / "of-home"
    run.mkdir()
    try:
        for name in ("config.json", "tokenizer.json"):
            (run / name).write_text("{}", encoding="utf-8")
        page = visit("")
        link = page.locator(".runs a", has_text="of-home")
        link.wait_for()
        assert "run=" in link.get_attribute("href")
    finally:
        for file in run.iterdir():
            file.unlink()
        run.rmdir()
