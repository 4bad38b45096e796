"""Probes in one zip file: what is kept, what is thinned, and what damage says."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from qkv import Causal, attend, capture
from qkv.errors import CheckpointError, ConfigError
from qkv.models.embedded import embedded_notes, load_embedded
from qkv.training.probe_archive import ProbeArchive, embedded_timeline, thinned, write_archive
from qkv.training.probe_files import INDEX, ProbeFiles
from qkv.training.probes import told_scores

STEPS = [0, 2, 3, 5, 9, 17, 33]


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> ProbeFiles:
    """Random heads of two layers at seven steps, and an eighth line whose trace is gone."""
    files = ProbeFiles(tmp_path_factory.mktemp("run") / "probes")
    files.make_folder()
    torch.manual_seed(0)
    for step in STEPS:
        with capture() as trace:
            for _ in range(2):
                attend(*torch.randn(3, 1, 2, 31, 16), mask=Causal())
        trace.save(files.path(step), "int8")
        heads = told_scores(files.trace(step).heads())
        files.append({"step": step, "passage_loss": 4 - step / 10, "sample": "é", "heads": heads})
    files.append({"step": 40, "passage_loss": 0.5, "sample": None, "heads": {}})
    return files


def test_what_fits_is_kept_to_the_last_bit(probes: ProbeFiles, tmp_path: Path) -> None:
    path = tmp_path / "probes.zip"
    assert write_archive(probes, path, 10**6, 7) == 127
    archive = ProbeArchive(path.read_bytes(), path)
    assert archive.steps() == STEPS == probes.steps()
    assert [line["step"] for line in archive.read()] == [*STEPS, 40]
    for line, own in zip(archive.read(), probes.read(), strict=True):
        assert {**line, "bytes": 0} == {**own, "bytes": 0} or line == own
    for step in STEPS:
        for one, other in zip(archive.trace(step), probes.trace(step), strict=True):
            assert one.name == other.name
            np.testing.assert_array_equal(one.row(30), other.row(30))
    assert [archive.nearest(step) for step in (0, 4, 25, 1000)] == [0, 3, 17, 33]
    again = tmp_path / "again.zip"
    write_archive(probes, again, 10**6, 7)
    assert again.read_bytes() == path.read_bytes()


def test_fewer_bytes_make_coarser_numbers_then_fewer_steps(
    probes: ProbeFiles, tmp_path: Path
) -> None:
    path = tmp_path / "probes.zip"
    write_archive(probes, path, 10**6, 7)
    whole = path.stat().st_size
    largest = write_archive(probes, path, whole * 9 // 10, 7)
    assert 31 <= largest < 127
    assert path.stat().st_size <= whole * 9 // 10
    coarse = ProbeArchive(path.read_bytes(), path)
    assert coarse.steps() == STEPS
    for line in list(coarse.read())[:-1]:
        trace = coarse.trace(line["step"])
        for one, exact in zip(trace, probes.trace(line["step"]), strict=True):
            assert np.abs(one.row(30) - exact.row(30)).max() < 0.1
            assert one.row(30).sum() == pytest.approx(1, abs=1e-5)
        # Scores are those of the numbers that are kept.
        assert line["heads"] == told_scores(trace.heads())
    assert write_archive(probes, path, whole // 2, 7) == 31
    few = ProbeArchive(path.read_bytes(), path)
    assert path.stat().st_size <= whole // 2
    kept = few.steps()
    assert kept == thinned(STEPS, len(kept))
    assert kept[0] == 0
    assert kept[-1] == 33
    assert len(list(few.read())) == 8


def test_thinning_is_even_by_logarithm() -> None:
    steps = [0, *range(2, 1000)]
    places = np.log1p(thinned(steps, 12))
    gaps = np.diff(places)
    assert len(places) == 12
    # But for the first two, where whole numbers lie apart.
    assert gaps[2:].max() < 1.3 * gaps[2:].min()
    assert thinned(steps, len(steps)) == steps
    assert thinned([5], 40) == [5]
    assert thinned(steps, 2) == [0, 999]


def test_no_room_and_no_probes_are_refused(probes: ProbeFiles, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="room for 9,000 bytes of probes"):
        write_archive(probes, tmp_path / "probes.zip", 9_000, 7)
    with pytest.raises(ConfigError, match="got no probes in"):
        write_archive(ProbeFiles(tmp_path), tmp_path / "probes.zip", 10**6, 7)


def test_damage_is_one_line(probes: ProbeFiles, tmp_path: Path) -> None:
    path = tmp_path / "probes.zip"
    write_archive(probes, path, 10**6, 7)
    data = path.read_bytes()
    archive = ProbeArchive(data, "here")
    with pytest.raises(CheckpointError, match=r"got here: .*; install qkv again"):
        archive.trace(4)
    for wrong in (b"", b"PK", data[:-30]):
        with pytest.raises(CheckpointError, match="got here: "):
            ProbeArchive(wrong, "here")
    with zipfile.ZipFile(path) as whole:
        start = whole.getinfo("step-00000033.safetensors").header_offset + 100
        index = whole.getinfo(INDEX).header_offset + 60
    changed = bytearray(data)
    changed[start : start + 50] = bytes(50)
    with pytest.raises(CheckpointError, match="got here: ") as caught:
        ProbeArchive(bytes(changed), "here").trace(33)
    assert "\n" not in str(caught.value)
    changed[index : index + 50] = bytes(50)
    with pytest.raises(CheckpointError, match="got here: "):
        ProbeArchive(bytes(changed), "here").steps()


def test_the_timeline_that_comes_with_qkv() -> None:
    timeline = embedded_timeline()
    steps = timeline.steps()
    assert len(steps) >= 10
    assert steps[0] == 0
    assert steps[-1] == load_embedded().step
    assert all(isinstance(line["passage_loss"], float) for line in timeline.read())
    assert list(timeline.read())[-1]["sample"]
    last = timeline.trace(steps[-1])
    assert "".join(last.texts) == embedded_notes()["probe"]
    for head in last:
        rows = head.tile(range(96), range(96))
        np.testing.assert_allclose(rows.sum(1), 1, atol=1e-4)
