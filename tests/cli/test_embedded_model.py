"""Commands without a model: the one that comes with qkv."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

from qkv.models import embedded as module
from qkv.models.embedded import CARD, embedded_notes, load_embedded, read_embedded
from qkv.training.probe_archive import embedded_timeline

Command = Callable[..., Any]
OWN = "the model that comes with qkv"


def test_it_writes(command: Command) -> None:
    ended = command("sample", "--tokens", 20, "--temperature", 0)
    assert ended.code == 0
    assert ended.out.startswith(embedded_notes()["prompt"])
    told = json.loads(command("sample", "-n", 20, "-t", 0, "-p", "JULIET:", "--json").out)
    assert told["prompt"] == "JULIET:"
    assert len(told["text"]) == 20
    assert command("sample", "-n", 20, "-t", 0, "--seed", 5).out == ended.out


def test_it_writes_what_its_card_shows(command: Command) -> None:
    card = read_embedded(CARD).decode()
    told = re.search(r"`qkv (sample .*)` \(temperature (\S+), seed (\d+)\):\n\n", card)
    assert told is not None
    drawn = ("--temperature", told[2], "--seed", told[3])
    ended = command(*told[1].split(), *drawn)
    assert ended.out == command(*told[1].split()).out  # as nothing else is asked for
    assert indent(ended.out.strip(), "    ").strip() == card[told.end() :].strip()


def test_its_passage_is_inspected(command: Command) -> None:
    ended = command("inspect", "--top", 3)
    assert ended.code == 0
    assert ended.out.startswith(f"{OWN} · step ")
    assert "96 tokens of its probe" in ended.out.splitlines()[0]
    told = json.loads(command("inspect", "--json").out)
    assert told["model"] == OWN
    assert "".join(told["tokens"]) == embedded_notes()["probe"]
    assert len(json.loads(command("inspect", "--tokens", 9, "--json").out)["tokens"]) == 9


def test_it_reads_a_text(command: Command, tmp_path: Path) -> None:
    told = json.loads(command("inspect", "--text", "O Romeo, Romeo!", "--json").out)
    assert "".join(told["tokens"]) == "O Romeo, Romeo!"
    page = tmp_path / "page.html"
    ended = command("inspect", "--text", "O Romeo", "--sort", "norm", "--html", page)
    assert ended.code == 0
    assert OWN in page.read_text(encoding="utf-8")


def test_its_timeline_is_inspected(command: Command) -> None:
    steps = embedded_timeline().steps()
    first = command("inspect", "--step", 0).out.splitlines()[0]
    assert first.startswith(f"{OWN} · step 0 · ")
    assert "96 tokens of its probe" in first
    last = command("inspect", "--step", steps[-1] + 1000).out
    assert f"step {steps[-1]:,}, the nearest to " in last
    told = json.loads(command("inspect", "--step", steps[-1], "--json").out)
    line = list(embedded_timeline().read())[-1]
    assert told["model"] == OWN
    for head in told["heads"]:
        for name, (score, _) in line["heads"][head["name"]]["scores"].items():
            assert head["scores"][name]["score"] == pytest.approx(score, abs=1e-4)


def test_its_heads_are_taken_out(command: Command, tmp_path: Path) -> None:
    named = json.loads(command("ablate", "L0H1,L1", "--json").out)
    assert (named["text"], named["tokens"]) == ("its probe", 96)
    assert named["change"] != 0
    masked = json.loads(command("ablate", "--mask", "off", "--text", "O Romeo", "--json").out)
    assert masked["tokens"] == 7
    ended = command("ablate", "L0H1", "L2H0", "--mean")
    assert ended.code == 0
    assert "over 96 tokens of its probe" in ended.out
    # A folder of that name is a model, as before.
    (tmp_path / "L0").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert "the folder L0, which holds no model" in command("ablate", "L0", "--all").err


def test_it_is_scored(command: Command, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("Now is the winter of our discontent\n" * 20, encoding="utf-8")
    told = json.loads(command("eval", "--data", text, "--json").out)
    assert told["step"] == load_embedded().step
    assert 0 < told["loss"] < 4.5


def test_bad_input_is_one_line(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, message in (
        (("inspect", "--step", 5, "--text", "x"), "--text and --step"),
        (("inspect", "--step", 5, "--tokens", 3), "--tokens and --step"),
        (("inspect", "--sequence", 0), "--sequence with a model"),
        (("inspect", "--text", "a", "--file", "b"), "--text and --file"),
        (("inspect", "--text", "naïve"), "'ï'"),
        (("inspect", "--tokenizer", "t.json"), "--tokenizer t.json without a model"),
        (("sample", "--tokenizer", "t.json"), "--tokenizer t.json without a model"),
        (("sample", "--prompt", "7"), "'7'"),
        (("eval", "--data", "nowhere.txt"), "nowhere.txt"),
        (("prove", "--data", "nowhere.txt"), "nowhere.txt"),
        (("ablate",), "nothing to change"),
        (("ablate", "L99"), "L99"),
        (("ablate", "nowhere"), "got nothing to change"),
        (("ablate", "nowhere", "L0"), "got nothing at nowhere"),
    ):
        ended = command(*arguments)
        assert (ended.code, ended.out) == (2, ""), arguments
        assert message in ended.err
        assert len(ended.err.splitlines()) == 1
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    for arguments in (("sample",), ("inspect",), ("inspect", "--step", 3)):
        ended = command(*arguments)
        assert (ended.code, ended.out) == (2, "")
        assert "install qkv again, or name a model" in ended.err
        assert len(ended.err.splitlines()) == 1


def test_nothing_heavy_is_loaded() -> None:
    code = (
        "import sys\n"
        "from qkv.cli import main\n"
        "for words in (['sample', '-n', '5'], ['inspect'], ['inspect', '--step', '3']):\n"
        "    sys.argv = ['qkv', *words]\n"
        "    assert main() == 0\n"
        "heavy = ('torch._dynamo', 'torch._inductor', 'sympy', 'transformers', 'matplotlib',\n"
        "         'tokenizers')\n"
        "print(*[name for name in heavy if name in sys.modules], file=sys.stderr)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert ended.stderr.decode().strip() == ""
