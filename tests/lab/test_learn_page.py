"""The guide as a reader has it: by pointer, by keyboard, in a link, in the dark, on paper."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from starlette.testclient import TestClient

from qkv.learn.library import own_library
from qkv.learn.progress import Progress

Visit = Callable[..., Any]
SECTIONS = [entry.id for entry in own_library().sections]


@pytest.fixture(autouse=True)
def own_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A progress file of the test's own, for what runs in this process."""
    path = tmp_path / "progress.db"
    monkeypatch.setenv("QKV_PROGRESS", str(path))
    return path


# What the routes answer.


def test_contents_name_seven_sections_and_what_else_there_is(client: TestClient) -> None:
    told = client.get("/api/learn").json()
    assert [each["id"] for each in told["sections"]] == SECTIONS
    assert len(SECTIONS) == 7
    assert [each["short"] for each in told["pages"]] == [
        "Glossary", "Questions", "Cheat sheet", "Where to go on",
    ]  # fmt: skip
    assert not any(each["read"] for each in told["sections"])


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_has_its_figures_questions_and_doors(client: TestClient, name: str) -> None:
    told = client.get("/api/learn/section", params={"id": name}).json()
    assert told["number"] == SECTIONS.index(name) + 1
    assert "data-figure=" in told["html"]
    assert told["asks"]
    for asked in told["asks"]:
        assert f'data-ask="{asked}"' in told["html"]
    assert told["worksheet"]
    assert told["inspect"]


def test_the_doors_of_a_section_lead_somewhere(client: TestClient) -> None:
    examples = {each["id"] for each in client.get("/api/worksheet/examples").json()}
    heads = {f"L{layer}H{head}" for layer in range(6) for head in range(3)}
    changes = {"qk": {"off"}, "mask": {"off"}, "uniform": heads, "without": heads}
    for name in SECTIONS:
        told = client.get("/api/learn/section", params={"id": name}).json()
        sheet, inspect = (dict(parse_qsl(told[door])) for door in ("worksheet", "inspect"))
        assert sheet["example"] in examples
        assert inspect.pop("head", "L2H2") in heads  # or a text, and no head yet
        for of_text in ("text", "cell"):
            inspect.pop(of_text, None)
        assert all(value in changes[change] for change, value in inspect.items())


def test_what_is_not_there_is_said(client: TestClient) -> None:
    for path in ("section", "page"):
        reply = client.get(f"/api/learn/{path}", params={"id": "<b>nothing"})
        assert reply.status_code == 400
        assert reply.json()["remedy"] == "choose one"


def test_a_section_that_was_read_is_remembered_once(client: TestClient, own_progress: Path) -> None:
    for _ in range(2):
        assert client.post("/api/learn/read", json={"section": "mask"}).status_code == 200
    assert client.post("/api/learn/read", json={"section": "none"}).status_code == 400
    with Progress(own_progress) as progress:
        assert [(each.kind, each.item) for each in progress.entries()] == [("read", "mask")]
    read = {each["id"]: each["read"] for each in client.get("/api/learn").json()["sections"]}
    assert [name for name, done in read.items() if done] == ["mask"]


