"""nanoGPT, from a checkout of it: its own training command and its own sampler, in a copy.

The checkout is read only: what runs is a copy of its Python files in a temporary folder, with our
text as its data. Its checkpoints are loaded by us, so that one evaluator scores both sides.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import IO, Any

import numpy as np

from qkv.bench.processes import failure, run_fresh, users_environment
from qkv.errors import ConfigError, ResourceError
from qkv.models.checkpoint import Checkpoint
from qkv.models.loading import load_model
from qkv.models.nanogpt import CKPT, META
from qkv.text import CharTokenizer
from qkv.training.data import Data

__all__ = [
    "CPU_SETTINGS",
    "SHAPE",
    "NanogptRun",
    "Sampler",
    "open_sampler",
    "require_checkout",
    "train_nanogpt",
    "train_seconds",
]

CONFIG = "config/train_shakespeare_char.py"
NEEDED = ("train.py", "model.py", CONFIG)
DATA, OUT = "data/shakespeare_char", "out-shakespeare-char"  # as that config has them

CPU_SETTINGS = {
    "eval_iters": 20,
    "log_interval": 1,
    "block_size": 64,
    "batch_size": 12,
    "n_layer": 4,
    "n_head": 4,
    "n_embd": 128,
    "max_iters": 2000,
    "lr_decay_iters": 2000,
    "dropout": 0.0,
}
"""What nanoGPT's README gives for a computer without a GPU."""

SHAPE = {
    "n_layer": 6,
    "n_head": 6,
    "n_embd": 384,
    "block_size": 256,
    "vocab_size": 65,
    "bias": False,
    "dropout": 0.0,
}
"""Of nanoGPT's own model of characters: 10.65 M parameters, those of its positions left out."""


@dataclass(frozen=True)
class NanogptRun:
    """One run of nanoGPT's training command.

    Args:
        wall_seconds: from the start of its process to its end, evaluations included.
        train_seconds: in iterations, without evaluations and saves.
        steps: iterations done.
        checkpoint: of its lowest loss by its own estimate, which is the one that it keeps.
    """

    wall_seconds: float
    train_seconds: float
    steps: int
    checkpoint: Checkpoint


def require_checkout(folder: Path) -> None:
    """Raise a ConfigError where a folder is no checkout of nanoGPT.

    >>> require_checkout(Path("no/such/folder"))
    Traceback (most recent call last):
    qkv.errors.ConfigError: got no/such/folder, without train.py, model.py and \
config/train_shakespeare_char.py; expected a checkout of nanoGPT; clone it, and give its folder
    """
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    if missing:
        names = " and ".join([", ".join(missing[:-1]), missing[-1]] if missing[1:] else missing)
        raise ConfigError(
            f"{folder}, without {names}", "a checkout of nanoGPT", "clone it, and give its folder"
        )


def train_nanogpt(folder: Path, data: Data) -> NanogptRun:
    """Run nanoGPT's command with its published CPU settings on a text, in a fresh process.

    Its seed is written in its `train.py`, so that each run of it draws the same batches.

    Args:
        folder: a checkout, which is left as it is.
        data: the text, by characters; nanoGPT gets the same split.

    Raises:
        ConfigError: no checkout, a process that failed, or one that told no times.
        ResourceError: the disk refused.
    """
    with copied(folder) as copy:
        write_data(copy, data)
        options = [f"--{name}={value}" for name, value in CPU_SETTINGS.items()]
        command = [sys.executable, "train.py", CONFIG, "--device=cpu", "--compile=False", *options]
        wall, told = run_fresh("nanoGPT's train.py", command, copy, environment=users_environment())
        steps, seconds = train_seconds(told.splitlines())
        if not (copy / OUT / CKPT).is_file():
            raise ConfigError(
                f"a train.py in {folder} that wrote no {OUT}/{CKPT}",
                "nanoGPT's own",
                "take a fresh checkout",
            )
        return NanogptRun(wall, seconds, steps, load_model(copy / OUT / CKPT))


def train_seconds(lines: Iterable[str]) -> tuple[int, float]:
    """Return how many iterations nanoGPT did, and their seconds without evaluations and saves.

    It prints what each iteration took, from the end of the one before: with the evaluation and the
    save, where there was one. Such an iteration counts as the mean of the others; the first, which
    is slow, is one of them.

    Raises:
        ConfigError: no times.

    >>> train_seconds(["step 0: train loss 4.2, val loss 4.2", "iter 0: loss 4.2, time 900.00ms",
    ...                "iter 1: loss 4.1, time 30.00ms", "iter 2: loss 4.0, time 50.00ms"])
    (3, 0.12)
    """
    evaluated: set[int] = set()
    took_ms: dict[int, float] = {}
    for line in lines:
        if found := re.match(r"step (\d+): train loss", line):
            evaluated.add(int(found[1]))
        elif found := re.match(r"iter (\d+): .*\btime ([\d.]+)ms", line):
            took_ms[int(found[1])] = float(found[2])
    plain = [ms for step, ms in took_ms.items() if step not in evaluated]
    if not plain:
        raise ConfigError(
            "a train.py that prints no times of its iterations",
            "nanoGPT's own",
            "take a fresh checkout",
        )
    return len(took_ms), len(took_ms) * fmean(plain) / 1e3


