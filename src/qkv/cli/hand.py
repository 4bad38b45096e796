"""`qkv hand`: one row of attention on paper, checked stage by stage, mistakes named."""

from __future__ import annotations

import secrets
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from qkv.cli.console import counted, lines_of, notice, out, short_path
from qkv.errors import ConfigError, QkvError

if TYPE_CHECKING:
    from qkv.learn.exercises import Exercise
    from qkv.learn.hand import Verdict
    from qkv.learn.progress import Progress

__all__ = ["hand_command"]

TRIES = 2
SEEDS = 1_000_000
SHEET_COUNT = 6
INDENT = "  "


def hand_command(  # noqa: PLR0917 (options have names)
    exercise: Annotated[
        str | None, typer.Argument(help="A worked exercise by its id; --list has them.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Fresh exercises from this seed on.", min=0)
    ] = None,
    count: Annotated[
        int | None, typer.Option(help="How many; until you stop, or 6 on a sheet.", min=1, max=200)
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Print them: a .pdf or .txt with a key at its end."),
    ] = None,
    paper: Annotated[str, typer.Option(help="a4 or letter, for a .pdf.")] = "a4",
    listed: Annotated[bool, typer.Option("--list", help="The worked exercises.")] = False,
    light: Annotated[bool, typer.Option("--light", help="Colours for a light terminal.")] = False,
) -> None:
    """Work attention by hand: each stage is checked, and a wrong number told its mistake.

    The worked exercises come first, then fresh ones without end. To copy:

    [bold]qkv hand[/]

    [bold]qkv hand third-of-four[/]

    [bold]qkv hand --seed 7 --count 3[/]

    [bold]qkv hand --sheet by-hand.pdf --seed 7[/]
    """
    from qkv.learn.exercises import worked_exercises
    from qkv.learn.generation import draw_exercise

    if listed:
        for one in worked_exercises():
            out().print(f"{one.id:<24} {one.title}", markup=False)
        return
    chosen = None if exercise is None else _find(exercise)
    if sheet is not None:
        first = secrets.randbelow(SEEDS) if seed is None else seed
        asked = [draw_exercise(first + at) for at in range(count or SHEET_COUNT)]
        _write(sheet, [chosen] if chosen else asked, paper, first)
        return
    progress = _open_progress()
    try:
        _Round(chosen, seed, count, progress, light=light).run()
    finally:
        if progress is not None:
            progress.close()


def _find(name: str) -> Exercise:
    from qkv.learn.exercises import worked_exercises

    found = next((one for one in worked_exercises() if one.id == name), None)
    if found is None:
        known = ", ".join(one.id for one in worked_exercises())
        raise ConfigError(f"an exercise {name!r}", known, "choose one, or leave it out")
    return found


def _write(file: Path, exercises: list[Exercise], paper: str, seed: int) -> None:
    from qkv.learn.hand_sheet import write_sheet

    write_sheet(file, exercises, paper)
    said = f"{counted(len(exercises), 'exercise')} and a key in {short_path(file)}"
    if exercises[0].seed is not None:
        said += f"; --seed {seed} draws the same again"
    out().print(said, markup=False, soft_wrap=True)


def _open_progress() -> Progress | None:
    """The log, or None where there can be none: exercises can be worked without."""
    from qkv.cli.asking import open_progress

    try:
        return open_progress()
    except QkvError as error:
        notice()(f"Your answers are not kept: {error}")
        return None


