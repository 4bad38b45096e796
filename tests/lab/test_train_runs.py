"""The form and the list of the page that trains: what is kept, removed, told and linked."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qkv.lab.jobs import Jobs

TEXT = "to be, or not to be: that is the question.\n\nwhether 'tis nobler\n" * 60


@pytest.fixture(scope="module")
def server(
    start_lab: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A server of this module's own: it trains, and others count what there is."""
    with start_lab(tmp_path_factory.mktemp("train")) as found:
        yield found
        for job in Jobs(found.folder / "runs").running():
            os.kill(job.process, signal.SIGKILL)


@pytest.fixture(scope="module")
def session_cookie(server: Any) -> dict[str, str]:
    """The session's cookie of that server."""
    import httpx

    ((name, value),) = httpx.get(server.url, params={"token": server.token}).cookies.items()
    return {"name": name, "value": value, "url": server.url}


def expect_text(page: Any, selector: str, pattern: str) -> str:
    """The text of what is selected, once it matches."""
    page.wait_for_function(
        "([selector, pattern]) => [...document.querySelectorAll(selector)]"
        ".some((one) => new RegExp(pattern).test(one.textContent))",
        arg=[selector, pattern],
        timeout=60_000,
    )
    texts = page.locator(selector).all_text_contents()
    return str(next(text for text in texts if re.search(pattern, text)))


def fill(page: Any, recipe: str, budget: str, text: str = TEXT) -> None:
    page.select_option("#recipe", recipe)
    page.select_option("#source", label="a text of my own")
    page.fill("#own-text", text)
    page.fill("#budget", budget)


def test_what_is_typed_survives_a_reload_and_says_how_often_it_is_read(
    visit: Callable[..., Any],
) -> None:
    page = visit("train?run=own")
    fill(page, "ladder", "500k", "some words of my own " * 10)
    expect_text(page, ".form .note", "500 k tokens for each rung")
    expect_text(page, ".form .note", r"It reads your text about 2,6\d\d times over")
    page.reload()
    page.wait_for_selector("html[data-ready=true]", state="attached")
    assert page.locator("#recipe").input_value() == "ladder"
    assert page.locator("#budget").input_value() == "500k"
    assert page.locator("#own-text").input_value().startswith("some words of my own")
    page.evaluate("sessionStorage.clear()")


def test_a_run_that_failed_is_removed_and_another_shown(
    visit: Callable[..., Any], server: Any
) -> None:
    notes = server.folder / "runs" / "notes"
    notes.mkdir()
    (notes / "short.txt").write_text("to be")
    page = visit("train?run=own")
    page.select_option("#recipe", "bigram")
    page.select_option("#source", label="a file")
    page.fill("#file", "notes")
    page.get_by_role("button", name="Start").press("Enter")
    expect_text(page, "main > .problem", "characters in notes, instead of at least 20")
    fresh = visit("train")  # what failed is not what a page begins with
    expect_text(fresh, "main > .read", "^(?!bigram-).+")
    page.locator(".standing").get_by_role("button", name=re.compile("^Remove")).press("Enter")
    expect_text(page, "#facts", r"bigram-[\d-]+ was moved to the folder .trash")
    expect_text(page, "main > .read", "^(?!bigram-).+")
    assert page.locator(".run-list .name", has_text=re.compile("^bigram-")).count() == 0
    assert len(list((server.folder / "runs" / ".trash").iterdir())) == 1


def test_an_address_that_is_too_long_is_told(visit: Callable[..., Any]) -> None:
    page = visit(f"train?run={'x' * 5000}")
    expect_text(page, "main > .read", "x can't be read")
    expect_text(page, "main > .problem", "instead of something the lab was opened on")
    assert page.locator("main > .problem:not([hidden])", has_text="can't be reached").count() == 0


def test_a_ladder_has_its_table_and_a_run_its_way_to_inspect(
    visit: Callable[..., Any], server: Any
) -> None:
    from qkv.text import corpus_from_text
    from qkv.training.ladder import Plan, climb
    from qkv.training.run import Data

    plan = Plan(["bigram", "one-head"], 4000, 0, "hamlet", "char", "to", {})
    for _ in climb(server.folder / "runs" / "climbed", plan, Data.prepare(corpus_from_text(TEXT))):
        pass
    page = visit("train?run=0/climbed")
    rows = page.locator(".rungs tbody tr")
    rows.nth(1).wait_for()
    assert [row.split("\t")[0] for row in rows.all_inner_texts()] == ["bigram, learnt", "one head"]
    link = page.get_by_role("link", name="Look inside it")
    link.press("Enter")
    page.wait_for_url("**/inspect?item=0%2Fclimbed%2F02-one-head")
