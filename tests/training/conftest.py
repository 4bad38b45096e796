"""A small made text, small configs, and `qkv` in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qkv.models import TransformerConfig
from qkv.text import corpus_from_text
from qkv.training.run import Data


def made_text(characters: int, seed: int = 0) -> str:
    """Return sentences of made words, the more frequent the shorter their rank."""
    rng = np.random.default_rng(seed)
    letters = list("abcdefghijklm")
    words = ["".join(rng.choice(letters, size=rng.integers(1, 7))) for _ in range(60)]
    chances = 1 / np.arange(1, 61)
    drawn = rng.choice(words, size=characters // 2, p=chances / chances.sum())
    return " ".join(drawn)[: characters - 1] + "\n"


@pytest.fixture(scope="session")
def text() -> str:
    return made_text(6_000)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> Path:
    path = tmp_path_factory.mktemp("text") / "made.txt"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def data(text: str) -> Data:
    return Data.prepare(corpus_from_text(text, name="made"))


@pytest.fixture
def tiny(data: Data) -> Callable[..., TransformerConfig]:
    """Return a small Transformer's config, with fields laid over."""

    def config(**fields: Any) -> TransformerConfig:
        defaults = {"context": 11, "layers": 2, "width": 24, "heads": 3}
        return TransformerConfig(**{"vocab": data.tokenizer.size, **defaults, **fields})

    return config


@pytest.fixture(scope="session")
def spawn() -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts `python -m qkv ...` with one thread, its output in pipes."""

    def start(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"}
        return subprocess.Popen(
            [sys.executable, "-m", "qkv", *map(str, arguments)],
            env=environment,
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    return start