class _Round:
    """A dialogue over exercises, one after another."""

    def __init__(
        self,
        chosen: Exercise | None,
        seed: int | None,
        count: int | None,
        progress: Progress | None,
        *,
        light: bool,
    ) -> None:
        from qkv.views.palette import DARK, LIGHT

        self.next, self.seed, self.count, self.progress = chosen, seed, count, progress
        self.palette = LIGHT if light else DARK
        self.met: list[str] = []

    def run(self) -> None:
        """Ask until the person stops, or so many are done."""
        while self.count is None or len(self.met) < self.count:
            exercise = self._choose()
            self.met.append(exercise.id)
            _say("" if len(self.met) == 1 else "\n")
            if not self._work(exercise):
                break
            if self.count is None:
                line = _read("Enter for the next, q to stop")
                if line is None or line.strip().lower() == "q":
                    break
        if self.progress is not None:
            _say(f"\nWhat you did is kept in {self.progress.path}.", style="dim")

    def _choose(self) -> Exercise:
        from qkv.learn.exercises import worked_exercises
        from qkv.learn.generation import draw_exercise
        from qkv.learn.hand_log import next_worked

        if self.next is not None:
            found, self.next = self.next, None
        elif self.seed is not None:
            found, self.seed = draw_exercise(self.seed), self.seed + 1
        else:
            entries = self.progress.entries("hand") if self.progress is not None else ()
            unmet = [one for one in worked_exercises() if one.id not in self.met]
            found = next_worked(unmet, entries) or draw_exercise(secrets.randbelow(SEEDS))
        if found.then:
            self.next = _find(found.then)
        return found

    def _work(self, exercise: Exercise) -> bool:
        """Ask every stage; return whether the person went to the end."""
        from qkv.learn.exercises import stages

        self._show(exercise)
        own: dict[str, tuple[float, ...]] = {}
        first_tries = 0
        for at, stage in enumerate(stages(exercise), 1):
            tries = self._ask(exercise, stage, at, own)
            if tries is None:
                return False
            first_tries += tries == 1
        total = len(stages(exercise))
        _say(f"\nDone: {first_tries} of {total} stages right at the first try.", style="bold")
        _say(f"Every number of it: {_steps_command(exercise)}", style="dim")
        return True

    def _show(self, exercise: Exercise) -> None:
        from qkv.learn.hand_words import introduce

        # Of a seed, so that it can be worked again.
        drawn = "" if exercise.seed is None else f"   --seed {exercise.seed}"
        _say_text(Text.assemble((exercise.title, "bold"), (drawn, "dim")))
        if exercise.story:
            _fold(exercise.story)
        _fold(introduce(exercise))
        _say("")
        for line in _table(exercise, self.palette):
            _say_text(line)
        _say("")
        _fold(
            "Numbers are split by spaces; .33, 1/3, 2/√2, e^1 and -inf are numbers, and two "
            "decimals will do. ? shows a stage, q quits.",
            style="dim",
        )

    def _ask(
        self, exercise: Exercise, stage: str, at: int, own: dict[str, tuple[float, ...]]
    ) -> int | None:
        """Ask one stage until it is done; the tries it took, 0 if not done, None to stop."""
        from qkv.learn.answers import parse_numbers
        from qkv.learn.exercises import count_answers, solve
        from qkv.learn.hand import check
        from qkv.learn.hand_words import STAGE_NAMES, ask_stage

        count, tries, last = count_answers(exercise, stage), 0, None
        _say_text(
            Text.assemble(
                (f"\n{at} {STAGE_NAMES[stage]}", "bold"), f"  {ask_stage(exercise, stage)}"
            )
        )
        while (line := _read(f"{INDENT}{counted(count, 'number')}")) is not None:
            said = line.strip()
            if said.lower() == "q":
                return None
            if said == "?":
                own[stage] = tuple(map(float, solve(exercise)[stage]))
                _say(INDENT + "  ".join(_written(own[stage])))
                return 0
            if not said and last is not None:
                own[stage] = last
                return 0
            if not said:
                _say(
                    f"{INDENT}{counted(count, 'number')}, split by spaces; ? shows, q quits", "dim"
                )
                continue
            try:
                last = parse_numbers(said, count)
            except QkvError as error:
                _fold(f"{str(error)[:1].upper()}{str(error)[1:]}.")
                continue
            tries += 1
            verdict = check(exercise, stage, last, own)
            self._keep(exercise, stage, said, verdict)
            _fold(verdict.says, style="" if verdict.right else "bold")
            if verdict.done:
                own[stage] = last
                return tries
            if tries >= TRIES:
                _fold("? shows this stage; Enter alone goes on with your numbers.", style="dim")
        return None

    def _keep(self, exercise: Exercise, stage: str, answer: str, verdict: Verdict) -> None:
        from qkv.learn.hand_log import keep_answer

        if self.progress is None:
            return
        try:
            keep_answer(self.progress, exercise, stage, answer, verdict, datetime.now(UTC))
        except QkvError as error:
            notice()(f"Your answers are no longer kept: {error}")
            self.progress.close()
            self.progress = None


