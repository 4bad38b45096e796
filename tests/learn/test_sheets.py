"""The one format of lessons: read as it is documented, refused with the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from qkv.learn.sheets import Entry, LessonError, read_sheet

CARD = """+++
kind = "card"
id = "causal"
section = "mask"
first = true
+++
What does *causal* mean?

===

No token is influenced by a later one.
"""


@pytest.fixture
def read(tmp_path: Path) -> object:
    def of(text: str | bytes) -> list[Entry]:
        path = tmp_path / "lesson.md"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_sheet(path)

    return of


def test_an_entry_has_header_parts_and_lines(read) -> None:  # type: ignore[no-untyped-def]
    (card,) = read(CARD)
    assert (card.kind, card.id, card.fields) == (
        "card", "causal", {"section": "mask", "first": True},
    )  # fmt: skip
    assert card.parts == ("What does *causal* mean?", "No token is influenced by a later one.")
    assert (card.line, card.starts) == (1, (7, 11))


def test_a_file_has_many_in_order(read) -> None:  # type: ignore[no-untyped-def]
    found = read("\n\n" + CARD + CARD.replace("causal", "other") + "\n")
    assert [(one.id, one.line) for one in found] == [("causal", 3), ("other", 14)]
    assert found[1].parts[0] == "What does *other* mean?"


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_line_ends_and_marks_do_not_matter(read, ends: str) -> None:  # type: ignore[no-untyped-def]
    plain = read(CARD)
    again = read(b"\xef\xbb\xbf" + CARD.replace("\n", ends).encode())
    assert [(one.fields, one.parts, one.line) for one in again] == [
        (one.fields, one.parts, one.line) for one in plain
    ]


def test_code_keeps_what_looks_like_a_part(read) -> None:  # type: ignore[no-untyped-def]
    text = CARD.replace("What does", "```text\n===\n```\nWhat does")
    (card,) = read(text)
    assert len(card.parts) == 2
    assert "===" in card.parts[0]


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("hello\n" + CARD, 1, "a header"),
        ("\n\nhello", 3, "a header"),
        (CARD + "+++\nkind = 'card'\n", 12, "no end"),
        (CARD.replace('id = "causal"', "id = causal"), 3, "TOML"),
        (CARD.replace('id = "causal"', 'id = "causal'), 3, "TOML"),
        (CARD.replace('id = "causal"\n', ""), 1, "no id"),
        (CARD.replace('"causal"', '"Causal mask"'), 1, 'id = "words-and-dashes"'),
        (CARD.replace('"card"', "7"), 1, "kind = 7"),
        (b"+++\nkind='card'\nid='a'\n+++\n\xff", 5, "UTF-8"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(read, text, line: int, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LessonError) as error:
        read(text)
    assert f"lesson.md:{line}: " in str(error.value)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(LessonError, match=r"none\.md:1: No such file"):
        read_sheet(tmp_path / "none.md")
    assert read_sheet_of(tmp_path, "") == []


def read_sheet_of(folder: Path, text: str) -> list[Entry]:
    path = folder / "some.md"
    path.write_text(text)
    return read_sheet(path)
