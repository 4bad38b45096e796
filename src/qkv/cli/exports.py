"""The files that `qkv inspect` writes: page, pictures, table, trace."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qkv.cli.console import counted
from qkv.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from qkv.lens import Trace
    from qkv.views.gather import Gathered

__all__ = ["Exports", "check_page", "write_exports"]

SUFFIXES = {
    "html": (".html", ".htm"),
    "svg": (".svg",),
    "png": (".png",),
    "pdf": (".pdf",),
    "csv": (".csv",),
}
"""What the name of a file may end in, where it ends in anything."""


@dataclass(frozen=True)
class Exports:
    """Which files are wanted, by what goes into them."""

    html: Path | None
    svg: Path | None
    png: Path | None
    pdf: Path | None
    csv: Path | None
    save: Path | None

    def wanted(self) -> dict[str, Path]:
        """Option and file, of those that are wanted."""
        return {name: path for name, path in vars(self).items() if path is not None}

    def check(self) -> None:
        """Raise a ConfigError where a file can't be meant, before any work is done."""
        seen: dict[Path, str] = {}
        for name, path in self.wanted().items():
            if not path.parent.is_dir():
                raise ConfigError(
                    f"--{name} {path}: no folder {path.parent}",
                    "one that is there",
                    "make it first",
                )
            if path.is_dir():
                raise ConfigError(f"--{name} {path}, a folder", "the name of a file", "add one")
            if (other := seen.setdefault(path.resolve(), name)) != name:
                raise ConfigError(
                    f"--{other} and --{name} to one file, {path}", "a file for each", "rename one"
                )
        for name, path in self.wanted().items():
            fitting = SUFFIXES.get(name)
            if fitting and path.suffix and path.suffix.lower() not in fitting:
                raise ConfigError(
                    f"--{name} {path}", f"a name that ends in {fitting[0]}", "rename it"
                )
        if self.save is not None and self.save.suffix != ".safetensors":
            raise ConfigError(
                f"--save {self.save}", "a name that ends in .safetensors", "rename it"
            )


def check_page(tokens: int, layers: int, heads: int) -> None:
    """Raise a ResourceError where so many heads of a text are too much for one page.

    Args:
        tokens: of the text.
        layers: that are to be written.
        heads: of each of these.
    """
    from qkv.views.payload import LARGEST_CELLS

    most = 2 * LARGEST_CELLS
    if (every := layers * heads) * tokens**2 > most:
        fewer = ""
        if layers > 1 and heads * tokens**2 <= most:
            fewer = "--layer for one layer, or "
        elif every > 1 and tokens**2 <= most:
            fewer = f"{'--layer and ' if layers > 1 else ''}--head for one head, or "
        raise ResourceError(
            f"--html of {counted(every, 'head')} with {counted(tokens, 'token')} each",
            f"at most {most / 1e6:,.0f} million weights on a page",
            f"add {fewer}--tokens {math.isqrt(most // every)} for the start of the text",
        )


def write_exports(
    exports: Exports, trace: Trace, gathered: Gathered, *, atlas: bool, log: bool, dark: bool
) -> list[tuple[Path, str, str]]:
    """Write the files, each whole or not at all: file, what is in it, and its size in words."""
    from qkv.lens.traces.memory import sized

    chosen = gathered.maps[gathered.telling]
    heads = counted(len(gathered.maps), "head")
    written = []
    for name, path in exports.wanted().items():
        what = heads
        if name == "html":
            from qkv.views.html import write_html

            write_html(path, gathered.payload())
        elif name == "csv":
            from qkv.views.sheet import write_whole

            assert gathered.table is not None
            write_whole(path, gathered.table.to_csv().encode("utf-8"))
            what = f"every score of {heads}"
        elif name == "save":
            trace.save(path)
            what = f"the trace of {counted(len(trace), 'layer')}"
        else:
            _draw(path, name, gathered, atlas=atlas, log=log, dark=dark)
            what = heads if atlas else chosen.name
        written.append((path, what, sized(path.stat().st_size)))
    return written


def _draw(path: Path, kind: str, gathered: Gathered, *, atlas: bool, log: bool, dark: bool) -> None:
    from qkv.views.atlas import draw_atlas
    from qkv.views.figure import draw_head
    from qkv.views.heads import spoken_score
    from qkv.views.sheet import encode_figure, write_whole

    assert gathered.table is not None
    if atlas:
        captions = {row.name: row.role for row in gathered.table if row.role not in ("", "mixed")}
        figure = draw_atlas(
            gathered.maps.values(), log=log, dark=dark, marked=gathered.telling, captions=captions
        )
    else:
        said = spoken_score(gathered.table[gathered.telling])
        figure = draw_head(gathered.maps[gathered.telling], log=log, dark=dark, subtitle=said)
    # The option says what is written, also into a file without a suffix.
    write_whole(path, encode_figure(figure, kind))  # type: ignore[arg-type]
