"""Trains the model that comes with qkv, and packs it with the timeline of its training.

::

    python scripts/embed.py                 # trains, into runs/embedded
    python scripts/embed.py --run RUN       # packs a run that is finished

It trains the preset `small` on tiny Shakespeare, with seed 0 and one passage of validation text
read at some forty steps; packs weights and probes; scores the packed weights on all of the
validation text; and writes the card. Weights are at most 3 MB, the timeline 8 MB.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import fill, indent
from typing import Any

import torch
from torch import nn

from qkv.cli.console import count, duration
from qkv.errors import ConfigError, QkvError
from qkv.models import Sampling, TransformerConfig, count_parameters
from qkv.models.checkpoint import Checkpoint, load_newest
from qkv.models.embedded import (
    CARD,
    LARGEST_TIMELINE,
    LARGEST_WEIGHTS,
    TIMELINE,
    WEIGHTS,
    pack_checkpoint,
    unpack_checkpoint,
    with_metrics,
)
from qkv.models.packing import read_header
from qkv.text import Tokenizer, load_corpus
from qkv.training.evaluation import evaluate, sample_text
from qkv.training.probe_archive import ProbeArchive, write_archive
from qkv.training.recipes import configure, find_preset
from qkv.training.rundir import RunDirectory

ROOT = Path(__file__).resolve().parent.parent
FILES = ROOT / "src" / "qkv" / "models" / "embedded_files"
PRESET, CORPUS, SEED = "small", "shakespeare", 0
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
PASSAGE = (
    "GREMIO:\nGood morrow, neighbour Baptista.\n\n"
    "BAPTISTA:\nGood morrow, neighbour Gremio.\nGod save you,"
)
"""96 characters of validation text: a line said twice, each time to the one who said it before."""
PROBES = 40
WISHED = 32
"""Traces that make about forty: with fewer, q and k are rounded to fewer whole numbers."""
WRITTEN = 300
"""Characters that the card shows of what the model writes, after its run's prompt."""
SAMPLING = Sampling(temperature=0.8, seed=0)
"""As `qkv sample` draws where nothing else is asked for."""
BEGINNING = 20_000
"""Characters of validation text of which the loss is noted too, for a quick check."""
ROOM = 1000
"""Bytes for the losses, which are noted with the weights after these are packed."""
NOTED = ("name", "sha256", "source", "prompt", "probe")
FREE = ("precision", "compile", "probe_share", "save_every", "evaluate_every", "sample_every")
"""Settings that leave the recipe the recipe: where and how it ran, not what was learnt from."""


def main() -> int:
    """Train where no run is named, pack, and say what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, help="pack this finished run instead of training one")
    parser.add_argument("--out", type=Path, default=Path("runs/embedded"), help="where to train")
    parser.add_argument("--files", type=Path, default=FILES, help="where to write")
    parser.add_argument("--budget", help="tokens to train on, for a trial")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings")
    asked = parser.parse_args()
    try:
        run = RunDirectory(asked.run or train(asked.out, asked.budget, asked.settings))
        embed(run, asked.files)
    except QkvError as error:
        print(f"embed: {error}", file=sys.stderr)
        return 2
    return 0


def train(out: Path, budget: str | None, settings: list[str]) -> Path:
    """Train the recipe; probes may take the time that all of them take."""
    command = [sys.executable, "-m", "qkv", "train", "--preset", PRESET, "--data", CORPUS]
    command += ["--seed", str(SEED), "--probe", PASSAGE, "--out", str(out)]
    if budget:
        command += ["--budget", budget]
    for setting in (f"probes={PROBES}", "probe_share=1", *settings):
        command += ["--set", setting]
    subprocess.run(command, check=True)
    return out


@dataclass(frozen=True)
class Made:
    """What the card says, in numbers."""

    before: float
    after: float
    scored: int
    weights_bytes: int
    timeline_bytes: int
    fraction: float
    largest: int


def embed(run: RunDirectory, files: Path) -> None:
    """Pack a run's newest checkpoint and its probes, score what was packed, write the card.

    Raises:
        QkvError: another text or passage than is meant, an unfinished run, or files that are too
            large.
    """
    checkpoint, data = load_newest(run.path), run.read_config()[2]
    require(run, checkpoint, data)
    assert checkpoint.tokenizer is not None
    ids = checkpoint.tokenizer.encode(load_corpus(CORPUS).split()[1])
    before = evaluate(checkpoint.model, ids)
    noted = {name: data[name] for name in NOTED}
    files.mkdir(parents=True, exist_ok=True)
    packed = pack_checkpoint(checkpoint, noted, LARGEST_WEIGHTS - ROOM)
    model = unpack_checkpoint(packed, Path(WEIGHTS)).model
    after, beginning = evaluate(model, ids), evaluate(model, ids[:BEGINNING])
    metrics = {
        "validation_loss": after.loss,
        "validation_loss_unrounded": before.loss,
        "beginning_loss": beginning.loss,
        "beginning_characters": BEGINNING,
        "tokens": run.read_config()[1].tokens,
        "whole_recipe": is_whole(run),
    }
    weights = with_metrics(packed, metrics)
    (files / WEIGHTS).write_bytes(weights)
    largest = write_archive(run.probes, files / TIMELINE, LARGEST_TIMELINE, WISHED)
    made = Made(
        before.loss, after.loss, after.tokens, len(weights), (files / TIMELINE).stat().st_size,
        float(read_header(weights)[0]["fraction"]), largest,
    )  # fmt: skip
    require_small(made)
    timeline = ProbeArchive((files / TIMELINE).read_bytes(), files / TIMELINE)
    card = describe(run, checkpoint, made, timeline, write(model, checkpoint.tokenizer, data))
    (files / CARD).write_text(card, encoding="utf-8")
    print(card)


def write(model: nn.Module, tokenizer: Tokenizer, data: dict[str, Any]) -> str:
    """What the card shows: the run's prompt, and how the model goes on in fp32."""
    prompt = str(data["prompt"])
    return prompt + sample_text(model, tokenizer, prompt, WRITTEN, SAMPLING)


