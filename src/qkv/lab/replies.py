"""What the lab answers: JSON for structure, binary for numbers, one line for what went wrong."""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from qkv.errors import QkvError, TextError
from qkv.lab.security import TooLargeError

__all__ = ["Json", "RequestError", "broken", "failed", "framed", "read_json", "too_large"]

BINARY = "application/octet-stream"
LOG = logging.getLogger(__name__)


class RequestError(QkvError):
    """A request that says something no page of the lab would."""


class Json(JSONResponse):
    """JSON of ASCII, for names of files needn't be text.

    >>> Json({"name": "\\udce9.gguf"}).body
    b'{"name": "\\\\udce9.gguf"}'
    """

    def render(self, content: Any) -> bytes:
        """Return the bytes of a reply."""
        return json.dumps(content, allow_nan=False).encode("ascii")


def framed(reply: dict[str, Any], parts: Sequence[bytes]) -> Response:
    """Return JSON and numbers in one body.

    Four bytes with the JSON's length, little-endian; the JSON, with the parts' ``lengths``; spaces
    up to a multiple of four; the parts, one after another.

    >>> framed({"kind": "row"}, [bytes(8)]).body[4:36]
    b'{"kind": "row", "lengths": [8]} '
    """
    head = json.dumps({**reply, "lengths": [len(part) for part in parts]}, allow_nan=False)
    data = head.encode("ascii")
    data += b" " * (-len(data) % 4)
    return Response(struct.pack("<I", len(data)) + data + b"".join(parts), media_type=BINARY)


async def read_json(request: Request) -> dict[str, Any]:
    """Return the object that a request's body holds.

    Raises:
        RequestError: no JSON object.
    """
    try:
        found = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise RequestError("a body that is no JSON", "an object", "reload the page") from error
    if not isinstance(found, dict):
        raise RequestError(f"a {type(found).__name__}", "an object", "reload the page")
    return found


async def failed(_: Request, error: Exception) -> Response:
    """Answer an error that a user can cause: what was got, what was expected, what to do."""
    assert isinstance(error, QkvError)
    told = {
        "error": str(error),
        "got": error.got,
        "expected": error.expected,
        "remedy": error.remedy,
        "kind": type(error).__name__,
    }
    limit = getattr(error, "limit", None)
    if isinstance(error, TextError) and limit is not None:
        told["limit"] = limit
    return Json(told, status_code=400)


async def too_large(_: Request, error: Exception) -> Response:
    """Answer a body that goes on after the limit."""
    assert isinstance(error, TooLargeError)
    return Json({"error": "a body larger than the lab takes"}, status_code=413)


async def broken(request: Request, error: Exception) -> Response:
    """Answer a fault of our own: by its name alone, for its words may tell what is nobody's.

    The terminal in which the lab runs is told all of it.
    """
    LOG.error("%s %s failed", request.method, request.url.path, exc_info=error)
    told = f"the lab itself failed here ({type(error).__name__}); the rest of it goes on"
    return Json({"error": told}, status_code=500)
