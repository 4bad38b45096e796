"""The compiled kernels: found, chosen, refused where they don't fit, and never needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import qkv.native
from qkv.errors import ConfigError
from qkv.native import VARIABLE, load_kernels, missing
from qkv.native.build import LIBRARY, build, find_compiler, source_hash

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="needs a C++ compiler")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which the library is looked for."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(qkv.native, "HERE", tmp_path)
    qkv.native._open.cache_clear()
    yield tmp_path
    qkv.native._open.cache_clear()


@needs_compiler
def test_what_is_compiled_is_loaded(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build(elsewhere) == elsewhere / LIBRARY
    assert [file.name for file in elsewhere.iterdir()] == [LIBRARY]
    kernels = load_kernels()
    assert kernels is not None
    assert missing() == ""
    monkeypatch.setenv(VARIABLE, "portable")
    chosen = load_kernels()
    assert chosen is not None
    assert chosen.target == "portable"
    monkeypatch.setenv(VARIABLE, "off")
    assert load_kernels() is None
    assert missing() == f"{VARIABLE}=off"


@needs_compiler
def test_an_unknown_choice_is_told(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(elsewhere)
    monkeypatch.setenv(VARIABLE, "altivec")
    with pytest.raises(ConfigError, match=r"QKV_NATIVE=altivec; expected one of off, portable"):
        load_kernels()


def test_without_a_library_there_are_none(elsewhere: Path) -> None:
    assert load_kernels() is None
    assert missing().startswith("not compiled")


def test_what_is_no_library_is_told(elsewhere: Path) -> None:
    (elsewhere / LIBRARY).write_text("not a library")
    assert load_kernels() is None
    assert "can't be loaded" in missing()


@needs_compiler
def test_a_library_of_another_source_is_not_used(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(elsewhere)
    monkeypatch.setattr(qkv.native, "source_hash", lambda: source_hash()[::-1])
    assert load_kernels() is None
    assert "another version" in missing()


@pytest.mark.parametrize("compiler", ["false", "true", "/no/such/compiler --flag", 'c++ "'])
def test_a_compiler_that_fails_leaves_nothing(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(RuntimeError, match=compiler.split(maxsplit=1)[0]):
        build(tmp_path)
    assert list(tmp_path.iterdir()) == []
