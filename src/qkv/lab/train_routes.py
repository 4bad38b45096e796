"""The routes of the page that trains: runs, recipes, starting and stopping, and what is live."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from qkv.errors import ConfigError
from qkv.lab.following import Following
from qkv.lab.jobs import BusyError, Job, Jobs
from qkv.lab.live import Live
from qkv.lab.offers import Offers
from qkv.lab.replies import Json, read_json
from qkv.lab.rooms import Lab, Threads
from qkv.lab.wanted import Wanted

__all__ = ["train_routes"]

LOOKERS = 2
"""Threads for looking at runs: what a model reads in others must not hold them up."""


def train_routes(lab: Lab) -> list[BaseRoute]:
    """Return the routes: what runs, what may be trained, what to do with a run, the WebSocket."""
    jobs = Jobs(lab.runs)
    following = Following(lab.shelf, jobs)
    offers = Offers(lab.shelf)
    look = Threads(LOOKERS)
    live = Live(following, look)

    async def runs(_: Request) -> Response:
        return Json(await look(following.listing))

    async def presets(_: Request) -> Response:
        return Json(await look(offers.presets))

    async def estimate(request: Request) -> Response:
        try:
            await look(following.require_idle)
        except BusyError:  # it would be timed wrongly, and hold the other up
            return Json({"seconds_a_token": None})
        cost = await lab.inside(offers.seconds_a_token, request.query_params.get("preset", ""))
        return Json({"seconds_a_token": cost})

    async def start(request: Request) -> Response:
        wanted = await look(offers.check, Wanted.of(await read_json(request)))
        if not wanted.beside:
            await look(following.require_idle)
        done = await look(jobs.start, wanted)
        return Json({"id": following.id_of(done)})

    def take_up(job: Job, beside: bool) -> Job:
        if not beside and not jobs.is_running(job):
            following.require_idle()
        return jobs.resume(job, beside=beside)

    def act(do: Callable[[Job, bool], Job]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            asked = await read_json(request)
            job = await look(following.find_job, asked.get("item"))
            if job is None:
                raise ConfigError(
                    f"{str(asked.get('item'))[:80]!r}, which the lab did not start",
                    "one that it did",
                    "stop it where it was started",
                )
            done = await look(do, job, asked.get("beside") is True)
            return Json({"id": following.id_of(done)})

        return endpoint

    pause = act(lambda job, _: jobs.pause(job))
    resume = act(take_up)
    stop = act(lambda job, _: jobs.stop(job))

    def put_away(job: Job, _: bool) -> Job:
        jobs.remove(job)
        return job

    remove = act(put_away)
    return [
        Route("/api/runs", runs),
        Route("/api/presets", presets),
        Route("/api/estimate", estimate),
        Route("/api/start", start, methods=["POST"]),
        Route("/api/pause", pause, methods=["POST"]),
        Route("/api/remove", remove, methods=["POST"]),
        Route("/api/resume", resume, methods=["POST"]),
        Route("/api/stop", stop, methods=["POST"]),
        WebSocketRoute("/api/live", live.serve),
    ]
