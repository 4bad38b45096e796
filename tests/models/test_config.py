"""Configs: to JSON and back, and a line for everything that cannot be."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qkv.errors import ConfigError
from qkv.models import RUNGS, RungConfig, TransformerConfig, build_model, from_json, to_json
from qkv.models.fields import build, parse_setting

sizes = st.integers(1, 50)
positive = st.floats(1e-9, 1e9)


@st.composite
def transformer_configs(draw: st.DrawFn) -> TransformerConfig:
    """Any Transformer config that is allowed."""
    kv_heads, share = draw(sizes), draw(st.integers(1, 5))
    return TransformerConfig(
        vocab=draw(sizes),
        context=draw(sizes),
        layers=draw(sizes),
        width=2 * draw(sizes),
        heads=kv_heads * share,
        kv_heads=kv_heads,
        head_width=2 * draw(sizes),
        hidden=draw(st.none() | sizes),
        positions=draw(st.sampled_from(["rotary", "learned", "sinusoidal", "alibi", "none"])),
        rotary_theta=draw(positive),
        norm=draw(st.sampled_from(["rms", "layer"])),
        norm_eps=draw(positive),
        activation=draw(st.sampled_from(["relu2", "gelu", "gelu_tanh", "swiglu"])),
        bias=draw(st.booleans()),
        norm_bias=draw(st.none() | st.booleans()),
        qk_norm=draw(st.booleans()),
        tied=draw(st.booleans()),
        softcap=draw(st.none() | positive),
        logit_softcap=draw(st.none() | positive),
        window=draw(st.none() | sizes),
        scale=draw(st.none() | positive),
        dropout=draw(st.floats(0, 0.99)),
        zero_init=draw(st.booleans()),
    )


@given(config=transformer_configs())
def test_a_transformer_config_survives_json(config: TransformerConfig) -> None:
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


@given(kind=st.sampled_from(sorted(RUNGS)), vocab=sizes, head_width=sizes, heads=sizes)
def test_a_rung_config_survives_json(kind: str, vocab: int, head_width: int, heads: int) -> None:
    config = RungConfig(kind, vocab, width=head_width * heads, heads=heads)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config
    assert config.head_width == head_width


def test_a_rung_of_before_there_were_masks_to_leave_out_is_read() -> None:
    config = from_json({"kind": "norm", "vocab": 65})
    assert config == RungConfig("norm", vocab=65, masked=True, without=None)
    cheating = RungConfig("heads", vocab=65, masked=False)
    assert from_json(to_json(cheating)) == cheating


def test_defaults_are_filled_in() -> None:
    config = TransformerConfig(vocab=65, width=60, heads=6)
    assert (config.kv_heads_, config.head_width_, config.hidden_) == (6, 10, 240)
    config = TransformerConfig(vocab=65, heads=6, kv_heads=2, head_width=4, hidden=7)
    assert (config.kv_heads_, config.head_width_, config.hidden_) == (2, 4, 7)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"vocab": 0}, "vocab=0"),
    ({"context": -1}, "context=-1"),
    ({"layers": 0}, "layers=0"),
    ({"width": 64, "heads": 7}, "7 heads for width 64"),
    ({"heads": 6, "width": 60, "kv_heads": 4}, "set kv_heads to one of"),
    ({"kv_heads": 0}, "kv_heads=0"),
    ({"width": 21, "heads": 3}, "head width 7 with rotary"),
    ({"width": 21, "heads": 3, "positions": "sinusoidal"}, "width 21 with sinusoidal"),
    ({"head_width": 5}, "head width 5 with rotary"),
    ({"hidden": 0}, "hidden=0"),
    ({"window": 0}, "window=0"),
    ({"softcap": 0.0}, "softcap=0.0"),
    ({"logit_softcap": -1.0}, "logit_softcap=-1.0"),
    ({"scale": 0.0}, "scale=0.0"),
    ({"norm_eps": 0.0}, "norm_eps=0.0"),
    ({"rotary_theta": float("inf")}, "rotary_theta=inf"),
    ({"norm_eps": float("nan")}, "norm_eps=nan"),
    ({"dropout": 1.0}, "dropout 1.0"),
    ({"dropout": -0.1}, "dropout -0.1"),
    ({"positions": "rotery"}, "positions='rotery'"),
    ({"norm": "batch"}, "norm='batch'"),
    ({"activation": "relu"}, "activation='relu'"),
    ({"width": 64.0}, "width=64.0"),
    ({"layers": True}, "layers=True"),
    ({"bias": 1}, "bias=1"),
    ({"vocab": "65"}, "vocab='65'"),
    ({"heads": None}, "heads=None"),
]


@pytest.mark.parametrize(("wrong", "line"), WRONG)
def test_what_cannot_be_is_refused_when_made_and_when_read(
    wrong: dict[str, Any], line: str
) -> None:
    values = {"vocab": 65, **wrong}
    for make in (
        lambda: TransformerConfig(**values),
        lambda: from_json({"kind": "transformer", **values}),
    ):
        with pytest.raises(ConfigError) as caught:
            make()
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)
        assert all((caught.value.got, caught.value.expected, caught.value.remedy))


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"kind": "transformer", "vocab": 65, "widht": 64}, "the setting 'widht'"),
        ({"kind": "transformer"}, "got no vocab"),
        ({"vocab": 65}, "got no kind"),
        ({"kind": "bigram"}, "got no vocab"),
        ({"kind": "bigram", "vocab": 65, "layers": 2}, "the setting 'layers'"),
        ({"kind": 3, "vocab": 65}, "kind=3"),
        ({"kind": "bigram", "vocab": 65, "width": 10, "heads": 3}, "3 heads for width 10"),
        ({"kind": "bigram", "vocab": 65, "context": 0}, "context=0"),
        ({"kind": "bigram", "vocab": [65]}, "vocab=[65]"),
        ({"kind": "rnn", "vocab": 65, "masked": False}, "a rnn without its mask"),
        ({"kind": "heads", "vocab": 65, "without": "residual"}, "a heads without its residual"),
        ({"kind": "norm", "vocab": 65, "without": "attention"}, "without='attention'"),
    ],
)
def test_json_that_is_no_config_is_refused(data: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_json(data)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_rung_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"kind 'trigram'; expected one of uniform, .*"):
        build_model(RungConfig("trigram", vocab=65))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("width", "192", 192),
        ("vocab", "50_257", 50_257),
        ("vocab", "50,257", 50_257),
        ("dropout", "0", 0.0),
        ("dropout", "1e-1", 0.1),
        ("norm_eps", "1e-6", 1e-6),
        ("window", "none", None),
        ("window", "16", 16),
        ("softcap", "30", 30),
        ("tied", "true", True),
        ("tied", "No", False),
        ("norm_bias", "none", None),
        ("positions", "none", "none"),
        ("positions", "alibi", "alibi"),
    ],
)
def test_a_setting_is_read_from_text(name: str, text: str, value: object) -> None:
    read = parse_setting(TransformerConfig, name, text)
    assert read == value
    assert type(read) is type(value)
    assert build(TransformerConfig, {"vocab": 65, name: read})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("width", "1.5"),
        ("width", "wide"),
        ("width", "none"),
        ("width", ""),
        ("tied", "1"),
        ("dropout", "nan"),
        ("dropout", "inf"),
        ("positions", "spiral"),
        ("wdth", "3"),
    ],
)
def test_a_text_that_is_no_value_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigError, match=r"^got .*; expected .*; .*"):
        parse_setting(TransformerConfig, name, text)


def test_configs_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TransformerConfig(vocab=65).width = 3  # type: ignore[misc]
