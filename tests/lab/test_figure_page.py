"""The guide's figures as a reader has them: edited, by keyboard, on a phone, trained."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qkv.lab.jobs import Jobs

FIGURES = [
    "direct", "roles", "stages", "root", "mask", "cheat", "shares", "heads", "grow", "parts",
    "ladder",
]  # fmt: skip
MOUNT = """async ([name, options]) => {
  const { mountFigure } = await import(new URL("assets/learn-figures.js", document.baseURI));
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const place = document.createElement("div");
  document.getElementById("page").replaceChildren(place);
  const shell = { theme: () => (dark ? "dark" : "light"), facts: document.getElementById("facts") };
  globalThis.figure = mountFigure(place, name, options, shell);
}"""


@pytest.fixture(scope="module")
def server(
    start_lab: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A server of this module's own: it trains, and others count what there is."""
    with start_lab(tmp_path_factory.mktemp("figures")) as found:
        yield found
        for job in Jobs(found.folder / "runs").running():
            os.kill(job.process, signal.SIGKILL)


@pytest.fixture(scope="module")
def session_cookie(server: Any) -> dict[str, str]:
    """The session's cookie of that server."""
    import httpx

    ((name, value),) = httpx.get(server.url, params={"token": server.token}).cookies.items()
    return {"name": name, "value": value, "url": server.url}


@pytest.fixture
def figure(visit: Callable[..., Any]) -> Callable[..., Any]:
    """`figure("mask", width=360)`: a page that shows this figure and nothing else."""

    def show(name: str, options: dict[str, Any] | None = None, **size: Any) -> Any:
        page = visit("", **size)
        page.evaluate(MOUNT, [name, options or {}])
        page.wait_for_selector(".learn-figure[data-ready]", timeout=60_000)
        return page

    return show


def said(page: Any, part: str) -> str:
    """What reads the figure aloud, once a part is in it."""
    page.locator(".says", has_text=part).wait_for()
    return str(page.locator(".says").inner_text())


def matrix(page: Any, title: str) -> Any:
    return page.locator("figure.matrix").filter(
        has=page.locator(f"figcaption b:text-is('{title}')")
    )


def numbers(page: Any, title: str) -> list[list[str]]:
    rows = matrix(page, title).locator("tr[role=row]:has([role=gridcell])")
    return [row.locator("[role=gridcell]").all_inner_texts() for row in rows.all()]


def type_into(page: Any, title: str, row: int, col: int, text: str) -> None:
    matrix(page, title).locator(f"[data-at='{row},{col}']").focus()
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def wait_for(page: Any, title: str, row: int, col: int, text: str) -> None:
    cell = matrix(page, title).locator(f"[data-at='{row},{col}']")
    cell.filter(has_text=text).wait_for()
    assert cell.inner_text() == text


def choose(page: Any, name: str) -> None:
    page.get_by_role("radio", name=name, exact=True).check(force=True)


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("size", [{"width": 1440}, {"width": 360, "dark": True}])
def test_every_figure_reads_itself_aloud(
    figure: Callable[..., Any],
    axe: Callable[..., None],
    overflow: Callable[..., list[str]],
    name: str,
    size: dict[str, Any],
) -> None:
    page = figure(name, **size)
    page.wait_for_function("() => document.querySelector('.says').textContent.trim().endsWith('.')")
    assert page.locator(".says[aria-live=polite]").count() == 1
    assert page.locator(".learn-figure .problem:visible").count() == 0
    assert overflow(page) == []
    axe(page)
    page.evaluate("figure.end()")
    assert page.locator(".learn-figure").inner_html() == ""


def test_a_figure_that_there_is_none_of_is_told(figure: Callable[..., Any]) -> None:
    page = figure("nothing")
    assert "figure “nothing”" in page.locator(".problem").inner_text()


def test_the_future_is_erased_whatever_its_score(figure: Callable[..., Any]) -> None:
    page = figure("mask")
    first = said(page, "a third")
    assert first.endswith("none to the fourth, which it would have liked best.")
    type_into(page, "scores", 2, 3, "80")
    wait_for(page, "scores", 2, 3, "80")
    assert numbers(page, "pattern")[2] == [".333", ".333", ".333", "0"]
    type_into(page, "scores", 2, 1, "3")
    wait_for(page, "pattern", 2, 1, ".787")
    assert "to the second" in said(page, ".787")


