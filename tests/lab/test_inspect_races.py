"""The page that looks into heads, answered late and out of order; and what fails meanwhile."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import torch

from qkv.attention import Causal
from qkv.attention.fused import attend
from qkv.lens import capture

expect = pytest.importorskip("playwright.sync_api", reason="no playwright").expect

TEXT = "ROMEO:\nWhat light through yonder window breaks?\n"
# Requests that match `holding` wait for `release()`; so does what is inflated, while `slow` is set.
HOLD = """
const real = window.fetch.bind(window);
Object.assign(window, { held: [], holding: HOLDING, slow: false });
const wait = (words) => new Promise((resolve) => held.push({ words, resolve }));
window.release = (words = "") => {
  for (const one of held) if (one.words.includes(words)) one.resolve();
};
window.fetch = async (url, options = {}) => {
  const words = `${url} ${options.body ?? ""}`;
  if (holding?.test(words)) await wait(words);
  return real(url, options);
};
const Inflated = window.DecompressionStream;
window.DecompressionStream = function (kind) {
  const { readable, writable } = new Inflated(kind);
  if (!slow) return { readable, writable };
  const turn = wait("inflate");
  const reader = readable.getReader();
  const read = () => turn.then(() => reader.read());
  return { writable, readable: { getReader: () => ({ read }) } };
};
"""


def settled(page: Any) -> None:
    page.wait_for_selector("main:not([aria-busy])")


def query_of(page: Any) -> dict[str, str]:
    return {name: value for name, (value,) in parse_qs(urlsplit(page.url).query).items()}


def losses(page: Any) -> list[float]:
    text = page.locator(".loss").inner_text().replace("−", "-")
    return [float(number) for number in re.findall(r"[-+]?\d*\.\d+", text)]


def hold(page: Any, pattern: str) -> None:
    page.evaluate(f"window.holding = /{pattern}/")


def held(page: Any, words: str = "") -> None:
    """Wait until something is held back."""
    for _ in range(400):
        if page.evaluate("(words) => held.some((one) => one.words.includes(words))", words):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"nothing was asked: {words}")


def release(page: Any, words: str = "") -> None:
    """Let go of what is held, and wait until its answers have been taken in."""
    page.evaluate("window.holding = null")
    page.evaluate("(words) => release(words)", words)
    settled(page)
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 60))")


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


@pytest.fixture
def inspect(visit: Callable[..., Any], lab_url: str) -> Callable[..., Any]:
    """Open the page, with `holding` held back from the start."""

    def open_page(query: str = "", holding: str = "", **options: Any) -> Any:
        page = visit(None, **options)
        page.add_init_script(HOLD.replace("HOLDING", f"/{holding}/" if holding else "null"))
        page.goto(f"{lab_url}inspect{query}")
        if not holding:
            page.wait_for_selector("html[data-ready=true]", state="attached")
            settled(page)
        return page

    return open_page


def save_trace(folder: Path, name: str, heads: int, tokens: int, seed: int = 0) -> str:
    """A saved trace of one layer, and what the lab calls it."""
    q, k = torch.randn(2, 1, heads, tokens, 4, generator=torch.Generator().manual_seed(seed))
    with capture() as trace:
        attend(q, k, k, mask=Causal())
    trace.save(folder / "runs" / f"{name}.safetensors")
    return f"runs/{name}.safetensors"


@pytest.fixture
def saved(server: Any) -> Iterator[Callable[..., str]]:
    """Save traces in the lab's folder; they are gone afterwards."""
    names: list[str] = []

    def save(name: str, **options: Any) -> str:
        names.append(name)
        return save_trace(server.folder, name, **options)

    yield save
    for name in names:
        (server.folder / "runs" / f"{name}.safetensors").unlink()


