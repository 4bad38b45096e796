"""Kernels and modules of torch other than its plain attention: each is seen, in the one form."""

from __future__ import annotations

import math
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from qkv.attention import Causal, attend, steps
from qkv.errors import QkvError
from qkv.lens import capture, edit, record

B, H, G, T, C = 2, 6, 3, 13, 8


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("across", [True, False])
def test_multihead_attention(weights: bool, across: bool) -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(24, H, kdim=10 if across else None, vdim=10 if across else None,
                                   batch_first=True).eval()  # fmt: skip
    x = draw(B, T, 24)
    other = draw(B, 11, 10) if across else x
    # True says *not* allowed here.
    padding = torch.zeros(B, other.shape[1], dtype=torch.bool)
    padding[1, 9:] = True
    forbidden = None if across else torch.ones(T, T, dtype=torch.bool).triu(1)
    options: dict[str, Any] = {"key_padding_mask": padding, "attn_mask": forbidden}
    with torch.no_grad():
        plain = module(x, other, other, need_weights=weights, **options)
        expected = module(x, other, other, average_attn_weights=False, **options)[1]
        with capture(module) as trace:
            seen = module(x, other, other, need_weights=weights, **options)
    # Without capture torch takes a way of its own, which rounds otherwise.
    assert torch.allclose(seen[0], plain[0], atol=1e-6)
    assert (seen[1] is None) == (not weights)
    site = trace.layers[0]
    assert (len(trace), site.cross, site.name) == (1, across, "MultiheadAttention")
    for sequence, keys in ((0, other.shape[1]), (1, 9)):
        queries = T if across else min(T, keys) if sequence else T
        for head in range(H):
            found = trace.sequence(sequence)[0, head].pattern()
            wanted = expected[sequence, head, :queries, :keys].numpy()
            assert np.abs(found - wanted).max() <= 1e-6


