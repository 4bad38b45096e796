"""What views need of a trace: its heads by layer, their scores, and where to begin."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from qkv.attention import Causal
from qkv.errors import ConfigError, QkvError
from qkv.lens import AttentionMap, capture
from qkv.lens.heads.head_table import HeadTable
from qkv.views.gather import gather, telling_head
from qkv.views.heads import head_legend, head_lines, lift_of, ranked, spoken_score


def planted(tokens: int = 13) -> list[AttentionMap]:
    """Heads that look at themselves, at the token before, and everywhere."""
    x = np.eye(tokens) * 9
    keys = (x, np.roll(x, -1, axis=0), np.zeros_like(x))
    return [AttentionMap.of(x, k, mask=Causal(), name=f"L0H{head}") for head, k in enumerate(keys)]


def test_a_trace_has_its_layers_with_their_modules() -> None:
    model = torch.nn.ModuleDict({
        "one": torch.nn.MultiheadAttention(6, 3, batch_first=True),
        "two": torch.nn.MultiheadAttention(6, 2, batch_first=True),
    })  # fmt: skip
    x = torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(0))
    with capture(model) as trace:
        for layer in model.values():
            layer(x, x, x, need_weights=False)
    found = gather(trace)
    assert [layer.module for layer in found.layers] == ["one", "two"]
    assert list(found.maps) == ["L0H0", "L0H1", "L0H2", "L1H0", "L1H1"]
    assert list(gather(trace, layer="two").maps) == ["L1H0", "L1H1"]
    assert list(gather(trace, head=2).maps) == ["L0H2"]
    assert gather(trace, layer=1, head=1).telling == "L1H1"
    assert found.cells == 5 * 5 * 5


def test_nameless_maps_are_numbered_and_strangers_refused() -> None:
    one = AttentionMap.of(np.zeros((2, 1)), np.zeros((2, 1)))
    assert list(gather([one, one]).maps) == ["L0H0", "L0H1"]
    for thing in (3, "ab", [one, 3]):
        with pytest.raises(ConfigError, match="a trace or a map"):
            gather(thing)  # type: ignore[arg-type]
    with pytest.raises(QkvError, match="got layer 7"):
        gather([one], layer=7)


def test_one_begins_with_the_head_that_looks_for_something() -> None:
    found = gather(planted()).scored()
    assert found.table is not None
    assert [row.role for row in found.table] == ["self", "previous", "uniform"]
    assert found.telling == telling_head(found.table) == "L0H1"
    # The head that was asked for stays.
    assert gather(planted()[0]).scored().telling == "L0H0"


def test_heads_stand_in_the_order_of_what_they_tell_or_of_one_score() -> None:
    table = gather(planted()).scored().table
    assert table is not None
    names, lines = head_lines(table, 3)
    assert names == ["head", "role", "score", "chance", "rows", "entropy", "first", "lift"]
    # What looks at itself, or at all alike, comes last, though its lift may be larger.
    assert lines[0][1] == "previous"
    dull = [row for row in table if row.role in {"self", "uniform"}]
    order = ["L0H1", *(row.name for row in sorted(dull, key=lambda row: -(row.lift or 0)))]
    assert [line[0] for line in lines] == [row.name for row in ranked(table)] == order
    assert telling_head(table) == lines[0][0]
    assert lines[0][-1] == "1.00"
    by_previous = head_lines(table, 9, "previous")[1]
    assert by_previous[0][:3] == ["L0H1", "previous", "1.00"]
    # A row i may look at i + 1 keys, of which one is the token before.
    chance = np.mean([1 / (i + 1) for i in range(1, 13)])
    assert by_previous[0][3] == f"{chance:.2f}".removeprefix("0")
    assert by_previous[0][4] == "12"
    row = table["L0H1"]
    assert lift_of(row, "previous") == pytest.approx(1, abs=0.01)
    assert lift_of(row, "entropy") is None
    assert head_lines(table, 3, "entropy")[0][-1] == "first"
    said = f"previous 1.00 over 12 rows (chance {by_previous[0][3]}, lift 1.00)"
    assert spoken_score(row) == said
    assert spoken_score(table["L0H2"]) == "uniform 1.00 over 12 rows (lift 1.00)"
    with pytest.raises(ConfigError):
        ranked(table, "nonsense")


def test_what_is_too_weak_for_a_name_stands_in_brackets() -> None:
    row = next(iter(gather(planted()).scored().table or ()))
    score = replace(row.scores["previous"], score=0.15, lift=0.12)  # type: ignore[type-var]
    weak = replace(row, role="mixed", scores=dict.fromkeys(row.scores) | {"previous": score})
    none = replace(weak, role="", scores=dict.fromkeys(row.scores))
    table = HeadTable((none, weak))
    lines = head_lines(table, 9)[1]
    assert [line[1] for line in lines] == ["(previous)", "–"]
    assert lines[0][-1] == ".12"
    assert lines[1][2:] == ["·"] * 6
    told = " ".join(head_legend(table, 9))
    assert "too weak for a name" in told
    assert "–: nothing stands out" in told
    assert "(role)" not in " ".join(head_legend(table, 0))


def test_a_payload_has_the_scores_and_kinds() -> None:
    header: Any = gather(planted(), title="three", note="n").scored().payload().header
    assert (header["title"], header["note"]) == ("three", "n")
    kinds = [head["kind"] for head in header["layers"][0]["heads"]]
    assert kinds == ["self", "previous token", "uniform"]
    columns = {column["name"]: column for column in header["table"]}
    assert columns["lift"]["values"] == pytest.approx([1, 1, 1], abs=1e-2)
    assert "first token's mass set aside" in columns["lift"]["description"]
    assert columns["previous"]["values"][1] == pytest.approx(1, abs=1e-3)
    assert columns["previous"]["count"] == [12, 12, 12]
    assert "norm" not in columns  # without values nobody knows
