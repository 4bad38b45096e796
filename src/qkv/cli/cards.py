"""`qkv cards`: flashcards in the terminal, printed, and for Anki; what a person did, exported."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qkv.cli.console import counted, notice, out, short_path
from qkv.cli.options import AsJson
from qkv.errors import ConfigError, ResourceError, TextError

if TYPE_CHECKING:
    from qkv.learn.library import Library
    from qkv.learn.sheets import Entry

__all__ = ["cards"]

cards = typer.Typer(
    name="cards",
    rich_markup_mode="rich",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Lessons = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Lessons of one's own.", show_default="qkv's"),
]
Card = Annotated[str, typer.Argument(metavar="CARD", help="Its id, as `qkv cards list` has it.")]


@cards.callback()
def cards_command(  # noqa: PLR0917
    context: typer.Context,
    print_to: Annotated[
        Path | None,
        typer.Option(
            "--print",
            metavar="FILE.pdf",
            help="Print all cards: question, then answer on its back.",
        ),
    ] = None,
    paper: Annotated[str, typer.Option(help="a6, a4 or letter.")] = "a6",
    anki: Annotated[
        Path | None, typer.Option(metavar="FILE.apkg", help="Write them as a package for Anki.")
    ] = None,
    new: Annotated[
        int | None, typer.Option(help="How many to begin in a day.", min=0, show_default="7")
    ] = None,
    lessons: Lessons = None,
) -> None:
    """Flashcards: review what is due, print them, take them to Anki.

    Think, turn the card over, grade yourself from 1 (again) to 4 (easy).

    A card that is remembered rests longer each time (FSRS). All you do is kept in one file, in
    your data folder or where QKV_PROGRESS says. To copy:

    [bold]qkv cards[/]

    [bold]qkv cards --print cards.pdf --paper a4[/]     on both sides, flipped on the long edge

    [bold]qkv cards --anki qkv.apkg[/]     imported again, it updates and doubles nothing
    """
    if context.invoked_subcommand is not None:
        return
    if print_to is not None or anki is not None:
        _write(_cards(lessons)[1], print_to, paper, anki)
        return
    from qkv.cli.asking import Dialogue, open_progress, review

    library, entries = _cards(lessons)
    titles = {section.id: str(section.fields["title"]) for section in library.sections}
    asked = Dialogue("card", entries, new, "turn", titles)
    with closing(open_progress()) as progress:
        review(asked, progress)


@cards.command("list")
def list_command(as_json: AsJson = False, lessons: Lessons = None) -> None:
    """List the cards: their ids, and when each is due."""
    from qkv.cli.asking import open_progress
    from qkv.cli.console import print_json
    from qkv.learn.prose import as_text
    from qkv.learn.schedule import due

    _, entries = _cards(lessons)
    with closing(open_progress()) as progress:
        log = progress.entries()
    queue = due(log, [card.id for card in entries], datetime.now(UTC), new_a_day=len(entries))
    states = {
        **dict.fromkeys(queue.due + queue.soon, "due"),
        **dict.fromkeys(queue.new, "new"),
        **dict.fromkeys(queue.suspended, "suspended"),
    }
    rows = [
        {"id": card.id, "state": states.get(card.id, "resting"), "front": as_text(card.parts[0])}
        for card in entries
    ]
    if as_json:
        print_json(rows)
        return
    wide = max(len(row["id"]) for row in rows)
    for row in rows:
        line = f"{row['id']:<{wide}}  {row['state']:<9}  {row['front']}"
        out().print(line, markup=False, overflow="ellipsis", no_wrap=True)


@cards.command("undo")
def undo_command() -> None:
    """Undo the last grade, or the last suspension."""
    from qkv.cli.asking import open_progress

    with closing(open_progress()) as progress:
        undone = progress.undo(datetime.now(UTC), kinds=("card", "suspend", "unsuspend"))
    said = "nothing to undo"
    if undone is not None:
        what = f"graded {undone.rating}" if undone.kind == "card" else f"{undone.kind}ed"
        said = f"undone: {undone.item}, {what}"
    out().print(said, markup=False)


@cards.command("suspend")
def suspend_command(card: Card, lessons: Lessons = None) -> None:
    """Take a card out; it isn't asked until it is brought back."""
    _mark("suspend", card, lessons)


