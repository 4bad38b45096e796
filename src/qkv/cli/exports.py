"""The files that `qkv inspect` writes: page, pictures, table, trace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qkv.errors import ConfigError

if TYPE_CHECKING:
    from qkv.lens import Trace
    from qkv.views.gather import Gathered

__all__ = ["Exports", "write_exports"]


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
        if self.save is not None and self.save.suffix != ".safetensors":
            raise ConfigError(
                f"--save {self.save}", "a name that ends in .safetensors", "rename it"
            )


def write_exports(
    exports: Exports, trace: Trace, gathered: Gathered, *, atlas: bool, log: bool, dark: bool
) -> list[tuple[Path, str, str]]:
    """Write the files, each whole or not at all: file, what is in it, and its size in words."""
    from qkv.lens.traces.memory import sized

    chosen = gathered.maps[gathered.telling]
    heads = f"{len(gathered.maps):,} head{'s' * (len(gathered.maps) != 1)}"
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
            what = f"the trace of {len(trace):,} layer{'s' * (len(trace) != 1)}"
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
    # The option says what is written, whatever the file is called.
    write_whole(path, encode_figure(figure, kind))  # type: ignore[arg-type]
