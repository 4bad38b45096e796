"""The page as a file: one piece, escaped, with a policy that fits its own script and style."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from qkv.errors import ResourceError
from qkv.views.html import page, write_html
from qkv.views.payload import Payload


class Reader(HTMLParser):
    """What a parser finds: tags, their attributes, and the text of scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[int, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}", {}))

    def handle_data(self, data: str) -> None:
        place = len(self.tags) - 1
        self.texts[place] = self.texts.get(place, "") + data


@pytest.fixture
def read(payload: Payload) -> Reader:
    reader = Reader()
    reader.feed(page(payload))
    return reader


def of(reader: Reader, tag: str) -> list[tuple[dict[str, str | None], str]]:
    return [
        (attributes, reader.texts.get(place, ""))
        for place, (name, attributes) in enumerate(reader.tags)
        if name == tag
    ]


def test_tokens_and_titles_cannot_break_out(read: Reader, payload: Payload) -> None:
    scripts = of(read, "script")
    kinds = [attributes.get("type") for attributes, _ in scripts]
    assert kinds == ["application/json", "text/plain", "module"]
    header = json.loads(scripts[0][1])
    assert header["texts"][0]["labels"] == payload.header["texts"][0]["labels"]
    assert "<" not in scripts[0][1]
    assert of(read, "title")[0][1].startswith("</title><script>alert(1)</script> · ")


def test_the_policy_allows_its_own_script_and_style_alone(read: Reader) -> None:
    meta = [attributes for attributes, _ in of(read, "meta")]
    policy = next(m["content"] for m in meta if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert rules == {
        "default-src": "'none'",
        "script-src": digest(of(read, "script")[2][1]),
        "style-src": digest(of(read, "style")[0][1]),
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_nothing_is_asked_of_any_other_place(read: Reader, payload: Payload) -> None:
    for tag, attributes in read.tags:
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert tag not in ("img", "iframe", "object", "base", "form")
        assert attributes.get("href", "data:,") == "data:,"
        assert "src" not in attributes
    text = page(payload).replace(of(read, "script")[1][1], "")
    assert not re.search(r"(https?:)?//[a-z]+\.", text)


def test_the_body_is_the_payloads(read: Reader, payload: Payload) -> None:
    assert base64.b64decode(of(read, "script")[1][1]) == payload.body


def test_writing_replaces_the_file_whole(tmp_path: Path, payload: Payload) -> None:
    target = tmp_path / "heads.html"
    target.write_text("old")
    assert write_html(target, payload) == target
    assert target.read_text(encoding="utf-8") == page(payload)
    assert [path.name for path in tmp_path.iterdir()] == ["heads.html"]
    with pytest.raises(ResourceError, match="choose another path"):
        write_html(tmp_path / "missing" / "heads.html", payload)
    with pytest.raises(ResourceError):
        write_html(tmp_path, payload)
    assert [path.name for path in tmp_path.iterdir()] == ["heads.html"]