@cards.command("unsuspend")
def unsuspend_command(card: Card, lessons: Lessons = None) -> None:
    """Bring a card back."""
    _mark("unsuspend", card, lessons)


@cards.command("export")
def export_command(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", show_default="standard output")
    ] = None,
) -> None:
    """Write all that you did, cards, questions and exercises, as JSON lines."""
    from qkv.cli.asking import open_progress

    with closing(open_progress()) as progress:
        lines = [json.dumps(entry, ensure_ascii=False) for entry in progress.export()]
    text = "".join(f"{line}\n" for line in lines)
    if file is None:
        sys.stdout.write(text)
        return
    _save(file, text.encode())
    notice()(f"{counted(len(lines), 'line')} in {short_path(file)}")


@cards.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As `qkv cards export` wrote it.")],
) -> None:
    """Merge what was exported, here or elsewhere; what is there already isn't doubled."""
    from qkv.cli.asking import open_progress

    with closing(open_progress()) as progress:
        added = progress.import_(_read_lines(file))
    out().print(f"{added} new of what {short_path(file)} holds", markup=False)


def _cards(folder: Path | None) -> tuple[Library, list[Entry]]:
    """Return lessons and their cards in order.

    Raises:
        TextError: there are none.
    """
    from qkv.learn.library import load_library
    from qkv.learn.schedule import in_order

    library = load_library(folder)
    if not library.cards:
        raise TextError(f"{library.folder}, without cards", "one at least", "write one")
    return library, in_order(library.cards)


def _write(entries: list[Entry], pdf: Path | None, paper: str, anki: Path | None) -> None:
    from qkv.learn.anki import export_anki
    from qkv.learn.printing import print_cards

    tell = notice()
    if pdf is not None:
        _save(pdf, print_cards(entries, paper.lower()))
        many = f"{counted(len(entries), 'card')} on {2 * len(entries)} pages"
        tell(f"{many} in {short_path(pdf)}: print on both sides, flip on the long edge")
    if anki is not None:
        _save(anki, export_anki(entries, datetime.now(UTC)))
        tell(f"{counted(len(entries), 'card')} in {short_path(anki)}: open it with Anki")


def _save(file: Path, content: bytes) -> None:
    from qkv.text.fetch import write_atomically

    if file.is_dir() or not file.parent.is_dir():
        raise ConfigError(f"{file}", "the name of a file in a folder that is there", "check it")
    try:
        write_atomically(file, content)
    except OSError as error:
        raise ResourceError(
            f"{error.strerror} for {file}", "a place to write", "check it"
        ) from error


def _mark(kind: str, card: str, lessons: Path | None) -> None:
    from qkv.cli.asking import open_progress

    names = [entry.id for entry in _cards(lessons)[1]]
    if card not in names:
        raise ConfigError(f"the card {card!r}", "the id of one", "see `qkv cards list`")
    with closing(open_progress()) as progress:
        progress.append(kind, card, 0, datetime.now(UTC))
    out().print(f"{card}: {'taken out' if kind == 'suspend' else 'back'}", markup=False)


def _read_lines(file: Path) -> Iterator[dict[str, Any]]:
    try:
        # At "\n" alone: an answer may hold other characters that end lines.
        lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ResourceError(f"{file}: {error}", "a file of JSON lines", "check it") from error
    for number, line in enumerate(lines, 1):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TextError(f"{file}:{number}: no JSON", "an entry a line", "mend it") from error
        if not isinstance(found, dict):
            raise TextError(f"{file}:{number}: no object", "an entry a line", "mend it")
        yield found
