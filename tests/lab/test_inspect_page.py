"""The page that looks into heads, as a person has it: in Chromium, by pointer and by keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import torch

from qkv.attention import Causal
from qkv.attention.fused import attend
from qkv.lens import capture

# What Chromium itself says of an answer that isn't 200; the page tells the reason.
REFUSED = "status of 400|ERR_CONNECTION_REFUSED|ERR_ABORTED"
TEXT = "ROMEO:\nWhat light through yonder window breaks?\n"

Open = Callable[..., Any]
expect = pytest.importorskip("playwright.sync_api", reason="no playwright").expect


def settled(page: Any) -> None:
    page.wait_for_selector("main:not([aria-busy])")


@pytest.fixture
def inspect(visit: Open) -> Open:
    """Open the page, and wait until it shows something."""

    def open_page(query: str = "", **options: Any) -> Any:
        page = visit(f"inspect{query}", **options)
        settled(page)
        return page

    return open_page


def losses(page: Any) -> list[float]:
    text = page.locator(".loss").inner_text().replace("−", "-")
    return [float(number) for number in re.findall(r"[-+]?\d*\.\d+", text)]


def query_of(page: Any) -> dict[str, str]:
    return {name: value for name, (value,) in parse_qs(urlsplit(page.url).query).items()}


def press(page: Any, name: str) -> None:
    """Press a button by the keyboard alone."""
    page.get_by_role("button", name=name, exact=True).focus()
    page.keyboard.press("Enter")
    settled(page)


def test_a_trained_head_is_shown_and_read_aloud(inspect: Open, axe: Any, overflow: Any) -> None:
    page = inspect()
    assert re.search(
        r"at \d+ looks back at .* of its attention", page.locator(".read").inner_text()
    )
    assert "6 layers × 3 heads · 96 tokens" in page.locator("#facts").inner_text()
    page.get_by_text("To the last digit").wait_for()
    assert page.locator(".why").get_by_text("added to the head's mix").is_visible()
    assert losses(page)[0] > 0
    assert page.locator(".next tbody tr").count() == 8
    axe(page)
    assert overflow(page) == []


def test_a_head_and_a_cell_are_chosen_by_keyboard(inspect: Open) -> None:
    page = inspect("?head=L2H0&cell=20,10")
    page.locator(".qkv-atlas canvas").focus()
    page.keyboard.press("ArrowRight")
    expect(page).to_have_url(re.compile("head=L2H1"))
    page.keyboard.press("ArrowDown")
    expect(page).to_have_url(re.compile("head=L3H1"))
    assert page.locator(".sub").inner_text().startswith("L3H1")
    page.locator(".qkv-map canvas").first.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    assert query_of(page)["cell"] == "21,9"
    expect(page.locator(".read").first).to_contain_text("at 21 looks")


def test_a_click_on_a_cell_tells_its_arithmetic(inspect: Open) -> None:
    page = inspect()
    box = page.locator(".qkv-map canvas").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.8)
    expect(page.locator(".why").first).to_contain_text("× scale")
    words = page.locator(".why").inner_text()
    for part in (
        "channel",
        "smaller terms",
        "q·k",
        "allowed by the mask",
        "log-sum-exp",
        "float64",
    ):
        assert part in words


def test_every_term_can_be_reached(inspect: Open) -> None:
    page = inspect("?head=L3H1&cell=40,39")
    terms = page.locator(".why-view table").first.locator("tbody tr")
    expect(page.locator(".why-view")).to_contain_text("smaller terms")
    few = terms.count()
    button = page.get_by_role("button", name=re.compile("smaller terms"))
    count = int(button.inner_text().split()[0])
    button.focus()
    page.keyboard.press("Enter")
    assert terms.count() == few + count
    assert button.get_attribute("aria-expanded") == "true"
    assert button.evaluate("(one) => one === document.activeElement")
    # They stay open from cell to cell.
    page.locator(".qkv-map canvas").first.focus()
    page.keyboard.press("ArrowUp")
    expect(page.locator(".why-view")).to_contain_text("at 39 looks most")
    expect(terms).to_have_count(few + count)


def test_a_masked_cell_has_its_arithmetic_too(inspect: Open) -> None:
    page = inspect("?head=L3H1&cell=20,40")
    reasons = page.locator(".why-view")
    expect(reasons).to_contain_text("× scale")
    words = reasons.inner_text()
    assert re.search(r"masked\s+−∞", words)
    assert re.search(r"exp\(−∞\) = weight\s+0", words)
    assert page.locator(".read").inner_text().endswith("masked.")


def test_leaving_out_a_head_changes_the_loss(inspect: Open, axe: Any) -> None:
    page = inspect("?head=L3H1")
    (before,) = losses(page)
    press(page, "leave out L3H1")
    old, new, change = losses(page)
    assert (old, new > old) == (before, True)
    assert change == pytest.approx(new - old, abs=2e-3)
    assert query_of(page)["without"] == "L3H1"
    page.locator(".qkv-atlas canvas").focus()
    page.keyboard.press("ArrowDown")
    press(page, "leave out L4H1")
    assert query_of(page)["without"] == "L3H1,L4H1"
    assert losses(page)[1] != new
    press(page, "without L3H1: undo")
    assert query_of(page)["without"] == "L4H1"
    press(page, "what changed")
    expect(page.locator(".read")).to_contain_text(re.compile("than before|as before"))
    assert "its own weights stay" in page.locator(".said").inner_text()
    expect(page.locator(".why-view")).to_contain_text("the head is left out: added to its mix")
    button = page.get_by_role("button", name="leave out L4H1", exact=True)
    assert button.get_attribute("aria-pressed") == "true"
    axe(page)
    press(page, "undo all")
    assert losses(page) == [before]
    assert "without" not in query_of(page)


def test_the_temperature_is_a_range(inspect: Open) -> None:
    page = inspect()
    page.get_by_label("temperature").focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    expect(page).to_have_url(re.compile("temperature=2"))
    expect(page.locator(".loss").first).to_contain_text("→")


def test_a_text_is_typed_and_read(inspect: Open) -> None:
    page = inspect()
    page.get_by_role("textbox", name="Text").fill(TEXT)
    page.keyboard.press("Control+Enter")
    expect(page).to_have_url(re.compile("text=ROMEO"))
    settled(page)
    assert f"{len(TEXT)} tokens" in page.locator("#facts").inner_text()


def test_a_text_too_long_offers_to_be_cut(inspect: Open) -> None:
    page = inspect(allowed=REFUSED)
    page.get_by_role("textbox", name="Text").fill(TEXT * 20)
    page.get_by_role("button", name="Read it").click()
    page.get_by_role("alert").get_by_text("at most the model's context, 256").wait_for()
    page.get_by_role("button", name="Read its first 256 tokens").click()
    page.get_by_text("256 of 960 tokens").wait_for()
    assert page.get_by_role("alert").is_hidden()


def test_a_step_is_scrubbed_and_compared(inspect: Open) -> None:
    page = inspect()
    steps = page.get_by_label("As it learnt")
    steps.focus()
    page.keyboard.press("Home")
    expect(page).to_have_url(re.compile("step=0"))
    settled(page)
    assert "the model itself can be changed" in page.locator(".loss").inner_text()
    assert page.get_by_role("button", name="drop the mask").is_disabled()
    press(page, "keep this to compare")
    steps.focus()
    page.keyboard.press("End")
    expect(page).not_to_have_url(re.compile("[?&]step="))
    settled(page)
    press(page, "what changed")
    expect(page.locator(".read")).to_contain_text(re.compile("than before|as before"))
    press(page, "before")
    assert "step 0" in page.locator(".said").inner_text()


def test_what_is_on_screen_is_saved(inspect: Open) -> None:
    page = inspect("?head=L3H1")
    for kind in ("PNG", "SVG", "CSV", "HTML"):
        with page.expect_download() as waiting:
            page.locator(f".saves a[aria-label$='{kind}']").click()
        assert waiting.value.suggested_filename.endswith(kind.lower())
        assert waiting.value.failure() is None
    press(page, "drop the mask")
    press(page, "what changed")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="save what changed as a picture, PNG").click()
    changed = "the-model-that-comes-with-qkv-step-977-changed-L3H1-change.png"
    assert waiting.value.suggested_filename == changed


def test_a_heading_that_sorts_keeps_the_keyboard(inspect: Open) -> None:
    page = inspect("?head=L3H1")
    for table in (".short", ".scores-view"):
        heading = page.locator(table).get_by_role("button", name="self", exact=True)
        for direction in ("descending", "ascending"):
            heading.focus()
            page.keyboard.press("Enter")
            held = page.evaluate("document.activeElement.textContent")
            assert held == "self"
            cell = heading.locator("xpath=..")
            assert cell.get_attribute("aria-sort") == direction
        page.locator(table).get_by_role("button", name="lift").press("Enter")
    row = page.locator(".short").get_by_role("button", name="L2H1", exact=True)
    row.focus()
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("head=L2H1"))
    assert page.evaluate("document.activeElement.textContent") == "L2H1"


@pytest.fixture
def long_head(server: Any) -> Iterator[str]:
    """A saved head of 12,000 tokens, too many to come along."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 12_000, 4)
    with capture() as trace:
        attend(q, k, k, mask=Causal())
    path = server.folder / "runs" / "long.safetensors"
    trace.save(path)
    yield "runs/long.safetensors"
    path.unlink()


