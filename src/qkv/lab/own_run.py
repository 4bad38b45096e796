"""How the model that comes with qkv was trained, as a run to look at where there is no other."""

from __future__ import annotations

from pathlib import Path

from qkv.lab.curves import Curve, number
from qkv.lab.runs import Run

__all__ = ["OwnRun"]


class OwnRun(Run):
    """The timeline of the model that comes with qkv, so that there is always one to look at."""

    def __init__(self) -> None:
        super().__init__(Path())
        self._files = []

    def follow(self) -> None:
        """Read it once: it does not change."""
        if self._last:
            return
        from qkv.models.embedded import embedded_notes
        from qkv.training.probe_archive import embedded_timeline

        notes = embedded_notes()
        timeline = embedded_timeline()
        lines = timeline.lines
        kept = set(timeline.steps())
        steps = lines[-1]["step"]
        self._curve = Curve(0)
        for line in lines:
            if line["step"] in kept:
                self._take_probe(line)
            loss = number(line.get("loss"))
            if loss is not None:
                self._curve.add(line["step"], loss)
        self._last = {"step": steps, "steps": steps, "tokens": lines[-1].get("tokens") or 0}
        told = ("name", "prompt", "probe")
        self.about = {name: str(notes.get(name) or "") for name in told}
        self.about["model"] = "transformer"
        self._standing = ("finished", "")
