"""The live display of a ladder: the rungs done, the rung under way, the time left."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from qkv.cli.console import count, duration

if TYPE_CHECKING:
    from qkv.training.ladder import Plan, RungResult
    from qkv.training.run import Data

__all__ = ["LadderProgress"]


class LadderProgress:
    """Shows a ladder being climbed: live in a terminal, a line a rung in a file or pipe.

    Args:
        console: where to.
        plan: what is climbed.
        data: for the loss of a uniform guess, the bars' full length.
        expected: seconds for each rung.
    """

    def __init__(self, console: Console, plan: Plan, data: Data, expected: list[float]) -> None:
        self.console, self.plan, self.expected = console, plan, expected
        self.worst = math.log(max(data.tokenizer.size, 2))
        self.done: list[RungResult] = []
        self.current: dict[str, Any] = {}
        self.live = Live(
            console=console, refresh_per_second=8, transient=True, get_renderable=self._render
        )

    def __enter__(self) -> LadderProgress:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def show(self, event: Any) -> None:
        """Take note of an event; the terminal is redrawn on its own time."""
        from qkv.training.ladder import Climbed, Climbing, Started
        from qkv.training.loop import StepReport

        if isinstance(event, Started):
            self.current = {
                "index": event.index,
                "title": event.preset.title,
                "about": event.preset.about,
                "started": time.perf_counter(),
                "steps": event.steps,
                "first": None,
                "report": None,
            }
        elif isinstance(event, Climbing) and isinstance(event.event, StepReport):
            if self.current["first"] is None:
                self.current["first"] = event.event.step - 1
            self.current["report"] = event.event
        elif isinstance(event, Climbed):
            self.done.append(event.result)
            if not self.console.is_terminal:
                result = event.result
                self.console.print(
                    f"{event.index + 1:>2}/{len(self.plan.rungs)} {result.title:<20} "
                    f"loss {result.loss:.3f}  {duration(result.seconds)}",
                    markup=False,
                )

    def _seconds_left(self) -> float:
        """What the rungs to come are expected to take, and the rest of this one."""
        index = self.current.get("index", 0)
        elapsed = time.perf_counter() - self.current.get("started", time.perf_counter())
        this = self.expected[index] - elapsed
        report = self.current.get("report")
        if report is not None and report.step - self.current["first"] > 10:
            steps_done = report.step - self.current["first"]
            this = (report.steps - report.step) * elapsed / steps_done + 0.5
        return max(0.0, this) + sum(self.expected[index + 1 :])

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for justify in ("left", "right", "left", "right"):
            table.add_column(justify=justify)  # type: ignore[arg-type]
        for result in self.done:
            bar = ProgressBar(total=self.worst, completed=result.loss, width=24, complete_style="magenta")
            table.add_row(
                f"[bold]✓[/] {result.title}", f"{result.loss:.3f}", bar, duration(result.seconds)
            )
        return Group(table, self._render_current())

    def _render_current(self) -> Text:
        if not self.current:
            return Text("…")
        line = Text(f"● {self.current['title']}: {self.current['about']}\n", style="bold")
        report = self.current.get("report")
        if report is None:
            return line
        elapsed = max(time.perf_counter() - self.current["started"], 1e-9)
        steps_done = report.step - self.current["first"]
        rate = steps_done * report.tokens / report.step / elapsed
        line.append(
            f"  step {report.step:,}/{report.steps:,}  loss {report.loss:.3f}  "
            f"{count(rate)} tokens/s  {duration(self._seconds_left())} left",
            style="not bold",
        )
        return line
