"""A folder of lessons: all that is wrong with it is found at once, each with its place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qkv.cli import app
from qkv.errors import QkvError
from qkv.learn.library import CONTENT, check_library, load_library, own_library
from qkv.learn.markdown import asked_in

GOOD = """+++
kind = "section"
id = "mask"
title = "The causal mask"
short = "Mask"
+++
A [query]{.q} looks back. [Causal]{.term} means that.

```figure mask
```

```ask why-mask
```

+++
kind = "question"
id = "why-mask"
section = "mask"
+++
Why?

===

Because.

+++
kind = "card"
id = "why"
section = "mask"
+++
Why?

===

Because.

+++
kind = "term"
id = "causal"
name = "causal"
+++
Without a look ahead.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "course"
    place.mkdir()
    (place / "a.md").write_text(GOOD)
    return place


def test_a_good_folder_is_loaded(folder: Path) -> None:
    library = load_library(folder)
    assert check_library(folder) == []
    assert [entry.id for entry in library.entries()] == ["mask", "why-mask", "why", "causal"]
    found = library.find("question", "why-mask")
    assert found is not None
    assert found.parts[1] == "Because."
    assert library.find("card", "why-mask") is None


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ('kind = "term"', 'kind = "word"', 37, "kind = 'word'"),
        ('title = "The causal mask"\n', "", 1, "without title"),
        ('title = "The causal mask"', "title = 3", 1, "title = 3; expected text"),
        ('short = "Mask"', 'short = "Mask"\ncolour = "red"', 1, "the field 'colour'"),
        ('section = "mask"\n+++\nWhy?', 'section = "masc"\n+++\nWhy?', 15, "the section 'masc'"),
        ("```figure mask", "```figure musk", 9, "the figure 'musk'"),
        ("```ask why-mask", "```ask why-not", 12, "ask 'why-not'"),
        ("[Causal]{.term}", "[Acausal]{.term}", 7, "the term 'Acausal'"),
        ('id = "causal"\nname', 'id = "causal"\nnames', 37, "without name"),
        ("Why?\n\n===\n\nBecause.\n\n+++\nkind = \"card\"", "Why?\n\n+++\nkind = \"card\"", 15,
         "in 1 parts"),
        ("Without a look ahead.", "", 42, "empty"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_with_its_line(
    folder: Path, old: str, new: str, line: int, says: str
) -> None:
    assert old in GOOD
    (folder / "a.md").write_text(GOOD.replace(old, new, 1))
    found = [str(fault) for fault in check_library(folder)]
    assert any(f"a.md:{line}: " in one and says in one for one in found), found
    with pytest.raises(QkvError):
        load_library(folder)


def test_only_what_the_page_shows_as_asked_is_asked(folder: Path) -> None:
    quoted = "~~~\n```ask nothing\n```\n~~~\n\n   ```ask why-not\n   ```"
    (folder / "a.md").write_text(GOOD.replace("```ask why-mask\n```", quoted))
    assert asked_in(quoted) == ["why-not"]
    (fault,) = check_library(folder)
    assert "a.md:17: ask 'why-not'" in str(fault)


@pytest.mark.parametrize(
    ("then", "places"),
    [("a", ["a.md:44"]), ("b", ["a.md:51"]), ("c", []), ("", ["a.md:44"])],
)
def test_exercises_that_lead_back_are_refused(folder: Path, then: str, places: list[str]) -> None:
    steps = {"a": then, "b": "a", "c": None}
    text = GOOD + "\n"
    for name, follows in steps.items():
        text += f'+++\nkind = "exercise"\nid = "{name}"\nsection = "mask"\ntitle = "T"\n'
        text += f'then = "{follows}"\n+++\n' if follows is not None else "+++\n"
    (folder / "a.md").write_text(text)
    found = [str(fault).split(": ")[0].rsplit("/")[-1] for fault in check_library(folder)]
    assert found == places


def test_all_faults_are_told_in_order(folder: Path) -> None:
    (folder / "b.md").write_text(GOOD)
    (folder / "c.md").write_text("hello")
    found = [str(fault) for fault in check_library(folder)]
    assert [one.split(": ")[0].rsplit("/")[-1] for one in found] == [
        "b.md:1", "b.md:15", "b.md:26", "b.md:37", "c.md:1",
    ]  # fmt: skip
    assert "it is at a.md:1" in found[0]


def test_the_command_tells_them_and_ends_with_one(folder: Path) -> None:
    run = CliRunner().invoke(app, ["learn", "check", str(folder)])
    assert (run.exit_code, "1 sections, 1 questions, 1 cards" in run.stdout) == (0, True)
    (folder / "a.md").write_text(GOOD.replace("```figure mask", "```figure musk"))
    run = CliRunner().invoke(app, ["learn", "check", str(folder)])
    assert run.exit_code == 1
    assert "a.md:9: the figure 'musk'" in run.stdout
    empty = folder / "empty"
    empty.mkdir()
    for place, says in ((empty, "no lessons"), (folder / "nowhere", "no folder")):
        run = CliRunner().invoke(app, ["learn", "check", str(place)])
        assert (run.exit_code, says in run.stdout) == (1, True)


def test_our_own_lessons_are_well() -> None:
    assert [str(fault) for fault in check_library(CONTENT)] == []
    assert len(own_library().sections) == 7


def test_none_of_it_loads_torch() -> None:
    code = "import sys, qkv.learn.library as l; l.own_library(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
