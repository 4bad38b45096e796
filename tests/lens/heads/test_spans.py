"""Mass from span to span: the dense pattern summed over blocks, for every head."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch

from qkv.attention import ALiBi, Causal, Padding, Window
from qkv.errors import ConfigError, QkvError, TextError
from qkv.lens import Trace, capture, record
from qkv.lens.heads import spans as spans_module

H, T, C = 3, 19, 5
SPANS = {"b": (5, 11), "a": (2, 5)}


def seen(*masks: Any, batch: int = 1, **options: Any) -> Trace:
    make = torch.Generator().manual_seed(8)
    with capture() as trace:
        for mask in masks:
            record(*torch.randn(2, batch, H, T, C, generator=make) * 2, mask=mask, **options)
    return trace


def by_blocks(pattern: np.ndarray, allowed: np.ndarray, which: np.ndarray) -> np.ndarray:
    """From span to span, meaned over the span's rows that may look at anything."""
    kinds = range(which.max() + 1)
    some = allowed.any(1)
    return np.array(
        [[pattern[(which == a) & some][:, which == b].sum(1).mean() for b in kinds] for a in kinds]
    )


WHICH = np.array([2, 2, 0, 0, 0, 1, 1, 1, 1, 1, 1, *[2] * 8])
TABLE = torch.rand(H, T, T, generator=torch.Generator().manual_seed(1)) > 0.3
TABLE[:, 3] = False


@pytest.mark.parametrize(
    "options", [{}, {"softcap": 2.0}, {"bias": ALiBi.standard(H)}], ids=lambda o: str(o)[:10]
)
def test_mass_and_chance_are_sums_over_blocks(options: dict[str, Any]) -> None:
    masks = [None, Causal(), Window(4), TABLE]
    trace = seen(*masks, **options)
    table = trace.spans(SPANS)
    assert table.names == table.asking == ("a", "b", "(rest)")
    assert table.mass.shape == (len(masks) * H, 3, 3)
    assert table.mass.sum(-1) == pytest.approx(1, abs=1e-5)
    assert table.chance.sum(-1) == pytest.approx(1, abs=1e-9)
    for place, m in enumerate(trace):
        allowed = m.allowed(range(T), range(T))
        assert table.heads[place] == m.name
        assert table[m.name] == pytest.approx(by_blocks(m.pattern(), allowed, WHICH), abs=2e-6)
        even = allowed / np.maximum(allowed.sum(1, keepdims=True), 1)
        assert table.chance[place] == pytest.approx(by_blocks(even, allowed, WHICH), abs=1e-9)
        counts = [(allowed.any(1) & (kind == WHICH)).sum() for kind in range(3)]
        assert table.counts[place].tolist() == counts


def test_many_spans_are_taken_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = seen(Causal())
    one = {f"t{place}": (place, place + 1) for place in range(T)}
    table = trace.spans(one)
    assert table.names == tuple(one)
    monkeypatch.setattr(spans_module, "MIXED_CELLS", 5 * H * T)
    assert trace.spans(one).mass == pytest.approx(table.mass, abs=2e-6)
    assert table["L0H1"] == pytest.approx(trace[0, 1].pattern(), abs=2e-6)
    monkeypatch.setattr(spans_module, "MOST_SPANS", 18)
    with pytest.raises(ConfigError, match="19 spans; expected at most 18"):
        trace.spans(one)


def test_a_sink_takes_what_keys_do_not() -> None:
    site = seen(Causal()).layers[0]
    sink = torch.tensor([0.5, 2.0, -1.0])
    lse = torch.logaddexp(site.lse, sink[:, None])
    trace = Trace()
    trace.end({0: (site.only(sink=sink, lse=lse),)}, {})
    table = trace.spans(SPANS)
    assert table.names == ("a", "b", "(rest)", "(sink)")
    assert table.mass.sum(-1) == pytest.approx(1, abs=1e-5)
    pattern = trace[0, 1].pattern()
    assert table["L0H1"][0, 3] == pytest.approx(1 - pattern[2:5].sum(1).mean(), abs=2e-6)
    assert (table.chance[..., 3] == 0).all()


def test_padding_is_not_counted() -> None:
    trace = seen(Causal() & Padding((13, T)), batch=2)
    with pytest.raises(QkvError, match=r"trace\.sequence"):
        trace.spans(SPANS)
    one = trace.sequence(0)
    m = one[0, 2]
    expected = by_blocks(m.pattern(), m.allowed(range(13), range(13)), WHICH[:13])
    assert one.spans(SPANS)["L0H2"] == pytest.approx(expected, abs=2e-6)


def test_a_span_without_stored_queries_has_no_mean() -> None:
    make = torch.Generator().manual_seed(8)
    with capture(rows=[12, 17]) as trace:
        record(*torch.randn(2, 1, H, T, C, generator=make), mask=Causal())
    table = trace.spans(SPANS)
    assert np.isnan(table["L0H0"][:2]).all()
    assert table.counts[0].tolist() == [0, 0, 2]
    assert table["L0H0"][2].sum() == pytest.approx(1, abs=2e-6)
    assert json.loads(table.to_json())["mass"][0]["mass"] is None
    assert table.between("a", "b") == []


def test_layers_across_texts_are_listed() -> None:
    whole = seen(Causal(), None)
    trace = Trace()
    trace.end({0: (whole.layers[0],), 1: (whole.layers[1].only(at=None),)}, {})
    table = trace.spans(SPANS)
    assert table.skipped == {"L1": "it looks at another text"}
    assert len(table) == H
    only = Trace()
    only.end({1: (whole.layers[1].only(at=None),)}, {})
    with pytest.raises(QkvError, match="all look at another text"):
        only.spans(SPANS)