def _table(exercise: Exercise, palette: Any) -> list[Text]:
    """What is given: a column for each token, or a line where a terminal is too narrow."""
    from qkv.learn.answers import write_number, write_vector

    names = [f"token {at + 1}" for at in range(exercise.tokens)]
    rows = [("", names, "dim")]
    if exercise.q is not None and exercise.keys is not None:
        asking = ["" for _ in names]
        asking[exercise.place] = write_vector(exercise.q)
        rows += [("q", asking, palette.q), ("k", list(map(write_vector, exercise.keys)), palette.k)]
    if exercise.affinities is not None:
        rows.append(("scores", list(map(write_number, exercise.affinities)), ""))
    values = ["_" if value[0] != value[0] else write_vector(value) for value in exercise.values]
    rows.append(("v", values, palette.v))
    wide = max(len(cell) for _, cells, _ in rows for cell in cells) + 2
    first = max(len(name) for name, _, _ in rows) + 2
    if len(INDENT) + first + wide * exercise.tokens > out().width:
        return [
            Text(f"{INDENT}{name} {token}: {cell}", style)
            for name, cells, style in rows[1:]
            for token, cell in zip(names, cells, strict=True)
            if cell
        ]
    return [
        Text(f"{INDENT}{name:<{first}}" + "".join(f"{c:>{wide}}" for c in cells), style)
        for name, cells, style in rows
    ]


def _steps_command(exercise: Exercise) -> str:
    """The command that shows how the exercise is worked."""

    def rows(vectors: tuple[tuple[float, ...], ...]) -> str:
        return "; ".join(
            "_" if v[0] != v[0] else ",".join(f"{number:g}" for number in v) for v in vectors
        )

    parts = ["qkv steps"]
    if exercise.q is not None and exercise.keys is not None:
        parts.append(f'--q "{rows((exercise.q,))}" --k "{rows(exercise.keys)}"')
        if not exercise.scale:
            parts.append("--scale none")
    else:
        assert exercise.affinities is not None
        parts.append(f'--affinities "{rows((exercise.affinities,))}"')
        if exercise.scale and exercise.width is not None:
            parts.append(f"--scale {exercise.width**-0.5:.10g}")
    return " ".join([*parts, f'--v "{rows(exercise.values)}" --token {exercise.place + 1}'])


def _written(numbers: tuple[float, ...]) -> list[str]:
    from qkv.learn.answers import write_number

    return [write_number(number) for number in numbers]


def _fold(words: str, style: str = "") -> None:
    """Say prose in lines of a readable width."""
    width = min(out().width, 76) - len(INDENT)
    for line in lines_of(words.split(), " ", width):
        _say(INDENT + line, style=style)


def _say(words: str, style: str = "", end: str = "\n") -> None:
    out().print(words, style=style, end=end, markup=False, soft_wrap=True)
    sys.stdout.flush()  # who reads a pipe knows at once


def _say_text(text: Text) -> None:
    out().print(text, soft_wrap=True)


def _read(prompt: str) -> str | None:
    """Read a line; None where there are no more."""
    _say(f"{prompt} ▸ ", end="")
    with suppress(UnicodeDecodeError):
        line = sys.stdin.readline()
        if not sys.stdin.isatty():
            _say("")  # nobody pressed Enter there
        return line.rstrip("\n") if line else None
    return ""
