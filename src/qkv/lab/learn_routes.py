"""The routes of the guide: its contents, its pages as HTML, the glossary, and what was read."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from qkv.errors import ConfigError
from qkv.lab.replies import Json, RequestError, read_json
from qkv.lab.rooms import Lab
from qkv.learn.answers import write_number, write_vector
from qkv.learn.exercises import Exercise, read_exercise
from qkv.learn.library import Library, own_library
from qkv.learn.progress import Progress, ProgressError
from qkv.learn.prose import as_html, asked_in, term_ids
from qkv.learn.sheets import Entry

__all__ = ["learn_routes"]


def learn_routes(lab: Lab) -> list[BaseRoute]:
    """Return the routes: contents, a section, a page, the glossary, a section that was read."""

    async def contents(_: Request) -> Response:
        return Json(await lab.inside(_contents))

    async def section(request: Request) -> Response:
        return Json(await lab.inside(_section, request.query_params.get("id", "")))

    async def page(request: Request) -> Response:
        return Json(await lab.inside(_page, request.query_params.get("id", "")))

    async def glossary(_: Request) -> Response:
        return Json(await lab.inside(_glossary))

    async def read(request: Request) -> Response:
        name = (await read_json(request)).get("section")
        if not isinstance(name, str) or own_library().find("section", name) is None:
            raise RequestError(f"the section {str(name)[:40]!r}", "one that is", "reload the page")
        # Not among what is run once for all who ask: it changes something.
        await asyncio.to_thread(_keep_read, name, datetime.now(UTC))
        return Json({})

    return [
        Route("/api/learn", contents),
        Route("/api/learn/section", section),
        Route("/api/learn/page", page),
        Route("/api/learn/glossary", glossary),
        Route("/api/learn/read", read, methods=["POST"]),
    ]


def _contents() -> dict[str, Any]:
    library = own_library()
    notice = None
    done: set[str] = set()
    try:
        with Progress() as progress:
            done = {entry.item for entry in progress.entries("read")}
            notice = progress.notice
    except ProgressError as error:  # the guide is there without it
        notice = str(error)
    sections = [
        {"id": entry.id, "title": entry.fields["title"], "short": entry.fields["short"],
         "read": entry.id in done}
        for entry in library.sections
    ]  # fmt: skip
    return {"sections": sections, "pages": _pages(library), "notice": notice}


def _pages(library: Library) -> list[dict[str, str]]:
    """What there is to read besides the sections, in the order in which it's listed."""
    own = [
        {"id": entry.id, "short": entry.fields.get("short", entry.fields["title"])}
        for entry in library.pages
    ]
    lists = [{"id": "glossary", "short": "Glossary"}, {"id": "questions", "short": "Questions"}]
    return [*lists, *own]


@cache
def _section(name: str) -> dict[str, Any]:
    library = own_library()
    entry = library.find("section", name)
    if entry is None:
        known = ", ".join(each.id for each in library.sections)
        raise ConfigError(f"the section {name[:40]!r}", f"one of {known}", "choose one")
    text = entry.parts[0]
    return {
        "id": name,
        "number": library.sections.index(entry) + 1,
        "title": entry.fields["title"],
        "html": as_html(text, terms=term_ids(library)),
        "asks": {asked: _ask(library, asked) for asked in asked_in(text)},
        "exercise": next((e.id for e in library.exercises if e.fields["section"] == name), None),
        "worksheet": entry.fields.get("worksheet"),
        "inspect": entry.fields.get("inspect"),
    }


def _ask(library: Library, name: str) -> dict[str, Any]:
    """A question or a step by hand that a section asks."""
    question = library.find("question", name)
    if question is not None:
        front, back = (as_html(part, terms=term_ids(library)) for part in question.parts)
        return {"kind": "question", "front": front, "back": back}
    entry = library.find("exercise", name)
    assert entry is not None, name  # the library is checked
    exercise = read_exercise(entry)
    return {
        "kind": "exercise",
        "title": exercise.title,
        "front": as_html(entry.parts[0]),
        "given": _given(exercise),
        "place": exercise.place + 1,
        "channels": len(exercise.values[0]),
        "then": {"id": exercise.then, **_ask(library, exercise.then)} if exercise.then else None,
    }


def _given(exercise: Exercise) -> list[list[str]]:
    """Its numbers as they are written: what they are, and they."""

    def rows(found: tuple[tuple[float, ...], ...]) -> str:
        return ", ".join(
            "not given" if row[0] != row[0] else
            write_number(row[0]) if len(row) == 1 else write_vector(row)
            for row in found
        )  # fmt: skip

    given = []
    if exercise.affinities is not None:
        given.append(["scores", ", ".join(map(write_number, exercise.affinities))])
    if exercise.q is not None and exercise.keys is not None:
        given += [["query", rows((exercise.q,))], ["keys", rows(exercise.keys)]]
    return [*given, ["values", rows(exercise.values)]]


@cache
def _page(name: str) -> dict[str, Any]:
    library = own_library()
    terms = term_ids(library)
    if name == "glossary":
        items = [
            {"id": f"term-{term.id}", "title": term.fields["name"], "html": html}
            for term, html in ((term, as_html(term.parts[0], terms=terms)) for term in _by_name())
        ]
        return {"id": name, "title": "Glossary", "items": items}
    if name == "questions":
        items = [
            {"id": faq.id, "title": faq.fields["title"], "html": as_html(faq.parts[0], terms=terms)}
            for faq in library.faqs
        ]
        return {"id": name, "title": "Questions people ask", "items": items}
    entry = library.find("page", name)
    if entry is None:
        known = ", ".join(each["id"] for each in _pages(library))
        raise ConfigError(f"the page {name[:40]!r}", f"one of {known}", "choose one")
    html = as_html(entry.parts[0], terms=terms)
    return {"id": name, "title": entry.fields["title"], "html": html}


def _by_name() -> list[Entry]:
    return sorted(own_library().terms, key=lambda term: str(term.fields["name"]).lower())


@cache
def _glossary() -> dict[str, dict[str, str]]:
    terms = term_ids(own_library())
    return {
        term.id: {"name": term.fields["name"], "html": as_html(term.parts[0], terms=terms)}
        for term in own_library().terms
    }


def _keep_read(section: str, now: datetime) -> None:
    with Progress() as progress:
        if not any(entry.item == section for entry in progress.entries("read")):
            progress.append("read", section, 0, now)