@pytest.mark.parametrize("training", [True, False])
def test_the_encoders_fast_path_is_off(training: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(24, H, 31, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    x = draw(1, T, 24)
    with torch.no_grad():
        expected = encoder(x)
        with capture(encoder) as trace:
            assert torch.allclose(encoder(x), expected, atol=1e-6)
    assert [site.name for site in trace.layers] == ["layers.0.self_attn", "layers.1.self_attn"]
    assert encoder.training is training


def test_a_decoder_of_torch_looks_across_by_what_it_is_given() -> None:
    torch.manual_seed(0)
    decoder = nn.TransformerDecoderLayer(24, H, 31, dropout=0.0, batch_first=True)
    with torch.no_grad(), capture(decoder) as trace:
        decoder(draw(1, T, 24), draw(1, T, 24).flip(1))
    assert [(site.name, site.cross) for site in trace.layers] == [
        ("self_attn", False),
        ("multihead_attn", True),
    ]


def test_encoder_layers_learn_alike_under_capture() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(24, H, 31, dropout=0.3, batch_first=True)
    x, gradients = draw(B, T, 24), []
    for watched in (False, True):
        layer.zero_grad()
        torch.manual_seed(5)
        if watched:
            with capture():
                loss = layer(x).square().sum()
        else:
            loss = layer(x).square().sum()
        loss.backward()
        gradients.append([weight.grad.clone() for weight in layer.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def bend(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return 20 * torch.tanh((score - (h + 1) * 0.1 * (i - j).abs() + 0.3 * b) / 20)


def causal(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return i >= j


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("score_mod", [None, bend])
@pytest.mark.parametrize("mask_mod", [None, causal])
@pytest.mark.parametrize("compiled", [False, True])
def test_flex_attention(score_mod: Any, mask_mod: Any, compiled: bool) -> None:
    q, k, v = draw(B, H, T, C), draw(B, G, T, C), draw(B, G, T, C)
    block = None if mask_mod is None else create_block_mask(mask_mod, None, None, T, T, "cpu")
    call = torch.compile(flex_attention) if compiled else flex_attention
    with capture() as trace:
        mixed = call(q, k, v, score_mod=score_mod, block_mask=block, enable_gqa=True)
    at = torch.arange(T)
    for b in range(B):
        for h in range(H):
            scores = q[b, h].double() @ k[b, h * G // H].double().T / math.sqrt(C)
            if score_mod is not None:
                scores = bend(scores, torch.tensor(b), torch.tensor(h), at[:, None], at)
            if mask_mod is not None:
                scores = scores.masked_fill(at[:, None] < at, -torch.inf)
            expected = scores.softmax(-1).numpy()
            found = trace.sequence(b)[0, h]
            assert found.pattern() == pytest.approx(expected, abs=1e-6)
            values = v[b, h * G // H].double().numpy()
            assert found.pattern() @ values == pytest.approx(mixed[b, h].numpy(), abs=1e-5)
        ones = trace.layers[0].mix(torch.eye(T), b)
        assert ones.sum(-1).numpy() == pytest.approx(1, abs=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_models_are_run_as_they_are_written() -> None:
    class Block(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x, is_causal=True)

    model = torch.compile(Block())
    x = draw(1, H, T, C)
    with capture() as trace:
        model(x)
    assert trace[0, 0].Q == T


def operators() -> Any:
    """Stand-ins for the operators of the flash_attn package, by its own signatures (2.7)."""
    library = torch.library.Library("qkv_flash_stub", "DEF")
    library.define(
        "_flash_attn_forward(Tensor q, Tensor k, Tensor v, float dropout_p, float softmax_scale, "
        "bool causal, int window_size_left, int window_size_right, float softcap, "
        "Tensor? alibi_slopes, bool return_softmax) -> (Tensor, Tensor)"
    )
    library.define(
        "_flash_attn_varlen_forward(Tensor q, Tensor k, Tensor v, Tensor cu_seqlens_q, "
        "Tensor cu_seqlens_k, int max_seqlen_q, int max_seqlen_k, float dropout_p, "
        "float softmax_scale, bool causal, int window_size_left, int window_size_right, "
        "float softcap, Tensor? alibi_slopes, bool return_softmax) -> (Tensor, Tensor)"
    )

    def dense(q: Tensor, k: Tensor, v: Tensor, allowed: np.ndarray, scale: float) -> Any:
        arrays = (x.transpose(-3, -2).double().numpy() for x in (q, k, v))
        done = steps(*arrays, mask=allowed, scale=scale)
        mixed = torch.from_numpy(done.mixed).transpose(-3, -2).to(q.dtype)
        return mixed, torch.from_numpy(done.lse).float()

    def fixed(q: Any, k: Any, v: Any, *how: Any) -> Any:
        scale, left = how[1], how[3]
        rows, cols = np.arange(q.shape[1])[:, None], np.arange(k.shape[1])
        ahead = k.shape[1] - q.shape[1]
        allowed = (cols <= rows + ahead) & ((left < 0) | (cols >= rows + ahead - left))
        return dense(q, k, v, allowed, scale)

    def packed(q: Any, k: Any, v: Any, starts: Any, *how: Any) -> Any:
        scale = how[4]
        of = np.searchsorted(starts.numpy(), np.arange(q.shape[0]), side="right")
        at = np.arange(q.shape[0])
        return dense(q, k, v, (of[:, None] == of) & (at[:, None] >= at), scale)

    library.impl("_flash_attn_forward", fixed, "CPU")
    library.impl("_flash_attn_varlen_forward", packed, "CPU")
    return library


def test_flash_attention_and_its_packed_form_by_their_own_lse() -> None:
    library = operators()
    call = torch.ops.qkv_flash_stub
    q, k, v = draw(B, T, H, C), draw(B, T, G, C), draw(B, T, G, C)
    with capture() as trace:
        mixed, _ = call._flash_attn_forward(q, k, v, 0.0, 0.3, True, 4, 0, 0.0, None, False)
    for b in range(B):
        for h in range(H):
            found = trace.sequence(b)[0, h]
            values = v[b, :, h * G // H].double().numpy()
            assert found.pattern().sum(-1) == pytest.approx(1, abs=1e-5)
            assert found.pattern() @ values == pytest.approx(mixed[b, :, h].numpy(), abs=1e-5)
            assert not found.allowed([7], [2]).any()
    q, k, v = draw(T, H, C), draw(T, G, C), draw(T, G, C)
    cuts = torch.tensor([0, 5, T], dtype=torch.int32)
    with capture() as trace:
        mixed, _ = call._flash_attn_varlen_forward(
            q, k, v, cuts, cuts, 8, 8, 0.0, 0.3, True, -1, -1, 0.0, None, False
        )
    found = trace[0, 4]
    assert found.pattern() @ v[:, 2].double().numpy() == pytest.approx(mixed[:, 4], abs=1e-5)
    assert found.allowed([6], range(T))[0].nonzero()[0].tolist() == [5, 6]
    del library


def test_models_can_hand_over_their_own_attention() -> None:
    q, k = draw(1, H, T, C), draw(1, G, T, C)
    expected = steps(q.numpy(), k.numpy(), k.numpy(), mask=Causal(), softcap=3.0).pattern
    record(q, k, mask=Causal())  # nobody listens
    with capture() as trace:
        record(q, k, mask=Causal(), softcap=3.0)
    for head in range(H):
        assert trace[0, head].pattern() == pytest.approx(expected[0, head], abs=1e-6)


@pytest.mark.parametrize("low", [-1e4, -1e9, torch.finfo(torch.float32).min, -torch.inf])
def test_numbers_that_mean_forbidden_are_forbidden(low: float) -> None:
    q, k = draw(1, H, T, C), draw(1, H, T, C)
    added = torch.zeros(T, T).masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), low)
    with capture() as trace:
        F.scaled_dot_product_attention(q, k, k, attn_mask=added)
    with capture() as ours:
        attend(q, k, k, bias=added)
    for one in (trace[0, 2], ours[0, 2]):
        assert isinstance(one.mask, Causal)
        assert one.bias is None
        assert one.pattern() == pytest.approx(
            (q[0, 2] @ k[0, 2].T / math.sqrt(C) + added).softmax(-1).numpy(), abs=1e-6
        )
    with edit(uniform="all"):
        mixed = F.scaled_dot_product_attention(q, k, k, attn_mask=added)
    assert mixed[0, 2, 4].numpy() == pytest.approx(k[0, 2, :5].mean(0).numpy(), abs=1e-6)


def test_copies_of_one_text_are_that_text_and_others_are_not() -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(24, H, batch_first=True)
    norm, x = nn.LayerNorm(24), draw(1, T, 24)
    for query, key, across in (
        (norm(x), norm(x), False),
        (x + 1, x + 1, False),
        (x, x.flip(1), True),
    ):
        with torch.no_grad(), capture() as trace:
            module(query, key, x)
        assert trace.layers[0].cross is across


def test_names_say_across_only_near_the_call() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x)

    inner = nn.ModuleDict({"a": nn.ModuleDict({"b": Attention()})})
    model = nn.ModuleDict({"cross_encoder": inner})
    beside = nn.ModuleDict({"cross_attn": Attention()})
    x = draw(1, H, T, C)
    with capture(model) as trace:
        inner["a"]["b"](x)
    assert not trace.layers[0].cross
    with capture(beside) as trace:
        beside["cross_attn"](x)
    assert trace.layers[0].cross


def test_a_step_under_a_window_has_no_padding() -> None:
    q, k = draw(1, H, 1, C), draw(1, H, 40, C)
    window = torch.arange(40)[None] >= 32
    with capture() as trace:
        F.scaled_dot_product_attention(q, k, k, attn_mask=window)
    assert trace[0, 0].K == 40
    assert "padding" not in trace[0, 0].note
    assert trace[0, 0].row(0)[:32].max() == 0


def test_threads_do_not_see_each_other() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            started.wait(timeout=60)
            return F.scaled_dot_product_attention(x, x, x)

    started = threading.Barrier(2)
    models = [nn.ModuleDict({name: Attention()}) for name in ("one", "two")]
    found: dict[str, list[str]] = {}

    def run(model: nn.ModuleDict) -> None:
        (name,) = model
        with capture(model) as trace:
            for _ in range(5):
                model[name](draw(1, H, T, C))
        found[name] = [site.name for site in trace.layers]

    threads = [threading.Thread(target=run, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {name: [name] * 5 for name in ("one", "two")}


def test_a_row_that_is_low_all_over_sees_nothing() -> None:
    q, k = draw(1, H, T, C), draw(1, H, T, C)
    for low in (-1e9, torch.finfo(torch.float32).min):
        added = torch.zeros(T, T)
        added[3] = low
        with capture() as trace:
            F.scaled_dot_product_attention(q, k, k, attn_mask=added)
        sums = trace[0, 1].pattern().sum(-1)
        assert sums == pytest.approx(1.0 * (np.arange(T) != 3), abs=1e-6)


def test_a_mask_that_is_changed_in_place_is_read_anew() -> None:
    q = draw(1, H, T, C)
    with torch.inference_mode(), capture() as trace:
        mask = torch.ones(T, T, dtype=torch.bool)
        F.scaled_dot_product_attention(q, q, q, mask)
        mask.copy_(mask.tril())
        F.scaled_dot_product_attention(q, q, q, mask)
    assert isinstance(trace[1, 0].mask, Causal)
    assert trace[1, 0].pattern().sum(-1) == pytest.approx(1, abs=1e-6)


def test_a_token_that_does_not_see_itself_is_no_padding() -> None:
    q = draw(1, H, T, C)
    mask = torch.ones(T, T, dtype=torch.bool).tril(-1)
    mask[0, 0] = True
    with capture() as trace:
        F.scaled_dot_product_attention(q, q, q, mask)
    assert (trace[0, 0].Q, trace[0, 0].note) == (T, "")


def test_a_first_step_with_heads_folded_into_rows_is_unfolded_by_the_config() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = SimpleNamespace(num_attention_heads=H)

        def forward(self, q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q.reshape(1, G, H // G, C), k, k, mask)

    q, k = draw(1, H, 1, C), draw(1, G, T, C)
    mask = torch.ones(1, 1, 1, T, dtype=torch.bool)
    with capture() as trace:
        Attention()(q, k, mask)
    site = trace.layers[0]
    assert (site.H, site.G, site.Q, site.K, site.cross) == (H, G, 1, T, False)
    wanted = (q[0, 3] @ k[0, 3 * G // H].T / math.sqrt(C)).softmax(-1)
    assert trace[0, 3].pattern() == pytest.approx(wanted.numpy(), abs=1e-6)
    assert "go on from no call" in trace[0, 3].note


@pytest.mark.parametrize(
    "shapes",
    [((4, 6, 8), (2, 6, 8)), ((1, H, T, C), (3, H, T, C))],
    ids=["three axes with groups", "one query batch for three"],
)
def test_calls_that_cannot_be_shown_are_made_and_said(shapes: Any) -> None:
    q, k = draw(*shapes[0]), draw(*shapes[1])
    grouped = len(shapes[0]) == 3
    expected = F.scaled_dot_product_attention(q, k, k, enable_gqa=grouped)
    with capture() as trace:
        found = F.scaled_dot_product_attention(q, k, k, enable_gqa=grouped)
    assert torch.equal(found, expected)
    if not len(trace):
        with pytest.raises(QkvError, match="no attention call"):
            trace[0, 0]
        assert "isn't read" in str(trace.unseen)


def test_large_scores_say_how_well_weights_are_known() -> None:
    q = 400 * draw(1, H, T, C)
    with capture() as trace:
        F.scaled_dot_product_attention(q, q, q)
    assert "weights are known to" in trace[0, 0].note