def test_the_guide_is_there_where_progress_cannot_be_kept(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    monkeypatch.setenv("QKV_PROGRESS", str(blocked / "progress.db"))
    told = client.get("/api/learn").json()
    assert len(told["sections"]) == 7
    assert str(blocked) in told["notice"]


# What a reader sees.


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_reads_well_at_every_width(
    visit: Visit, axe: Callable[[Any], None], overflow: Callable[[Any], list[str]], name: str
) -> None:
    for width, dark in ((1440, False), (360, True)):
        page = visit(f"learn?section={name}", width=width, dark=dark)
        number = page.locator("h1 .number").inner_text()
        assert number == str(SECTIONS.index(name) + 1)
        for figure in page.locator("figure.live").all():
            figure.scroll_into_view_if_needed()
            figure.locator(".drawn[data-ready=true]").wait_for()
        assert page.locator("article .problem:visible").count() == 0
        levels = page.locator("main h1, main h2, main h3").evaluate_all(
            "found => found.map((each) => Number(each.tagName[1]))"
        )
        assert levels[0] == 1
        assert all(b - a <= 1 for a, b in pairwise(levels))
        assert overflow(page) == []
        axe(page)


@pytest.mark.parametrize("name", ["glossary", "questions", "cheat-sheet", "reading"])
def test_every_other_page_reads_well(
    visit: Visit, axe: Callable[[Any], None], overflow: Callable[[Any], list[str]], name: str
) -> None:
    for width, dark in ((1440, True), (360, False)):
        page = visit(f"learn?page={name}", width=width, dark=dark)
        assert page.locator(".contents a[aria-current=page]").count() == 1
        assert overflow(page) == []
        axe(page)


def test_text_stands_beside_a_figure_that_stays(visit: Visit) -> None:
    page = visit("learn?section=mask", width=1440)
    figure = page.locator("figure.live").first
    text = page.locator(".text").first.bounding_box()
    assert figure.bounding_box()["x"] > text["x"] + text["width"]
    page.evaluate("scrollTo(0, 300)")
    assert 0 <= figure.bounding_box()["y"] < 60
    narrow = visit("learn?section=mask", width=360)
    below = narrow.locator(".text").first.bounding_box()
    assert narrow.locator("figure.live").first.bounding_box()["y"] >= below["y"] + below["height"]


def test_notes_stand_in_the_margin_below_the_contents(visit: Visit) -> None:
    page = visit("learn?section=mask", width=1440)
    contents = page.locator(".contents").bounding_box()
    text = page.locator(".text").first.bounding_box()
    last = contents["y"] + contents["height"]
    for note in page.locator("small.note").all():
        box = note.bounding_box()
        assert box["x"] + box["width"] < text["x"]
        assert abs(box["x"] - contents["x"]) < 2
        assert box["y"] >= last
        last = box["y"] + box["height"]


def test_by_keyboard_from_the_contents_to_the_next_section(visit: Visit, lab_url: str) -> None:
    page = visit("learn?section=look-back")
    page.locator(".contents a").nth(2).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("article.scores")
    assert page.url == f"{lab_url}learn?section=scores"
    assert page.title() == "The scaled dot product · Learn · qkv"
    assert page.evaluate("document.activeElement.tagName") == "H1"
    assert page.locator(".contents [aria-current=page]").inner_text().startswith("3")
    page.locator("a[rel=next]").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("article.mask")
    page.go_back()
    page.wait_for_selector("article.scores")
    assert page.evaluate("document.activeElement.tagName") == "H1"


def test_a_section_read_to_its_end_is_marked_and_the_next_one_opened(
    start_lab: Callable[..., Any], tmp_path: Path, browser: Any
) -> None:
    with start_lab(tmp_path) as server:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{server.url}?token={server.token}")
        page.wait_for_selector("html[data-ready=true]")
        page.goto(f"{server.url}learn")
        page.wait_for_selector("article.look-back")
        assert page.locator(".contents .done").count() == 0
        page.locator(".foot").scroll_into_view_if_needed()
        page.wait_for_selector(".contents .done")
        assert "read" in page.locator(".contents a", has_text="Why look back").inner_text()
        page.goto(f"{server.url}learn")
        page.wait_for_selector("article.query-key-value")
        assert "read" in page.locator(".contents a", has_text="Why look back").inner_text()
        page.close()


def test_a_word_is_explained_on_hover_and_focus(visit: Visit) -> None:
    page = visit("learn?section=scores")
    word = page.locator("a.term", has_text="softmax")
    tip = page.locator("#learn-tip")
    word.hover()
    tip.wait_for()
    assert "shares that sum to 1" in tip.inner_text()
    tip.hover()
    page.wait_for_timeout(400)
    assert tip.is_visible()
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.mouse.move(0, 0)
    word.focus()
    tip.wait_for()
    assert word.get_attribute("aria-describedby") == "learn-tip"
    page.keyboard.press("Enter")
    page.wait_for_selector("article.glossary")
    assert page.evaluate("document.activeElement.id") == "term-softmax"
    assert tip.is_hidden()


def test_a_finger_sees_the_meaning_first_and_goes_there_then(visit: Visit) -> None:
    page = visit("learn?section=scores", width=360, has_touch=True, is_mobile=True)
    word = page.locator("a.term", has_text="softmax")
    word.scroll_into_view_if_needed()
    word.tap()
    page.locator("#learn-tip").wait_for()
    assert page.locator("article.scores").count() == 1
    word.tap()
    page.wait_for_selector("article.glossary")


def test_a_question_is_answered_and_graded_by_keyboard(visit: Visit) -> None:
    page = visit("learn?section=scores")
    ask = page.locator(".ask[data-ask=why-the-scale]")
    ask.locator("textarea").focus()
    page.keyboard.type("so that the spread does not grow")
    assert ask.locator(".back").is_hidden()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    ask.locator(".back").wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    ask.locator(".said:not(:empty)").wait_for()
    assert "Practice" in ask.locator(".said").inner_text()
    assert page.evaluate("document.activeElement.className") == "said"


def test_a_double_click_is_one_grade_and_its_rest_is_told(
    start_lab: Callable[..., Any], tmp_path: Path, browser: Any, delay: Callable[..., None]
) -> None:
    with start_lab(tmp_path) as server:
        page = browser.new_page()
        page.goto(f"{server.url}?token={server.token}")
        page.wait_for_selector("html[data-ready=true]")
        page.goto(f"{server.url}learn?section=scores")
        ask = page.locator(".ask[data-ask=why-the-scale]")
        ask.get_by_role("button", name="Show the answer").click()
        delay(page, {"practice/grade": 200})
        ask.get_by_role("button", name="I had it").dblclick()
        ask.get_by_text("Kept. It comes back in Practice, in 10 min.").wait_for()
        page.wait_for_timeout(300)
        page.close()
    with Progress(tmp_path / "progress.db") as progress:
        assert [(one.item, one.rating) for one in progress.entries()] == [("why-the-scale", 3)]


def test_a_step_is_checked_in_the_line_and_its_mistake_named(visit: Visit) -> None:
    page = visit("learn?section=mask")
    ask = page.locator(".ask[data-ask=third-of-four]")
    ask.locator("input").fill("2.67")
    page.keyboard.press("Enter")
    ask.locator("[role=status]", has_text="0 in place of −∞").wait_for()
    assert ask.locator("input").get_attribute("aria-invalid") == "true"
    ask.locator("input").fill("three")
    page.keyboard.press("Enter")
    ask.locator("[role=status]", has_text="no number").wait_for()
    ask.locator("input").fill("9/3")
    page.keyboard.press("Enter")
    ask.locator("[role=status]", has_text="Right").wait_for()
    assert page.locator(".ask + .ask", has_text="no longer enough").count() == 0
    assert page.locator(".ask", has_text="the fourth value is there").count() == 1  # it goes on


def test_an_address_that_leads_nowhere_is_told(visit: Visit) -> None:
    page = visit("learn?section=nothing", allowed="status of 400")
    assert "section 'nothing'" in page.locator("[role=alert]").inner_text()
    page.locator(".contents a").first.click()
    page.wait_for_selector("article.look-back")


def test_an_escape_in_the_address_that_means_nothing_is_no_matter(visit: Visit) -> None:
    page = visit("learn?section=mask#%")
    page.wait_for_selector("article.mask")
    assert page.locator("article .problem:visible, main > .problem").count() == 0


def test_weights_keep_clear_of_the_values_on_a_phone(visit: Visit) -> None:
    page = visit("learn?section=weighted-sum", width=360)
    figure = page.locator("figure.live").first
    figure.scroll_into_view_if_needed()
    figure.locator(".drawn[data-ready=true] .shares").wait_for()
    for _ in range(3):
        for row in figure.locator("tbody tr").all():
            weight = row.locator("td.wide span").last.evaluate(
                """(span) => {
                  const range = document.createRange();
                  range.selectNodeContents(span);
                  return range.getBoundingClientRect().right;
                }"""
            )
            assert weight < row.locator("input.v").bounding_box()["x"]
        with page.expect_response("**/api/worksheet"):
            figure.get_by_role("button", name="Add 5 to every score").click()
        page.wait_for_timeout(50)


@pytest.mark.parametrize("place", ["page=cheat-sheet", "section=scores", "section=mask"])
def test_what_is_wider_than_a_phone_shows_that_it_scrolls(visit: Visit, place: str) -> None:
    page = visit(f"learn?{place}", width=360)
    cut = page.locator(".formula, .table, .lesson pre").evaluate_all(
        """(found) => found.filter((one) => one.scrollWidth > one.clientWidth).map((one) =>
          [one.tagName, getComputedStyle(one).backgroundAttachment])"""
    )
    assert all(tag == "DIV" and "local, local, scroll" in how for tag, how in cut)  # no code


def test_the_cheat_sheet_prints_on_one_page(visit: Visit) -> None:
    pypdf = pytest.importorskip("pypdf")
    page = visit("learn?page=cheat-sheet")
    found = pypdf.PdfReader(io.BytesIO(page.pdf(prefer_css_page_size=True)))
    (sheet,) = found.pages
    assert [round(float(side)) for side in sheet.mediabox[2:]] == [595, 842]
    text = sheet.extract_text()
    for said in ("Causal self-attention on one page", ".297", "keepdims", "Laws to test"):
        assert said in text
    assert "Glossary" not in text
