"""The routes of the page on which one is examined: what is due, grades, and files to take along."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from qkv.lab import practising
from qkv.lab.practising import Round
from qkv.lab.replies import Json, read_json
from qkv.lab.rooms import Lab

__all__ = ["practice_routes"]


def practice_routes(lab: Lab) -> list[BaseRoute]:
    """Return the routes: what is next, a grade, a suspension, an undo, what is due, downloads."""

    async def next_up(request: Request) -> Response:
        asked = Round.of(request.query_params)
        return Json(await asyncio.to_thread(practising.next_up, asked, _now()))

    # What changes something isn't among what `lab.inside` runs once for all who ask.
    async def graded(request: Request) -> Response:
        body = await read_json(request)
        return Json(await asyncio.to_thread(practising.grade, Round.of(body), body, _now()))

    async def suspended(request: Request) -> Response:
        body = await read_json(request)
        return Json(await asyncio.to_thread(practising.suspend, Round.of(body), body, _now()))

    async def undone(request: Request) -> Response:
        asked = Round.of(await read_json(request))
        return Json(await asyncio.to_thread(practising.undo, asked, _now()))

    async def due(_: Request) -> Response:
        return Json(await asyncio.to_thread(practising.tell, _now()))

    async def downloaded(request: Request) -> Response:
        name, paper = request.path_params["name"], request.query_params.get("paper", "a6")
        content, kind = await lab.inside(practising.download, name, paper, _now())
        held = {"content-disposition": f'attachment; filename="{name}"'}
        return Response(content, media_type=kind, headers=held)

    return [
        Route("/api/practice", next_up),
        Route("/api/practice/due", due),
        Route("/api/practice/grade", graded, methods=["POST"]),
        Route("/api/practice/suspend", suspended, methods=["POST"]),
        Route("/api/practice/undo", undone, methods=["POST"]),
        Route("/api/practice/files/{name}", downloaded),
    ]


def _now() -> datetime:
    return datetime.now(UTC)
