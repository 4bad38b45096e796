"""`qkv practice`: questions answered from memory before the answer opens."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from qkv.errors import ConfigError

__all__ = ["practice_command"]


def practice_command(
    section: Annotated[
        str | None, typer.Option(help="Only those of one section of the guide, by its id.")
    ] = None,
    new: Annotated[
        int | None, typer.Option(help="How many to begin in a day.", min=0, show_default="5")
    ] = None,
    lessons: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Lessons of one's own.", show_default="qkv's"),
    ] = None,
) -> None:
    """Answer questions from memory: type or think, open the answer, grade yourself.

    What you missed comes back soon, what you knew comes back later. To copy:

    [bold]qkv practice[/]

    [bold]qkv practice --section mask --new 10[/]
    """
    from qkv.cli.asking import Dialogue, open_progress, review
    from qkv.learn.library import load_library

    library = load_library(lessons)
    questions = [
        question
        for question in library.questions
        if section is None or question.fields["section"] == section
    ]
    if not questions:
        known = sorted({str(question.fields["section"]) for question in library.questions})
        got = f"no questions of the section {section!r}" if section else "lessons without questions"
        raise ConfigError(got, " or ".join(known) or "some", "choose another")
    titles = {entry.id: str(entry.fields["title"]) for entry in library.sections}
    asked = Dialogue("question", questions, new, "your answer, or only Enter", titles)
    with closing(open_progress()) as progress:
        review(asked, progress)
