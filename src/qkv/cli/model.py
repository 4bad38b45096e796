"""`qkv sample`, `qkv eval`, `qkv prove`: what a trained model writes, scores and keeps to."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from qkv.cli.console import count, err, notice, out, print_json
from qkv.cli.named import open_named
from qkv.cli.options import AsJson, Run, Seed, TokenizerFile
from qkv.cli.startup import load_torch
from qkv.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    import numpy as np

    from qkv.models.checkpoint import Checkpoint
    from qkv.models.foreign import AnyModel
    from qkv.text import Tokenizer


def sample_command(  # noqa: PLR0917 (options have names)
    run: Run = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", help="What to go on from.", show_default="the run's own"),
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="How many to write.", min=1)] = 500,
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", help="0 takes the likeliest token each time.")
    ] = 0.8,
    top_k: Annotated[
        int | None, typer.Option(help="Draw from this many of the likeliest tokens.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest that hold this probability.")
    ] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "int8"],
        typer.Option(
            help="Of the weights as they are read for each token: fp32 is exact, int8 and bf16 are "
            "faster and move probabilities by a hundredth or so; auto is int8 where that is known "
            "to be faster, else fp32."
        ),
    ] = "auto",
    tokenizer_file: TokenizerFile = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Write text with a model, as it is drawn; it may be longer than the context.

    Without RUN it is the model that comes with qkv, a small one of Shakespeare.

    [bold]Examples[/]

      qkv sample

      qkv sample runs/six --prompt "JULIET:" --tokens 1000

      qkv sample runs/six --temperature 0.5 --top-k 20 --seed 3

      qkv sample model.gguf --prompt "The capital of France is" --tokens 20
    """
    load_torch()
    from qkv.models import Sampling
    from qkv.training.evaluation import stream_text

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    checkpoint = open_named(run, tokenizer_file)
    tokenizer = need_tokenizer(checkpoint)
    if prompt is None:
        prompt = run_note(run, "prompt") or ""
    prompt = prompt.replace("\\n", "\n")
    started = time.perf_counter()
    pieces = stream_text(checkpoint.model, tokenizer, prompt, tokens, sampling, precision=precision)
    if as_json:
        text = "".join(pieces)
        seconds = time.perf_counter() - started
        rate = tokens / seconds
        print_json({"prompt": prompt, "text": text, "tokens": tokens, "tokens_per_second": rate})
        return
    sys.stdout.write(prompt)
    for piece in pieces:
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    rate = tokens / (time.perf_counter() - started)
    if sys.stderr.isatty():
        err().print(f"{count(tokens)} tokens, {count(rate)} a second", style="dim")


def eval_command(
    run: Run = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            "-d",
            help="Score this text instead: all of it.",
            show_default="the run's validation text",
        ),
    ] = None,
    tokenizer_file: TokenizerFile = None,
    as_json: AsJson = False,
) -> None:
    """Give the loss on all of the validation text, in windows that do not overlap.

    [bold]Examples[/]

      qkv eval runs/six

      qkv eval runs/six --data another.txt --json
    """
    load_torch()
    from qkv.training.evaluation import evaluate

    checkpoint = open_named(run, tokenizer_file)
    ids, characters, name = validation_ids(run, checkpoint, data, as_json)
    started = time.perf_counter()
    score = evaluate(checkpoint.model, ids, characters=characters)
    told = {
        "loss": score.loss,
        "perplexity": score.perplexity,
        "loss_per_character": score.per_character,
        "tokens": score.tokens,
        "context": score.context,
        "text": name,
        "step": checkpoint.step,
        "seconds": time.perf_counter() - started,
    }
    if as_json:
        print_json(told)
        return
    console = out()
    console.print(
        f"loss [bold]{score.loss:.4f}[/] nats a token  (perplexity {score.perplexity:.2f})"
    )
    if score.per_character is not None and need_tokenizer(checkpoint).kind != "char":
        console.print(f"     {score.per_character:.4f} nats a character")
    console.print(
        f"     over {count(score.tokens)} tokens of {name}, in windows of {score.context}",
        markup=False,
    )


def prove_command(
    run: Run = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", "-d", help="Prove it on this text.", show_default="the run's validation text"
        ),
    ] = None,
    sequences: Annotated[
        int, typer.Option(help="Windows of the text to try.", min=1, max=10_000)
    ] = 4,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Prove on trained weights that attention is causal, and an average where scores are equal.

    Exit code 1 if a proof fails.

    [bold]Examples[/]

      qkv prove runs/six

      qkv prove runs/six --sequences 16 --json
    """
    load_torch()
    from dataclasses import asdict

    from qkv.cli.proofs import print_influence, print_proofs
    from qkv.training.proofs import measure_influence, prove

    checkpoint = open_named(run)
    ids, _, name = validation_ids(run, checkpoint, data, as_json)
    proofs = prove(checkpoint.model, ids, sequences=sequences, seed=seed)
    influence = measure_influence(checkpoint.model, ids, seed=seed)
    if as_json:
        told = [{**asdict(proof), "holds": proof.holds} for proof in proofs]
        print_json({"text": name, "proofs": told, "influence": asdict(influence)})
    else:
        console = out()
        print_proofs(console, proofs)
        print_influence(console, influence)
    if not all(proof.holds for proof in proofs):
        raise typer.Exit(1)


def need_tokenizer(checkpoint: Checkpoint | AnyModel) -> Tokenizer:
    """Return the checkpoint's tokenizer.

    Raises:
        CheckpointError: it has none.
    """
    if checkpoint.tokenizer is None:
        raise CheckpointError(
            f"no tokenizer with the weights in {checkpoint.path}",
            "a model that comes with one",
            "give its tokenizer.json with --tokenizer, or put it beside the weights",
        )
    return checkpoint.tokenizer


def run_note(run: Path | None, name: str) -> str | None:
    """Return what a run's config notes of its data, or ``None`` for models from elsewhere."""
    if run is None:
        from qkv.models.embedded import embedded_notes

        return embedded_notes().get(name)
    from qkv.training.rundir import RunDirectory

    # RUN may be a checkpoint folder inside a run: RUN/checkpoints/step-...
    for folder in (run, run.parent.parent):
        directory = RunDirectory(folder)
        try:
            note = directory.read_config()[2].get(name)
        except CheckpointError:
            continue
        return None if note is None else str(note)
    return None


def validation_ids(
    run: Path | None, checkpoint: Checkpoint | AnyModel, source: str | None, quiet: bool
) -> tuple[np.ndarray, int, str]:
    """Return the ids to score, how many characters they are, and what the text is called.

    Raises:
        ConfigError: a model from elsewhere, and no text named.
        TextError: text that is missing, or has unknown characters.
    """
    from qkv.text import load_corpus

    tokenizer = need_tokenizer(checkpoint)
    if source is not None:
        text = load_corpus(source, notice=notice(quiet)).text
        return tokenizer.encode(text), len(text), source
    noted = run_note(run, "source")
    if noted is None or noted == "-":
        raise ConfigError(
            "no text to score" if noted is None else "a run trained on standard input",
            "a text",
            "name one with --data",
        )
    corpus = load_corpus(noted, notice=notice(quiet))
    if corpus.sha256 != run_note(run, "sha256"):
        raise CheckpointError(
            f"another text at {noted} than the run was trained on",
            "the same, so that validation text is text it has not seen",
            "restore it, or name a text with --data",
        )
    _, text = corpus.split()
    return tokenizer.encode(text), len(text), f"{corpus.name} (validation)"
