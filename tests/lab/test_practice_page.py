"""Practice in the lab: its routes, and rounds of cards and questions by keyboard alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from qkv.learn.progress import Progress

Visit = Callable[..., Any]


@pytest.fixture
def own_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A progress file of this test's own, for the lab in this process."""
    file = tmp_path / "progress.db"
    monkeypatch.setenv("QKV_PROGRESS", str(file))
    return file


@pytest.fixture
def fresh(server: Any) -> Path:
    """The shared server's progress file, not there yet."""
    file: Path = server.folder / "progress.db"
    for part in server.folder.glob("progress.db*"):
        part.unlink()
    return file


def test_a_grade_is_kept_and_the_next_one_comes(client: TestClient, own_progress: Path) -> None:
    found = client.get("/api/practice?kind=card").json()
    assert found["says"] == "7 cards, about a minute"
    assert (found["left"], found["waiting"], found["undoable"]) == (7, 33, False)
    assert found["item"]["id"] == "attention"
    assert found["item"]["rests"] == ["1 min", "6 min", "10 min", "8 days"]
    graded = {"kind": "card", "item": "attention", "rating": 4, "seconds": 6.02}
    after = client.post("/api/practice/grade", json=graded).json()
    assert (after["left"], after["item"]["id"]) == (6, "causal")
    with Progress(own_progress) as progress:
        (entry,) = progress.entries()
    assert (entry.kind, entry.item, entry.rating, entry.detail) == (
        "card", "attention", 4, {"seconds": 6.0},
    )  # fmt: skip
    undone = client.post("/api/practice/undo", json={"kind": "card"}).json()
    assert (undone["undone"], undone["item"]["id"], undone["left"]) == ("attention", "attention", 7)
    suspended = client.post("/api/practice/suspend", json={"kind": "card", "item": "attention"})
    assert (suspended.json()["suspended"], suspended.json()["item"]["id"]) == (1, "causal")


def test_more_may_be_begun_and_one_section_asked(client: TestClient, own_progress: Path) -> None:
    assert client.get("/api/practice?kind=card&more=7").json()["left"] == 14
    found = client.get("/api/practice?kind=question&section=heads&more=100").json()
    assert (found["left"], found["item"]["section"]) == (2, "heads")
    assert (
        "<math" in client.get("/api/practice?kind=question&section=scores").json()["item"]["back"]
    )
    told = client.get("/api/practice/due").json()
    assert told["card"] == {"count": 7, "says": "7 cards, about a minute"}
    assert told["question"]["count"] == 5


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "card", "item": "attention", "rating": 5},
        {"kind": "card", "item": "attention", "rating": True},
        {"kind": "card", "item": "nothing", "rating": 3},
        {"kind": "poem", "item": "attention", "rating": 3},
        {"kind": "card", "item": "attention", "rating": 3, "more": "lots"},
        {"kind": "card", "item": ["attention"], "rating": [3], "more": 10**9},
        {"kind": [], "item": "attention", "rating": 3},
        {"kind": {}, "item": "attention", "rating": 3},
        {},
    ],
)
def test_what_no_page_would_say_is_refused_and_nothing_kept(
    client: TestClient, own_progress: Path, body: dict[str, Any]
) -> None:
    reply = client.post("/api/practice/grade", json=body)
    assert reply.status_code == 400
    assert "got" in reply.json()
    with Progress(own_progress) as progress:
        assert progress.entries() == []


def test_what_json_and_text_can_hold_beyond_numbers_and_characters(
    client: TestClient, own_progress: Path
) -> None:
    endless = b'{"kind": "card", "item": "attention", "rating": 3, "more": 1e999}'
    assert client.post("/api/practice/grade", content=endless).status_code == 400
    halved = b'{"kind": "question", "item": "constraint", "rating": 3, "answer": "so \\ud83d"}'
    assert client.post("/api/practice/grade", content=halved).status_code == 200
    with Progress(own_progress) as progress:
        (entry,) = progress.entries()
    assert (entry.rating, entry.detail) == (3, {"answer": "so ?"})