def write_data(copy: Path, data: Data) -> None:
    """Write a text as nanoGPT's `prepare.py` does: ids of 16 bits, and its characters."""
    assert isinstance(data.tokenizer, CharTokenizer)
    letters = dict(enumerate(data.tokenizer.characters))
    meta = {
        "vocab_size": len(letters),
        "itos": letters,
        "stoi": {letter: at for at, letter in letters.items()},
    }
    place = copy / DATA
    place.mkdir(parents=True)
    (place / META).write_bytes(pickle.dumps(meta))
    data.train.astype(np.uint16).tofile(place / "train.bin")
    data.validation.astype(np.uint16).tofile(place / "val.bin")


@contextlib.contextmanager
def copied(folder: Path) -> Iterator[Path]:
    """Lend a temporary folder with the checkout's Python files, which are all that it needs."""
    require_checkout(folder)
    with tempfile.TemporaryDirectory(prefix="qkv-nanogpt-") as made:
        copy = Path(made)
        try:
            (copy / "config").mkdir()
            for path in [*folder.glob("*.py"), *folder.glob("config/*.py")]:
                shutil.copyfile(path, copy / path.relative_to(folder))
        except OSError as error:
            raise ResourceError(
                f"{error.strerror!r} while copying {folder}",
                "files that may be read, and space for a copy of them",
                "check the permissions and the disk",
            ) from error
        yield copy


# The sampler ------------------------------------------------------------------------------------

# Its module prints, so that answers have a stream of their own. As drawn, its likeliest token is
# always the one before, since embeddings and logits share their matrix: four times the weights
# give texts by which two computations can be told apart, in the same time.
SCRIPT = f"""
import json, sys
answers, sys.stdout = sys.stdout, sys.stderr
from model import GPT, GPTConfig
import torch

def tell(answer):
    print(json.dumps(answer), file=answers, flush=True)

sizes = json.loads(sys.argv[1])
torch.manual_seed(1337)
model = GPT(GPTConfig(**sizes)).eval()
with torch.no_grad():
    for parameter in model.parameters():
        parameter.mul_(4)
torch.save({{"model": model.state_dict(), "model_args": sizes, "iter_num": 0}}, "{CKPT}")
tell(sum(parameter.numel() for parameter in model.parameters()))
for line in sys.stdin:
    asked = json.loads(line)
    prompt = torch.tensor([asked.pop("prompt")])
    with torch.no_grad():
        tell(model.generate(prompt, **asked)[0, prompt.shape[1]:].tolist())
"""


@dataclass(frozen=True)
class Sampler:
    """nanoGPT's model with random weights, in a process of its own.

    Args:
        process: reads a line of JSON, answers with one.
        errors: the file of its standard error.
        checkpoint: the same weights, as our Transformer.
        parameters: as nanoGPT counts them, those of its positions left out.
    """

    process: subprocess.Popen[str]
    errors: Path
    checkpoint: Checkpoint
    parameters: int

    def draw(self, prompt: list[int], tokens: int, temperature: float, top_k: int) -> list[int]:
        """Return the tokens that its `generate` draws after the prompt."""
        asked = {"prompt": prompt, "max_new_tokens": tokens}
        told = _ask(
            self.process, self.errors, {**asked, "temperature": temperature, "top_k": top_k}
        )
        return [int(token) for token in told]


@contextlib.contextmanager
def open_sampler(folder: Path, shape: dict[str, Any]) -> Iterator[Sampler]:
    """Start nanoGPT's model with random weights of a shape; it ends with the block.

    Raises:
        ConfigError: no checkout, or a process that failed.
        ResourceError: the disk refused.
    """
    with copied(folder) as copy:
        errors = copy / "errors.txt"
        with (
            errors.open("wb") as file,
            subprocess.Popen(
                [sys.executable, "-c", SCRIPT, json.dumps(shape)],
                cwd=copy,
                env=users_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            ) as process,
        ):
            try:
                positions = shape["block_size"] * shape["n_embd"]
                parameters = int(_ask(process, errors)) - positions
                yield Sampler(process, errors, load_model(copy / CKPT), parameters)
            finally:
                process.kill()
                process.wait()
                with contextlib.suppress(BrokenPipeError):  # what it no longer read
                    _stream(process.stdin).close()


def _ask(process: subprocess.Popen[str], errors: Path, asked: dict[str, Any] | None = None) -> Any:
    """Send a question, where there is one, and return the next answer."""
    with contextlib.suppress(BrokenPipeError):  # its answer will be missing too
        if asked is not None:
            print(json.dumps(asked), file=_stream(process.stdin), flush=True)
    if line := _stream(process.stdout).readline():
        return json.loads(line)
    code = process.wait()
    raise failure("nanoGPT's sampler", code, errors.read_text(encoding="utf-8", errors="replace"))


def _stream(stream: IO[str] | None) -> IO[str]:
    assert stream is not None  # it was asked for as a pipe
    return stream