WORDS = [
    "To", " be", ",", " or", " not", ".", "\n", "\n", "That", " is", "…", " Why", "?", "\n", "It",
    " is", " so", ".", "",
]  # fmt: skip


def found(spans: Any, words: list[str] = WORDS) -> dict[str, tuple[int, int]]:
    table = seen(Causal()).label(words).spans(spans)
    return {name: (span.start, span.stop) for name, span in table.ranges.items()}


def test_spans_by_line() -> None:
    lines = {"line 1": (0, 7), "line 2": (7, 8), "line 3": (8, 14), "line 4": (14, 19)}
    assert found("line") == lines
    # Glyphs stand for what can't be seen, where that is all that is known.
    glyphs = [word.replace(" ", "␣").replace("\n", "⏎") for word in WORDS]
    assert found("line", glyphs) == lines


def test_spans_by_sentence() -> None:
    assert found("sentence") == {
        "sentence 1": (0, 8),
        "sentence 2": (8, 11),
        "sentence 3": (11, 14),
        "sentence 4": (14, 19),
    }


def test_spans_by_expression() -> None:
    assert found(r"\bis\b") == {"is": (9, 10), "is #2": (15, 16)}
    # A match takes every token that it overlaps; the next one begins behind them.
    assert found(re.compile("e, o|r n")) == {"e, o": (1, 4), "r n": (4, 5)}
    assert found(r"(?<=\n)\n|$") == {"⏎": (7, 8)}
    assert list(found(r"(?s)To.*so")) == ["To be, or not. That is…"[:23] + "…"]


def test_pairs_alone_are_named_after_their_bounds() -> None:
    trace = seen(Causal())
    table = trace.spans([(0, 3), range(3, 10), slice(10, T)])
    assert table.names == ("0–3", "3–10", f"10–{T}")
    named = trace.spans({"a": (0, 3), "b": (3, 10), "c": (10, T)})
    assert table.mass == pytest.approx(named.mass)
    with pytest.raises(ConfigError, match=r"the spans '0–3' and '2–4', which share token 2"):
        trace.spans([(2, 4), (0, 3)])
    with pytest.raises(ConfigError, match=r"the span of tokens 0 to 99;"):
        trace.spans([(0, 99)])
    wrong: list[Any] = [10, (0, 10), [1], [(1, 2, 3)], {"a": 3}, [("a", "b")], range(3), None]
    for given in wrong:
        with pytest.raises(ConfigError, match=r"got spans of .*; expected names with") as told:
            trace.spans(given)
        assert "\n" not in str(told.value)


def test_the_heads_farthest_above_chance_come_first() -> None:
    table = seen(Causal(), Window(4)).spans(SPANS)
    above = table.mass - table.chance
    best = [table.heads[at] for at in np.argsort(-above.max((1, 2)), kind="stable")]
    found = table.top(4)
    assert list(found.heads) == best[:4]
    assert found[best[1]] == pytest.approx(table[best[1]])
    one = table.top(99, "b", "a")
    order = np.argsort(-above[:, 1, 0], kind="stable")
    assert list(one.heads) == [table.heads[at] for at in order]
    assert len(table.top(0)) == len(table.top(-1)) == 0
    with pytest.raises(ConfigError, match="the span 'z'"):
        table.top(3, "z")


def test_what_is_wrong_is_said_in_one_line() -> None:
    trace = seen(Causal())
    for spans, said in (
        ({"a": (0, 3), "b": (2, 5)}, r"the spans 'a' and 'b', which share token 2"),
        ({"a": (3, 3)}, r"the span 'a' of tokens 3 to 3"),
        ({"a": (0, 20)}, r"tokens 0 to 20; expected .* up to 19"),
        ({"a": (-2, 3)}, r"tokens -2 to 3"),
        ({"a": range(0, 8, 2)}, r"the span 'a'"),
        ({}, r"no span"),
        ({"(rest)": (0, 3)}, r"a span named '\(rest\)'"),
    ):
        with pytest.raises(ConfigError, match=said):
            trace.spans(spans)
    with pytest.raises(TextError, match="tokens without text"):
        trace.spans("line")
    trace.label(WORDS)
    with pytest.raises(ConfigError, match=r"the expression '\('"):
        trace.spans("(")
    with pytest.raises(TextError, match="matches nothing"):
        trace.spans("xyz")
    assert trace.spans({"a": slice(None, 4), "b": range(4, 6)}).ranges == {
        "a": range(4), "b": range(4, 6)
    }  # fmt: skip


def test_a_table_is_read_and_written(tmp_path: Any) -> None:
    table = seen(*[Causal()] * 5).spans(SPANS)
    assert str(table).splitlines()[0].split() == [
        "head",
        "from",
        "↓",
        "to",
        "→",
        "a",
        "b",
        "(rest)",
    ]
    assert "and 5 more rows" in repr(table)
    path = tmp_path / "spans.csv"
    table.to_csv(path)
    lines = path.read_text("utf-8").splitlines()
    assert lines[0] == "head,from,to,mass,chance,count"
    assert len(lines) == 1 + 15 * 9
    best = table.between("b", "a")
    assert best[0][1] == table.mass[:, 1, 0].max()
    assert best[0][2] == pytest.approx(table.chance[0, 1, 0])
    assert table._repr_html_().count("<tr>") == 46
    with pytest.raises(ConfigError, match="the span 'c'"):
        table.between("c", "a")
    with pytest.raises(ConfigError, match="the head 'L7H7'"):
        table["L7H7"]
    frame = pytest.importorskip("pandas") and table.to_pandas()
    assert len(frame.loc["L0H0"]) == 9
