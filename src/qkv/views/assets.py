"""The views' files for a browser: JavaScript modules without imports, joined, and style sheets.

A module names what it stands on in a line "// needs: …", and imports nothing: an anywidget is
loaded from a blob, where relative imports fail. All exported names differ, so joined modules are
one module. Colours come from `palette`, their one source.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from functools import cache
from importlib import resources

from qkv.errors import ConfigError
from qkv.views.palette import DARK, LIGHT

__all__ = ["bundle", "color_styles", "script", "style"]

_NEEDS = re.compile(r"^// needs: (.+)$", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:const|let|function|class)\b)", re.MULTILINE)


def script(name: str) -> str:
    """One module's text, such as "map".

    Raises:
        ConfigError: where there is no such module.
    """
    return _read(f"{name}.js")


def style(name: str) -> str:
    """One style sheet's text: "views", what every view adopts, "layout" or "page".

    Raises:
        ConfigError: where there is no such sheet.
    """
    return _read(f"{name}.css")


@cache
def _read(name: str) -> str:
    file = resources.files("qkv.views") / "web" / name
    if not file.is_file():
        raise ConfigError(f"no {name} among the views' files", "such as map.js", "correct the name")
    return file.read_text(encoding="utf-8")


def needs(name: str) -> tuple[str, ...]:
    """The modules that one stands on, directly.

    >>> needs("legend")
    ('core', 'maptiles')
    """
    line = _NEEDS.search(script(name))
    words = line[1].split(", ") if line else []
    return tuple(word for word in words if re.fullmatch(r"[a-z]+", word))


def bundle(*names: str, exports: bool = False) -> str:
    """Modules and all that they stand on, as the text of one module without imports.

    Args:
        names: such as "map", "arcs", "atlas", "page".
        exports: whether it exports what they do.

    Raises:
        ConfigError: where there is no such module.

    >>> "mountMap" in bundle("map"), "mountArcs" in bundle("map")
    (True, False)
    """
    order: list[str] = []

    def place(name: str) -> None:
        for other in needs(name):
            if other not in order:
                place(other)
        if name not in order:
            order.append(name)

    for name in names:
        place(name)
    palettes = json.dumps({"light": asdict(LIGHT), "dark": asdict(DARK)})
    parts = [
        f"const qkvPalettes = {palettes};\nconst qkvViewStyles = {json.dumps(style('views'))};\n"
    ]
    parts += [script(name) if exports else _EXPORT.sub("", script(name)) for name in order]
    return "\n".join(parts)


def color_styles() -> str:
    """The palette as custom properties of :root, for both themes, before any script has run."""

    def listed(theme: str) -> str:
        palette = LIGHT if theme == "light" else DARK
        colors = {n: c for n, c in asdict(palette).items() if n not in ("ramp", "fall")}
        return "".join(f"--qkv-{name}: {color}; " for name, color in colors.items())

    line = "--qkv-line: color-mix(in srgb, var(--qkv-ink) 13%, var(--qkv-paper));"
    return (
        f":root {{ color-scheme: light dark; {listed('light')}{line} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {listed('dark')}}} }}\n"
        f':root[data-theme="light"] {{ color-scheme: light; {listed("light")}}}\n'
        f':root[data-theme="dark"] {{ color-scheme: dark; {listed("dark")}}}\n'
    )
