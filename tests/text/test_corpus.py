from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkv.errors import ConfigError, ResourceError, TextError
from qkv.text import available_corpora, corpus_from_text, load_corpus


def test_shakespeare_is_found_in_the_data_folder(shakespeare: str) -> None:
    corpus = load_corpus("shakespeare", notice=pytest.fail)
    assert corpus.text == shakespeare
    assert len(corpus.text) == 1_115_394
    assert len(set(corpus.text)) == 65
    assert corpus.sha256 == hashlib.sha256(shakespeare.encode()).hexdigest()
    assert corpus.sha256.startswith("86c4e6aa")
    train, validation = corpus.split()
    assert (len(train), len(validation)) == (1_003_854, 111_540)


@settings(deadline=None)
@given(st.text("abc\n", min_size=1, max_size=99))
def test_split_is_int_of_nine_tenths(text: str) -> None:
    corpus = corpus_from_text("ab" + text)
    train, validation = corpus.split()
    assert train + validation == corpus.text
    assert len(train) == int(len(corpus.text) * 0.9)
    assert corpus.split(0) == (corpus.text, "")


@pytest.mark.parametrize("validation", [-0.1, 1, 90])
def test_split_out_of_range(validation: float) -> None:
    with pytest.raises(ConfigError, match=r"choose 0\.1"):
        corpus_from_text("abc").split(validation)


def test_python_is_always_there() -> None:
    corpus = load_corpus("python", notice=pytest.fail)
    assert corpus.name == "python"
    assert len(corpus.text) > 100_000
    assert "help texts of Python" in corpus.origin


def test_named_corpora_are_described() -> None:
    assert list(available_corpora()) == ["shakespeare", "plays", "python"]
    assert all(line and "\n" not in line for line in available_corpora().values())


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "poem.txt"
    path.write_bytes(b"\xef\xbb\xbfline\r\nnext\r\n")
    corpus = load_corpus(str(path), notice=pytest.fail)
    assert corpus.text == "line\nnext\n"
    assert corpus.name == "poem.txt"
    assert str(path) in corpus.origin
    assert corpus.sha256 == hashlib.sha256(b"line\nnext\n").hexdigest()


def test_a_folder_in_order_of_paths(tmp_path: Path) -> None:
    for name, content in {
        "b.txt": b"second\r\n",
        "a.txt": b"first",
        "z/deep/c.md": b"fourth\n",
        "c.txt": b"third\n",
        "image.png": b"\x89PNG\0",
        "latin.txt": b"caf\xe9",
        "empty.txt": b"",
        ".hidden": b"hidden",
        ".git/config": b"hidden",
    }.items():
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if hasattr(os, "mkfifo"):  # reading it would wait for ever
        os.mkfifo(tmp_path / "texts" / "pipe.txt")
    notices: list[str] = []
    corpus = load_corpus(str(tmp_path / "texts"), notice=notices.append)
    assert corpus.text == "first\n\nsecond\n\nthird\n\nfourth\n"
    assert corpus.name == "texts"
    assert corpus.origin.startswith("4 files of the folder ")
    assert notices == [
        f"{tmp_path / 'texts'}: skipped 4 hidden or binary or unreadable "
        "(.git, .hidden, image.png, latin.txt)"
    ]


@pytest.mark.parametrize(
    "stdin",
    [
        io.BytesIO("é\r\n".encode()),
        io.StringIO("é\r\n", newline=""),
        io.TextIOWrapper(io.BytesIO("é\r\n".encode()), encoding="ascii"),
    ],
    ids=["bytes", "text", "another locale"],
)
def test_standard_input(stdin: io.IOBase) -> None:
    corpus = load_corpus("-", stdin=stdin)  # type: ignore[arg-type]
    assert corpus.text == "é\n"
    assert corpus.name == corpus.origin == "standard input"


def test_standard_input_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"typed")))
    assert load_corpus("-").text == "typed"
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ResourceError, match="standard input that can't be read"):
        load_corpus("-")


def test_a_name_goes_before_a_file_which_a_path_reaches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("python").write_text("my own")
    notices: list[str] = []
    assert load_corpus("python", notice=notices.append).name == "python"
    assert notices == ["python is the named corpus; write ./python for the file of that name"]
    assert load_corpus("./python").text == "my own"


@pytest.mark.parametrize(
    ("content", "got"),
    [
        (b"", "an empty text from file"),
        (b"\xef\xbb\xbf", "an empty text from file"),
        (b"a", "one character, 'a', from file"),
        (b"aaaa", "only 'a', 4 times, from file"),
        (b"ab\0cd", "PATH with a NUL at byte 2"),
        ("text".encode("utf-16"), "PATH with a NUL at byte 3"),
        (b"caf\xe9 au lait", "PATH with no UTF-8 at byte 3"),
    ],
)
def test_files_that_are_no_corpus(tmp_path: Path, content: bytes, got: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(TextError) as error:
        load_corpus(str(path))
    assert str(error.value).startswith("got " + got.replace("PATH", str(path)) + "; expected ")


@pytest.mark.parametrize(
    "source", ["shakespear", "", "no/such/file", "a\0b", "x" * 5000, "~nobody_/x"]
)
def test_what_is_missing_suggests_the_named_corpora(source: str) -> None:
    with pytest.raises(TextError, match="one of shakespeare, plays, python") as error:
        load_corpus(source)
    assert "where there is no file" in str(error.value)
    assert len(str(error.value)) < 500


def test_a_folder_without_text(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="without a text file"):
        load_corpus(str(tmp_path))
    (tmp_path / "picture").write_bytes(b"\0")
    with pytest.raises(TextError, match="without a text file"):
        load_corpus(str(tmp_path))


def test_a_file_that_can_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret.txt"
    path.write_text("secret")

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ResourceError, match=r"can't be read \(Permission denied\)"):
        load_corpus(str(path))
    # In a folder one such file is only skipped; here it is the only one.
    with pytest.raises(TextError, match="without a text file"):
        load_corpus(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("", "an empty text from text"),
        ("a\ud800", "half a surrogate pair at character 1"),
        ("a\0", "a NUL at character 1"),
        ("bb", "only 'b', 2 times"),
    ],
)
def test_a_text_that_is_no_corpus(text: str, got: str) -> None:
    with pytest.raises(TextError, match=got):
        corpus_from_text(text)
