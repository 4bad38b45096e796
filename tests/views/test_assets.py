"""The scripts for a browser: no imports, no name twice, everything named comes along."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from qkv.errors import ConfigError
from qkv.views.assets import bundle, color_styles, needs, script, style
from qkv.views.palette import DARK, LIGHT

MODULES = sorted(
    file.name.removesuffix(".js")
    for file in (resources.files("qkv.views") / "web").iterdir()
    if file.name.endswith(".js")
)
# What a module declares at its top: joined modules share these names.
DECLARED = re.compile(
    r"^(?:export )?(?:async )?(?:function|const|let|class) ([A-Za-z_$][\w$]*)", re.MULTILINE
)


def test_names_are_unique_over_all_modules() -> None:
    names = [name for module in MODULES for name in DECLARED.findall(script(module))]
    assert len(names) > 60
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_nothing_and_defines_no_elements(module: str) -> None:
    text = script(module)
    for forbidden in ("customElements", "innerHTML", "document.write", "eval(", "fetch(", "http:"):
        assert forbidden not in text
    assert not re.search(r"^\s*import\b|\bimport\(", text, re.MULTILINE)
    assert len(text.splitlines()) <= 350


def test_a_bundle_holds_what_its_modules_stand_on_in_order() -> None:
    text = bundle("start")
    starts = [text.index(script(name).splitlines()[0]) for name in ("core", "map", "page", "start")]
    assert starts == sorted(starts)
    assert "mountArcs" not in bundle("map")
    assert set(needs("map")) > {"core", "legend"}
    assert not re.search(r"^(import|export) ", text, re.MULTILINE)
    exported = re.findall(r"^export function (\w+)", bundle("map", exports=True), re.MULTILINE)
    assert "mountMap" in exported


def test_a_module_names_all_that_it_stands_on() -> None:
    def all_of(name: str) -> set[str]:
        return {name}.union(*(all_of(other) for other in needs(name)))

    for module in MODULES:
        code = re.sub(r"/\*.*?\*/|//[^\n]*", "", script(module), flags=re.DOTALL)
        for other in set(MODULES) - all_of(module):
            used = [
                name for name in DECLARED.findall(script(other)) if re.search(rf"\b{name}\b", code)
            ]
            assert not used, f"{module} uses {used} of {other}"


def test_the_palette_is_the_only_source_of_colours() -> None:
    for sheet in ("views", "page"):
        assert not re.search(r"#[0-9A-Fa-f]{3,8}\b", style(sheet))
    for module in MODULES:
        assert not re.search(r"[\"'`]#[0-9A-Fa-f]{6}", script(module))
    for palette in (LIGHT, DARK):
        assert palette.q in color_styles()
        assert palette.ramp[4] in bundle("core")


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"no nothing\.js"):
        bundle("nothing")
