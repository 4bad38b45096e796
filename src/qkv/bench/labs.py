"""How long the lab takes to start, and its pages to draw, in a browser; and what watching costs.

Needs playwright and a Chromium. What is drawn is what a frame of the browser shows after the last
reply has come, counted from the key or wheel that asked for it.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from statistics import median
from typing import Any

from qkv.bench.measure import Measurement, Timing
from qkv.bench.processes import users_environment
from qkv.errors import ConfigError

__all__ = ["lab_pages"]

LAYERS, HEADS, T, C = 12, 12, 1024, 64
LONG = 100_000
JUMPS, EDITS = 50, 12
TEXT_TOKENS = 256
READY = "html[data-ready=true]"
COUNTING = """(() => {
  const send = window.fetch;
  window.waiting = 0;
  window.answered = {};
  window.fetch = async (...asked) => {
    window.waiting += 1;
    const name = String(asked[0]).split("?")[0];
    const done = () => setTimeout(() => (window.waiting -= 1), 0);
    try {
      const reply = await send(...asked);
      const read = reply.arrayBuffer.bind(reply);
      reply.arrayBuffer = async () => {
        window.waiting += 1;
        try { return await read(); } finally { done(); }
      };
      return reply;
    } finally {
      window.answered[name] = (window.answered[name] ?? 0) + 1;
      done();
    }
  };
  window.frames = async (count) => {
    for (let at = 0; at < count; at++) await new Promise((go) => requestAnimationFrame(go));
  };
})();"""
DRAWN = "() => frames(2)"
JUMP = """async ([x, y, by]) => {
  const canvas = document.querySelector(".qkv-stage canvas");
  const box = canvas.getBoundingClientRect();
  canvas.dispatchEvent(new KeyboardEvent("keydown", { key: "0", bubbles: true }));
  await frames(2);
  while (waiting) await frames(1);
  const started = performance.now();
  canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: by, bubbles: true, cancelable: true,
    clientX: box.left + box.width * x, clientY: box.top + box.height * y }));
  await frames(2);
  while (waiting) await new Promise((go) => setTimeout(go, 1));
  await frames(2);
  return performance.now() - started;
}"""


@dataclass(frozen=True)
class Served:
    """A lab that runs: where, since how many seconds, and its process."""

    link: str
    seconds: float
    process: subprocess.Popen[str]

    @property
    def address(self) -> str:
        """Where its pages are."""
        return self.link.split("?")[0]


def lab_pages(rounds: int = 3) -> list[Measurement]:
    """Measure the lab: start and first head, an atlas of 144 heads, a long head, an edit.

    Raises:
        ConfigError: no playwright, or no Chromium.
    """
    with tempfile.TemporaryDirectory(prefix="qkv-bench-lab-") as folder, _browser() as browser:
        place = Path(folder)
        _write_traces(place)
        starts = [_start(browser, place) for _ in range(rounds)]
        with _served(place) as served, _page(browser, served) as page:
            atlas = [_atlas(page, served) for _ in range(rounds)]
            edits = _edits(page, served)
            long = _long(page, served)
            return [
                Measurement(
                    "from `qkv lab` to the first head",
                    {},
                    {
                        "served": Timing([one["served"] for one in starts]).to_json(),
                        "head_drawn": Timing([one["drawn"] for one in starts]).to_json(),
                        "first_page_kb": median(one["bytes"] for one in starts) / 1e3,
                    },
                    rounds,
                ),
                Measurement(
                    "the atlas of a trace, the last head drawn",
                    {"layers": LAYERS, "heads": HEADS, "T": T, "C": C},
                    {"drawn": Timing(atlas).to_json()},
                    rounds,
                ),
                Measurement(
                    "a head left out, to its new loss",
                    {"T": TEXT_TOKENS},
                    {"shown": Timing(edits).to_json()},
                    len(edits),
                ),
                Measurement("one long head, random jumps", {"T": LONG, "C": C}, long, JUMPS),
            ]


def _start(browser: Any, place: Path) -> dict[str, float]:
    with _served(place) as served:
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        page, sizes = context.new_page(), [0.0]
        session = context.new_cdp_session(page)
        session.send("Network.enable")
        session.on("Network.loadingFinished", lambda e: sizes.append(e["encodedDataLength"]))
        started = time.perf_counter()
        page.goto(served.link, wait_until="commit")
        page.wait_for_function(
            "() => document.querySelector('main canvas') && "
            "document.querySelector('.read')?.textContent.includes('attention')",
            polling=10,
        )
        drawn = time.perf_counter() - started
        page.wait_for_timeout(2000)  # for what comes after it, such as fonts
        context.close()
        return {"served": served.seconds, "drawn": drawn, "bytes": sum(sizes)}


def _atlas(page: Any, served: Served) -> float:
    started = time.perf_counter()
    page.goto(f"{served.address}inspect?item=0/heads.safetensors", wait_until="commit")
    page.wait_for_selector(READY)
    batches = LAYERS * HEADS // 12
    page.wait_for_function(f"() => (answered['api/thumbnails'] ?? 0) >= {batches}", polling=10)
    page.evaluate(DRAWN)
    taken = time.perf_counter() - started
    page.wait_for_function("() => waiting === 0", polling=50)
    return taken


def _edits(page: Any, served: Served) -> list[float]:
    from urllib.parse import quote

    text = ("To be, or not to be, that is the question. " * 7)[:TEXT_TOKENS]
    page.goto(f"{served.address}inspect?item=own&text={quote(text)}")
    page.wait_for_selector(READY)
    page.wait_for_timeout(2000)
    loss = "() => document.querySelector('main').innerText.match(/loss[^\\n]*/)?.[0]"
    button = page.get_by_role("button", name=re.compile("^(leave out|without) L")).first
    seconds = []
    for _ in range(EDITS):
        before = page.evaluate(loss)
        started = time.perf_counter()
        button.click()
        page.wait_for_function(f"(was) => ({loss})() !== was", arg=before, polling=5)
        seconds.append(time.perf_counter() - started)
        page.wait_for_timeout(700)
    return seconds


def _long(page: Any, served: Served) -> dict[str, Any]:
    started = time.perf_counter()
    page.goto(f"{served.address}inspect?item=0/long.safetensors", wait_until="commit")
    page.wait_for_selector(READY)
    page.wait_for_timeout(1000)
    page.wait_for_function(
        "() => waiting === 0 && !document.querySelector('main').innerText.includes('reading it')",
        polling=100,
        timeout=300_000,
    )
    first = time.perf_counter() - started
    page.locator(".qkv-stage canvas").first.focus()
    rng, jumps = random.Random(0), []
    for _ in range(JUMPS):
        x = rng.uniform(0.12, 0.95)
        jump = [x, rng.uniform(x, 0.97), -rng.uniform(200, 4500)]
        jumps.append(page.evaluate(JUMP, jump) / 1e3)
    found: dict[str, Any] = {"all_of_it_s": first, "jump": Timing(jumps).to_json()}
    found["page_mb"] = _renderer_mb()
    found["server_mb"] = _memory_mb(served.process.pid, "VmHWM")
    return {name: value for name, value in found.items() if value is not None}


def _write_traces(place: Path) -> None:
    """A trace of 144 heads, and one head of a text that no table could hold."""
    import torch

    from qkv.attention import Causal, attend
    from qkv.lens import capture

    torch.manual_seed(0)
    for name, layers, heads, tokens in (("heads", LAYERS, HEADS, T), ("long", 1, 1, LONG)):
        with torch.inference_mode(), capture() as trace:
            for _ in range(layers):
                q, k = (torch.randn(1, heads, tokens, C) for _ in range(2))
                attend(q, k, k, mask=Causal())
        trace.save(place / f"{name}.safetensors")


@contextmanager
def _served(place: Path) -> Iterator[Served]:
    started = time.perf_counter()
    command = [sys.executable, "-m", "qkv", "lab", str(place), "--no-browser", "--port", "0"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=place,
        env=users_environment(),
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http\S+", line)
            if found is None:
                raise ConfigError(f"a lab that said {line!r}", "a link", "run `qkv lab` to see why")
            yield Served(found[0], time.perf_counter() - started, process)
        finally:
            process.terminate()


@contextmanager
def _browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise ConfigError("no playwright", "it", "pip install playwright") from error
    found = next(filter(None, map(which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise ConfigError("no Chromium on the PATH", "one", "install chromium")
    with sync_playwright() as playwright:
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox"] if root else []
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def _page(browser: Any, served: Served) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.add_init_script(COUNTING)
    page.goto(served.link)
    page.wait_for_selector(READY)
    yield page
    context.close()


def _memory_mb(process: int, what: str) -> float | None:
    """What Linux says of a process, in MB; none elsewhere."""
    try:
        text = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return None
    return int(re.findall(rf"{what}:\s+(\d+)", text)[0]) / 1e3


def _renderer_mb() -> float | None:
    """The share of memory of the browser's largest page, in MB; none but on Linux."""
    sizes = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"type=renderer" not in (folder / "cmdline").read_bytes():
                continue
            rollup = (folder / "smaps_rollup").read_text(encoding="ascii")
        except OSError:
            continue
        sizes.append(int(re.findall(r"Pss:\s+(\d+)", rollup)[0]) / 1e3)
    return max(sizes, default=None)
