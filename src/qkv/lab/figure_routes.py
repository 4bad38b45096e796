"""The routes of the guide's figures, but for what other pages' routes answer already."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from qkv.errors import ConfigError
from qkv.lab.figures import influence, next_token, roles, spread_of_scores
from qkv.lab.replies import Json, RequestError, read_json
from qkv.lab.rooms import Lab

__all__ = ["figure_routes"]


def figure_routes(lab: Lab) -> list[BaseRoute]:
    """Return the routes: spread of scores, roles of q, k and v, the next token, influence."""

    async def root(request: Request) -> Response:
        seed = _seed(request.query_params.get("seed", "0"))
        return Json(await lab.inside(_both, seed))

    async def swapped(request: Request) -> Response:
        asked = await read_json(request)
        text, head = _words(asked, "text"), _words(asked, "head", "")
        return Json(await lab.inside(roles, lab, text, head))

    async def following(request: Request) -> Response:
        asked = await read_json(request)
        text, head = _words(asked, "text"), _words(asked, "head")
        seed = _seed(str(asked.get("seed", 0)))
        return Json(await lab.inside(next_token, lab, text, head, seed))

    async def reach(request: Request) -> Response:
        name = request.query_params.get("item", "")
        return Json(await lab.inside(influence, lab, name))

    return [
        Route("/api/figure/root", root),
        Route("/api/figure/roles", swapped, methods=["POST"]),
        Route("/api/figure/next", following, methods=["POST"]),
        Route("/api/figure/influence", reach),
    ]


def _both(seed: int) -> dict[str, Any]:
    scaled, raw = spread_of_scores(seed)
    return {"scaled": asdict(scaled), "raw": asdict(raw)}


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise ConfigError(f"the seed {text[:20]!r}", "a whole number from 0 up", "type one")
    return int(text)


def _words(asked: dict[str, Any], name: str, default: str | None = None) -> str:
    found = asked.get(name, default)
    if not isinstance(found, str):
        raise RequestError(f"a {name} that is none", "words", "reload the page")
    return found