def test_questions_are_not_taken_out(client: TestClient, own_progress: Path) -> None:
    asked = {"kind": "question", "item": "constraint"}
    assert client.post("/api/practice/suspend", json=asked).status_code == 400
    with Progress(own_progress) as progress:
        assert progress.entries() == []


def test_a_newer_file_is_told_and_a_damaged_one_kept(
    client: TestClient, own_progress: Path
) -> None:
    own_progress.write_bytes(b"no database at all " * 1_000)
    assert "was damaged" in client.get("/api/practice?kind=card").json()["notice"]
    assert client.get("/api/practice?kind=card").json()["notice"] is None
    import sqlite3

    with sqlite3.connect(own_progress) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()
    reply = client.get("/api/practice?kind=card")
    assert reply.status_code == 400
    assert "newer qkv" in reply.json()["error"]


def test_cards_and_progress_are_taken_along(client: TestClient, own_progress: Path) -> None:
    client.post("/api/practice/grade", json={"kind": "card", "item": "scale", "rating": 3})
    pdf = client.get("/api/practice/files/cards.pdf?paper=letter")
    assert pdf.headers["content-disposition"] == 'attachment; filename="cards.pdf"'
    assert pdf.content.startswith(b"%PDF-")
    assert client.get("/api/practice/files/qkv.apkg").content.startswith(b"PK")
    lines = client.get("/api/practice/files/progress.jsonl").text.splitlines()
    assert [json.loads(line)["item"] for line in lines] == ["scale"]
    for wrong in ("secrets", "cards.pdf?paper=a5"):
        assert client.get(f"/api/practice/files/{wrong}").status_code == 400


def test_a_round_of_cards_by_keyboard_alone(
    visit: Visit, fresh: Path, axe: Callable[[Any], None]
) -> None:
    page = visit("practice?mode=cards")
    page.wait_for_selector(".card")
    assert "7 cards, about a minute" in page.locator(".sub").inner_text()
    axe(page)
    for at in range(7):
        front = page.locator(".card .front").inner_text()
        page.keyboard.press("Space")
        page.wait_for_selector(".card .back:not([hidden])")
        assert page.evaluate("document.activeElement.className") == "back"
        if at == 0:
            assert re.search(r"3 good\s+10 min", page.locator(".grades").inner_text())
            axe(page)
        page.keyboard.press("4")
        if at < 6:
            page.wait_for_function(
                "(was) => document.querySelector('.card .front')?.innerText !== was", arg=front
            )
            assert "Easy: again in 8 days." in page.locator(".said").inner_text()
    page.wait_for_selector(".rest")
    assert (
        "No cards are due now. The next comes back in 8 days." in page.locator(".rest").inner_text()
    )
    page.keyboard.press("u")
    page.wait_for_selector(".card")
    assert "Why did attention beat" in page.locator(".front").inner_text()
    page.keyboard.press("s")
    page.get_by_text("What is the crudest way").wait_for()  # a new one takes its place
    page.keyboard.press("Space")
    page.keyboard.press("4")
    page.wait_for_selector(".rest")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(".card")
    with Progress(fresh) as progress:
        assert len(progress.entries("card")) == 7
        assert [entry.item for entry in progress.entries("suspend")] == ["why-attention"]


def test_a_card_is_turned_by_a_click_and_graded_by_a_button(visit: Visit, fresh: Path) -> None:
    page = visit("practice?mode=cards")
    page.locator(".card").click()
    page.get_by_role("button", name="again").click()
    page.get_by_text("Again: again in 1 min.").wait_for()
    with Progress(fresh) as progress:
        assert [entry.rating for entry in progress.entries()] == [1]


def test_a_round_of_questions_by_keyboard_alone(
    visit: Visit, fresh: Path, axe: Callable[[Any], None]
) -> None:
    page = visit("practice")
    page.wait_for_selector(".one textarea")
    axe(page)
    assert page.locator(".back").is_hidden()
    while page.evaluate("document.activeElement.tagName") != "TEXTAREA":
        page.keyboard.press("Tab")
    page.keyboard.type("It may not see 1 later token.")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".back:not([hidden])")
    assert "You: " in page.evaluate(
        "getComputedStyle(document.querySelector('.yours'), '::before').content"
    )
    axe(page)
    page.keyboard.press("1")
    page.get_by_text("Missed: again in 1 min.").wait_for()
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    page.keyboard.type("3")  # is typed, and no grade
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(".back:not([hidden])")
    with Progress(fresh) as progress:
        (entry,) = progress.entries()
    assert (entry.item, entry.rating) == ("constraint", 1)
    assert entry.detail["answer"] == "It may not see 1 later token."


