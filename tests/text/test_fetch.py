"""Fetched once, kept, replaced: through a server on this machine alone."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from qkv.errors import ResourceError
from qkv.text import corpus, load_corpus

SHAKESPEARE = "First Citizen:\nBefore we proceed any further, hear me speak.\n"
PLAYS = "HAMLET\n\nWho's there?\n\n\nMACBETH\n\nSo foul and fair a day\n"


@pytest.fixture
def notices() -> list[str]:
    return []


def test_shakespeare_is_fetched_once_then_offline(
    publisher: Any, cache: Path, notices: list[str]
) -> None:
    first = load_corpus("shakespeare", notice=notices.append)
    again = load_corpus("shakespeare", notice=notices.append)
    assert first.text == again.text == SHAKESPEARE
    assert first.name == "shakespeare"
    assert first.origin == "tiny Shakespeare of char-rnn, fetched now"
    assert again.origin == f"tiny Shakespeare of char-rnn, kept in {cache}"
    assert publisher.asked == ["/input.txt"]
    assert [path.name for path in cache.iterdir()] == ["tinyshakespeare.txt"]
    assert notices == []


def test_the_data_folder_goes_before_the_cache_and_the_network(
    publisher: Any, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QKV_DATA_DIR", str(tmp_path))
    (tmp_path / "tinyshakespeare.txt").write_text(SHAKESPEARE)
    assert load_corpus("shakespeare", notice=pytest.fail).origin.endswith(f"kept in {tmp_path}")
    assert publisher.asked == []
    assert not cache.exists()


def test_a_damaged_cache_is_fetched_anew(publisher: Any, cache: Path, notices: list[str]) -> None:
    cache.mkdir()
    kept = cache / "tinyshakespeare.txt"
    kept.write_text(SHAKESPEARE[:20])
    assert load_corpus("shakespeare", notice=notices.append).text == SHAKESPEARE
    assert kept.read_text() == SHAKESPEARE
    assert len(notices) == 1
    assert "tinyshakespeare.txt is damaged or another file" in notices[0]


def test_a_cache_that_can_not_be_written_is_noticed(
    publisher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, notices: list[str]
) -> None:
    # A file where the folder should be refuses even the superuser, as a read-only disk does.
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("QKV_CACHE_DIR", str(tmp_path / "file" / "cache"))
    assert load_corpus("shakespeare", notice=notices.append).text == SHAKESPEARE
    assert len(notices) == 1
    assert "can't be kept in" in notices[0]
    assert notices[0].endswith("set QKV_CACHE_DIR")


def test_a_failed_rename_leaves_no_temporary_file(
    publisher: Any, cache: Path, monkeypatch: pytest.MonkeyPatch, notices: list[str]
) -> None:
    def refuse(self: Path, target: Path) -> Path:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "replace", refuse)
    assert load_corpus("shakespeare", notice=notices.append).text == SHAKESPEARE
    assert "(Read-only file system)" in notices[0]
    assert list(cache.iterdir()) == []


def test_the_user_cache_is_used_by_default(
    publisher: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import platformdirs

    monkeypatch.delenv("QKV_CACHE_DIR")
    monkeypatch.setattr(
        platformdirs, "user_cache_dir", lambda name, **_: str(tmp_path / f"user-{name}")
    )
    load_corpus("shakespeare")
    assert (tmp_path / "user-qkv" / "tinyshakespeare.txt").read_text() == SHAKESPEARE


def test_another_text_at_the_publisher_is_not_taken(
    publisher: Any, index: Any, cache: Path, notices: list[str]
) -> None:
    publisher.pages["/input.txt"] = "text/plain", b"Please sign in to this network."
    loaded = load_corpus("shakespeare", notice=notices.append)
    assert (loaded.name, loaded.text) == ("plays", PLAYS)
    assert not (cache / "tinyshakespeare.txt").exists()
    assert "taking the corpus plays instead" in notices[0]


def test_a_download_is_bounded(index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "_LIMIT_BYTES", 100)
    with pytest.raises(ResourceError, match="more than 100 bytes"):
        load_corpus("plays")


def test_a_server_that_hangs_is_left_after_the_time_out(
    publisher: Any, index: Any, notices: list[str]
) -> None:
    publisher.hanging.add("/input.txt")
    start = time.monotonic()
    loaded = load_corpus("shakespeare", notice=notices.append, timeout_seconds=1.0)
    assert time.monotonic() - start < 8
    assert loaded.name == "plays"
    assert "(no file from 127.0.0.1 (no answer within 1 s))" in notices[0]


def test_half_a_file_is_not_taken(publisher: Any, index: Any, notices: list[str]) -> None:
    publisher.stalling.add("/input.txt")
    assert load_corpus("shakespeare", notice=notices.append).name == "plays"
    assert len(notices) == 1


def test_without_any_network_the_text_of_python(
    publisher: Any, index: Any, notices: list[str]
) -> None:
    publisher.pages.clear()
    loaded = load_corpus("shakespeare", notice=notices.append)
    assert loaded.name == "python"
    assert notices == [
        "shakespeare can't be fetched (no file from 127.0.0.1 (HTTP status 404)): "
        "taking the corpus plays instead",
        "plays can't be fetched (no file from 127.0.0.1 (HTTP status 404)): "
        "taking the corpus python instead",
    ]


def test_a_python_without_help_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(ResourceError, match="without its help texts"):
        load_corpus("python")
