"""What the README says is so: its commands exist, its code runs, its tree is the tree."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from qkv.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    fences = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    return [text for name, text in fences if name == language]


def commands() -> list[str]:
    lines = [line for block in blocks("") for line in block.splitlines()]
    return [part for line in lines for part in line.split(" && ") if part.startswith("qkv ")]


def test_the_two_lines_come_first() -> None:
    assert blocks("")[0] == "pip install . && qkv lab\npip install '.[dev]' && pytest\n"


def test_the_table_lists_every_command() -> None:
    listed = re.findall(r"^\| `qkv (\w+)`", README, flags=re.MULTILINE)
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    assert sorted(listed) == sorted(group.commands)


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_every_command_shown_is_one(line: str) -> None:
    _, name, *options = shlex.split(line)
    help_text = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output
    assert "Usage" in help_text
    for option in options:
        if option.startswith("-"):
            assert option in help_text


def test_the_step_shown_gives_three() -> None:
    line = next(line for line in commands() if line.startswith("qkv steps"))
    result = CliRunner().invoke(app, shlex.split(line)[1:])
    assert result.exit_code == 0
    assert "8.155" in result.output


@pytest.mark.parametrize("code", blocks("python"), ids=["inspect", "attend"])
def test_the_python_shown_runs(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {})


def test_the_tree_is_the_tree() -> None:
    (tree,) = (block for block in blocks("") if block.startswith("src/qkv/"))
    shown = re.findall(r"^  ([\w./]+)", tree, flags=re.MULTILINE)
    there = [
        f"{path.name}/" if path.is_dir() else path.name
        for path in (ROOT / "src" / "qkv").iterdir()
        if (path.is_dir() and path.name != "__pycache__") or path.name == "errors.py"
    ]
    assert sorted(shown) == sorted(there)


def test_the_install_beside_torch_names_every_other_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[<>=\[]", entry)[0] for entry in project["dependencies"]} - {"torch"}
    line = re.search(r"^pip install (numpy .*)$", README, flags=re.MULTILINE)
    assert line is not None
    assert set(line.group(1).split()) == needed


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_picture_shows_every_rung_and_the_proofs() -> None:
    from xml.etree import ElementTree

    from qkv.training.recipes import LADDER

    root = ElementTree.parse(ROOT / "docs" / "demo.svg").getroot()
    shown = "".join(root.itertext()).replace("\xa0", " ")
    for piece in [*(rung.title for rung in LADDER), "above the diagonal", "uniform average"]:
        assert piece in shown
