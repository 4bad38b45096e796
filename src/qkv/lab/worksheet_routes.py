"""The routes of the page on which attention is worked by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from qkv.errors import ConfigError
from qkv.lab.replies import Json, read_json
from qkv.lab.rooms import Lab
from qkv.lab.worksheet_copies import as_latex, as_numpy
from qkv.lab.worksheet_examples import examples
from qkv.lab.worksheets import as_it_should_be, read_sheet, work
from qkv.views.worksheet import row_sentence

__all__ = ["worksheet_routes"]

COPIES = {"latex": as_latex, "numpy": as_numpy}


def worksheet_routes(lab: Lab) -> list[BaseRoute]:
    """Return the routes: the worked examples, a worksheet's numbers, copies of it."""

    async def listed(_: Request) -> Response:
        return Json([example.to_json() for example in examples()])

    async def worked(request: Request) -> Response:
        return Json(await lab.inside(_work, await read_json(request)))

    async def copied(request: Request) -> Response:
        asked = await read_json(request)
        kind, sheet = asked.get("kind"), asked.get("sheet")
        if not isinstance(kind, str) or kind not in COPIES or not isinstance(sheet, dict):
            raise ConfigError(f"a copy as {str(kind)[:20]!r}", "latex or numpy", "choose one")
        done = await lab.inside(work, read_sheet(sheet))
        return Json({"text": COPIES[kind](done)})

    return [
        Route("/api/worksheet/examples", listed),
        Route("/api/worksheet", worked, methods=["POST"]),
        Route("/api/worksheet/copy", copied, methods=["POST"]),
    ]


def _work(asked: Mapping[str, Any]) -> dict[str, Any]:
    sheet = read_sheet(asked)
    done, sound = work(sheet), work(as_it_should_be(sheet))
    tables = done.tables
    seen = ~np.isneginf(tables["masked"]) | (tables["exponentials"] > 0)
    if sheet.mask == "after":
        seen &= done.allowed
    sentences = [
        [
            row_sentence(place + 1, tables["pattern"][h, at], seen[h, at], tables["mixed"][h, at])
            for at, place in enumerate(done.places)
        ]
        for h in range(len(tables["pattern"]))
    ]
    usual = sheet.mask == "causal" and done.scale == sound.scale
    return {
        "scale": done.scale,
        "usual_scale": sound.scale,
        "places": list(done.places),
        "allowed": done.allowed.tolist(),
        "tables": {name: _numbers(table) for name, table in tables.items()},
        "output": None if done.output is None else _numbers(done.output),
        "rows": {
            "total": _numbers(done.total),
            "weights": _numbers(done.weights),
            "entropy": _numbers(done.entropy),
            "gradient": _numbers(done.gradient),
        },
        "sound": None
        if usual
        else {"entropy": _numbers(sound.entropy), "gradient": _numbers(sound.gradient)},
        "computed": {
            f"{name}.{h}.{row}.{col}": _numbers(value)
            for (name, h, row, col), value in done.computed.items()
        },
        "sentences": sentences,
    }


def _numbers(found: Any) -> Any:
    """Lists of numbers; what is none, or without end, is null."""
    if isinstance(found, np.ndarray):
        return [_numbers(part) for part in found]
    return float(found) if math.isfinite(found) else None
