"""`qkv learn`: the guide in the terminal, and a check of any folder of lessons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qkv.cli.console import out
from qkv.errors import ConfigError

__all__ = ["learn"]

learn = typer.Typer(
    name="learn",
    help="Read the guide in the terminal, or check lessons of your own.",
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@learn.callback(invoke_without_command=True)
def list_sections(context: typer.Context) -> None:
    """List the guide's sections. With figures and questions it is a page of `qkv lab`."""
    if context.invoked_subcommand is not None:
        return
    from qkv.learn.library import own_library

    console = out()
    for at, section in enumerate(own_library().sections, 1):
        console.print(f"  {at}  [bold]{section.fields['title']}[/]  [dim]{section.id}[/]")
    console.print(
        "\n[dim]qkv learn read 3[/] reads one here; [dim]qkv lab[/] shows it with live figures."
    )


@learn.command("read")
def read_command(
    section: Annotated[str, typer.Argument(help="A section's number, or its name.")],
) -> None:
    """Read a section, without its figures.

    [bold]Examples[/]

      qkv learn read 3

      qkv learn read mask
    """
    from rich.markdown import Markdown
    from rich.padding import Padding

    from qkv.learn.library import own_library
    from qkv.learn.prose import as_plain_markdown

    sections = own_library().sections
    numbered = {str(at): one for at, one in enumerate(sections, 1)}
    found = numbered.get(section) or next((one for one in sections if one.id == section), None)
    if found is None:
        names = ", ".join(one.id for one in sections)
        raise ConfigError(f"the section {section!r}", f"1 to {len(sections)}, or {names}", "choose")
    console = out()
    text = f"# {found.fields['title']}\n\n{as_plain_markdown(found.parts[0])}"
    console.print(Padding(Markdown(text), (1, 2)), width=min(console.width, 80))


@learn.command("check")
def check_command(
    folder: Annotated[Path, typer.Argument(help="A folder of lessons: *.md of any depth.")],
) -> None:
    """Say what is wrong with a folder of lessons, with file and line; ends with 1 if anything is.

    [bold]Example[/]

      qkv learn check my-course
    """
    from qkv.learn.library import check_library, load_library
    from qkv.learn.prose import check_prose

    faults = check_library(folder, (check_prose,))
    for fault in faults:
        out().print(str(fault), markup=False, soft_wrap=True)
    if faults:
        raise typer.Exit(1)
    library = load_library(folder)
    counts = [f"{len(list(entries))} {kind}" for kind, entries in _counted(library) if entries]
    out().print(f"All well: {', '.join(counts)}.", soft_wrap=True)


def _counted(library: object) -> list[tuple[str, tuple[object, ...]]]:
    from qkv.learn.library import KINDS

    return [(kind.plural, getattr(library, kind.plural)) for kind in KINDS.values()]