def require(run: RunDirectory, checkpoint: Checkpoint, data: dict[str, Any]) -> None:
    """Raise a ConfigError for a run that isn't the one that is meant, or isn't finished."""
    if data["sha256"] != SHA256 or data.get("probe") != PASSAGE:
        raise ConfigError(
            f"a run of {data['name']} that reads {str(data.get('probe'))[:20]!r}…",
            "tiny Shakespeare, and the passage of this script",
            "train it with this script",
        )
    if not checkpoint.metrics.get("finished"):
        raise ConfigError(
            f"{run.path}, which is not finished",
            "a finished run",
            f"go on with `qkv train --resume {run.path}`",
        )
    assert PASSAGE in load_corpus(CORPUS).split()[1]
    assert len(PASSAGE) == 96


def command_of(run: RunDirectory) -> str:
    """The command of this script that trains such a run, with all that is not the recipe's.

    What was settled for the machine, as the precision, is named as it was settled.
    """
    model, training, _ = run.read_config()
    passed = {"probes": str(PROBES), "probe_share": "1"}
    planned = configure(find_preset(PRESET), model.vocab, passed, seed=SEED)
    recipe = {name: value for config in planned for name, value in asdict(config).items()}
    there = {**asdict(training), **asdict(model)}
    other = {name: value for name, value in there.items() if value != recipe.get(name)}
    budget = f" --budget {other.pop('tokens')}" if "tokens" in other else ""
    settings = "".join(f" --set {name}={value}" for name, value in other.items())
    return f"python scripts/embed.py{budget}{settings}"


def is_whole(run: RunDirectory) -> bool:
    """Whether a run was trained with the shipped recipe, and all of it."""
    model, training, _ = run.read_config()
    recipe, settings = configure(find_preset(PRESET), model.vocab, seed=SEED)
    same = replace(training, **{name: getattr(settings, name) for name in FREE})
    return (model, same) == (recipe, settings)


def require_small(made: Made) -> None:
    """Raise a ConfigError for files above their limits."""
    for name, size, most in (
        (WEIGHTS, made.weights_bytes, LARGEST_WEIGHTS),
        (TIMELINE, made.timeline_bytes, LARGEST_TIMELINE),
    ):
        if size > most:
            raise ConfigError(f"{name} of {size:,} bytes", f"at most {most:,}", "see packing")


