"""Heads by name, and what edits refuse: one line that says what to do, at once where it can."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from qkv.attention.fused import attend
from qkv.errors import ConfigError, QkvError
from qkv.lens.edits.edits import Edits, edit
from qkv.lens.edits.naming import Heads

H = 6


def test_every_way_to_name_heads() -> None:
    ways: list[Any] = [
        "L1H2, L3, h.4.attn, all",
        ["L1H2", "L3", "h.4.attn", "all"],
        [(1, 2), "L3,h.4.attn", "all"],
        Heads.of(["L1H2", "L3", "h.4.attn", "all"]),
    ]
    assert {str(Heads.of(way)) for way in ways} == {"L1H2, L3, h.4.attn, all"}
    assert Heads.of(("h.4.attn", 2)).chosen(4, "h.4.attn", 3).tolist() == [False, False, True]
    assert Heads.of(["0.self_attn", "attn#1"]).names[1].layer == "attn#1"
    assert not Heads.of([])


@pytest.mark.parametrize(
    "name", ["L3H", "H7", "3.7", "l3h7", "L1H2-4", "", "L1,", 3, (0, -1), [("a", -1)]]
)
def test_names_that_are_none_are_refused_at_once(name: Any) -> None:
    with pytest.raises(ConfigError, match="count layers and heads from 0") as caught, edit(name):
        pytest.fail("the block was entered")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"mask": "on"}, "mask 'on'"),
        ({"scale": math.nan}, "scale nan"),
        ({"scale": True}, "scale True"),
        ({"temperature": 0}, "temperature 0"),
        ({"temperature": math.inf}, "temperature inf"),
        ({"only": "L1"}, "nothing to change there"),
        ({"ablate": "L0", "reference": {}}, "a reference without mean"),
    ],
)
def test_settings_out_of_range_are_refused_at_once(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Edits(**asked)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"ablate": f"L0H{H}"}, "head L0H6; expected L0H0 to L0H5"),
        ({"ablate": "L2"}, "L2, a layer that wasn't seen; expected L0 to L1"),
        ({"uniform": "h.4.attn"}, "h.4.attn, a layer"),
        ({"scale": "off", "only": "L2H0"}, "L2H0, a layer"),
        ({"ablate": "L1H2", "mean": "L1"}, "ablate and mean for L1H2"),
        ({"uniform": "all", "sharpen": "L1H2"}, "uniform and sharpen for L1H2"),
    ],
)
def test_heads_that_are_not_there_are_one_line(asked: dict[str, Any], says: str) -> None:
    x = torch.zeros(1, H, 3, 2)
    with pytest.raises(ConfigError, match=says), edit(**asked):
        attend(attend(x, x, x), x, x)


def test_no_attention_is_an_error_but_not_over_another() -> None:
    with pytest.raises(QkvError, match="no attention call to edit"), edit("L0"):
        torch.ones(3).sum()
    with pytest.raises(ZeroDivisionError), edit("L0"):
        _ = 1 / 0
