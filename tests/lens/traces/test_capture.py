"""Every attention call is seen, as it was made, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qkv.attention import ALiBi, Causal, Padding, Window, attend, steps
from qkv.errors import QkvError, ShapeError
from qkv.lens import Site, Trace, capture

B, H, G, Q, K, C = 2, 6, 3, 5, 7, 4


def draw(*, queries: int = K, batch: int = 1, groups: int = H) -> tuple[Tensor, Tensor, Tensor]:
    make = torch.Generator().manual_seed(3)
    shapes = ((batch, H, queries, C), (batch, groups, K, C), (batch, groups, K, C))
    q, k, v = (torch.randn(shape, generator=make) for shape in shapes)
    return q, k, v


def patterns(trace: Trace, layer: int = 0) -> np.ndarray:
    return np.stack([trace[layer, head].pattern() for head in range(trace.layers[layer].H)])


def weights_of_kernel(trace: Trace, layer: int = 0) -> np.ndarray:
    """The kernel's own weights, read a few columns at a time through values of the same width."""
    site = trace.layers[layer]
    columns = []
    for start in range(0, site.K, site.C):
        v = torch.zeros_like(site.k)
        for place in range(start, min(start + v.shape[-1], site.K)):
            v[:, :, place, place - start] = 1
        columns.append(site.rerun(v))
    return torch.cat(columns, -1)[..., : site.K].double().numpy()


OURS: list[dict[str, Any]] = [
    {},
    {"mask": Causal()},
    {"mask": Window(2), "softcap": 1.5, "scale": 0.7},
    {"mask": Causal() & Padding((6,)), "bias": ALiBi.standard(H)},
    {"mask": torch.rand(H, 1, K, generator=torch.Generator().manual_seed(1)) > 0.3},
    {"bias": torch.randn(1, H, K, K, generator=torch.Generator().manual_seed(1))},
]


@pytest.mark.parametrize("options", OURS, ids=str)
@pytest.mark.parametrize("groups", [H, G])
def test_our_attend(options: dict[str, Any], groups: int) -> None:
    q, k, v = draw(groups=groups)
    with capture() as trace:
        mixed = attend(q, k, v, **options)
    plain = {
        name: value.numpy() if isinstance(value, Tensor) else value
        for name, value in options.items()
    }
    expected = steps(q.numpy(), k.numpy(), v.numpy(), **plain)
    assert len(trace) == 1
    real = trace[0, 0].Q  # without padding
    shown = expected.pattern[0][:, :real, :real]
    assert patterns(trace) == pytest.approx(shown, abs=1e-6)
    assert weights_of_kernel(trace)[0] == pytest.approx(expected.pattern[0], abs=1e-6)
    assert torch.equal(trace.layers[0].rerun(v), mixed)


def sdpa_masks(queries: int) -> list[dict[str, Any]]:
    make = torch.Generator().manual_seed(2)
    boolean = torch.rand(queries, K, generator=make) > 0.4
    boolean[:, 2] = True
    numbers = torch.randn(1, H, queries, K, generator=make)
    lowest = torch.zeros(1, 1, queries, K).masked_fill(~boolean, torch.finfo(torch.float32).min)
    return [
        {},
        {"is_causal": True},
        {"is_causal": True, "scale": 0.2},
        {"attn_mask": boolean},
        {"attn_mask": numbers},
        {"attn_mask": numbers.masked_fill(~boolean, -torch.inf)},
        {"attn_mask": lowest},
    ]