def test_what_is_chosen_while_a_text_is_read_stays(inspect: Callable[..., Any]) -> None:
    page = inspect("?head=L2H0&cell=20,10")
    hold(page, "api.open")
    page.get_by_role("textbox", name="Text").fill(TEXT)
    page.keyboard.press("Control+Enter")
    held(page)
    page.locator(".qkv-atlas canvas").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".sub")).to_contain_text("L2H1")
    press(page, "linear")
    page.locator(".qkv-map canvas").first.focus()
    page.keyboard.press("ArrowLeft")
    press(page, "pin this token")
    assert query_of(page).get("text") is None
    release(page)
    chosen = query_of(page)
    assert (chosen["text"], chosen["head"], chosen["cell"]) == (TEXT, "L2H1", "20,9")
    assert (chosen["scale"], chosen["pins"]) == ("linear", "20")
    assert page.locator(".sub").inner_text().startswith("L2H1")


def test_a_head_of_the_text_before_comes_too_late(inspect: Callable[..., Any]) -> None:
    page = inspect("?head=L3H1&cell=90,80")
    page.evaluate("window.slow = true")
    page.locator(".qkv-atlas canvas").focus()
    page.keyboard.press("ArrowRight")
    held(page)
    page.evaluate("window.slow = false")
    page.get_by_role("textbox", name="Text").fill(TEXT)
    page.keyboard.press("Control+Enter")
    expect(page).to_have_url(re.compile("text=ROMEO"))
    settled(page)
    # What was chosen holds of the text that has come, too.
    assert page.locator(".sub").inner_text().startswith("L3H2")
    release(page, "inflate")
    row, col = map(int, query_of(page)["cell"].split(","))
    assert max(row, col) < len(TEXT)
    assert f"{len(TEXT)} tokens" in page.locator("#facts").inner_text()
    assert page.locator(".qkv-text").first.inner_text().count("⏎") == 2


def test_a_token_of_the_text_before_comes_too_late(
    inspect: Callable[..., Any], saved: Callable[..., str]
) -> None:
    long = saved("longest", heads=1, tokens=17_000)
    page = inspect(f"?item={long}", holding="api.ask")
    held(page, '"row"')
    hold(page, "api.ask.*longest")
    page.get_by_label("Model").select_option("own")
    page.get_by_text("96 tokens").first.wait_for()
    settled(page)
    cell = query_of(page)["cell"]
    page.evaluate("release('\"row\"')")
    expect(page.locator(".loss")).to_contain_text("nats a token")
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 200))")
    assert query_of(page)["cell"] == cell


def test_what_an_item_is_comes_late_and_is_not_taken_for_another(
    inspect: Callable[..., Any], saved: Callable[..., str]
) -> None:
    trace = saved("small", heads=2, tokens=12)
    page = inspect()
    hold(page, "api.item.item=runs")
    page.get_by_label("Model").select_option(trace)
    held(page)
    # Its own page stays what it is while the trace is asked for.
    page.locator(".qkv-map canvas").first.click(position={"x": 200, "y": 300})
    assert page.get_by_role("button", name="drop the mask").is_enabled()
    page.get_by_label("Model").select_option("own")
    settled(page)
    release(page)
    page.locator(".qkv-map canvas").first.click(position={"x": 200, "y": 330})
    assert page.get_by_role("button", name="drop the mask").is_enabled()
    assert "no model" not in page.locator(".changes").inner_text()
    assert page.get_by_role("textbox", name="Text").is_visible()


def test_a_head_that_before_lacks_is_not_compared(
    inspect: Callable[..., Any], saved: Callable[..., str]
) -> None:
    trace = saved("kept", heads=2, tokens=96)
    page = inspect(f"?item={trace}&head=L0H1")
    press(page, "keep this to compare")
    settled(page)
    page.get_by_label("Model").select_option("own")
    page.get_by_text("6 layers").first.wait_for()
    settled(page)
    press(page, "what changed")
    assert query_of(page)["view"] == "change"
    expect(page.locator(".read")).to_contain_text(re.compile("than before|as before"))
    page.locator(".qkv-atlas canvas").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".said")).to_contain_text("it has no L0H2")
    for name in ("before", "what changed"):
        assert page.get_by_role("button", name=name, exact=True).is_disabled()
    expect(page.locator(".read")).to_contain_text("of its attention")
    assert "against" not in page.locator(".saves a[aria-label$='CSV']").get_attribute("href")
    # The loss of a trace isn't known: nothing is compared with it.
    expect(page.locator(".loss")).to_have_text(re.compile(r"^loss \d*\.\d+ nats a token$"))
    page.locator(".qkv-atlas canvas").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(".read")).to_contain_text(re.compile("than before|as before"))


