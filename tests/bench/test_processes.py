"""Fresh processes: what they print, how they fail, and that none outlives its measurement."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qkv.__main__ import main
from qkv.bench.processes import run_fresh, users_environment
from qkv.errors import ConfigError


def test_what_it_printed_and_where_it_ran(tmp_path: Path) -> None:
    script = "import pathlib, sys; print(pathlib.Path.cwd()); print('aside', file=sys.stderr)"
    seconds, told = run_fresh("it", [sys.executable, "-c", script], tmp_path)
    assert told == f"{tmp_path}\n"
    assert seconds > 0


def test_it_runs_in_the_environment_given_and_a_cold_cache() -> None:
    script = "import os; print(os.environ.get('KEPT'), 'TORCHINDUCTOR_CACHE_DIR' in os.environ)"
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "KEPT": "this"}
    assert run_fresh("it", command, environment=environment)[1] == "this True\n"
    assert run_fresh("it", command)[1] == "None True\n"


@pytest.mark.parametrize("own", [None, "77"])
def test_what_qkv_set_is_taken_away_and_what_its_user_set_is_not(
    monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    for name in ("GOMP_SPINCOUNT", "QKV_SPINCOUNT"):  # set, so that both are put back
        monkeypatch.setenv(name, "1")
        del os.environ[name]
    if own is not None:
        os.environ["GOMP_SPINCOUNT"] = own
    before = dict(os.environ)
    monkeypatch.setattr(sys, "argv", ["qkv", "--version"])
    assert main() == 0
    assert os.environ["GOMP_SPINCOUNT"] == (own or "10000")
    assert users_environment() == before


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("raise ValueError('no\\nluck')", "got it with exit code 1 (luck); expected 0;"),
        ("raise SystemExit(7)", "got it with exit code 7; expected 0;"),
        ("import os; os.kill(os.getpid(), 9)", "got it with exit code -9; expected 0;"),
    ],
)
def test_a_failure_is_one_line(script: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_fresh("it", [sys.executable, "-c", script])
    assert str(caught.value).startswith(line)


def test_interrupted_it_is_ended_first(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []

    def interrupted(self: subprocess.Popen[str]) -> None:
        started.append(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_fresh("it", [sys.executable, "-c", "import time; time.sleep(60)"])
    assert started[0].returncode is not None