@pytest.mark.parametrize("queries", [K, Q])
@pytest.mark.parametrize("groups", [H, G])
@pytest.mark.parametrize("which", range(7))
def test_plain_sdpa(queries: int, groups: int, which: int) -> None:
    q, k, v = draw(queries=queries, groups=groups)
    options = sdpa_masks(queries)[which]
    with capture() as trace:
        mixed = F.scaled_dot_product_attention(q, k, v, **options, enable_gqa=groups != H)
    found = patterns(trace)
    shared = v.repeat_interleave(H // groups, 1)[0].double().numpy()
    assert found @ shared == pytest.approx(mixed[0].double().numpy(), abs=1e-6)
    assert found == pytest.approx(weights_of_kernel(trace)[0], abs=1e-6)
    assert torch.equal(trace.layers[0].rerun(v), mixed)
    if "is_causal" in options:
        assert not trace[0, 0].allowed(range(queries), range(K))[0, 1:].any()


def test_what_a_mask_of_numbers_forbids_is_forbidden_not_small() -> None:
    q, k, v = draw()
    with capture() as trace:
        F.scaled_dot_product_attention(q, k, v, attn_mask=sdpa_masks(K)[6]["attn_mask"])
    boolean = sdpa_masks(K)[3]["attn_mask"].numpy()
    assert trace.layers[0].bias is None
    assert trace[0, 2].allowed(range(K), range(K)).tolist() == boolean.tolist()


@pytest.mark.parametrize("shape", [(K, C), (B, K, C), (2, 3, 5, K, C)])
def test_other_numbers_of_axes(shape: tuple[int, ...]) -> None:
    q = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    with capture() as trace:
        mixed = F.scaled_dot_product_attention(q, q, q, is_causal=True)
    site = trace.layers[0]
    flat = mixed.reshape(site.B, site.H, K, C)
    last = trace.sequence(site.B - 1)[0, site.H - 1]
    expected = flat[-1, -1].double().numpy()
    assert last.pattern() @ _numbers(q.reshape(-1, *q.shape[-2:]))[-1] == pytest.approx(
        expected, abs=1e-6
    )


def _numbers(x: Tensor) -> np.ndarray:
    return x.double().numpy()


def equal_scores(site: Site) -> np.ndarray:
    """The kernel's weights for queries of zeros, without what is added to scores, (B, H, Q, K)."""
    v = torch.eye(K).expand(site.B, site.G, K, K)
    return site.rerun(v, torch.zeros_like(site.q), biased=False).double().numpy()


BIASES = [None, ALiBi.standard(H), torch.randn(1, H, 1, K), torch.ones(K)]


@pytest.mark.parametrize("bias", BIASES, ids=["none", "alibi", "of a head", "of a key"])
@pytest.mark.parametrize("queries", [K, Q])
def test_the_same_call_with_other_queries(queries: int, bias: Any) -> None:
    q, k, v = draw(queries=queries, groups=G)
    with capture() as trace:
        attend(q, k, v, mask=Causal(), bias=bias, softcap=2.0)
    site = trace.layers[0]
    past = np.tril(np.ones((K, K)))[-queries:]
    even = np.broadcast_to(past / past.sum(-1, keepdims=True), (1, H, queries, K))
    assert equal_scores(site) == pytest.approx(even, abs=1e-6)
    assert torch.equal(site.rerun(v, q.flip(2)), attend(q.flip(2), k, v, mask=Causal(), bias=bias,
                                                      softcap=2.0))  # fmt: skip


@pytest.mark.parametrize("which", range(7))
def test_the_same_sdpa_with_other_queries(which: int) -> None:
    q, k, v = draw(queries=Q)
    with capture() as trace:
        F.scaled_dot_product_attention(q, k, v, **sdpa_masks(Q)[which])
    site = trace.layers[0]
    allowed = np.broadcast_to(site.mask.dense(Q, K), (1, H, Q, K))
    even = allowed / allowed.sum(-1, keepdims=True)
    assert equal_scores(site) == pytest.approx(even, abs=1e-6)


def test_a_bias_that_forbids_goes_on_forbidding() -> None:
    q, k, v = draw()
    causal = torch.full((K, K), -torch.inf).triu(1)
    with capture() as trace:
        attend(q, k, v, bias=causal + torch.randn(K, K).tril())
    past = np.tril(np.ones((K, K)))
    even = np.broadcast_to(past / past.sum(-1, keepdims=True), (1, H, K, K))
    assert equal_scores(trace.layers[0]) == pytest.approx(even, abs=1e-6)


def test_bf16_maps_show_what_the_kernel_was_given() -> None:
    q, k, v = (x.bfloat16() for x in draw())
    with capture() as trace:
        attend(q, k, v, mask=Causal())
    expected = steps(*(x.float().numpy() for x in (q, k, v)), mask=Causal())
    assert trace.layers[0].lse.dtype is torch.float32
    assert patterns(trace) == pytest.approx(expected.pattern[0], abs=1e-6)


def test_autocast_is_taken_into_account() -> None:
    q, k, v = draw()
    with torch.autocast("cpu", dtype=torch.bfloat16), capture() as trace:
        F.scaled_dot_product_attention(q, k, v)
    assert trace.layers[0].q.dtype is torch.bfloat16
    assert patterns(trace).sum(-1) == pytest.approx(1, abs=1e-5)


def test_layers_of_torch_that_hand_themselves_over_are_seen_too() -> None:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(12, 3, 17, dropout=0.0, batch_first=True)
    x = torch.randn(1, K, 12)
    expected = layer(x)
    with capture() as trace:
        assert torch.equal(layer(x), expected)
    assert (len(trace), trace.layers[0].H) == (1, 3)


def test_sizes_names_and_labels() -> None:
    q, k, v = draw(queries=Q, groups=G)
    with capture() as trace:
        attend(q, k, v, mask=Causal())
        attend(q, k, v, mask=Causal())
        F.scaled_dot_product_attention(q, q, q, is_causal=True)
    trace.label("abcdefg")
    site = trace.layers[1]
    assert (site.index, site.B, site.H, site.G, site.Q, site.K, site.C) == (1, 1, H, G, Q, K, C)
    assert trace[1, 4].name == "L1H4"
    assert "".join(trace[1, 4].query_labels) == "cdefg"
    assert "".join(trace[1, 4].key_labels) == "abcdefg"
    assert "".join(trace.label("ABCDEFG")[0, 0].key_labels) == "ABCDEFG"
    with pytest.raises(ShapeError, match="7 labels for 5 keys of layer 2"):
        trace[2, 0]
    assert len(list(trace.label(()))) == 3 * H


def test_torchs_causal_flag_has_the_first_queries_labels() -> None:
    q, k, v = draw(queries=Q)
    with capture() as trace:
        F.scaled_dot_product_attention(q, k, v, is_causal=True)
    trace.label("abcdefg")
    assert "".join(trace[0, 0].query_labels) == "abcde"


def test_a_batch_is_read_a_sequence_at_a_time() -> None:
    q, k, v = draw(batch=B)
    mask = torch.rand(B, H, K, K, generator=torch.Generator().manual_seed(4)) > 0.3
    with capture() as trace:
        attend(q, k, v, mask=mask)
    with pytest.raises(QkvError, match=r"trace\.sequence\(1\)\[0, 0\]"):
        trace[0, 0]
    expected = steps(q.numpy(), k.numpy(), v.numpy(), mask=mask.numpy()).pattern
    for index in range(B):
        assert patterns(trace.sequence(index)) == pytest.approx(expected[index], abs=1e-6)
    with pytest.raises(QkvError, match="sequence 2"):
        trace.sequence(2)[0, 0]


def test_errors_say_what_to_do() -> None:
    q, k, v = draw()
    with capture() as trace:
        attend(q, k, v)
        with pytest.raises(QkvError, match="read it after the block"):
            trace[0, 0]
    with pytest.raises(QkvError, match="layer 1"):
        trace[1, 0]
    with pytest.raises(QkvError, match="head 6"):
        trace[0, H]
    with pytest.raises(ShapeError, match=r"\(1, 6, 7, any\)"):
        trace.layers[0].rerun(v[:, :1])
    with pytest.raises(ShapeError, match=r"as site\.q"):
        trace.layers[0].rerun(v, q[:, :, :1])
    with capture() as empty:
        torch.ones(3).sum()
    assert len(empty) == 0
    with pytest.raises(QkvError, match="no attention call"):
        _ = empty.layers


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = torch.nn.Linear(C, C)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, x: Tensor, *, stumble: bool = False) -> Tensor:
        projected = self.drop(self.project(x))
        mixed = F.scaled_dot_product_attention(projected, projected, projected, dropout_p=0.5)
        if stumble:
            raise RuntimeError("stumbled")
        return mixed