def describe(
    run: RunDirectory, checkpoint: Checkpoint, made: Made, timeline: ProbeArchive, sample: str
) -> str:
    """The card, in Markdown."""
    model, training, data = run.read_config()
    assert isinstance(model, TransformerConfig)
    seconds = sum(line.get("seconds", 0.0) for line in run.metrics())
    parameters = count_parameters(checkpoint.model)
    steps = timeline.steps()
    defaults = asdict(type(training)())
    settings = {name: value for name, value in asdict(training).items() if value != defaults[name]}
    return CARD_TEXT.format(
        trial="" if is_whole(run) else TRIAL,
        characters=f"{data['characters']:,}",
        vocab=data["vocab"],
        train=f"{data['train_tokens']:,}",
        validation=f"{data['validation_tokens']:,}",
        sha256=data["sha256"],
        shape=f"{model.layers} layers, width {model.width}, {model.heads} heads of "
        f"{model.head_width_}, context {model.context}",
        parameters=f"{parameters:,}",
        tokens=f"{training.tokens:,}",
        steps=f"{checkpoint.step:,}",
        command=command_of(run),
        written=WRITTEN,
        temperature=SAMPLING.temperature,
        drawn=SAMPLING.seed,
        settings=", ".join(f"`{name}={value}`" for name, value in settings.items()),
        seconds=duration(seconds),
        machine=machine(),
        before=f"{made.before:.4f}",
        after=f"{made.after:.4f}",
        change=f"{made.after - made.before:+.4f}",
        scored=f"{made.scored:,}",
        context=model.context,
        size=fill(
            SIZE_TEXT.format(
                weights=f"{made.weights_bytes:,}",
                bits=f"{8 * made.weights_bytes / parameters:.2f}",
                fraction=f"{made.fraction:.3f} of a row's root mean square"
                if made.fraction
                else "a 127th of a row's largest",
                timeline=f"{made.timeline_bytes:,}",
                probes=len(timeline.lines),
                traces=len(steps),
                probed=", ".join(map(count, steps)),
                largest=made.largest,
            ),
            100,
        ),
        passage=indent(data["probe"], "    "),
        sample=indent(sample.strip(), "    "),
    )  # fmt: skip


def machine() -> str:
    """What it was trained on, in general terms."""
    vectors = torch.backends.cpu.get_cpu_capability()
    return f"{os.cpu_count()} cores of {platform.machine()} with {vectors}, no GPU"


TRIAL = """
**This is a stand-in**: it was not trained with the whole recipe, and writes accordingly.
`scripts/embed.py` makes the model that is meant.
"""

SIZE_TEXT = """\
`weights.qkv` has {weights} bytes, {bits} bits a parameter: whole numbers in a Huffman code, in
steps of {fraction}. `timeline.zip` has {timeline} bytes: {probes} probes of one passage with
losses, head scores and samples, and what every head looked at in {traces} of them, after steps
{probed}; q and k are whole numbers up to {largest} with a scale for each row. The passage, which
is validation text:
"""

CARD_TEXT = """\
# The model that comes with qkv
{trial}
A small causal Transformer that writes Shakespeare character by character. `qkv sample`,
`qkv inspect`, `qkv ablate`, `qkv eval` and `qkv prove` use it where no model is named. It is there
to be looked into.

## Data

Tiny Shakespeare, as char-rnn published it: {characters} characters, {vocab} distinct; sha256
`{sha256}`.
The first 90 % ({train} characters) are trained on, the rest ({validation}) tests. The text is in
the public domain; the weights have qkv's licence, MIT.

## Recipe

The preset `small`, seed 0, trained and packed by

    {command}

| | |
|---|---|
| model | {shape} |
| parameters | {parameters} |
| trained on | {tokens} characters, {steps} steps |
| settings | {settings} |
| time | {seconds} of steps, on {machine} |

## Loss

Mean cross-entropy over all {scored} characters of the validation text but the first, in windows of
{context} that do not overlap, in fp32: nats a character.

| weights | loss |
|---|---|
| as trained, fp32 | {before} |
| as packed, which is what is loaded | {after} ({change}) |

## Size

{size}

{passage}

## Limits

- It knows the {vocab} characters of its text and no other: no digit but 3, no accents.
- It sees {context} characters, a few lines: no plot, no scene, hardly a sentence's sense.
- It has learnt the spelling and layout of plays, common words and names, and what is near. What it
  says is not so, and means nothing.
- It is no measure of the recipe at other sizes, and no base for other tasks.
- It reproduces the attitudes of its text, and at times whole phrases of it.

## What it writes

`qkv sample -n {written} --precision fp32` (temperature {temperature}, seed {drawn}):

{sample}
"""


if __name__ == "__main__":
    sys.exit(main())
