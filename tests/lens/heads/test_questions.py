"""Which heads carry weight from a token to another: the very cells of all maps, sorted."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qkv.attention import ALiBi, Causal, Padding, Window, attend
from qkv.errors import ConfigError, QkvError
from qkv.lens import Trace, capture, record

B, H, G, T, C, D = 2, 6, 3, 17, 5, 23


class Layer(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.projections = nn.ModuleList(nn.Linear(D, n * C) for n in (H, G, G))
        self.output = nn.Linear(H * C, D)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(x).unflatten(-1, (-1, C)).transpose(1, 2) * 3 for project in self.projections
        )
        return self.output(attend(q, k, v, **self.options).transpose(1, 2).flatten(2))


def seen(layers: list[dict[str, Any]], batch: int = 1, **how: Any) -> Trace:
    torch.manual_seed(2)
    model = nn.Sequential(*(Layer(**options) for options in layers))
    with capture(model, values=True, **how) as trace, torch.no_grad():
        model(torch.randn(batch, T, D))
    return trace


LAYERS: list[dict[str, Any]] = [
    {"mask": Causal()},
    {"mask": Window(5)},
    {"mask": torch.rand(H, T, T, generator=torch.Generator().manual_seed(1)) > 0.3},
    {"bias": ALiBi.standard(H), "softcap": 3.0},
    {"bias": torch.randn(1, H, 1, T, generator=torch.Generator().manual_seed(1)), "scale": 0.7},
]


@pytest.mark.parametrize(("query", "key"), [(13, 3), (3, 13), (16, 16), (0, 0)])
def test_every_head_says_what_its_map_says(query: int, key: int) -> None:
    trace = seen(LAYERS)
    ranking = trace.rank(query, key)
    assert {head.name for head in ranking} == {m.name for m in trace}
    assert [head.weight for head in ranking] == sorted((h.weight for h in ranking), reverse=True)
    maps = {m.name: m for m in trace}
    for head in ranking:
        m = maps[head.name]
        cell, allowed = m.cell(query, key), m.allowed([query], range(T))[0]
        assert head.weight == pytest.approx(cell.weight, abs=1e-12)
        assert head.output_norm == pytest.approx(cell.output_norm, abs=1e-6)
        assert head.chance == (pytest.approx(1 / allowed.sum()) if allowed[key] else 0)


def test_it_sorts_by_what_reaches_the_model() -> None:
    norms = [head.output_norm for head in seen(LAYERS).rank(13, 3, by="output_norm")]
    assert norms == sorted(norms, reverse=True)


def test_places_are_those_of_tokens_not_of_padding() -> None:
    trace = seen([{"mask": Causal() & Padding((11, T))}], batch=B)
    with pytest.raises(QkvError, match=r"trace\.sequence"):
        trace.rank(3, 1)
    one = trace.sequence(0)
    for head in one.rank(7, 5):
        m = one[0, int(head.name[3:])]
        assert m.K == 11
        assert head.weight == pytest.approx(m.tile([7], [5])[0, 0], abs=1e-12)
    with pytest.raises(QkvError, match="query 11; expected 0 to 10"):
        one.rank(11, 0)


@pytest.mark.parametrize("how", [{"rows": [4, 9, 13]}, {"heads": [1, 4]}, {"dtype": "bf16"}])
def test_of_what_is_stored(how: dict[str, Any]) -> None:
    trace = seen(LAYERS[:4], **how)
    ranking = trace.rank(13, 9)
    assert not ranking.skipped
    assert len(ranking) == sum(1 for _ in trace)
    maps = {m.name: m for m in trace}
    for head in ranking:
        m = maps[head.name]
        row = int(np.flatnonzero(m.places == 13)[0])
        assert head.weight == pytest.approx(m.tile([row], [9])[0, 0], abs=1e-12)


def test_layers_that_cannot_be_asked_are_listed() -> None:
    q, other = torch.randn(1, H, T, C), torch.randn(1, H, 7, C)
    with capture() as trace:
        record(q, q, mask=Causal())
        record(q, other)
    narrow = Trace()
    across = trace.layers[1].only(at=None)
    narrow.end({0: (trace.layers[0],), 1: (across,)}, {})
    ranking = narrow.rank(16, 2)
    assert ranking.skipped == {"L1": "it looks at another text"}
    assert len(ranking) == H
    rows = Trace()
    rows.end({0: (seen(LAYERS[:1], rows=[4]).layers[0],)}, {})
    assert rows.rank(5, 2).skipped == {"L0": "query 5 isn't stored"}
    assert "L0 left out: query 5 isn't stored" in str(rows.rank(5, 2))


def test_errors_say_what_to_do() -> None:
    trace = seen(LAYERS[:1])
    with pytest.raises(QkvError, match="query -1; expected 0 to 16"):
        trace.rank(-1, 0)
    with pytest.raises(QkvError, match="key 17; expected 0 to 16"):
        trace.rank(0, 17)
    with pytest.raises(ConfigError, match="by='size'"):
        trace.rank(0, 0, by="size")


def test_a_ranking_tells_three_digits_and_what_is_masked() -> None:
    found = seen([{"mask": Causal()}]).rank(9, 2)
    line = str(found).splitlines()[2].split()
    assert line[1:3] == [f"{found[0].weight:.3f}".removeprefix("0"), ".100"]
    ahead = seen([{"mask": Causal()}]).rank(2, 9)
    assert str(ahead).splitlines()[2].split()[1:3] == [".00", "masked"]


def test_a_ranking_is_read_and_written(tmp_path: Any) -> None:
    ranking = seen(LAYERS).rank(13, 3)
    assert str(ranking).splitlines()[0] == "from token 13 to token 3"
    assert "and 10 more heads" in repr(ranking)
    assert len(ranking.top(4)) == 4
    assert ranking[0] == next(iter(ranking))
    path = tmp_path / "rank.csv"
    ranking.to_csv(path)
    assert path.read_text("utf-8").splitlines()[0] == "name,weight,chance,output_norm"
    assert json.loads(ranking.to_json())["heads"][0]["name"] == ranking[0].name
    assert ranking._repr_html_().count("<tr>") == 31
    frame = pytest.importorskip("pandas") and ranking.to_pandas()
    assert frame.loc[ranking[0].name, "weight"] == ranking[0].weight


def test_places_are_those_of_one_text() -> None:
    """Of an encoder and a decoder, the decoder's; layers of other tokens are left out."""
    table, makes = nn.Embedding(30, H * C), torch.Generator().manual_seed(4)

    def look(ids: Tensor) -> None:
        x = table(ids).unflatten(-1, (H, C)).transpose(1, 2)
        record(x, x)

    long, first, second = (torch.randint(30, (1, n), generator=makes) for n in (T, 11, 11))
    with capture() as trace, torch.no_grad():
        for ids in (long, first, second, second):
            look(ids)
    ranking = trace.rank(9, 3)
    assert ranking.skipped == {
        "L0": f"it has {T} keys where the text has 11",
        "L1": "it looks at another text",
    }
    assert {head.name[:2] for head in ranking} == {"L2", "L3"}
    assert trace.spans({"a": (0, 4)}).skipped == ranking.skipped
