"""What a page loads: the shell, modules, style sheets and fonts. Nothing comes from elsewhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path

from starlette.responses import Response

from qkv.lab.fonts import FACES, font_styles, has_cut, read_font
from qkv.views.assets import bundle, color_styles, style

__all__ = ["Assets"]

TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".woff": "font/woff",
    ".ttf": "font/ttf",
    ".svg": "image/svg+xml",
}
WEB = resources.files("qkv.lab") / "web"
VIEWS = ("page", "arcs", "atlas", "table", "why")
"""Modules of the views that pages stand on, with all that these need."""


class Assets:
    """Files by name; made when they are first asked for, and known to a browser by their hash."""

    def __init__(self) -> None:
        self._makers: dict[str, Callable[[], bytes]] = {
            "views.js": lambda: bundle(*VIEWS, exports=True).encode(),
            "colors.css": lambda: color_styles().encode(),
            "layout.css": lambda: style("layout").encode(),
            "fonts.css": lambda: font_styles().encode(),
            "plotly.js": _read_plotly,
            **{face.file: (lambda face=face: read_font(face)) for face in FACES},  # type: ignore[misc]
        }
        for file in WEB.iterdir():
            if Path(file.name).suffix in TYPES:
                self._makers[file.name] = file.read_bytes
        self._made: dict[str, tuple[bytes, str]] = {}

    def reply_page(self) -> Response:
        """Return the shell that every page lives in."""
        text = (WEB / "index.html").read_text(encoding="utf-8")
        return Response(text, media_type="text/html; charset=utf-8")

    def takes_long(self, name: str) -> bool:
        """Return whether an asset has to be made first, for a second of work."""
        face = next((face for face in FACES if face.file == name), None)
        return face is not None and name not in self._made and not has_cut(face)

    def reply(self, name: str, headers: Mapping[str, str]) -> Response:
        """Return an asset, or only that it is as it was; 404 where there is none."""
        if name not in self._makers:
            return Response(json.dumps({"error": f"no {name}"}), 404)
        if name not in self._made:
            data = self._makers[name]()
            self._made[name] = data, f'"{hashlib.sha256(data).hexdigest()[:32]}"'
        data, tag = self._made[name]
        told = {"etag": tag, "cache-control": "no-cache"}
        if headers.get("if-none-match") == tag:
            return Response(None, 304, told)
        return Response(data, 200, told, media_type=TYPES[Path(name).suffix])


@cache
def _read_plotly() -> bytes:
    return (resources.files("plotly") / "package_data" / "plotly.min.js").read_bytes()
