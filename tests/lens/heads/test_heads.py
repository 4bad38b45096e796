"""A trace's heads as a table: made, sorted, filtered, written and shown."""

from __future__ import annotations

import csv
import io
import json
import sys
from typing import Any

import numpy as np
import pytest
import torch

from qkv.attention import Causal
from qkv.errors import ConfigError, ResourceError
from qkv.lens import capture, record
from qkv.lens.heads.head_scores import FORMULAS, Score
from qkv.lens.heads.head_table import HeadTable, score_heads


def trace_of(layers: int = 2, heads: int = 3) -> Any:
    make = torch.Generator().manual_seed(5)
    with capture() as trace:
        for _ in range(layers):
            record(*torch.randn(2, 1, heads, 11, 4, generator=make), mask=Causal())
    return trace


def test_a_trace_makes_a_table() -> None:
    trace, told = trace_of(), []
    table = trace.heads(progress=told.append)
    assert [row.name for row in table] == ["L0H0", "L0H1", "L0H2", "L1H0", "L1H1", "L1H2"]
    assert told == pytest.approx(np.arange(1, 7) / 6)
    assert (table["L1H2"].layer, table["L1H2"].head, len(table)) == (1, 2, 6)
    assert table["L1H2"]["entropy"].score == pytest.approx(
        trace[1, 2].entropy()[1:].mean(), abs=1e-6
    )
    told.clear()
    score_heads(iter([trace[0, 0], trace[0, 1]]), progress=told.append)
    assert told == [0.5, 1]


def table_of(*values: float | None) -> HeadTable:
    table = trace_of(1, len(values)).heads()
    rows = []
    for row, value in zip(table, values, strict=True):
        score = None if value is None else Score(value, 0.1, 1.0, 7, lift=value)
        rows.append(
            type(row)(row.name, row.layer, row.head, row.role, {**row.scores, "self": score})
        )
    return HeadTable(tuple(rows), ("a note",))


def test_a_table_sorts_and_filters() -> None:
    table = table_of(0.2, None, 0.9, 0.5)
    assert [row.head for row in table.sort("self")] == [2, 3, 0, 1]
    assert [row.head for row in table.sort("self", ascending=True)] == [0, 3, 2, 1]
    assert [row.head for row in table.top(2, "self")] == [2, 3]
    assert [row.head for row in table.top(1)] == [0]
    assert [row.head for row in table.filter(lambda row: row["self"] is None)] == [1]
    assert len(table.filter(role="induction")) == len(table.filter("induction")) == 0
    assert len(table.filter("mixed")) + len(table.filter("")) <= 4
    with pytest.raises(ConfigError, match=r"the role 'bogus'; expected one of 'self', .*'mixed'"):
        table.filter(role="bogus")
    with pytest.raises(ConfigError, match=r"the role 'first'.*with sort\('first'\)"):
        table.filter("first")
    assert table.columns["induction"].source.startswith("Olsson")
    with pytest.raises(ConfigError, match="the column 'selfish'"):
        table.sort("selfish")
    with pytest.raises(ConfigError, match=r"the head 'L9H9'.*L0H0 to L0H3"):
        table["L9H9"]


def test_a_table_is_written(tmp_path: Any) -> None:
    table = table_of(0.25, None)
    path = tmp_path / "heads.csv"
    assert table.to_csv(path) == path.read_text("utf-8")
    lines = list(csv.DictReader(io.StringIO(table.to_csv())))
    assert [line["self"] for line in lines] == ["0.25", ""]
    assert (lines[0]["name"], lines[0]["self_chance"], lines[0]["self_count"]) == (
        "L0H0",
        "0.1",
        "7",
    )
    told = json.loads(table.to_json(tmp_path / "heads.json"))
    assert told["heads"][0]["scores"]["self"]["score"] == 0.25
    assert {column["name"] for column in told["columns"]} == set(FORMULAS)
    assert told["heads"][0]["scores"]["self"]["lift"] == 0.25
    defined = {column["name"]: column["lift"] for column in told["columns"]}
    assert "all keys but the first" in defined["self"]
    assert "one key alone (0) to all alike (1)" in defined["uniform"]
    assert defined["first"] is None
    assert told["notes"] == ["a note"]
    with pytest.raises(ResourceError, match="can't be written"):
        table.to_csv(tmp_path / "nowhere" / "heads.csv")


def test_a_table_becomes_a_data_frame() -> None:
    pytest.importorskip("pandas")
    frame = table_of(0.25, None).to_pandas()
    assert frame.loc["L0H0", "self"] == 0.25
    assert frame.loc["L0H0", "self_lift"] == 0.25
    assert {"lift", "role"} <= {*frame.columns}
    assert frame["self"].isna().tolist() == [False, True]


def test_without_pandas_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ResourceError, match=r"no pandas.*to_csv"):
        table_of(0.25).to_pandas()


def test_a_table_is_read() -> None:
    table = table_of(0.25, None, *[0.5] * 50)
    text = str(table)
    assert text.splitlines()[0].split()[:3] == ["head", "role", "lift"]
    assert "a note" in text
    assert len(text.splitlines()) == 1 + 52 + 2 + 1 + 1
    assert "lift: the role's score from chance (0) to perfect (1)" in text
    assert "and 12 more heads" in repr(table)
    assert len({line.rstrip()[-1:] for line in text.splitlines()}) > 1
    assert str(HeadTable(())) != ""


def test_a_table_in_a_notebook_is_escaped() -> None:
    row = next(iter(table_of(0.25)))
    bad = type(row)("</table><script>", None, None, row.role, row.scores)
    html = HeadTable((bad,))._repr_html_()
    assert "<script>" not in html
    assert "&lt;/table&gt;&lt;script&gt;" in html
    assert html.count('scope="row"') == 3
