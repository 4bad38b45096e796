"""What was asked of a run, as its directory describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qkv.errors import QkvError

__all__ = ["read_about"]

Line = dict[str, Any]


def read_about(path: Path) -> tuple[Line, str]:
    """Return what was asked of a run, and a line where that can't be told."""
    from qkv.models.config import ATTENTION_KINDS
    from qkv.training.rundir import RunDirectory

    try:
        model, training, data = RunDirectory(path).read_config()
    except QkvError as error:
        return {}, str(error)
    about = {
        "model": model.kind,
        "context": model.context,
        "tokens": training.tokens,
        "batch": training.batch,
        "steps": training.steps(model.context),
        "seed": training.seed,
        "probes": training.probes,
        "attention": model.kind in ATTENTION_KINDS,
        **{name: str(data.get(name) or "") for name in ("name", "prompt", "probe")},
    }
    for name in ("layers", "heads", "width"):
        value = getattr(model, name, None)
        about[name] = value if isinstance(value, int) else None
    return about, ""