@pytest.mark.parametrize(
    ("way", "weights", "words"),
    [
        ("no mask", [".001", ".001", ".001", ".997"], "gives .997 of its attention to the fourth"),
        ("0 for −∞", [".297", ".297", ".297", ".109"], "the fourth keeps .109"),
        ("after the softmax", [".001", ".001", ".001", "0"], "sums to .0027, not 1"),
    ],
)
def test_wrong_masks_show_their_symptoms(
    figure: Callable[..., Any], way: str, weights: list[str], words: str
) -> None:
    page = figure("mask")
    choose(page, way)
    said(page, words)
    assert numbers(page, "pattern")[2] == weights


def test_every_stage_says_where_its_number_comes_from(figure: Callable[..., Any]) -> None:
    page = figure("stages")
    assert said(page, "Pattern") == "Pattern, t3 on t2: .576 = 8.342 / 14.484."
    assert numbers(page, "mixed")[2] == [".424", "1.436"]
    choose(page, "no scale")
    wait_for(page, "pattern", 2, 1, ".665")
    assert numbers(page, "mixed")[2] == [".335", "1.575"]
    matrix(page, "scores").locator("[data-at='2,1']").hover()
    said(page, "3 = 1·2 + 1·1")


def test_equal_scores_give_the_average(figure: Callable[..., Any]) -> None:
    page = figure("shares")
    said(page, "The weights sum to 1.")
    page.get_by_role("button", name="Equal scores").press("Enter")
    assert "what comes out, 4.5, is the plain average" in said(page, "gets .25")
    page.get_by_label("score of t2").fill("2")
    before = said(page, "the second token")
    page.get_by_role("button", name="Add 5 to every score").click()
    after = said(page, "changed no weight")
    assert after.startswith(before)
    page.get_by_label("value of t2").fill("x")
    page.get_by_label("value of t1").focus()
    assert "“x” is no number" in page.locator(".problem").inner_text()


def test_another_seed_draws_again(figure: Callable[..., Any]) -> None:
    page = figure("root")
    first = said(page, "At width 64")
    page.get_by_role("button", name="Draw again").click()
    page.wait_for_function(
        "(said) => document.querySelector('.says').textContent !== said", arg=first
    )
    assert page.get_by_label("drawn from seed").input_value() == "2"
    page.get_by_role("slider", name="width d").press("End")
    said(page, "At width 512")


def test_values_have_no_say_in_who_is_asked(figure: Callable[..., Any]) -> None:
    page = figure("roles")
    before = numbers(page, "pattern")
    type_into(page, "v", 0, 0, "9")
    wait_for(page, "mixed", 0, 0, "9")
    assert numbers(page, "pattern") == before
    type_into(page, "k", 1, 1, "7")
    wait_for(page, "pattern", 1, 1, "1.000")
    after = numbers(page, "pattern")
    assert after[0] == before[0]
    assert all(new != old for new, old in zip(after[1:], before[1:], strict=True))
    choose(page, "swapped")
    said(page, "Keys and values have changed places")
    assert numbers(page, "k")[0] == ["9", "1"]
    page.get_by_label("Words of yours").fill("to be or")
    matrix(page, "pattern").locator("th[scope=row]:text-is('or')").wait_for()


def test_a_trained_head_shows_its_three_matrices(figure: Callable[..., Any]) -> None:
    page = figure("roles")
    choose(page, "a trained head")
    first = said(page, "The query of")
    assert page.get_by_role("img", name="q, 16 × 64").count() == 1
    page.locator(".tokens .token[aria-pressed=true]").press("ArrowLeft")
    page.wait_for_function(
        "(said) => document.querySelector('.says').textContent !== said", arg=first
    )
    choose(page, "swapped")
    said(page, "of the row's weight has moved")
    page.get_by_label("A text of yours").fill("not to be")
    page.get_by_role("img", name="q, 9 × 64").wait_for()