def test_before_shows_its_own_thumbnails(inspect: Callable[..., Any]) -> None:
    def thumbnails() -> str:
        return str(page.locator(".qkv-atlas canvas").evaluate("(one) => one.toDataURL()"))

    page = inspect("?step=0&head=L3H1&cell=9,4")
    old = thumbnails()
    press(page, "keep this to compare")
    settled(page)
    page.get_by_label("As it learnt").focus()
    page.keyboard.press("End")
    expect(page).not_to_have_url(re.compile("[?&]step="))
    settled(page)
    page.get_by_role("heading", name="Every head").click()
    assert thumbnails() != old
    press(page, "before")
    assert thumbnails() == old


def test_the_loss_before_is_that_of_what_was_kept(inspect: Callable[..., Any]) -> None:
    page = inspect("?head=L3H1")
    press(page, "leave out L3H1")
    settled(page)
    _, kept, _ = losses(page)
    press(page, "keep this to compare")
    settled(page)
    assert losses(page) == [kept]
    page.locator(".qkv-atlas canvas").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".sub")).to_contain_text("L4H1")
    press(page, "leave out L4H1")
    settled(page)
    before, after, change = losses(page)
    assert before == kept
    assert change == pytest.approx(after - before, abs=2e-3)
    assert "without L3H1" in page.locator(".said").inner_text()


@pytest.mark.parametrize("path", ["open", "effect"])
def test_what_fails_leaves_all_as_it_was(inspect: Callable[..., Any], path: str) -> None:
    page = inspect("?head=L3H1", allowed="Failed to load resource")
    before = losses(page)
    page.route(f"**/api/{path}", lambda route: route.abort())
    press(page, "leave out L3H1")
    page.get_by_role("alert").get_by_text("can't be reached").wait_for()
    assert losses(page) == before
    assert page.locator(".changes").get_attribute("class") == "changes"
    button = page.get_by_role("button", name="leave out L3H1", exact=True)
    assert button.get_attribute("aria-pressed") == "false"
    page.unroute(f"**/api/{path}")
    press(page, "leave out L3H1")
    settled(page)
    assert len(losses(page)) == 3
    assert page.get_by_role("alert").is_hidden()


def test_the_progress_of_one_head_is_not_written_over_another(
    inspect: Callable[..., Any], saved: Callable[..., str]
) -> None:
    pair = saved("pair", heads=2, tokens=8_300)
    page = inspect(f"?item={pair}&head=L0H0", holding="api.(ask|progress|thumbnails|scores)")
    held(page, "api/progress")
    page.locator(".qkv-atlas canvas").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".sub")).to_contain_text("L0H1")
    page.evaluate(
        "new MutationObserver(() => (window.wrong ||= !document.querySelector('.sub').textContent"
        ".startsWith('L0H1'))).observe(document.querySelector('.sub'), { childList: true })"
    )
    page.evaluate("release('head=L0H0')")
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 200))")
    assert page.evaluate("window.wrong") is None


def test_a_live_head_whose_server_is_lost_says_so(
    inspect: Callable[..., Any], saved: Callable[..., str]
) -> None:
    long = saved("lost", heads=1, tokens=12_000)
    page = inspect(f"?item={long}", holding="api.(ask|thumbnails)", allowed="Failed to load")
    held(page, "tile")
    page.route("**/api/ask", lambda route: route.abort())
    page.evaluate("release('tile')")
    page.get_by_role("alert").get_by_text("the lab can't be reached").wait_for()
    page.unroute("**/api/ask")
    page.evaluate("window.holding = /tile/")
    page.locator(".qkv-map canvas").first.focus()
    page.keyboard.press("ArrowDown")
    page.get_by_role("alert").wait_for(state="hidden")
