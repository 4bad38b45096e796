"""The live display of a ladder: the rungs done, the rung under way, the time left."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from qkv.cli.console import count, duration

if TYPE_CHECKING:
    from qkv.training.ladder import Climbed, Climbing, Plan, RungResult, Started
    from qkv.training.loop import StepReport
    from qkv.training.run import Data

__all__ = ["LadderProgress"]


@dataclass
class _Current:
    """The rung under way; ``first`` is the step it was taken up from, in this process."""

    index: int
    title: str
    about: str
    started: float
    first: int | None = None
    report: StepReport | None = None

    @property
    def steps_done(self) -> int:
        return self.report.step - (self.first or 0) if self.report else 0


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
        self.current: _Current | None = None
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

    def show(self, event: Started | Climbing | Climbed) -> None:
        """Take note of an event; the terminal is redrawn on its own time."""
        from qkv.training.ladder import Climbed, Started
        from qkv.training.loop import StepReport

        if isinstance(event, Started):
            preset = event.preset
            self.current = _Current(event.index, preset.title, preset.about, time.perf_counter())
        elif isinstance(event, Climbed):
            self.done.append(event.result)
            if not self.console.is_terminal:
                result = event.result
                self.console.print(
                    f"{event.index + 1:>2}/{len(self.plan.rungs)} {result.title:<20} "
                    f"loss {result.loss:.3f}  {duration(result.seconds)}",
                    markup=False,
                )
        elif self.current is not None and isinstance(event.event, StepReport):
            if self.current.first is None:
                self.current.first = event.event.step - 1
            self.current.report = event.event

    def _seconds_left(self, current: _Current) -> float:
        """What the rungs to come are expected to take, and the rest of this one."""
        elapsed = time.perf_counter() - current.started
        this = self.expected[current.index] - elapsed
        if current.report is not None and current.steps_done > 10:
            steps_left = current.report.steps - current.report.step
            this = steps_left * elapsed / current.steps_done + 0.5
        return max(0.0, this) + sum(self.expected[current.index + 1 :])

    def _render(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for right in (False, True, False, True):
            table.add_column(justify="right" if right else "left")
        for result in self.done:
            bar = ProgressBar(
                total=self.worst, completed=result.loss, width=24, complete_style="magenta"
            )
            table.add_row(
                f"[bold]✓[/] {result.title}", f"{result.loss:.3f}", bar, duration(result.seconds)
            )
        return Group(table, self._render_current())

    def _render_current(self) -> Text:
        current = self.current
        if current is None:
            return Text("…")
        line = Text(f"● {current.title}: {current.about}\n", style="bold")
        report = current.report
        if report is None:
            return line
        elapsed = max(time.perf_counter() - current.started, 1e-9)
        rate = current.steps_done * report.tokens / report.step / elapsed
        line.append(
            f"  step {report.step:,}/{report.steps:,}  loss {report.loss:.3f}  "
            f"{count(rate)} tokens/s  {duration(self._seconds_left(current))} left",
            style="not bold",
        )
        return line
