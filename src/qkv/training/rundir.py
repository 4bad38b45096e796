"""The run directory is the interface: training writes it, everything else only reads it.

::

    RUN/
      config.json        what was asked: model, training, data, seeds, versions
      tokenizer.json
      metrics.jsonl      a line a step; a line torn by a crash is skipped by readers
      samples.jsonl      texts written along the way
      probes/            what heads looked at, step by step (qkv.training.probe_files)
      status.json        state (running, finished, interrupted, failed), step, process, time
      checkpoints/       step-00000500/ ... (qkv.models.checkpoint)
      lock               held by the process that trains it

Every file is written whole or not at all, but for those that grow a line at a time; they are
flushed to disk before the checkpoint that speaks of them, and cut back to it on resuming.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from qkv.errors import CheckpointError, QkvError, ResourceError
from qkv.models.checkpoint import (
    WRONG_JSON,
    Checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_newest,
    read_training_state,
    save_checkpoint,
    write_atomically,
)
from qkv.models.config import ModelConfig, from_json, to_json
from qkv.models.fields import build
from qkv.text import Tokenizer
from qkv.training.config import TrainingConfig
from qkv.training.lines import LineFile
from qkv.training.locks import locked
from qkv.training.probe_files import ProbeFiles

__all__ = ["RunDirectory"]

LOCK = "lock"
CONFIG, TOKENIZER, STATUS = "config.json", "tokenizer.json", "status.json"


class RunDirectory:
    """One run on disk.

    Args:
        path: its folder; nothing is read or written yet.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._metrics = LineFile(self.path / "metrics.jsonl")
        self._samples = LineFile(self.path / "samples.jsonl")
        self.probes = ProbeFiles(self.path / "probes")

    def exists(self) -> bool:
        """Return whether a run was started here."""
        return (self.path / CONFIG).is_file()

    def require_new(self) -> None:
        """Raise a CheckpointError where the folder holds anything: nothing of it may be lost."""
        if self.exists():
            raise CheckpointError(
                f"a run at {self.path} already",
                "a new folder",
                f"go on with `qkv train --resume {self.path}`, or choose another --out",
            )
        if self.path.is_dir() and any(self.path.iterdir()):
            raise CheckpointError(
                f"other files in {self.path}", "a new or empty folder", "choose another --out"
            )

    def create(
        self,
        model: ModelConfig,
        training: TrainingConfig,
        data: Mapping[str, Any],
        tokenizer: Tokenizer,
    ) -> None:
        """Start a run in a new or empty folder.

        Raises:
            CheckpointError: a run is there already.
            ResourceError: the disk refused.
        """
        self.require_new()
        write_atomically(self.path / TOKENIZER, json.dumps(tokenizer.to_json()) + "\n")
        # Last, since it is what makes the folder a run.
        write_atomically(
            self.path / CONFIG,
            json.dumps(
                {
                    "model": to_json(model),
                    "training": asdict(training),
                    "data": dict(data),
                    "versions": {
                        "python": platform.python_version(),
                        **{name: version(name) for name in ("qkv", "torch", "numpy")},
                    },
                },
                indent=1,
            )
            + "\n",
        )

    def lock(self) -> AbstractContextManager[None]:
        """Hold the run for one process: two that trained it would tear each other's files.

        Raises:
            CheckpointError: on entering, where another process has it.
        """
        return locked(self.path / LOCK)

    def read_config(self) -> tuple[ModelConfig, TrainingConfig, dict[str, Any]]:
        """Return what was asked of the run: model, training, data.

        Raises:
            CheckpointError: no run here, or a damaged config.
        """
        path = self.path / CONFIG
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            described = {**data["data"]}
            for name in ("source", "sha256", "prompt", "device"):
                if not isinstance(described[name], str):
                    raise TypeError(f"{name} is {described[name]!r}")
            if not isinstance(described.get("probe", ""), str):
                raise TypeError(f"probe is {described['probe']!r}")
            return from_json(data["model"]), build(TrainingConfig, data["training"]), described
        except FileNotFoundError:
            raise CheckpointError(
                f"no {CONFIG} in {self.path}",
                "a run directory",
                "start one with `qkv train --out " + str(self.path) + "`",
            ) from None
        except (OSError, *WRONG_JSON) as error:
            reason = error.got if isinstance(error, QkvError) else repr(error)
            raise CheckpointError(
                f"{path}: {reason}", "the file as it was written", "train the run again"
            ) from error

    def read_tokenizer(self) -> Any:
        """Return the tokenizer's JSON.

        Raises:
            CheckpointError: missing or damaged.
        """
        path = self.path / TOKENIZER
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{path}: {error}", "the file as it was written", "train the run again"
            ) from error

    # Lines that grow -----------------------------------------------------------------------

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one line of numbers; ``step`` must be among them."""
        self._metrics.append(line)

    def append_sample(self, line: Mapping[str, Any]) -> None:
        """Add one sample text; ``step`` must be among its fields."""
        self._samples.append(line)

    def metrics(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of numbers, oldest first; a torn last line is left out."""
        return self._metrics.read()

    def samples(self) -> Iterator[dict[str, Any]]:
        """Yield the samples, oldest first."""
        return self._samples.read()

    # Checkpoints ---------------------------------------------------------------------------

    def save(
        self,
        *,
        model: ModelConfig,
        weights: Mapping[str, Tensor],
        training: Mapping[str, Tensor],
        tokenizer: Tokenizer,
        step: int,
        metrics: Mapping[str, Any],
        keep: int,
    ) -> Path:
        """Write a checkpoint and drop all but the newest ``keep``.

        Raises:
            ResourceError: the disk refused; the earlier checkpoints stay.
        """
        if not self.exists():
            raise ResourceError(
                f"no {CONFIG} in {self.path} any more",
                "the run's folder to stay while it is trained",
                "start the run anew, and keep its folder",
            )
        for lines in (self._metrics, self._samples, self.probes):
            lines.flush()
        folder = self._checkpoints / f"step-{step:08d}"
        save_checkpoint(
            folder,
            config=model,
            weights=weights,
            training=training,
            tokenizer=tokenizer,
            step=step,
            metrics=metrics,
        )
        for old in self.checkpoints()[:-keep]:
            # Out of the readers' sight first: a crash must not leave half a checkpoint in it.
            going = old.with_name(f".{old.name}.dropped-{os.getpid()}")
            with contextlib.suppress(OSError):
                old.rename(going)
            shutil.rmtree(going, ignore_errors=True)
        return folder

    def checkpoints(self) -> list[Path]:
        """Return the checkpoint folders, oldest first."""
        return list_checkpoints(self._checkpoints)

    def latest(self) -> Checkpoint:
        """Load the newest checkpoint.

        Raises:
            CheckpointError: no run, none yet, or a damaged one (the one before is named).
        """
        self.read_config()
        return load_newest(self.path)

    def resume(self) -> tuple[Checkpoint, dict[str, Tensor]] | None:
        """Return the newest whole checkpoint with its training state; cut the logs back to it.

        ``None`` where nothing was saved yet: the run then starts from its beginning. What a crash
        left half-written is removed.

        Raises:
            CheckpointError: checkpoints are there, but none can be read.
        """
        self._clean()
        failure: CheckpointError | None = None
        damaged = []
        for folder in reversed(self.checkpoints()):
            try:
                found = load_checkpoint(folder), read_training_state(folder)
            except CheckpointError as error:
                failure = failure or error
                damaged.append(folder)
                continue
            for later in damaged:  # or the next save would drop a good one, as older
                later.rename(later.with_name(f"damaged-{later.name}"))
            self._cut(found[0].step)
            return found
        if failure is not None:
            raise failure
        self._cut(0)
        return None

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def _clean(self) -> None:
        """Remove what a crash left half-written; bring back what it left half-replaced."""
        for leftover in self._checkpoints.glob(".step-*"):
            name, _, kind = leftover.name[1:].partition(".")
            if kind.startswith("replaced") and not (whole := leftover.with_name(name)).exists():
                leftover.rename(whole)
            else:
                shutil.rmtree(leftover, ignore_errors=True)
        for torn in self.path.glob(".*.partial-*"):
            torn.unlink(missing_ok=True)

    def _cut(self, step: int) -> None:
        """Drop lines and probes past a step, and torn ones."""
        for lines in (self._metrics, self._samples, self.probes):
            lines.cut(step)

    # Status --------------------------------------------------------------------------------

    def write_status(self, state: str, step: int, steps: int, **more: Any) -> None:
        """Say how the run stands: running, finished, interrupted or failed."""
        status = {
            "state": state,
            "step": step,
            "steps": steps,
            "process": os.getpid(),
            "host": platform.node(),
            "time": time.time(),
            **more,
        }
        write_atomically(self.path / STATUS, json.dumps(status, indent=1) + "\n")

    def read_status(self) -> dict[str, Any]:
        """Return how the run stands, or an empty dictionary where nobody said."""
        try:
            status = json.loads((self.path / STATUS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}