def test_a_section_and_a_mode_are_in_the_address(visit: Visit, fresh: Path) -> None:
    page = visit("practice?mode=questions&section=heads")
    page.get_by_text("Several heads").first.wait_for()
    assert page.locator("#of-section").input_value() == "heads"
    page.locator("#of-section").select_option("mask")
    page.get_by_text("What is the one hard constraint").wait_for()
    assert "section=mask" in page.url
    page.get_by_role("link", name="Cards").click()
    page.wait_for_selector(".card")
    assert "mode=cards" in page.url
    page.go_back()
    page.wait_for_selector(".one textarea")


@pytest.mark.parametrize("late", ["practice/grade", "practice?"])
def test_another_section_while_a_reply_is_on_its_way(
    visit: Visit, fresh: Path, delay: Callable[..., None], late: str
) -> None:
    page = visit("practice?mode=questions&section=heads")
    page.locator(".one").get_by_role("button", name="Show the answer").click()
    delay(page, {late: 300})
    if late == "practice/grade":
        page.get_by_role("button", name="good").click()
        page.locator("#of-section").select_option("mask")
    else:
        page.locator("#of-section").select_option("mask")
        page.get_by_role("button", name="good").click()
    page.get_by_text("What is the one hard constraint").wait_for()
    page.wait_for_timeout(400)
    assert page.locator(".sub").inner_text().endswith("The causal mask")
    assert page.get_by_text("What is the one hard constraint").is_visible()
    page.locator(".one").get_by_role("button", name="Show the answer").click()
    page.get_by_role("button", name="good").click()
    page.get_by_text("Good: again in").wait_for()
    assert page.locator(".problem[role=alert]").is_hidden()
    with Progress(fresh) as progress:
        graded = [entry.item for entry in progress.entries()]
    assert graded[-1] == "constraint"
    assert len(graded) == (2 if late == "practice/grade" else 1)


def test_a_grade_tells_its_rest_and_is_of_any_section(
    client: TestClient, own_progress: Path
) -> None:
    found = client.get("/api/practice?kind=question&section=mask").json()
    body = {"kind": "question", "item": found["item"]["id"], "rating": 3, "section": "heads"}
    told = client.post("/api/practice/grade", json=body).json()
    assert told["rest"] == found["item"]["rests"][2]
    assert told["item"]["section"] == "heads"


def test_a_grade_that_could_not_be_kept_is_told(visit: Visit, fresh: Path) -> None:
    page = visit("practice?mode=cards", allowed="400|500|Failed to load")
    page.wait_for_selector(".card")
    told = {"error": "got a full disk; expected room; make some"}
    page.route("**/api/practice/grade", lambda r: r.fulfill(status=400, body=json.dumps(told)))
    page.keyboard.press("Space")
    page.keyboard.press("3")
    page.get_by_text("a full disk").wait_for()
    assert page.locator(".grades").count() == 1
    page.unroute("**/api/practice/grade")
    page.keyboard.press("3")
    page.get_by_text("Good: again in 10 min.").wait_for()
    assert page.locator(".problem[role=alert]").is_hidden()


@pytest.mark.parametrize(("width", "dark"), [(360, True), (1440, False)])
@pytest.mark.parametrize("mode", ["cards", "questions"])
def test_it_fits(  # noqa: PLR0917
    visit: Visit,
    fresh: Path,
    axe: Callable[[Any], None],
    overflow: Callable[[Any], list[str]],
    mode: str,
    width: int,
    dark: bool,
) -> None:
    page = visit(f"practice?mode={mode}&section=scores", width=width, dark=dark)
    page.wait_for_selector(".one")
    assert overflow(page) == []
    page.get_by_role("button", name=re.compile("Turn over|Show the answer")).click()
    page.wait_for_selector(".grades")
    assert overflow(page) == []
    axe(page)
