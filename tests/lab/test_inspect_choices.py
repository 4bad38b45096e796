"""What is chosen to be read: models, texts, files, steps; and the way back from each."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import torch

from qkv.models import TransformerConfig, build_model
from qkv.models.checkpoint import save_checkpoint
from qkv.text import corpus_from_text
from qkv.training.config import TrainingConfig
from qkv.training.run import Data, start
from qkv.training.rundir import RunDirectory

REFUSED = "status of 400"
TEXT = "ROMEO:\nWhat light through yonder window breaks?\n"
CONTEXT = 16

Open = Callable[..., Any]
expect = pytest.importorskip("playwright.sync_api", reason="no playwright").expect


def settled(page: Any) -> None:
    page.wait_for_selector("main:not([aria-busy])")


def query_of(page: Any) -> dict[str, str]:
    return {name: value for name, (value,) in parse_qs(urlsplit(page.url).query).items()}


def press(page: Any, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).focus()
    page.keyboard.press("Enter")
    settled(page)


def read(page: Any, text: str) -> None:
    page.get_by_role("textbox", name="Text").fill(text)
    page.keyboard.press("Control+Enter")


def box(page: Any) -> str:
    return str(page.get_by_role("textbox", name="Text").input_value())


def facts(page: Any, words: str) -> None:
    expect(page.locator("#facts")).to_contain_text(words)
    settled(page)


@pytest.fixture
def inspect(visit: Open) -> Open:
    """Open the page, and wait until it shows something."""

    def open_page(query: str = "", **options: Any) -> Any:
        page = visit(f"inspect{query}", **options)
        settled(page)
        return page

    return open_page


@pytest.fixture(scope="module")
def models(server: Any) -> Iterator[None]:
    """Runs beside qkv's own: `small` of few tokens, `flat` without heads, `empty` of none."""
    runs = server.folder / "runs"
    data = Data.prepare(corpus_from_text(TEXT * 20, name="romeo"), "char")
    config = TransformerConfig(
        vocab=data.tokenizer.size, context=CONTEXT, layers=1, width=8, heads=2
    )
    training = TrainingConfig(tokens=9_600, batch=4)
    for name in ("small", "empty"):
        start(RunDirectory(runs / name), config, training, data, probe="What light")
    torch.manual_seed(3)
    weights = build_model(config).eval().state_dict()
    folder = runs / "small" / "checkpoints" / "step-00000007"
    save_checkpoint(folder, config=config, weights=weights, tokenizer=data.tokenizer, step=7)
    shutil.copytree(runs / "empty", runs / "flat")
    told = json.loads((runs / "flat" / "config.json").read_text(encoding="utf-8"))
    told["model"]["kind"] = "bigram"
    (runs / "flat" / "config.json").write_text(json.dumps(told), encoding="utf-8")
    yield
    for name in ("small", "empty", "flat"):
        shutil.rmtree(runs / name)


@pytest.mark.usefixtures("models")
def test_a_model_that_cannot_be_opened_leaves_the_choice_as_it_was(inspect: Open) -> None:
    page = inspect(allowed=REFUSED)
    menu = page.get_by_label("Model")
    expect(menu.locator("option", has_text="flat (no heads)")).to_be_disabled()
    menu.select_option("runs/empty")
    page.get_by_role("alert").wait_for()
    settled(page)
    assert menu.input_value() == "own"
    menu.select_option("runs/small")
    facts(page, "1 layer × 2 heads · 10 tokens")
    assert (box(page), query_of(page)["item"]) == ("What light", "runs/small")
    assert page.get_by_role("alert").is_hidden()
    assert menu.locator("option:checked").inner_text() == "small"


@pytest.mark.usefixtures("models")
def test_a_text_of_ones_own_goes_along_as_far_as_it_is_read(inspect: Open) -> None:
    page = inspect()
    read(page, TEXT)
    facts(page, f"{len(TEXT)} tokens")
    page.get_by_label("Model").select_option("runs/small")
    facts(page, f"{CONTEXT} of {len(TEXT)} tokens")
    assert box(page) == TEXT
    page.get_by_label("Model").select_option("own")
    facts(page, f"6 layers × 3 heads · {len(TEXT)} tokens")


@pytest.mark.usefixtures("models")
def test_a_text_that_a_model_cannot_read_leaves_a_way_to_open_it(inspect: Open) -> None:
    page = inspect(allowed=REFUSED)
    read(page, "A text with 9 digits 123456789")
    settled(page)
    page.get_by_label("Model").select_option("runs/small")
    page.get_by_role("alert").wait_for()
    assert "9 digits" in box(page)
    page.get_by_role("button", name="Open it with its own text").click()
    facts(page, "10 tokens")
    assert box(page) == "What light"


