"""All that a folder of lessons holds, and what is wrong with it.

Ours lies in `content/`; a course of one's own is a folder of the same format (`qkv.learn.sheets`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

from qkv.learn.markdown import fenced_in
from qkv.learn.sheets import Entry, LessonError, read_sheet

__all__ = ["CONTENT", "FIGURES", "Library", "check_library", "load_library", "own_library"]

CONTENT = Path(__file__).parent / "content"
FIGURES = (
    "direct", "roles", "stages", "root", "mask", "cheat", "shares", "heads", "grow", "parts",
    "ladder",
)  # fmt: skip
"""What the guide's pages can draw."""
MOST_FILES = 500
_TERM = re.compile(r"\[([^\]]+)\]\{([^}]*)\.term([^}]*)\}")
Rule: TypeAlias = tuple[type, bool]


@dataclass(frozen=True)
class Library:
    """Lessons by kind, in the order of their files.

    Args:
        folder: where they lie.
        sections: the guide. Of a section's two-part entries there are none: text and figures.
        questions, cards: fronts and backs.
        exercises: steps to be worked by hand, each followed by the one it names.
        terms: the glossary.
        faqs: questions people ask, and answers to read.
        pages: what else there is to read: a cheat sheet, where to go on.
    """

    folder: Path
    sections: tuple[Entry, ...] = ()
    questions: tuple[Entry, ...] = ()
    cards: tuple[Entry, ...] = ()
    exercises: tuple[Entry, ...] = ()
    terms: tuple[Entry, ...] = ()
    faqs: tuple[Entry, ...] = ()
    pages: tuple[Entry, ...] = ()

    def entries(self) -> Iterator[Entry]:
        """All of them."""
        for kind in KINDS.values():
            yield from getattr(self, kind.plural)

    def find(self, kind: str, name: str) -> Entry | None:
        """Return an entry of a kind by its id, or none."""
        of_kind = getattr(self, KINDS[kind].plural)
        return next((entry for entry in of_kind if entry.id == name), None)


@dataclass(frozen=True)
class Kind:
    """What entries of a kind are called together, and what they must have.

    Args:
        plural: the library's field.
        needed, known: fields of the header with their types.
        parts: how many parts the text has.
    """

    plural: str
    needed: dict[str, type]
    known: dict[str, type]
    parts: int


NUMBERS = {
    "q": list, "keys": list, "affinities": list, "values": list, "token": int, "scale": bool,
    "width": int, "model_width": int, "asks": list, "then": str,
}  # fmt: skip
KINDS = {
    "section": Kind(
        "sections",
        {"title": str, "short": str},
        {"worksheet": str, "kata": str, "inspect": str, "order": int},
        1,
    ),
    "question": Kind("questions", {"section": str}, {"rung": str}, 2),
    "card": Kind("cards", {"section": str}, {"first": bool}, 2),
    "exercise": Kind("exercises", {"section": str, "title": str}, NUMBERS, 1),
    "term": Kind("terms", {"name": str}, {"also": list}, 1),
    "faq": Kind("faqs", {"title": str}, {}, 1),
    "page": Kind("pages", {"title": str}, {"short": str}, 1),
}


def load_library(folder: Path | None = None) -> Library:
    """Return the lessons of a folder, ours unless one is given.

    Raises:
        LessonError: the first thing that is wrong with it; `check_library` finds all.

    >>> library = load_library()
    >>> library.sections[0].id, len(library.sections)
    ('look-back', 7)
    """
    library, faults = _read(folder or CONTENT)
    for fault in faults:
        raise fault
    return library


@cache
def own_library() -> Library:
    """Return the lessons that come with qkv, read once."""
    return load_library()


def check_library(
    folder: Path, checks: tuple[Callable[[Library], list[LessonError]], ...] = ()
) -> list[LessonError]:
    """Return all that is wrong with a folder of lessons, in order of file and line.

    Args:
        checks: further ones, of what entries say.
    """
    library, faults = _read(folder)
    for check in checks:
        faults += check(library)
    return sorted(faults, key=lambda fault: (str(fault.path), fault.line))


def _read(folder: Path) -> tuple[Library, list[LessonError]]:
    if not folder.is_dir():
        fault = LessonError(folder, 1, "no folder", "one with lessons", "check its name")
        return Library(folder), [fault]
    files = sorted(folder.rglob("*.md"))
    if not files:
        fault = LessonError(folder, 1, "no lessons", "*.md files", "write one")
        return Library(folder), [fault]
    if len(files) > MOST_FILES:
        fault = LessonError(folder, 1, f"{len(files)} files", f"at most {MOST_FILES}", "choose one")
        return Library(folder), [fault]
    entries: list[Entry] = []
    faults: list[LessonError] = []
    for path in files:
        try:
            entries += read_sheet(path)
        except LessonError as error:
            faults.append(error)
    good = []
    for entry in entries:
        found = list(_faults_of(entry))
        faults += found
        if entry.kind in KINDS:
            good.append(entry)
    faults += _doubled(good)
    of_kind = {
        kind.plural: tuple(entry for entry in good if entry.kind == name)
        for name, kind in KINDS.items()
    }
    library = Library(folder, **of_kind)
    faults += [*_dangling(library), *_circles(library)]
    return library, faults


