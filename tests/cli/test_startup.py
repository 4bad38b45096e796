"""How a command starts: torch is exempt from garbage collection, what is made later is not."""

from __future__ import annotations

import gc
import importlib
import os
import subprocess
import sys

import pytest

from qkv.cli.startup import load_torch


def fresh(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=120,
    )


def test_what_is_made_after_torch_is_collected() -> None:
    ended = fresh(
        "import gc, sys, weakref\n"
        "from qkv.cli.startup import load_torch\n"
        "load_torch()\n"
        "assert 'torch' in sys.modules\n"
        "assert gc.isenabled()\n"
        "assert gc.get_freeze_count() > 100_000\n"
        "class Ring: pass\n"
        "ring = Ring()\n"
        "ring.itself, seen = ring, weakref.ref(ring)\n"
        "load_torch()\n"
        "del ring\n"
        "gc.collect()\n"
        "assert seen() is None\n"
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_who_turned_collection_off_keeps_it_off() -> None:
    ended = fresh(
        "import gc\n"
        "from qkv.cli.startup import load_torch\n"
        "gc.disable()\n"
        "load_torch()\n"
        "assert not gc.isenabled()\n"
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_process_that_has_torch_is_left_as_it_is() -> None:
    importlib.import_module("torch")
    frozen = gc.get_freeze_count()
    load_torch()
    assert gc.get_freeze_count() == frozen


@pytest.mark.parametrize("words", [["sample", "--temperature", "-1"], ["inspect", "--sort", "no"]])
def test_commands_load_torch_so(words: list[str]) -> None:
    ended = fresh(
        "import gc, sys\n"
        "from qkv.cli import main\n"
        f"sys.argv = ['qkv', *{words}]\n"
        "assert main() == 2\n"
        "print(gc.get_freeze_count() > 100_000)\n"
    )
    assert (ended.returncode, ended.stdout) == (0, "True\n")
    assert len(ended.stderr.splitlines()) == 1
