"""`qkv doctor` looks at everything, names what is off, and fails only for what is essential."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from qkv.cli import doctor
from qkv.cli.doctor import Check, doctor_command

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(doctor_command)

NAMES = [
    *("qkv", "torch", "numpy", "safetensors", "tokenizers", "processor", "compiler"),
    *("kernels", "precision", "threads", "devices", "memory", "disk", "cache", "data"),
]


def run(*arguments: str, code: int = 0, **environment: str | None) -> str:
    result = CliRunner(env=environment).invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def checks(**environment: str | None) -> dict[str, dict[str, Any]]:
    found = json.loads(run("--json", **environment))
    assert found["healthy"] is True
    assert all(set(c) == {"name", "state", "said", "remedy", "data"} for c in found["checks"])
    return {check["name"]: check for check in found["checks"]}


def test_as_data() -> None:
    found = checks()
    assert list(found) == NAMES
    assert found["torch"]["data"]["version"].startswith("2.")
    assert set(found["precision"]["data"]["gflops"]) == {"fp32", "bf16", "int8"}
    assert found["precision"]["data"]["auto"] in ("fp32", "bf16")
    assert "cpu" in found["devices"]["data"]["devices"]
    assert found["disk"]["data"]["free_gb"]["here"] > 0


@pytest.mark.parametrize(("there", "compiled"), [(True, "int8"), (False, "fp32")])
def test_int8_is_promised_only_where_torch_can_compile(
    monkeypatch: pytest.MonkeyPatch, there: bool, compiled: str
) -> None:
    speeds = {"fp32": 100.0, "bf16": 50.0, "int8": 400.0}
    monkeypatch.setattr("qkv.training.precision.measure_precisions", lambda: speeds)
    monkeypatch.setattr("qkv.training.fusing.compiler_found", lambda: there)
    found = checks()
    assert found["compiler"]["data"] == {"found": there}
    assert found["compiler"]["state"] == ("good" if there else "off")
    assert found["precision"]["data"]["auto"] == "fp32"
    assert found["precision"]["data"]["auto_compiled"] == compiled
    assert ("int8 for long runs" in found["precision"]["said"]) is there


def test_in_words() -> None:
    text = run()
    for name in NAMES:
        assert any(line.split()[1:2] == [name] for line in text.splitlines()), name
    assert "on the CPU, auto takes" in text


def test_folders(tmp_path: Path) -> None:
    (tmp_path / "plays.txt").write_bytes(b"x" * 1000)
    found = checks(QKV_CACHE_DIR=str(tmp_path), QKV_DATA_DIR=str(tmp_path))
    assert found["cache"]["data"] == {"folder": str(tmp_path), "files": {"plays.txt": 1000}}
    assert found["data"]["data"]["files"] == ["plays.txt"]
    gone = checks(QKV_CACHE_DIR=str(tmp_path / "new" / "one"), QKV_DATA_DIR=str(tmp_path / "none"))
    assert gone["cache"]["said"].endswith("empty")
    assert (gone["data"]["state"], gone["data"]["remedy"]) == ("off", "correct it")


def test_what_is_missing_is_broken_and_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("numpy", "no-such-package"))
    text = run(code=1)
    assert "✗ no-such-package not installed" in text
    assert "pip install no-such-package" in text
    assert json.loads(run("--json", code=1))["healthy"] is False


def test_a_check_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble() -> Check:
        raise OSError("no such\ndevice")

    monkeypatch.setattr(doctor, "_memory", stumble)
    text = run()
    assert "! memory      could not be looked at: no such device" in text
    assert "✓ disk" in text


def test_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_memory_gb", lambda: (8.0, 0.5))
    assert "close other programs" in run()
    monkeypatch.setattr(doctor, "_memory_gb", lambda: (None, None))
    assert "unknown on this system" in run()
