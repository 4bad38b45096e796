"""The lab's application: pages, assets and the rooms' routes behind one guard."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from qkv.errors import QkvError
from qkv.lab.assets import Assets
from qkv.lab.figure_routes import figure_routes
from qkv.lab.hand_routes import hand_routes
from qkv.lab.inspect_routes import inspect_routes
from qkv.lab.learn_routes import learn_routes
from qkv.lab.practice_routes import practice_routes
from qkv.lab.replies import broken, failed, too_large
from qkv.lab.rooms import Lab
from qkv.lab.security import Guard, TooLargeError
from qkv.lab.train_routes import train_routes
from qkv.lab.worksheet_routes import worksheet_routes

__all__ = ["create_app"]

POLL_S = 0.05
PAGES = ("/", "/inspect", "/learn", "/practice", "/train", "/worksheet")


def create_app(lab: Lab) -> Guard:
    """Return the guarded application."""
    assets = Assets()

    async def page(_: Request) -> Response:
        return assets.reply_page()

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if not assets.takes_long(name):
            return await lab.inside(assets.reply, name, request.headers)
        # The head that is looked at comes first: pages do without the font meanwhile.
        while not lab.warm.is_set():
            await asyncio.sleep(POLL_S)
        return await lab.aside(assets.reply, name, request.headers)

    routes = [
        *(Route(path, page) for path in PAGES),
        Route("/assets/{name}", asset),
        *figure_routes(lab),
        *hand_routes(lab),
        *inspect_routes(lab),
        *learn_routes(lab),
        *practice_routes(lab),
        *train_routes(lab),
        *worksheet_routes(lab),
    ]
    handlers: dict[Any, Any] = {QkvError: failed, TooLargeError: too_large, Exception: broken}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    packed = GZipMiddleware(app, minimum_size=1024, compresslevel=4)
    return Guard(packed, lab.keys, lab.hosts, lab.root_path)
