"""The page that trains, in Chromium: start, watch, pause, go on; what goes wrong is told there."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qkv.lab.jobs import Jobs
from qkv.training.probe_archive import embedded_timeline

TEXT = "to be, or not to be: that is the question.\n\nwhether 'tis nobler\n" * 60
REFUSED = r"400 \(Bad Request\)"
"""What a browser says of its own of every request that is refused."""
OWN_MODEL = "qkv's own model"
OWN_STEPS = f"{embedded_timeline().steps()[-1]:,}"


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


def sentence(page: Any) -> Any:
    """How the run stands, in words."""
    return page.locator("main > .read")


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


def test_without_a_run_the_own_model_s_timeline_is_shown(
    visit: Callable[..., Any], axe: Callable[[Any], None]
) -> None:
    page = visit("train?run=own")
    expect_text(page, "main > .read", f"How the heads of {OWN_MODEL} learnt, in {OWN_STEPS} steps")
    expect_text(page, ".probe .read", f"At step {OWN_STEPS}, .* looks? ")
    page.wait_for_selector(".plot .main-svg")
    assert page.locator(".births li").count() > 5
    axe(page)


def test_attention_is_scrubbed_by_keyboard(visit: Callable[..., Any]) -> None:
    page = visit("train?run=own&head=L3H1")
    expect_text(page, ".probe .read", f"At step {OWN_STEPS}")
    slider = page.get_by_role("slider", name="step of the run")
    slider.focus()
    page.keyboard.press("Home")
    expect_text(page, ".probe .read", "At step 0,")
    page.keyboard.press("ArrowRight")
    expect_text(page, ".probe .read", "At step 2,")
    assert "step=2" in page.url
    assert slider.get_attribute("aria-valuetext").startswith("step 2, 2 of ")
    born = page.locator(".births li", has_text="L3H1 looks at the previous token")
    told = re.match(r"\W*step ([\d,]+)", born.inner_text())
    assert told is not None
    born.get_by_role("button").press("Enter")
    expect_text(page, ".probe .read", f"At step {told[1]},")
    at = embedded_timeline().steps().index(int(told[1].replace(",", "")))
    page.get_by_role("button", name="Play").press("Enter")
    later = "|".join(f"{step:,}" for step in embedded_timeline().steps()[at + 1 : at + 4])
    expect_text(page, ".probe .read", f"At step ({later}),")
    page.get_by_role("button", name="Pause").press("Enter")
    again = visit(page.url.split("/")[-1])
    expect_text(again, ".timeline .step", page.locator(".timeline .step").inner_text())


def test_a_model_is_trained_by_keyboard_alone(
    visit: Callable[..., Any], axe: Callable[[Any], None]
) -> None:
    page = visit("train")
    page.locator("#recipe").focus()
    page.keyboard.type("one head")
    page.keyboard.press("Tab")
    page.keyboard.type("a text of")
    page.keyboard.press("Tab")
    page.keyboard.type("60k")
    for _ in range(2):  # past the button, to the text
        page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "own-text"
    page.keyboard.insert_text(TEXT)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    told = expect_text(page, "main > .read", "one-head of .* has learnt for")
    assert "validation loss is" in told
    expect_text(page, ".probe .read", "At step 29,")
    expect_text(page, ".samples .sample", r"\w")
    expect_text(page, ".plot .annotation", "one-head of")
    expect_text(page, ".numbers tbody", r"one-head of .*\d\.\d{3}")
    axe(page)


def test_a_run_is_paused_gone_on_with_and_seen_to_be_killed(
    visit: Callable[..., Any], server: Any
) -> None:
    page = visit("train", allowed=REFUSED)
    fill(page, "one-head", "500M")
    page.get_by_role("button", name="Start").click()
    expect_text(page, "main > .read", r"is at step [1-9][\d,]* of ")
    expect_text(page, ".standing .sub", "tokens/s · about .* left")
    page.locator(".standing").get_by_role("button", name=re.compile("^Pause")).click()
    expect_text(page, "main > .read", "is paused at step")
    page.locator(".standing").get_by_role("button", name=re.compile("^Go on")).click()
    expect_text(page, "main > .read", r"is at step [1-9][\d,]* of ")

    page.get_by_role("button", name="Start").click()
    expect_text(page, ".form .problem", "one at a time")
    assert page.get_by_role("button", name="Start it all the same").is_visible()

    (job,) = Jobs(server.folder / "runs").running()
    os.kill(job.process, signal.SIGKILL)
    expect_text(page, "main > .problem", "its process was killed by SIGKILL")
    page.locator(".standing").get_by_role("button", name=re.compile("^Go on")).click()
    expect_text(page, "main > .read", r"is at step [1-9][\d,]* of ")
    again = visit("train")  # who comes back finds all there
    expect_text(again, "main > .read", r"is at step [1-9][\d,]* of ")
    again.locator(".standing").get_by_role("button", name=re.compile("^Stop")).click()
    expect_text(page, "main > .read", "is stopped at step")


def test_bad_wishes_are_answered_in_the_page(visit: Callable[..., Any]) -> None:
    page = visit("train?run=own", allowed=REFUSED)
    fill(page, "bigram", "10k", "")
    page.get_by_role("button", name="Start").click()
    expect_text(page, ".form .problem", "an empty text")
    page.select_option("#source", label="a file")
    page.fill("#file", "../../etc/passwd")
    page.get_by_role("button", name="Start").click()
    expect_text(page, ".form .problem", "no file under the folders")
    fill(page, "bigram", "lots")
    page.get_by_role("button", name="Start").click()
    expect_text(page, "main > .problem", "got a budget of 'lots' tokens")


def test_a_lost_connection_is_told_and_taken_up_again(
    visit: Callable[..., Any], lab_url: str
) -> None:
    page = visit(None)
    sockets: list[Any] = []

    def carry(socket: Any) -> None:
        if len(sockets) != 1:  # the second attempt fails too
            socket.connect_to_server()
        sockets.append(socket)
        if len(sockets) == 2:
            socket.close()

    page.route_web_socket(re.compile("api/live"), carry)
    page.goto(f"{lab_url}train?run=own")
    expect_text(page, "main > .read", f"in {OWN_STEPS} steps")
    sockets[0].close()
    page.wait_for_selector("main > .problem:not([hidden])")
    expect_text(page, "main > .problem", "can't be reached")
    page.wait_for_selector("main > .problem", state="hidden")
    assert len(sockets) == 3
    expect_text(page, ".probe .read", f"At step {OWN_STEPS}")


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_narrow_and_wide_screens(
    visit: Callable[..., Any], overflow: Callable[[Any], list[str]], width: int, dark: bool
) -> None:
    page = visit("train?run=own", width=width, dark=dark)
    page.wait_for_selector(".plot .main-svg")
    expect_text(page, ".probe .read", f"At step {OWN_STEPS}")
    assert overflow(page) == []
