"""The routes of the page that looks into heads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from qkv.lab.asked import Asked
from qkv.lab.exporting import LARGEST_TABLE, export
from qkv.lab.opened import MOST_SCORED, Opened
from qkv.lab.replies import Json, RequestError, framed, read_json
from qkv.lab.rooms import Lab

__all__ = ["inspect_routes"]

SLOW_CELLS = 2**26
"""From here on a head is pooled once, and its tiles wait for that."""
QUICK_CELLS = 2**28
"""From here on a head's tracks and thumbnail take seconds: pages leave them for later."""
MOST_THUMBNAILS = 64
GONE = 499
"""A status that nobody reads: who asked has gone."""
Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


def inspect_routes(lab: Lab) -> list[BaseRoute]:
    """Return the routes: what there is, a text that is opened, questions about it, effects."""
    inspector = lab.inspector
    limits = {
        "slow": SLOW_CELLS,
        "quick": QUICK_CELLS,
        "scored": MOST_SCORED,
        "table": LARGEST_TABLE,
    }

    async def items(_: Request) -> Response:
        return Json(await lab.inside(inspector.catalogue.items))

    async def item(request: Request) -> Response:
        found = await lab.inside(inspector.catalogue.find, request.query_params.get("item", ""))
        return Json(await lab.inside(inspector.describe, found))

    async def opened(request: Request) -> Response:
        asked = Asked.of(await read_json(request))
        found = await lab.inside(inspector.open, asked)
        header, body = found.wire
        told = {"trace": found.name, "tokens": found.tokens, "file": found.file_name}
        return framed({**told, "header": header, "limits": limits}, [body])

    async def question(request: Request) -> Response:
        message = await read_json(request)
        found = inspector.get(message.get("trace"))
        if message.get("kind") == "tile" and _level(message) > 0:
            await pooled(found, str(message.get("head")))
        reply, numbers = await lab.inside(found.answer, message)
        return framed(reply, numbers)

    async def thumbnails(request: Request) -> Response:
        message = await read_json(request)
        found, names = inspector.get(message.get("trace")), message.get("heads")
        if not isinstance(names, list) or len(names) > MOST_THUMBNAILS:
            raise RequestError("heads that are no list", "a few names", "reload the page")
        sizes, parts = await lab.inside(found.thumbnails, names)
        return framed({"sizes": sizes}, parts)

    async def scores(request: Request) -> Response:
        message = await read_json(request)
        found = inspector.get(message.get("trace"))
        return Json(await lab.inside(found.scores))

    async def pooled(found: Opened, name: str) -> None:
        head = found.head(name)
        if head.Q * head.K > SLOW_CELLS:
            await inspector.pyramids.wait((found.name, name), head, lab.inside)

    async def progress(request: Request) -> Response:
        asked = request.query_params
        done = inspector.pyramids.progress((asked.get("trace", ""), asked.get("head", "")))
        return Json({"done": done})

    async def effect(request: Request) -> Response:
        message = await read_json(request)
        asked, before = Asked.of(message), message.get("before")
        if not isinstance(before, dict | None):
            raise RequestError(
                "an effect against nothing", "what was read before", "reload the page"
            )
        other = None if before is None else Asked.of(before)
        return Json(await lab.inside(inspector.effect, asked, other))

    async def exported(request: Request) -> Response:
        asked = request.query_params
        found, against = inspector.get(asked.get("trace")), asked.get("against")
        make = partial(
            export,
            found,
            asked.get("head", ""),
            asked.get("kind", ""),
            log=asked.get("scale") != "linear",
            dark=asked.get("theme") == "dark",
            how="sum" if asked.get("how") == "sum" else "max",
            against=None if against is None else inspector.get(against),
            cell=asked.get("cell"),
            rows=asked.get("rows"),
            cols=asked.get("cols"),
        )
        made = await lab.inside(make)
        headers = {"content-disposition": made.disposition}
        return Response(made.data, media_type=made.media_type, headers=headers)

    return [
        Route("/api/items", items),
        Route("/api/item", item),
        Route("/api/open", _while_there(opened), methods=["POST"]),
        Route("/api/ask", _while_there(question), methods=["POST"]),
        Route("/api/thumbnails", _while_there(thumbnails), methods=["POST"]),
        Route("/api/scores", _while_there(scores), methods=["POST"]),
        Route("/api/progress", progress),
        Route("/api/effect", _while_there(effect), methods=["POST"]),
        Route("/api/export", _while_there(exported)),
    ]


def _level(message: dict[str, Any]) -> int:
    level = message.get("level")
    return level if isinstance(level, int) else 0


def _while_there(handler: Handler) -> Handler:
    """Return a handler that stops, or doesn't begin what it waits for, when who asked has gone."""

    async def handle(request: Request) -> Response:
        await request.body()
        working = asyncio.ensure_future(handler(request))
        leaving = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            return await working if working.done() else Response(None, GONE)
        finally:
            leaving.cancel()
            working.cancel()

    return handle


async def _gone(request: Request) -> None:
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            return
