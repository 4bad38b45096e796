"""The routes of exercises by hand: which there are, their numbers, verdicts, a sheet to print."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from qkv.lab.replies import Json, RequestError, read_json
from qkv.lab.rooms import Lab
from qkv.learn.answers import AnswerError, parse_number, write_number
from qkv.learn.exercises import Exercise, count_answers, solve, stages, worked_exercises
from qkv.learn.generation import draw_exercise
from qkv.learn.hand import check
from qkv.learn.hand_log import keep_answer, next_worked
from qkv.learn.hand_words import STAGE_NAMES, ask_stage, introduce
from qkv.learn.progress import Progress, ProgressError

__all__ = ["hand_routes"]

SEEDS = 2**31
MOST_ON_A_SHEET = 60


def hand_routes(lab: Lab) -> list[BaseRoute]:
    """Return the routes: the list, an exercise, a verdict, a stage's numbers, a sheet."""

    async def listed(_: Request) -> Response:
        return Json(await asyncio.to_thread(_listed))

    async def exercise(request: Request) -> Response:
        return Json(await lab.inside(_described, dict(request.query_params)))

    async def checked(request: Request) -> Response:
        asked = await read_json(request)
        # It is kept, so it isn't among what `lab.inside` runs once for all who ask.
        return Json(await asyncio.to_thread(_checked, asked, datetime.now(UTC)))

    async def shown(request: Request) -> Response:
        return Json(await lab.inside(_shown, dict(request.query_params)))

    async def printed(request: Request) -> Response:
        return await lab.inside(_printed, dict(request.query_params))

    return [
        Route("/api/hand", listed),
        Route("/api/hand/exercise", exercise),
        Route("/api/hand/check", checked, methods=["POST"]),
        Route("/api/hand/numbers", shown),
        Route("/api/hand/sheet.pdf", printed),
    ]


def _listed() -> dict[str, Any]:
    """The worked exercises, and which of them is next."""
    notice, entries = None, []
    try:
        with Progress() as progress:
            entries, notice = progress.entries("hand"), progress.notice
    except ProgressError as error:  # exercises can be worked without
        notice = str(error)
    following = next_worked(worked_exercises(), entries)
    return {
        "exercises": [
            {"id": one.id, "title": one.title, "section": one.section} for one in worked_exercises()
        ],
        "next": following.id if following else None,
        "notice": notice,
    }


def _chosen(asked: Mapping[str, Any]) -> Exercise:
    """The exercise of an id or a seed.

    Raises:
        RequestError: one that is none.
    """
    name, seed = asked.get("exercise"), asked.get("seed")
    if name is not None:
        for one in worked_exercises():
            if one.id == name:
                return one
        raise RequestError(f"the exercise {str(name)[:40]!r}", "one that is", "choose another")
    with suppress(TypeError, ValueError):
        number = int(str(seed))
        if 0 <= number < SEEDS:
            return draw_exercise(number)
    raise RequestError(f"the seed {str(seed)[:40]!r}", f"0 to {SEEDS - 1}", "choose another")


def _stage(exercise: Exercise, name: object) -> str:
    if name not in stages(exercise):
        known = ", ".join(stages(exercise))
        raise RequestError(f"the stage {str(name)[:40]!r}", known, "reload the page")
    return str(name)


def _shown(asked: dict[str, str]) -> dict[str, Any]:
    found = _chosen(asked)
    return {"numbers": _written(solve(found)[_stage(found, asked.get("stage"))])}


def _described(asked: dict[str, str]) -> dict[str, Any]:
    """What a page is told of an exercise; null is a value that isn't given."""
    exercise, given = _chosen(asked), []
    if exercise.q is not None and exercise.keys is not None:
        asking: list[Any] = [None] * exercise.tokens
        asking[exercise.place] = _written(exercise.q)
        given += [
            {"name": "q", "cells": asking},
            {"name": "k", "cells": [_written(key) for key in exercise.keys]},
        ]
    if exercise.affinities is not None:
        scores = [_written([number]) for number in exercise.affinities]
        given.append({"name": "scores", "cells": scores})
    values = [None if any(map(math.isnan, value)) else _written(value) for value in exercise.values]
    return {
        "id": exercise.id,
        "seed": exercise.seed,
        "title": exercise.title,
        "story": " ".join(exercise.story.split()),
        "introduction": introduce(exercise),
        "tokens": exercise.tokens,
        "place": exercise.place,
        "given": [*given, {"name": "v", "cells": values}],
        "stages": [
            {
                "id": stage,
                "name": STAGE_NAMES[stage],
                "asks": ask_stage(exercise, stage),
                "count": count_answers(exercise, stage),
            }
            for stage in stages(exercise)
        ],
        "then": exercise.then or None,
    }


def _checked(asked: dict[str, Any], now: datetime) -> dict[str, Any]:
    """The verdict on a stage, which is kept; or which answers are no numbers."""
    exercise = _chosen(asked)
    stage = _stage(exercise, asked.get("stage"))
    earlier = asked.get("earlier") or {}
    if not isinstance(earlier, dict):
        raise RequestError("earlier answers that are none", "lists by stage", "reload the page")
    texts = _texts(exercise, stage, asked.get("answers"))
    numbers, unread = _read(texts)
    if unread:
        return {"unread": unread}
    before = {}
    for name, found in earlier.items():
        own, faults = _read(_texts(exercise, _stage(exercise, name), found))
        if not faults:
            before[name] = own
    verdict = check(exercise, stage, numbers, before)
    notice = None
    try:
        with Progress() as progress:
            keep_answer(progress, exercise, stage, " ".join(texts), verdict, now)
    except ProgressError as error:  # the verdict stands without it
        notice = f"Your answer is not kept: {error}"
    return {
        "right": verdict.right,
        "follows": verdict.follows,
        "wrong": list(verdict.wrong_places),
        "mistakes": [{"id": one.id, "name": one.name} for one in verdict.mistakes],
        "says": verdict.says,
        "notice": notice,
    }


def _texts(exercise: Exercise, stage: str, found: object) -> list[str]:
    count = count_answers(exercise, stage)
    if (
        not isinstance(found, list)
        or len(found) != count
        or not all(isinstance(one, str) for one in found)
    ):
        raise RequestError("answers that are none", f"{count} texts", "reload the page")
    return found


def _read(texts: list[str]) -> tuple[list[float], list[dict[str, Any]]]:
    """The numbers that texts say, and what is wrong with those that say none."""
    numbers, unread = [], []
    for at, text in enumerate(texts):
        try:
            numbers.append(parse_number(text))
        except AnswerError as error:
            unread.append({"at": at, "says": f"{error.got} is no number: {error.remedy}"})
    return numbers, unread


def _printed(asked: dict[str, str]) -> Response:
    from qkv.learn.hand_sheet import as_pdf

    first = _chosen({"seed": asked.get("seed")})
    count = asked.get("count", "6")
    # No more digits than that: Python converts 4,300 at most.
    if not count.isdecimal() or len(count) > 9 or not 1 <= int(count) <= MOST_ON_A_SHEET:
        raise RequestError(f"{count[:20]} exercises", f"1 to {MOST_ON_A_SHEET}", "choose fewer")
    assert first.seed is not None
    drawn = [draw_exercise((first.seed + at) % SEEDS) for at in range(int(count))]
    held = {"content-disposition": f'attachment; filename="by-hand-{first.seed}.pdf"'}
    data = as_pdf(drawn, asked.get("paper", "a4"))
    return Response(data, media_type="application/pdf", headers=held)


def _written(numbers: Any) -> list[str]:
    return [write_number(float(number)) for number in numbers]
