"""Where a trace to be inspected comes from: a model that reads a text, or a file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qkv.cli.console import count, counted
from qkv.cli.model import need_tokenizer, run_note, validation_ids
from qkv.cli.named import SAVED_TRACE, load_named, require_model, title_of
from qkv.errors import CheckpointError, ConfigError, TextError

if TYPE_CHECKING:
    import numpy as np

    from qkv.lens import Trace
    from qkv.models.foreign import AnyModel
    from qkv.training.probe_files import Probes

__all__ = ["Seen", "Source"]

OWN_TOKENS = 64
"""Tokens of a run's own validation text that are read where no text is given."""
MOST_BYTES = 2**24
"""Of a file; no context is as long."""
MOST_STEPS = 12
"""Of a run's probes, how many are named."""
OWN_CHARACTERS = 20_000
"""Of its start, what is looked through for a paragraph."""


@dataclass(frozen=True)
class Seen:
    """What was read, in words."""

    title: str
    note: str
    tokens: str


@dataclass(frozen=True)
class Source:
    """Where a trace comes from: a model and a text, or a file.

    Without a model it is the one that comes with qkv, whose own text is the passage of its probes.
    """

    model: Path | None
    text: str | None
    file: str | None
    tokens: int | None
    tokenizer: Path | None
    sequence: int | None
    step: int | None = None

    def trace(
        self,
        *,
        values: bool,
        quiet: bool,
        before: Callable[[int, int, int], None] | None = None,
    ) -> tuple[Trace, Seen]:
        """The trace that was saved, or is made here.

        `before` is told (tokens, layers, heads of a layer) before a model is run.
        """
        if self.step is not None:
            return self._probed(self.step)
        if self.model and self.model.is_file() and self.model.suffix == SAVED_TRACE:
            return self._saved(self.model)
        if self.sequence is not None:
            raise ConfigError(
                "--sequence with a model",
                "a trace that was saved",
                "leave it out: one text is read",
            )
        if self.text is not None and self.file is not None:
            raise ConfigError("--text and --file", "one text", "leave one out")
        require_model(self.model, traces=True)
        return self._captured(values=values, quiet=quiet, before=before)

    def _saved(self, path: Path) -> tuple[Trace, Seen]:
        from qkv.lens import load

        for name in ("text", "file", "tokens", "tokenizer"):
            if getattr(self, name) is not None:
                raise ConfigError(
                    f"--{name} with a trace that was saved",
                    "the text it was made of",
                    "leave it out, or name a model",
                )
        trace = load(path)
        most = max(site.B for site in trace.layers)
        if self.sequence is not None:
            trace = trace.sequence(self.sequence)
        elif most > 1:
            raise ConfigError(
                f"a trace of {most} sequences", "one of them", f"add --sequence 0 to {most - 1}"
            )
        if any(len(sites) > 1 for _, sites in trace.calls()):
            trace = trace.call(0)
        return trace, Seen(title_of(path), "a saved trace", "")

    def _probed(self, step: int) -> tuple[Trace, Seen]:
        for name in ("text", "file", "tokens", "tokenizer", "sequence"):
            if getattr(self, name) is not None:
                raise ConfigError(
                    f"--{name} and --step",
                    "one of them: a probe is of the passage that the run was given",
                    "leave one out, or train with --probe to choose the passage",
                )
        probes = self._probes(step)
        steps, nearest = probes.steps(), probes.nearest(step)
        if nearest is None:
            raise CheckpointError(
                f"no probes in {self.model}",
                "a run with heads that was trained with them",
                "leave --step out to read its last checkpoint",
            )
        note = f"step {count(nearest)}"
        if nearest != step:
            note += f", the nearest to {count(step)}; probed at {_some(steps)}"
        trace = probes.trace(nearest)
        tokens = f"{counted(len(trace.texts), 'token')} of its probe"
        return trace, Seen(title_of(self.model), note, tokens)

    def _probes(self, step: int) -> Probes:
        if self.model is None:
            from qkv.training.probe_archive import embedded_timeline

            return embedded_timeline()
        from qkv.training.rundir import RunDirectory

        run = RunDirectory(self.model)
        if not run.exists():
            require_model(self.model, traces=True)
            raise ConfigError(
                f"--step {step} with {self.model}, which is no run",
                "the folder of a run",
                "name one that `qkv train` wrote, or leave --step out",
            )
        return run.probes

    def _captured(
        self, *, values: bool, quiet: bool, before: Callable[[int, int, int], None] | None
    ) -> tuple[Trace, Seen]:
        import torch

        from qkv.lens import capture
        from qkv.lens.seeing.tokens import texts_of
        from qkv.models import count_parameters

        own = self.text is None and self.file is None
        path = self.model
        if own and path and path.exists() and run_note(path, "source") in (None, "-"):
            raise ConfigError("no text to read", "--text or --file", 'add --text "..."')
        # The text is looked at first: a large model takes a while to load.
        text = None if own else self._text()
        checkpoint = load_named(path, self.tokenizer)
        what = "its validation text" if own else self.file or "the text"
        what = "standard input" if what == "-" else what
        if text is None and path is None:
            # As much as was probed, and no text has to be found or fetched for it.
            text, what = run_note(None, "probe") or "", "its probe"
        elif text is None:
            assert path is not None
            text = _own_text(path, checkpoint, quiet=quiet)
        ids = self._ids(checkpoint, text, own=own and path is not None)
        if before is not None:
            before(len(ids), checkpoint.layers or 1, checkpoint.heads or 1)
        recording = capture(checkpoint.model, tokenizer=checkpoint.tokenizer, values=values)
        with torch.inference_mode(), recording as trace:
            checkpoint.model(torch.from_numpy(ids)[None])
        if len(trace) and not trace.texts:
            # Ids that are counted up, as of "abc", are taken for places.
            trace.label(texts_of(checkpoint.tokenizer, ids))
        if not len(trace):
            raise CheckpointError(
                f"a model without attention, {title_of(path)}",
                "one with heads to look into",
                "name a run of one-head, heads or a later rung, or a Transformer",
            )
        step = f"step {count(checkpoint.step)}, " if checkpoint.step else ""
        parameters = f"{step}{count(count_parameters(checkpoint.model))} parameters"
        if checkpoint.made_by:
            parameters = f"{checkpoint.made_by}, {parameters}"
        return trace, Seen(title_of(path), parameters, f"{counted(len(ids), 'token')} of {what}")

    def _text(self) -> str:
        if self.text is not None:
            return self.text.replace("\\n", "\n")
        assert self.file is not None
        if self.file == "-":
            return sys.stdin.buffer.read(MOST_BYTES).decode("utf-8", "replace")
        try:
            # A device or a pipe tells no size: what is read is bounded, not what is said.
            with Path(self.file).open("rb") as file:
                data = file.read(MOST_BYTES + 1)
            if len(data) > MOST_BYTES:
                raise TextError(
                    f"{self.file} of more than {count(MOST_BYTES)} bytes",
                    "a shorter text",
                    "cut out what is to be read",
                )
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise TextError(
                f"{self.file}, which is no UTF-8 at byte {error.start}",
                "a text",
                "convert it first",
            ) from None
        except OSError as error:
            raise TextError(
                f"{error.strerror!r} while reading {self.file}", "a file to read", "check the path"
            ) from None

    def _ids(self, checkpoint: AnyModel, text: str, *, own: bool) -> np.ndarray[Any, Any]:
        """The ids to read.

        Raises:
            TextError: no text, or more than the context.
        """
        if not text:
            raise TextError("an empty text", "a few words", "give some with --text or --file")
        ids = need_tokenizer(checkpoint).encode(text)
        context = checkpoint.context
        most = min(OWN_TOKENS, context) if own and self.tokens is None else self.tokens
        ids = ids if most is None else ids[:most]
        if len(ids) > context:
            raise TextError(
                f"{counted(len(ids), 'token')} of text",
                f"at most the model's context, {count(context)}",
                f"shorten it, or add --tokens {context} to read its start",
            )
        return ids


def _some(steps: list[int]) -> str:
    """Steps in a row, those in the middle left out."""
    told = [count(step) for step in steps]
    if len(told) > MOST_STEPS:
        told = [*told[: MOST_STEPS - 2], "…", told[-1]]
    return ", ".join(told)


def _own_text(run: Path, checkpoint: AnyModel, *, quiet: bool) -> str:
    """The start of a run's validation text, from its first whole paragraph on."""
    from qkv.training.data import from_first_paragraph

    ids, _, _ = validation_ids(run, checkpoint, None, quiet)
    text = need_tokenizer(checkpoint).decode(ids[:OWN_CHARACTERS])
    return from_first_paragraph(text)