def test_the_model_its_gradients_and_random_state_stay_as_they_were() -> None:
    model, x = Model(), draw()[0]
    runs = []
    for watched in (False, True):
        torch.manual_seed(7)
        model.zero_grad()
        if watched:
            with capture() as trace:
                loss = model(x).square().sum()
            assert not trace.layers[0].q.requires_grad
        else:
            loss = model(x).square().sum()
        loss.backward()
        assert model.project.weight.grad is not None
        runs.append((loss.detach(), model.project.weight.grad.clone(), torch.get_rng_state()))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert model.training


def test_nothing_is_left_behind_after_an_exception() -> None:
    model, x = Model().eval(), draw()[0]
    with pytest.raises(RuntimeError, match="stumbled"), capture() as trace:
        model(x, stumble=True)
    assert torch.overrides._get_current_function_mode() is None
    model(x)
    assert len(trace) == 1
    assert trace[0, 0].row(0).sum() == pytest.approx(1, abs=1e-6)


def test_later_writes_into_a_cache_do_not_change_what_was_seen() -> None:
    q, k, v = draw()
    with torch.inference_mode(), capture() as trace:
        attend(q, k, v)
    before = patterns(trace)
    k.zero_()
    assert (patterns(trace) == before).all()


def test_a_mode_within_a_mode() -> None:
    q, k, v = draw()
    with capture() as outer, capture() as inner:
        attend(q, k, v, mask=Causal())
    assert len(inner) == len(outer) == 1
    assert (patterns(inner) == patterns(outer)).all()
