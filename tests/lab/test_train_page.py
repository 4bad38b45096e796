"""The page that trains, in Chromium: start, watch, pause, go on; what goes wrong is told there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
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


def focused(page: Any) -> str:
    """The words of what has the focus."""
    return str(page.evaluate("document.activeElement.textContent"))


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
    born = page.locator(
        ".births li", has_text=re.compile(r"L3H1 gives \.\d+ to the previous token")
    )
    told = re.match(r"\W*step ([\d,]+)", born.inner_text())
    assert told is not None
    born.get_by_role("button").press("Enter")
    expect_text(page, ".probe .read", f"At step {told[1]},")
    assert "L3H1 gives" in focused(page)
    at = embedded_timeline().steps().index(int(told[1].replace(",", "")))
    page.get_by_role("button", name="Play").press("Enter")
    later = "|".join(f"{step:,}" for step in embedded_timeline().steps()[at + 1 : at + 4])
    expect_text(page, ".probe .read", f"At step ({later}),")
    pause = page.get_by_role("button", name="Pause")
    assert pause.get_attribute("aria-pressed") is None  # its name says it already
    pause.press("Enter")
    assert focused(page) == "Play"
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
    told = expect_text(page, "main > .read", r"one-head-\d{4}-\d{4} has learnt for")
    assert "validation loss is" in told
    expect_text(page, ".probe .read", "At step 29,")
    expect_text(page, ".samples .sample", r"\w")
    expect_text(page, ".plot .annotation", r"one-head-\d{4}")
    expect_text(page, ".numbers tbody", r"one-head-.*\d\.\d{3}")
    axe(page)


def test_a_run_is_paused_gone_on_with_and_seen_to_be_killed(
    visit: Callable[..., Any], server: Any
) -> None:
    page = visit("train", allowed=REFUSED)
    fill(page, "one-head", "500M")
    page.get_by_role("button", name="Start").press("Enter")
    expect_text(page, "main > .read", r"is at step [1-9][\d,]* of ")
    assert focused(page) == "Start"
    expect_text(page, ".standing .sub", "tokens/s · about .* left")
    page.locator(".standing").get_by_role("button", name=re.compile("^Pause")).press("Enter")
    expect_text(page, "main > .read", "is paused at step")
    expect_text(page, ".standing .action", "Go on")
    assert focused(page) == "Go on"
    page.keyboard.press("Enter")
    expect_text(page, "main > .read", r"is at step [1-9][\d,]* of ")
    assert focused(page) == "Pause"

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
    again.locator(".standing").get_by_role("button", name=re.compile("^Stop")).press("Enter")
    expect_text(page, "main > .read", "is stopped at step")
    expect_text(again, ".standing .action", "Go on")
    assert focused(again) == "Stop"  # without effect, but the focus is where it was
    assert again.locator(".standing [aria-disabled=true]").count() == 1


def test_bad_wishes_are_answered_in_the_page(visit: Callable[..., Any]) -> None:
    page = visit("train?run=own", allowed=REFUSED)
    fill(page, "bigram", "10k", "")
    page.get_by_role("button", name="Start").click()
    expect_text(page, ".form .problem", "An empty text, instead of text to learn from")
    page.select_option("#source", label="a file")
    page.fill("#file", "../../etc/passwd")
    page.get_by_role("button", name="Start").click()
    expect_text(page, ".form .problem", "no file under the folders")
    fill(page, "one-head", "10k", "a text of a few words")
    page.get_by_role("button", name="Start").click()
    expect_text(page, ".form .problem", "18 tokens of training text in text, instead of more than")
    fill(page, "bigram", "lots")
    page.get_by_role("button", name="Start").click()
    expect_text(page, ".form .problem", r"A budget of 'lots' tokens, instead of a number above 0\.")
    page.fill("#budget", "10k")  # what was refused isn't what stands there now
    page.wait_for_selector(".form .problem", state="detached")


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


def test_what_could_not_be_had_is_asked_for_again(visit: Callable[..., Any], lab_url: str) -> None:
    page = visit(None, allowed="Failed to load resource")
    page.route("**/api/open", lambda route: route.abort())
    page.goto(f"{lab_url}train?run=own")
    expect_text(page, ".probe .problem", "can't be reached")
    page.unroute("**/api/open")
    expect_text(page, ".probe .read", f"At step {OWN_STEPS}")
    assert page.locator(".probe .problem").is_hidden()


def test_a_slow_answer_does_not_come_over_a_later_one(
    visit: Callable[..., Any], lab_url: str
) -> None:
    page = visit(None)
    held: list[Any] = []

    def hold(route: Any) -> None:
        if not held and '"step":0' in route.request.post_data:
            held.append(route)
        else:
            route.continue_()

    page.route("**/api/open", hold)
    page.goto(f"{lab_url}train?run=own&step=3")
    expect_text(page, ".probe .read", "At step 3,")
    slider = page.get_by_role("slider", name="step of the run")
    slider.press("Home")
    expect_text(page, ".timeline .step", "step 0")
    slider.press("End")
    expect_text(page, ".probe .read", f"At step {OWN_STEPS}")
    with page.expect_response("**/api/open"):
        held[0].continue_()
    page.wait_for_timeout(100)
    assert f"At step {OWN_STEPS}" in page.locator(".probe .read").inner_text()


def test_the_rungs_of_a_ladder_are_watched(visit: Callable[..., Any], server: Any) -> None:
    from qkv.text import corpus_from_text
    from qkv.training.ladder import Plan, climb
    from qkv.training.run import Data

    plan = Plan(
        rungs=["bigram", "one-head"],
        tokens=4000,
        seed=0,
        source="hamlet",
        tokenizer="char",
        prompt="to",
        settings={"probes": "40"},
    )
    for _ in climb(
        server.folder / "runs" / "climbed", plan, Data.prepare(corpus_from_text(TEXT), "char")
    ):
        pass
    page = visit("train?run=0/climbed")
    expect_text(page, ".probe .read", "At step [1-9]")  # its last rung's
    rungs = page.locator(".run-list .rung")
    rungs.get_by_role("button", name="bigram").press("Enter")
    expect_text(page, ".none", "no attention to watch")
    rungs.get_by_role("button", name="one head").press("Enter")
    page.get_by_role("slider", name="step of the run").press("Home")
    expect_text(page, ".probe .read", "At step 0,")
    assert "run=0%2Fclimbed%2F02-one-head" in page.url


def contrasts(page: Any) -> list[float]:
    """Of each name on the chart with the paper, as WCAG reckons it."""
    script = """() => {
      const light = (color) => {
        const part = (at) => {
          const value = color.match(/[\\d.]+/g)[at] / 255;
          return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
        };
        return 0.2126 * part(0) + 0.7152 * part(1) + 0.0722 * part(2) + 0.05;
      };
      const paper = light(getComputedStyle(document.documentElement).backgroundColor);
      return [...document.querySelectorAll(".plot .annotation text")].map((text) => {
        const ink = light(getComputedStyle(text).fill);
        return Math.max(ink, paper) / Math.min(ink, paper);
      });
    }"""
    return list(page.evaluate(script))


@pytest.mark.parametrize("dark", [False, True])
def test_names_on_the_chart_are_legible(visit: Callable[..., Any], server: Any, dark: bool) -> None:
    names = [f"named-{number}" for number in range(6)]
    for at, name in enumerate(names):
        path = server.folder / "runs" / name
        if not path.exists():
            shutil.copytree(server.folder / "runs" / "climbed" / "01-bigram", path)
            # Of another machine, and silent.
            status = json.loads((path / "status.json").read_text())
            status |= {"state": "running", "host": "elsewhere"}
            (path / "status.json").write_text(json.dumps(status))
            for file in ("status.json", "metrics.jsonl", "checkpoints"):
                os.utime(path / file, (time.time() - 7200 - at,) * 2)
    others = "|".join(f"0/{name}" for name in names[1:])
    page = visit(f"train?run=0/{names[0]}&with={others}", dark=dark)
    expect_text(page, "main > .read", "was at step .* when it was last heard of")
    expect_text(page, ".standing .sub", "on elsewhere · last heard of 2 h ago")
    page.wait_for_function("() => document.querySelectorAll('.plot .annotation text').length === 6")
    assert min(contrasts(page)) >= 4.5


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_narrow_and_wide_screens(
    visit: Callable[..., Any],
    overflow: Callable[[Any], list[str]],
    axe: Callable[[Any], None],
    width: int,
    dark: bool,
) -> None:
    page = visit("train?run=own", width=width, dark=dark)
    page.wait_for_selector(".plot .main-svg")
    expect_text(page, ".probe .read", f"At step {OWN_STEPS}")
    assert overflow(page) == []
    axe(page)
