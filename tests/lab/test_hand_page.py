"""Exercises by hand in the lab: what its routes answer, and the page by keyboard alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from qkv.learn.progress import Progress

Visit = Callable[..., Any]
THIRD = "practice?mode=hand&exercise=third-of-four"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "progress.db"
    monkeypatch.setenv("QKV_PROGRESS", str(path))
    return path


def check(client: TestClient, **asked: Any) -> dict[str, Any]:
    reply = client.post("/api/hand/check", json=asked)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def test_the_list_and_an_exercise(client: TestClient, kept: Path) -> None:
    listed = client.get("/api/hand").json()
    assert listed["next"] == "third-of-four"
    assert listed["notice"] is None
    found = client.get("/api/hand/exercise", params={"exercise": listed["next"]}).json()
    assert found["given"] == [
        {"name": "scores", "cells": [["1"], ["1"], ["1"], ["8"]]},
        {"name": "v", "cells": [["3"], ["6"], ["0"], None]},
    ]
    assert [stage["count"] for stage in found["stages"]] == [4, 4, 4, 1]
    fresh = client.get("/api/hand/exercise", params={"seed": "7"}).json()
    assert fresh["id"] == "fresh-7"
    assert fresh["given"][0]["cells"] == [None, None, ["1", "−1"], None, None]


def test_a_verdict_is_kept(client: TestClient, kept: Path) -> None:
    asked = {"exercise": "third-of-four", "stage": "weights"}
    verdict = check(client, **asked, answers=[".297", ".297", "0,297", ".109"], earlier={})
    assert verdict["mistakes"] == [{"id": "mask-of-zero", "name": "0 for −∞"}]
    assert verdict["wrong"] == [0, 1, 2, 3]
    assert check(client, **asked, answers=["1/3", ".33", "1/3", "0"])["right"]
    with Progress(kept) as progress:
        entries = progress.entries("hand")
    assert [(entry.item, entry.rating) for entry in entries] == [
        ("third-of-four", 1),
        ("third-of-four", 3),
    ]
    assert entries[0].detail == {
        "seed": None, "stage": "weights", "answer": ".297 .297 0,297 .109",
        "mistake": "mask-of-zero",
    }  # fmt: skip


def test_what_follows_from_earlier_numbers(client: TestClient, kept: Path) -> None:
    verdict = check(
        client, exercise="third-of-four", stage="exponentials",
        answers=["e", "e", "e", "1"], earlier={"masked": ["1", "1", "1", "0"]},
    )  # fmt: skip
    assert verdict["follows"]
    assert not verdict["right"]


def test_answers_that_are_none_are_said_one_by_one(client: TestClient, kept: Path) -> None:
    verdict = check(
        client, exercise="third-of-four", stage="weights", answers=["1/3", "", "x", "0"]
    )
    assert [one["at"] for one in verdict["unread"]] == [1, 2]
    assert verdict["unread"][1]["says"].startswith("“x” is no number: write it like .33")
    with Progress(kept) as progress:
        assert progress.entries("hand") == []


def test_a_stage_is_shown_and_a_sheet_printed(client: TestClient) -> None:
    asked = {"exercise": "scaled", "stage": "output"}
    assert client.get("/api/hand/numbers", params=asked).json() == {"numbers": [".424", "1.436"]}
    sheet = client.get("/api/hand/sheet.pdf", params={"seed": "7", "count": "2"})
    assert sheet.content.startswith(b"%PDF")
    assert sheet.headers["content-type"] == "application/pdf"


def test_a_log_that_cant_be_written_stops_nobody(client: TestClient, kept: Path) -> None:
    kept.mkdir()
    assert client.get("/api/hand").json()["notice"]
    verdict = check(client, exercise="scaled", stage="scores", answers=["1", "3", "2"])
    assert verdict["right"]
    assert verdict["notice"].startswith("Your answer is not kept")


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("exercise", {"exercise": "none"}), ("exercise", {"seed": "-1"}), ("exercise", {}),
        ("exercise", {"seed": "9" * 40}), ("numbers", {"exercise": "scaled", "stage": "x"}),
        ("sheet.pdf", {"seed": "1", "count": "1000"}), ("sheet.pdf", {"seed": "1", "paper": "a3"}),
        ("sheet.pdf", {"exercise": "scaled"}), ("sheet.pdf", {"seed": "1", "count": "9" * 4400}),
    ],
)  # fmt: skip
def test_what_no_page_asks_is_refused(client: TestClient, path: str, asked: dict[str, str]) -> None:
    assert client.get(f"/api/hand/{path}", params=asked).status_code == 400


@pytest.mark.parametrize(
    "asked",
    [
        {}, {"exercise": "scaled", "stage": "scores", "answers": ["1"]},
        {"exercise": "scaled", "stage": "scores", "answers": [1, 2, 3]},
        {"exercise": "scaled", "stage": ["scores"], "answers": ["1", "2", "3"]},
        {"exercise": "scaled", "stage": "scaled", "answers": ["1", "2", "3"], "earlier": [1]},
        {"exercise": "scaled", "stage": "scaled", "answers": ["1", "2", "3"],
         "earlier": {"x": []}},
    ],
)  # fmt: skip
def test_no_check_without_answers(client: TestClient, asked: dict[str, Any]) -> None:
    assert client.post("/api/hand/check", json=asked).status_code == 400


def open_hand(visit: Visit, path: str, **options: Any) -> Any:
    page = visit(path, **options)
    page.wait_for_selector(".by-hand form")
    return page


def answer(page: Any, *numbers: str) -> None:
    """Type into the stage that has the focus, and wait until it is checked."""
    with page.expect_response("**/api/hand/check"):
        for number in numbers:
            page.keyboard.press("Control+a")
            page.keyboard.type(number)
            page.keyboard.press("Enter")
    page.wait_for_selector(".by-hand form[aria-busy=false]")


def test_an_exercise_by_keyboard_alone(visit: Visit) -> None:
    page = open_hand(visit, THIRD)
    page.locator(".by-hand-list button[aria-pressed=true]").focus()
    # Past the other exercises, into the first box.
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "INPUT":
            break
    answer(page, "1", "1", "1", "0")
    assert (
        page.locator(".said p")
        .last.inner_text()
        .startswith("That is what comes out if the mask writes 0 in place of −∞.")
    )
    assert page.evaluate("document.activeElement.ariaLabel") == "masked scores, token 4"
    answer(page, "-inf")
    assert page.evaluate("document.activeElement.ariaLabel") == "exponentials, token 1"
    answer(page, "e", "e", "e", "0")
    answer(page, "1/3", "1/3", "1/3", "0")
    answer(page, "3")
    assert page.locator(".done").inner_text().startswith("Done: 3 of 4 stages right at the first")
    assert page.locator(".entry input").nth(3).input_value() == "−∞"
    page.keyboard.press("Enter")  # what follows has the focus
    page.wait_for_url("**exercise=third-of-four-then**")
    page.wait_for_selector("h2:text-is('Token 3 of 4, no tie')")


def test_numbers_of_ones_own_may_be_kept_or_the_right_ones_shown(visit: Visit) -> None:
    page = open_hand(visit, "practice?mode=hand&seed=7")
    page.locator(".entry input").first.focus()
    answer(page, "-1", "0", "-1", "-2", "0")
    answer(page, "-1", "0", "-1", "-2", "0")
    assert "the scale is forgotten" in page.locator(".said p").last.inner_text()
    page.get_by_role("button", name="Go on with my numbers").click()
    answer(page, "-1", "0", "-1", "-inf", "-inf")
    assert "That follows from your scaled scores" in page.locator(".said p").nth(2).inner_text()
    for _ in range(2):
        answer(page, "1", "2", "3", "4", "5")
    page.get_by_role("button", name="Show this stage").click()
    page.wait_for_selector("text=These are the right numbers")
    assert page.locator(".entry").nth(3).locator("input").nth(1).input_value() == "1"


def fail_twice(page: Any) -> None:
    """Answer the first stage of THIRD wrongly as often as it takes to be shown it."""
    page.locator(".entry input").first.focus()
    for _ in range(2):
        answer(page, "1", "2", "3", "4")


def test_a_double_click_shows_one_stage_and_no_other(
    visit: Visit, delay: Callable[..., None]
) -> None:
    page = open_hand(visit, THIRD)
    fail_twice(page)
    delay(page, {"hand/numbers": 200})
    page.get_by_role("button", name="Show this stage").dblclick()
    page.wait_for_selector("text=These are the right numbers")
    page.wait_for_timeout(300)
    assert page.locator(".entry").count() == 2
    second = page.locator(".entry").nth(1).locator("input")
    assert [one.input_value() for one in second.all()] == [""] * 4
    assert page.locator("text=These are the right numbers").count() == 1


def test_a_verdict_is_of_the_stage_that_was_checked(
    visit: Visit, delay: Callable[..., None]
) -> None:
    page = open_hand(visit, THIRD)
    fail_twice(page)
    for at, number in enumerate(["1", "1", "1", "-inf"]):
        page.locator(".entry input").nth(at).fill(number)
    delay(page, {"hand/check": 200})
    page.get_by_role("button", name="Check").click()
    page.get_by_role("button", name="Go on with my numbers").click()
    page.get_by_role("button", name="Show this stage").click()
    page.wait_for_selector(".by-hand form[aria-busy=false] .entry:nth-of-type(n+4)")
    assert page.locator(".entry").count() == 2
    assert [mark.inner_text() for mark in page.locator(".entry .mark").all()] == ["✓", ""]
    second = page.locator(".entry").nth(1).locator("input")
    assert [one.input_value() for one in second.all()] == [""] * 4


def test_what_is_no_number_has_its_box_marked(visit: Visit) -> None:
    page = open_hand(visit, THIRD)
    page.locator(".entry input").first.focus()
    answer(page, "1", "x", "1", "8")
    assert page.locator(".said p").last.inner_text().startswith("“x” is no number")
    invalid = page.locator("input[aria-invalid=true]")
    assert invalid.count() == 1
    assert invalid.get_attribute("aria-label") == "masked scores, token 2"


def test_an_address_of_no_exercise_says_so_and_offers_one(visit: Visit) -> None:
    page = open_hand(visit, "practice?mode=hand&exercise=none", allowed="400")
    assert "exercise 'none'" in page.locator(".by-hand .problem").inner_text()
    assert page.locator(".by-hand h2").count() == 1


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, False)])
def test_it_fits_and_can_be_read_by_all(
    visit: Visit, axe: Callable[[Any], None], overflow: Callable[[Any], list[str]],
    width: int, dark: bool,
) -> None:  # fmt: skip
    page = open_hand(visit, "practice?mode=hand&seed=7", width=width, dark=dark)
    page.locator(".entry input").first.focus()
    answer(page, "-1", "0", "-1", "-2", "0")
    answer(page, "-1", "0", "-1", "-2", "0")
    axe(page)
    assert overflow(page) == []