def test_a_long_head_is_drawn_tile_by_tile(inspect: Open, long_head: str) -> None:
    page = inspect(f"?item={long_head}")
    assert "12,000 tokens" in page.locator("#facts").inner_text()
    expect(page.locator(".read")).to_contain_text("looks back at token")
    assert page.locator(".changes").get_by_text("no model to change").is_visible()
    for name, words in (("max", "the largest of their weights"), ("sum", "on average")):
        pooling = page.get_by_role("group", name="Pooling").get_by_role("button", name=name)
        pooling.hover()
        expect(page.get_by_role("tooltip")).to_contain_text(words)
    with page.expect_request(lambda asked: '"how":"sum"' in (asked.post_data or "")):
        page.get_by_role("group", name="Pooling").get_by_role("button", name="sum").click()
    assert query_of(page)["pooling"] == "sum"
    assert "how=sum" in str(page.locator(".saves a[aria-label$='PNG']").get_attribute("href"))
    with page.expect_response(lambda reply: reply.url.endswith("api/ask") and reply.ok):
        page.locator(".qkv-map canvas").first.focus()
        for _ in range(6):
            page.keyboard.press("+")
    assert page.locator(".saves a[aria-label$='PNG']").is_visible()
    assert page.locator(".saves a[aria-label$='HTML']").is_hidden()
    title = "document.querySelector('select').selectedOptions[0].textContent"
    page.wait_for_function(f"{title}.endsWith('.safetensors')")