def _faults_of(entry: Entry) -> Iterator[LessonError]:
    kind = KINDS.get(entry.kind)
    if kind is None:
        yield entry.wrong(f"kind = {entry.kind!r}", f"one of {', '.join(KINDS)}", "choose one")
        return
    for name, of in kind.needed.items():
        if name not in entry.fields:
            yield entry.wrong(f"{entry.kind} {entry.id!r} without {name}", f"{name} = …", "add it")
        elif not _is(entry.fields[name], of):
            yield _not_a(entry, name, of)
    for name, value in entry.fields.items():
        if name in kind.needed:
            continue
        if name not in kind.known:
            known = ", ".join([*kind.needed, *kind.known])
            yield entry.wrong(f"the field {name!r}", f"one of {known}", "check its name")
        elif not _is(value, kind.known[name]):
            yield _not_a(entry, name, kind.known[name])
    if len(entry.parts) != kind.parts:
        expected = "a front and a back, parted by ===" if kind.parts == 2 else "no ==="
        got = f"{entry.kind} {entry.id!r} in {len(entry.parts)} parts"
        yield entry.wrong(got, expected, "part it so")
    for part, line in zip(entry.parts, entry.starts, strict=True):
        if not part.strip() and entry.kind != "exercise":
            yield entry.wrong(f"{entry.kind} {entry.id!r}, empty", "some words", "write some", line)


def _is(value: object, of: type) -> bool:
    return isinstance(value, of) and not (of is int and isinstance(value, bool))


def _not_a(entry: Entry, name: str, of: type) -> LessonError:
    words = {str: "text", bool: "true or false", int: "a whole number", list: "a list"}[of]
    return entry.wrong(f"{name} = {entry.fields[name]!r}", words, "mend it")


def _doubled(entries: list[Entry]) -> list[LessonError]:
    first: dict[tuple[str, str], Entry] = {}
    faults = []
    for entry in entries:
        other = first.setdefault((entry.kind, entry.id), entry)
        if other is not entry:
            place = f"{other.path.name}:{other.line}"
            got = f"{entry.kind} {entry.id!r} again"
            faults.append(entry.wrong(got, f"an id of its own: it is at {place}", "rename one"))
    return faults


def _dangling(library: Library) -> list[LessonError]:
    """References to what isn't there; a folder without a guide may name our sections."""
    own = {entry.id for entry in library.sections}
    sections = own or {path.stem[3:] for path in (CONTENT / "guide").glob("*.md")}  # 04-mask.md
    faults = []
    for entry in library.entries():
        section = entry.fields.get("section")
        if isinstance(section, str) and section not in sections:
            expected = f"one of {', '.join(sorted(sections))}"
            faults.append(entry.wrong(f"the section {section!r}", expected, "check its id"))
        then = entry.fields.get("then")
        if isinstance(then, str) and library.find("exercise", then) is None:
            faults.append(entry.wrong(f"then = {then!r}", "the id of an exercise", "check it"))
        for part, line in zip(entry.parts, entry.starts, strict=True):
            faults += _dangling_in(library, entry, part, line)
    return faults


def _circles(library: Library) -> Iterator[LessonError]:
    """Exercises that lead back to themselves: whoever works them would never come to an end."""
    exercises = {entry.id: entry for entry in library.exercises}
    met: set[str] = set()
    for entry in library.exercises:
        name, way = entry.id, list[str]()
        while name in exercises and name not in met:
            met.add(name)
            way.append(name)
            name = str(exercises[name].fields.get("then"))
        if name in way:
            expected = "an exercise that doesn't lead back to this one"
            yield exercises[way[-1]].wrong(f"then = {name!r}", expected, "let it end")


def _dangling_in(library: Library, entry: Entry, part: str, start: int) -> Iterator[LessonError]:
    for opened, name, line in fenced_in(part):
        at = start + line - 1
        if opened == "figure" and name not in FIGURES:
            expected = f"one of {', '.join(FIGURES)}"
            yield entry.wrong(f"the figure {name!r}", expected, "choose one", at)
        if opened == "ask" and not any(library.find(k, name) for k in ("question", "exercise")):
            got = f"ask {name!r}"
            yield entry.wrong(got, "the id of a question or an exercise", "check it", at)
    for line, text in enumerate(part.splitlines(), start):
        for term in _TERM.finditer(text):
            name = _named(term)
            if library.terms and not any(_means(each, name) for each in library.terms):
                yield entry.wrong(f"the term {name!r}", "one of the glossary", "add it there", line)


def _named(term: re.Match[str]) -> str:
    """A term's id where one is given, else its words."""
    given = re.search(r"#([\w-]+)", term[2] + term[3])
    return given[1] if given else term[1]


def _means(entry: Entry, name: str) -> bool:
    names = [entry.id, str(entry.fields.get("name", "")), *map(str, entry.fields.get("also", []))]
    return name.lower() in [each.lower() for each in names]
