"""One self-contained page: a payload, the views, and a policy that lets nothing else in or out."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import html
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from qkv.errors import ResourceError
from qkv.views.assets import bundle, color_styles, style
from qkv.views.payload import Payload

__all__ = ["page", "write_html"]

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="generator" content="qkv">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{styles}</style>
</head>
<body>
<div id="qkv-page"><noscript><p>This page draws attention maps with JavaScript, all of it in this
one file; it loads nothing else. Allow scripts for it to see them.</p></noscript></div>
<script type="application/json" id="qkv-header">{header}</script>
<script type="text/plain" id="qkv-body">{body}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def page(payload: Payload) -> str:
    """The page as text; it needs no network, and its policy forbids it any.

    >>> import numpy as np
    >>> from qkv.lens import AttentionMap
    >>> from qkv.views.payload import of_maps
    >>> head = AttentionMap.of(np.zeros((1, 2)), np.zeros((2, 2)), labels=["</script>", "b"])
    >>> text = page(of_maps([[head]], title="a < b"))
    >>> text.count("</script>"), "<title>a &lt; b · qkv</title>" in text
    (3, True)
    """
    styles, script = color_styles() + style("layout") + style("page"), bundle("start")
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(styles)}'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    title = str(payload.header["title"])
    return _PAGE.format(
        policy=policy,
        title=html.escape(f"{title} · qkv" if title else "attention · qkv"),
        styles=styles,
        header=_json(payload.header),
        body=base64.b64encode(payload.body).decode("ascii"),
        script=script,
    )


def write_html(path: str | os.PathLike[str], payload: Payload) -> Path:
    """Write the page; the file is there whole, or not at all.

    Raises:
        ResourceError: where it can't be written.
    """
    target = Path(path)
    try:
        _replace(target, page(payload).encode("utf-8"))
    except OSError as error:
        raise ResourceError(
            f"{target}: {error.strerror or error}",
            "a folder that can be written to, with room",
            "choose another path",
        ) from error
    return target


def _replace(target: Path, data: bytes) -> None:
    """Write beside the file, then rename: a reader never sees half a page."""
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        # mkstemp makes files for their owner alone; a page is for those a new file is for.
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)
        Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def _json(header: Any) -> str:
    """JSON in ASCII that cannot end a script element: "<" is written as an escape."""
    text = json.dumps(header, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