def test_bad_input_is_answered_in_the_page(inspect: Open) -> None:
    page = inspect("?item=7/none", allowed=REFUSED)
    page.get_by_role("alert").get_by_text("something the lab was opened on").wait_for()
    page.get_by_label("Model").select_option("own")
    page.wait_for_selector(".shown:not([hidden])")
    page.get_by_role("textbox", name="Text").fill("")
    page.keyboard.press("Control+Enter")
    page.get_by_role("alert").get_by_text("an empty text").wait_for()


def test_a_lost_server_is_told(inspect: Open) -> None:
    page = inspect(allowed="Failed to load resource")
    page.context.set_offline(True)
    page.get_by_role("button", name="drop the mask").click()
    page.get_by_role("alert").get_by_text("the lab can't be reached").wait_for()
    page.context.set_offline(False)
    press(page, "drop the mask")
    assert len(losses(page)) == 3
    assert page.get_by_role("alert").is_hidden()


@pytest.mark.parametrize("dark", [False, True])
def test_a_narrow_screen_scrolls_one_way(
    inspect: Open, axe: Any, overflow: Any, *, dark: bool
) -> None:
    page = inspect(width=360, dark=dark)
    assert overflow(page) == []
    axe(page)
    press(page, "leave out L3H1")
    assert overflow(page) == []
