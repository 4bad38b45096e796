"""Shared test settings: `--full` runs the full counts, and fixed seeds make failures repeatable."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

# As the command line does: short spins, since tests share the machine with their subprocesses.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="full counts of what is slow")


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the full counts of slow tests were asked for (`--full`)."""
    return bool(request.config.getoption("--full"))


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded NumPy generator."""
    return np.random.default_rng(20240229)


@pytest.fixture(scope="session")
def shakespeare() -> str:
    """Tiny Shakespeare, from $QKV_DATA_DIR; tests that need it skip where it is missing."""
    path = Path(os.environ.get("QKV_DATA_DIR", "")) / "tinyshakespeare.txt"
    if not os.environ.get("QKV_DATA_DIR") or not path.is_file():
        pytest.skip("set QKV_DATA_DIR to a folder with tinyshakespeare.txt to run this test")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="session", autouse=True)
def progress_of_tests(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a person did on this machine is no business of tests, nor theirs of the person."""
    os.environ["QKV_PROGRESS"] = str(tmp_path_factory.mktemp("progress") / "progress.db")