def test_heads_are_sorted_by_what_they_are_measured_to_do(figure: Callable[..., Any]) -> None:
    page = figure("heads")
    said(page, "of its attention")
    heads = page.locator(".scores tbody th").all_inner_texts()
    assert len(heads) == 18
    choose(page, "first")
    page.locator(".scores thead th", has_text="first").wait_for()
    assert page.locator(".scores tbody th").all_inner_texts() != heads
    before = said(page, "of its attention")
    page.get_by_label("A text of yours").fill("ROMEO: Romeo, Romeo!")
    page.wait_for_function(
        "(said) => document.querySelector('.says').textContent !== said", arg=before
    )
    canvas = page.locator(".map canvas").first
    now = said(page, "of its attention")
    canvas.focus()
    page.keyboard.press("ArrowUp")
    page.wait_for_function(
        "(said) => document.querySelector('.says').textContent !== said", arg=now
    )


def test_a_row_grows_with_each_token(figure: Callable[..., Any]) -> None:
    page = figure("grow")
    said(page, "Row 8 has 8 cells")
    page.get_by_role("button", name="Next token").press("Enter")
    said(page, "Row 9 has 9 cells")
    page.get_by_role("button", name="Write on").click()
    said(page, "Row 11 has 11 cells")
    page.get_by_role("button", name="Pause").click()
    page.get_by_label("It goes on from").fill("ROMEO")
    said(page, "Row 5 has 5 cells")


def test_the_two_wirings_are_there_before_anything_is_trained(figure: Callable[..., Any]) -> None:
    page = figure("direct")
    said(page, "6 back passes through 7 states")
    page.get_by_role("slider", name="how far back").press("End")
    said(page, "10 back passes through 11 states")
    page.get_by_label("A text of yours").fill("abc")
    said(page, "2 back passes through 3 states")


TRAINED = {"budget": 6000, "corpus": "python"}


def test_influence_is_measured_on_what_was_trained(figure: Callable[..., Any], server: Any) -> None:
    page = figure("direct", TRAINED)
    page.get_by_role("button", name="Train both and measure").click()
    page.get_by_role("button", name="Stop").wait_for()
    page.locator(".says", has_text="attention by the last").wait_for(timeout=90_000)
    chart = page.locator(".rule svg").get_attribute("aria-label")
    assert chart.startswith("RNN: 0 back ")
    assert "attention: 0 back " in chart
    assert page.get_by_role("button", name="Train again").is_enabled()
    configs = [
        json.loads(path.read_text())["model"]["kind"]
        for path in (server.folder / "runs").glob("*/config.json")
    ]
    assert sorted(configs) == ["residual", "rnn"]


def test_the_model_that_cheats_is_trained_and_can_be_stopped(
    figure: Callable[..., Any], server: Any
) -> None:
    page = figure("cheat", {**TRAINED, "budget": 2_000_000})
    page.get_by_role("button", name="Train both").click()
    page.locator(".samples pre").first.filter(has_text=re.compile(r"\S")).wait_for(timeout=60_000)
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Train again").wait_for(timeout=60_000)
    assert "The honest head is at" in page.locator(".says").inner_text()
    assert Jobs(server.folder / "runs").running() == []
    page.evaluate(MOUNT, ["cheat", TRAINED])
    page.get_by_role("button", name="Train again").click()
    page.wait_for_function(
        "() => [...document.querySelectorAll('.samples .note')]"
        ".every((one) => /^validation loss [\\d.]+$/.test(one.textContent))",
        timeout=90_000,
    )
    assert "Without its mask the loss is" in said(page, "the honest one's")
    masks = [
        json.loads(path.read_text())["model"]["masked"]
        for path in (server.folder / "runs").glob("one-head-*/config.json")
    ]
    assert False in masks


def test_a_training_elsewhere_is_not_held_up_unasked(figure: Callable[..., Any]) -> None:
    page = figure("parts", {**TRAINED, "budget": 3_000_000})
    page.get_by_role("button", name="Train all four").click()
    learning = page.locator(".samples .note", has_text=re.compile(r"loss [\d.]+, step [1-9]"))
    learning.wait_for(timeout=60_000)
    other = figure("ladder", TRAINED, allowed=r"400 \(Bad Request\)")
    other.get_by_role("button", name="Train the ladder").click()
    other.get_by_role("button", name="Train all the same").wait_for()
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("button", name="Train again").wait_for(timeout=60_000)
    assert "The whole block is at" in page.locator(".says").inner_text()