def test_steps_keep_text_cell_and_changes_for_the_end(inspect: Open) -> None:
    page = inspect("?head=L3H1")
    read(page, TEXT)
    facts(page, f"{len(TEXT)} tokens")
    press(page, "leave out L3H1")
    page.locator(".qkv-map canvas").first.focus()
    page.keyboard.press("ArrowUp")
    before, loss = query_of(page), page.locator(".loss").inner_text()
    steps = page.get_by_label("As it learnt")
    steps.focus()
    page.keyboard.press("ArrowLeft")
    facts(page, "its probe")
    assert (box(page), query_of(page)["cell"]) == (TEXT, before["cell"])
    assert query_of(page)["text"] == TEXT
    note = page.locator(".steps").inner_text()
    assert "on a passage of the model's own, not on this text" in note
    assert page.get_by_role("button", name="drop the mask").is_disabled()
    page.keyboard.press("End")
    expect(page).not_to_have_url(re.compile("step="))
    settled(page)
    assert query_of(page) == before
    assert page.locator(".loss").inner_text() == loss
    assert page.get_by_role("button", name="drop the mask").is_enabled()
    pressed = page.get_by_role("button", name="leave out L3H1", exact=True)
    assert pressed.get_attribute("aria-pressed") == "true"


def test_a_cell_out_of_a_passage_comes_back_at_the_end(inspect: Open) -> None:
    page = inspect()
    read(page, TEXT * 4)
    facts(page, f"{4 * len(TEXT)} tokens")
    page.locator(".qkv-map canvas").first.focus()
    page.keyboard.press("End")
    for _ in range(8):
        page.keyboard.press("PageDown")
    cell = query_of(page)["cell"]
    assert max(map(int, cell.split(","))) > 96
    page.get_by_label("As it learnt").focus()
    page.keyboard.press("ArrowLeft")
    facts(page, "its probe")
    assert query_of(page)["cell"] != cell
    page.keyboard.press("End")
    expect(page).not_to_have_url(re.compile("step="))
    settled(page)
    assert query_of(page)["cell"] == cell


def test_back_undoes_a_text(inspect: Open) -> None:
    page = inspect("?head=L3H1")
    own = box(page)
    for text in ("to be or not to be", TEXT):
        read(page, text)
        facts(page, f"{len(text)} tokens")
    page.go_back()
    facts(page, "18 tokens")
    assert box(page) == query_of(page)["text"] == "to be or not to be"
    page.go_back()
    facts(page, "96 tokens")
    assert box(page) == own
    page.go_forward()
    facts(page, "18 tokens")
    # What only changes the view is no step of its own.
    press(page, "linear")
    page.go_back()
    facts(page, "96 tokens")


def test_a_long_text_stays_out_of_the_address_and_comes_back(inspect: Open) -> None:
    page = inspect(allowed=REFUSED)
    said = page.locator(".saves [role=status]")
    press(page, "copy a link")
    expect(said).to_have_text(re.compile("^(copied|the address above is the link)$"))
    long = TEXT * 60
    read(page, long)
    page.get_by_role("button", name="Read its first 256 tokens").click()
    facts(page, f"256 of {len(long):,} tokens")
    press(page, "keep this to compare")
    read(page, TEXT)
    facts(page, f" {len(TEXT)} tokens")
    assert len(page.url) < 400
    page.go_back()
    facts(page, f"256 of {len(long):,} tokens")
    assert len(page.url) < 300
    page.reload()
    page.wait_for_selector("html[data-ready=true]", state="attached")
    facts(page, f"256 of {len(long):,} tokens")
    assert box(page) == long
    press(page, "copy a link")
    expect(said).to_contain_text("without the text, which is too long for one")


def test_what_is_compared_with_is_in_the_address_in_words(inspect: Open) -> None:
    page = inspect("?head=L3H1&step=0")
    press(page, "keep this to compare")
    page.get_by_label("As it learnt").focus()
    page.keyboard.press("End")
    expect(page).to_have_url(re.compile("was-step=0"))
    expect(page).not_to_have_url(re.compile("[?&]step="))
    settled(page)
    press(page, "drop the mask")
    query = query_of(page)
    assert (query["kept"], query["was-step"], query["mask"]) == ("yes", "0", "off")
    words = page.locator(".said").inner_text()
    page.reload()
    page.wait_for_selector("html[data-ready=true]", state="attached")
    settled(page)
    assert query_of(page) == query
    assert page.locator(".said").inner_text() == words


def test_a_text_file_is_opened_and_dropped(inspect: Open, tmp_path: Path) -> None:
    page = inspect()
    path = tmp_path / "speech.txt"
    path.write_bytes(("Good morrow\r\n" * 300).encode())
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="open a text file").press("Enter")
    chooser.value.set_files(path)
    facts(page, "256 of 3,600 tokens")
    assert box(page).startswith("Good morrow\nGood")
    (tmp_path / "picture.txt").write_bytes(b"\x89PNG\xff\xfe")
    page.locator("input[type=file]").set_input_files(tmp_path / "picture.txt")
    page.get_by_role("alert").get_by_text("picture.txt is no text in UTF-8").wait_for()
    drop = """(one) => {
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File(["to be or not"], "hamlet.txt", { type: "text/plain" }));
      const told = { dataTransfer, bubbles: true, cancelable: true };
      for (const kind of ["dragover", "drop"]) one.dispatchEvent(new DragEvent(kind, told));
    }"""
    page.get_by_role("textbox", name="Text").evaluate(drop)
    facts(page, "12 tokens")
    assert (box(page), page.get_by_role("alert").is_hidden()) == ("to be or not", True)
