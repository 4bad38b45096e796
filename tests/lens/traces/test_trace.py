"""What a trace stores and how it is read: parts, types, files, calls, and what can't be seen."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.attention import ALiBi, Causal, Padding, Window, attend
from qkv.errors import ConfigError, QkvError, ResourceError, ShapeError
from qkv.lens import Trace, capture
from qkv.text import ByteTokenizer

L, H, G, T, C, D, V = 3, 6, 2, 17, 5, 30, 256


class Block(nn.Module):
    def __init__(self, mask: Any, bias: Any) -> None:
        super().__init__()
        self.mask, self.bias = mask, bias
        self.into = nn.Linear(D, (H + 2 * G) * C)
        self.out = nn.Linear(H * C, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        B, tokens = x.shape[:2]
        q, k, v = self.into(x).view(B, tokens, -1, C).transpose(1, 2).split([H, G, G], 1)
        mixed = attend(q, k, v, mask=self.mask, bias=self.bias)
        return x + self.out(mixed.transpose(1, 2).reshape(B, tokens, -1))


class Model(nn.Module):
    """Attention by `qkv.attend`, and tokens looked up before places."""

    def __init__(self, mask: Any = None, bias: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.places = nn.Embedding(V, D), nn.Embedding(64, D)
        self.blocks = nn.ModuleList(
            Block(Causal() if mask is None else mask, bias) for _ in range(L)
        )
        for block in self.blocks:
            nn.init.normal_(block.into.weight, std=0.2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[-1]))
        for block in self.blocks:
            x = block(x)
        return x


def ids(batch: int = 1) -> Tensor:
    text = torch.tensor(list(b"the\ncat sat\xc3\xa9 </s>"[:T]))
    return torch.stack([text.roll(turn) for turn in range(batch)])


def seen(model: nn.Module | None = None, batch: int = 1, **options: Any) -> Trace:
    model = Model() if model is None else model
    with torch.no_grad(), capture(model, **options) as trace:
        model(ids(batch))
    return trace


def all_patterns(trace: Trace) -> np.ndarray:
    return np.stack([m.pattern() for m in trace])


def test_layers_say_what_they_are() -> None:
    trace = seen(Model(Window(4)))
    assert repr(trace.layers[1]) == ("Site 1 (blocks.1): window 4, B 1, H 6, G 2, Q 17, K 17, C 5")
    assert trace["blocks.1", 3].name == trace["L1H3"].name == "L1H3"
    for at in ("L1", 0, (0, 1, 2), "x", (0, "1")):
        with pytest.raises(QkvError, match=r"trace\['L3H7'\]"):
            trace[at]
    assert repr(trace) == "Trace: 3 layers, 18 heads, 17 tokens, 9 kB"
    assert [len(heads) for heads in trace.maps()] == [H] * L


def test_tokens_are_seen_where_they_are_looked_up() -> None:
    trace = seen(tokenizer=ByteTokenizer())
    assert trace.tokens.tolist() == ids()[0].tolist()
    assert trace.labels[3:5] == ("⏎", "c")
    assert trace.texts[3] == "\n"
    assert trace[0, 0].key_labels[11] == "\\xc3"
    assert trace[0, 0].key_ids.tolist() == trace[0, 0].query_ids.tolist() == ids()[0].tolist()


def test_parts_can_be_chosen() -> None:
    whole = seen()
    part = seen(layers=[0, "blocks.2"], heads=[1, 5], rows=slice(3, None, 2))
    assert [site.name for site in part.layers] == ["blocks.0", "blocks.2"]
    assert part.bytes < whole.bytes / 3
    for layer in (0, 2):
        for head in (1, 5):
            found, wanted = part[layer, head], whole[layer, head].pattern()
            assert found.pattern() == pytest.approx(wanted[3::2], abs=1e-12)
            assert found.places.tolist() == list(range(3, T, 2))
    mixed = part.layers[1].mix(torch.eye(T))
    assert mixed[1].numpy() == pytest.approx(part[2, 5].pattern(), abs=1e-6)
    with pytest.raises(QkvError, match=r"got layer 1; expected one of 0, 2"):
        part[1, 1]
    with pytest.raises(QkvError, match=r"got head 2 of layer 0; expected one of 1, 5"):
        part[0, 2]
    for wrong, line in (
        ({"layers": [0, 7]}, r"layers=\[7\]; expected 0 to 2, or a name such as 'blocks.0'"),
        ({"layers": ["blocks.9"]}, r"layers=\['blocks.9'\]; expected 0 to 2"),
        ({"heads": [9]}, r"heads=\[9\]; expected 0 to 5"),
        ({"rows": [3, 50]}, r"rows=\[50\]; expected 0 to 16"),
        ({"rows": -1}, r"rows=\[-1\]; expected numbers from 0"),
        ({"rows": slice(-2, None)}, "a slice from 0 up"),
    ):
        with pytest.raises(ConfigError, match=line):
            seen(**wrong)
    with pytest.raises(QkvError, match="got a trace of chosen layers, heads, rows"):
        part.rollout()
    with pytest.raises(ConfigError, match="some heads, or None for all"):
        seen(heads=[])
    with pytest.raises(ConfigError, match="fp32, fp16 or bf16"):
        seen(dtype="int8")


@pytest.mark.parametrize(("dtype", "bound"), [("fp16", 0.01), ("bf16", 0.08)])
def test_a_narrower_store_says_its_error_and_its_rows_sum_to_one(dtype: str, bound: float) -> None:
    whole, narrow = seen(), seen(dtype=dtype)
    change = np.abs(all_patterns(whole) - all_patterns(narrow)).max()
    assert 0 < change < bound
    # All T rows are tried here, T being small.
    assert narrow.error == pytest.approx(change, rel=0.05)
    assert whole.error == 0
    assert narrow.layers[0].lse.dtype is torch.float32
    assert all_patterns(narrow).sum(-1) == pytest.approx(1, abs=1e-5)
    assert 0.5 < narrow.bytes / whole.bytes < 0.6


def test_a_capture_that_memory_cannot_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qkv.lens.traces.capturing.free_bytes", lambda: 15_000)
    needed = seen(to=None, layers=[0]).bytes * L
    assert needed > 7_500
    with pytest.raises(ResourceError, match=r"got a capture of 9 kB; expected at most half"):
        seen()
    assert len(seen(heads=[0])) == L
    monkeypatch.setattr("qkv.lens.traces.capturing.LARGE", 9_000)
    monkeypatch.setattr("qkv.lens.traces.capturing.free_bytes", lambda: None)
    with pytest.warns(UserWarning, match="this capture will hold 9 kB: choose layers=") as told:
        seen()
    assert len(told) == 1


def test_calls_and_sequences_are_never_silently_the_first() -> None:
    model = Model()
    with torch.no_grad(), capture(model) as trace:
        model(ids(2))
        model(ids(2) + 1)
    with pytest.raises(QkvError, match=r"2 calls of layer 1; .* trace\.call\(1\)\[1, 4\]"):
        trace[1, 4]
    with pytest.raises(QkvError, match=r"2 sequences; .* trace\.sequence\(1\)\[1, 4\]"):
        trace.call(1)[1, 4]
    assert len(trace.layers) == 2 * L
    second = trace.call(1).sequence(1)
    with torch.no_grad(), capture() as alone:
        model(ids(2)[1:] + 1)
    assert second[1, 4].pattern() == pytest.approx(alone[1, 4].pattern(), abs=1e-6)
    assert second.tokens.tolist() == (ids(2)[1] + 1).tolist()
    with pytest.raises(QkvError, match="call 2; expected 0 to 1"):
        trace.call(2)
    with pytest.raises(QkvError, match="sequence 2; expected 0 to 1"):
        trace.sequence(2)


def test_attentions_are_what_other_tools_take() -> None:
    trace = seen(batch=2)
    found = trace.attentions()
    assert [tuple(layer.shape) for layer in found] == [(2, H, T, T)] * L
    assert found[1][1, 3].numpy() == pytest.approx(trace.sequence(1)[1, 3].pattern(), abs=1e-7)


def test_padding_by_lengths_is_left_out() -> None:
    trace = seen(Model(Causal() & Padding((T, 9))), batch=2)
    short = trace.sequence(1)[1, 2]
    assert (short.Q, short.K, short.note) == (9, 9, "8 padding tokens left out")
    assert isinstance(short.mask, Causal)
    assert trace.sequence(0)[1, 2].note == ""
    assert trace.attentions()[1][1, 2, 9:].abs().max() == 0


@pytest.mark.parametrize("bias", [None, ALiBi.standard(H), torch.randn(H, T, T)])
def test_mixing_values_is_the_pattern_times_them(bias: Any) -> None:
    trace = seen(Model(Window(6), bias), batch=2)
    values = torch.randn(T, 4)
    mixed = trace.layers[2].mix(values, 1)
    for head in range(H):
        wanted = trace.sequence(1)[2, head].pattern() @ values.double().numpy()
        assert mixed[head].numpy() == pytest.approx(wanted, abs=1e-5)
    cells = trace.layers[2].weights([3, 9], [2, 8], 1)
    assert cells[4] == pytest.approx(trace.sequence(1)[2, 4].tile([3, 9], [2, 8]), abs=1e-12)


class Own(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x @ x.mT, -1) @ x


class OwnAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Own()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_what_cannot_be_seen_is_said() -> None:
    model = nn.Sequential(OwnAttention(), nn.Linear(C, C))
    with capture(model) as trace:
        model(torch.zeros(1, T, C))
    assert trace.unseen == {"0": "OwnAttention"}
    with pytest.raises(QkvError, match=r"\(0, a OwnAttention, computes its own\).*qkv\.record"):
        trace[0, 0]


def test_values_lead_to_the_output_projection() -> None:
    model = Model()
    trace = seen(model, values=True)
    for site, block in zip(trace.layers, model.blocks, strict=True):
        assert torch.equal(site.w_o, block.out.weight)
    one = trace[1, 4]
    out = one.pattern() @ one.v @ one.w_o
    assert out.shape == (T, D)
    assert seen().layers[0].value_norms([0]) is None


def test_a_layer_that_two_calls_make_is_two_layers() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = F.scaled_dot_product_attention(x, x, x)
            return F.scaled_dot_product_attention(x, x, x, is_causal=True)

    model = nn.Sequential(Twice(), Twice())
    with capture() as trace:
        model(torch.randn(1, H, T, C))
    assert [site.name for site in trace.layers] == ["0", "0#1", "1", "1#1"]


def test_nothing_is_warned_of_in_passing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen()


def test_steps_outside_of_every_module_join_the_layer_they_go_on_from() -> None:
    from qkv.models import Sampling, TransformerConfig, build_model, generate

    torch.manual_seed(0)
    config = TransformerConfig(vocab=V, context=64, width=48, layers=L, heads=H, kv_heads=G)
    model = build_model(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.2)
    with capture(model, values=True) as trace:
        new = torch.tensor([[int(token) for token in generate(model, ids(), 9, Sampling(seed=1))]])
    whole = torch.cat([ids(), new], 1)[:, :-1]
    with torch.no_grad(), capture() as once:
        model(whole)
    assert (len(trace), trace.layers[0].Q) == (L, T + 8)
    assert all_patterns(trace) == pytest.approx(all_patterns(once), abs=1e-6)
    assert trace.tokens.tolist() == whole[0].tolist()
    assert isinstance(trace[2, 1].mask, Causal)


def test_a_text_whose_ids_count_up_is_not_taken_for_places() -> None:
    model = Model()
    counting = torch.arange(97, 97 + T)[None]
    with torch.no_grad(), capture() as trace:
        model(counting)
    assert trace.tokens.tolist() == counting[0].tolist()

    class PlacesFirst(Model):
        def forward(self, ids: Tensor) -> Tensor:
            x = self.places(torch.arange(ids.shape[-1])) + self.tokens(ids)
            return self.blocks[0](x)

    with torch.no_grad(), capture() as trace:
        PlacesFirst()(ids())
    assert trace.tokens.tolist() == ids()[0].tolist()


def test_layers_of_smaller_batches_are_not_read_for_larger_ones() -> None:
    x = torch.randn(3, H, T, C, generator=torch.Generator().manual_seed(1))
    with capture() as trace:
        for rows in (x, x[:2], x[:1]):
            F.scaled_dot_product_attention(rows, rows, rows)
    last = trace.sequence(2)
    assert last[0, 0].pattern() == pytest.approx(trace.sequence(2)[0, 0].pattern())
    with pytest.raises(QkvError, match="sequence 2 of layer 1; expected 0 to 1"):
        last[1, 0]
    # One sequence stands for all.
    assert last[2, 0].pattern() == pytest.approx(trace.sequence(0)[2, 0].pattern())
    assert repr(trace).startswith("Trace of 3 sequences: 3 layers, 18 heads")


def test_equal_tables_are_held_once() -> None:
    bias = torch.randn(1, H, 64, 64)
    x = torch.randn(1, H, 64, C)
    with capture() as trace:
        for _ in range(8):
            F.scaled_dot_product_attention(x, x, x, attn_mask=bias.clone())
    each = 4 * (2 * H * 64 * C + H * 64)
    assert trace.bytes == 8 * each + 4 * bias.numel()


def test_labels_that_fit_nothing_are_refused_and_change_nothing() -> None:
    trace = seen(tokenizer=ByteTokenizer())
    with pytest.raises(ShapeError, match="got 1 labels; expected one for each of 17 keys"):
        trace.label(["x"])
    assert trace[0, 0].key_labels[4] == "c"
    assert trace.label("a" * T)[0, 0].key_labels[4] == "a"


def test_a_model_that_is_seen_in_part_says_so() -> None:
    model = nn.Sequential(OwnAttention(), nn.TransformerEncoderLayer(C * 2, 2, 8, batch_first=True))

    class Widened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    with torch.no_grad(), capture(model) as trace:
        Widened()(torch.randn(1, T, C * 2))
    assert trace.unseen == {"0": "OwnAttention"}
    assert repr(trace).endswith("1 attention modules not seen")
    assert "0 (OwnAttention)" in " ".join(trace.heads().notes)
