"""Names that links keep, and what is said of an item before it is opened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from qkv.errors import ConfigError
from qkv.lab.catalogue import Catalogue
from qkv.lab.rooms import Lab
from qkv.lab.shelf import Shelf


def make_run(path: Path, kind: str) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model": {"kind": kind}}), encoding="utf-8")
    (path / "tokenizer.json").write_text("{}", encoding="utf-8")
    return path


def test_a_name_means_the_same_whatever_else_is_opened(tmp_path: Path) -> None:
    runs, other = tmp_path / "runs", tmp_path / "other"
    run = make_run(runs / "six", "heads")
    other.mkdir()
    for places in ([runs], [other, runs], [runs, other]):
        catalogue = Catalogue(Shelf(places))
        assert [one["id"] for one in catalogue.items()] == ["own", "runs/six"]
        assert catalogue.find("runs/six").path == run
    alone = Catalogue(Shelf([other, run]))
    assert [one["id"] for one in alone.items()] == ["own", "six"]
    assert alone.find("six").path == alone.find("1").path == run


def test_places_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name / "runs" / "one", "heads") for name in ("a", "b")]
    catalogue = Catalogue(Shelf([path.parent for path in runs]))
    names = [one["id"] for one in catalogue.items()][1:]
    assert names == ["a/runs/one", "b/runs/one"]
    assert [catalogue.find(name).path for name in names] == runs


@pytest.mark.parametrize(
    "name", ["", "runs", "runs/", "runs/none", "runs/../secret", "runs/..", "runsix", "/", "."]
)
def test_a_name_leads_to_nothing_beside_its_folder(tmp_path: Path, name: str) -> None:
    make_run(tmp_path / "runs" / "six", "heads")
    make_run(tmp_path / "secret", "heads")
    with pytest.raises(ConfigError, match="something the lab was opened on"):
        Catalogue(Shelf([tmp_path / "runs"])).find(name)


def test_models_without_heads_are_told(lab: Lab, client: TestClient) -> None:
    place = Path(lab.places[0])
    kinds = ("uniform", "bigram", "rnn", "one-head", "heads", "transformer")
    for kind in kinds:
        make_run(place / kind, kind)
    (make_run(place / "odd", "heads") / "config.json").write_text("[]", encoding="utf-8")
    told = {one["title"]: one["heads"] for one in client.get("/api/items").json()}
    assert [told[kind] for kind in kinds] == [False, False, False, True, True, True]
    assert told["odd"]
    assert told["the model that comes with qkv"]


def test_old_ids_lead_to_the_name(lab: Lab, client: TestClient) -> None:
    make_run(Path(lab.places[0]) / "six", "heads")
    assert lab.inspector.catalogue.find("0/six").id == "0/six"
    named = lab.inspector.catalogue.told(lab.inspector.catalogue.find("0/six"))
    assert named["id"] == "place/six"
