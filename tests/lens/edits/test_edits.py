"""Edits against models whose weights were changed by hand, and against formulas written out."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qkv.attention import ALiBi, Causal, Padding, Window
from qkv.attention.fused import attend
from qkv.errors import QkvError
from qkv.lens import capture
from qkv.lens.edits.edits import Edits, edit, mean_outputs

# Prime sizes, so that a swapped axis breaks a shape; H is a multiple of G.
B, H, G, T, C = 2, 6, 3, 7, 5
CAUSAL = torch.ones(T, T).tril().bool()


def draw(groups: int = G, seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B, heads, T, C, generator=generator) for heads in (H, groups, groups))
    return q, k, v


def written_out(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float = C**-0.5,
    allowed: Tensor = CAUSAL,
    temperature: float = 1.0,
    softcap: float | None = None,
    bias: Any = 0.0,
) -> Tensor:
    """Attention in float64, as a formula, groups repeated."""
    k, v = (x.double().repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = q.double() @ k.mT * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = ((scores + bias) / temperature).masked_fill(~allowed, -math.inf)
    return scores.softmax(-1).nan_to_num(0.0) @ v


def close(got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert got.shape == expected.shape
    torch.testing.assert_close(got.double(), expected.double(), rtol=tolerance, atol=tolerance)


KERNELS = {
    "attend": lambda q, k, v: attend(q, k, v, mask=Causal()),
    "sdpa": lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, is_causal=True, enable_gqa=True
    ),
    "sdpa with a table": lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, attn_mask=CAUSAL, enable_gqa=True
    ),
    "sdpa with numbers": lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, attn_mask=torch.zeros(T, T).masked_fill(~CAUSAL, -math.inf), enable_gqa=True
    ),
}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_scale_mask_and_temperature_as_written_out(kernel: Any) -> None:
    tensors = draw()
    with edit(scale="off"):
        close(kernel(*tensors), written_out(*tensors, scale=1.0))
    with edit(scale=0.25):
        close(kernel(*tensors), written_out(*tensors, scale=0.25))
    with edit(mask="off"):
        close(kernel(*tensors), written_out(*tensors, allowed=~CAUSAL | CAUSAL))
    with edit(temperature=3.0):
        close(kernel(*tensors), written_out(*tensors, temperature=3.0))
    with edit(mask="off", scale=2.0, temperature=0.5):
        expected = written_out(*tensors, allowed=~CAUSAL | CAUSAL, scale=4.0)
        close(kernel(*tensors), expected)
    close(kernel(*tensors), written_out(*tensors))


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
@pytest.mark.parametrize("heads", ["L0H4", "all"])
def test_uniform_is_the_mean_of_the_past(kernel: Any, heads: str) -> None:
    q, k, v = draw()
    with edit(uniform=heads):
        mixed = kernel(q, k, v)
    past = v.repeat_interleave(2, 1).double().cumsum(2) / torch.arange(1, T + 1)[:, None]
    expected = past if heads == "all" else written_out(q, k, v)
    expected[:, 4] = past[:, 4]
    close(mixed, expected)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
@pytest.mark.parametrize("heads", ["L0H4", "all"])
def test_sharpened_heads_take_their_strongest_value(kernel: Any, heads: str) -> None:
    q, k, v = draw()
    with edit(sharpen=heads):
        mixed = kernel(q, k, v)
    scores = q @ k.repeat_interleave(2, 1).mT
    at = scores.masked_fill(~CAUSAL, -math.inf).argmax(-1)
    taken = v.repeat_interleave(2, 1).double().gather(2, at[..., None].expand(B, H, T, C))
    expected = taken if heads == "all" else written_out(q, k, v)
    expected[:, 4] = taken[:, 4]
    close(mixed, expected)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_ablated_heads_are_zero_or_their_mean_and_the_rest_keep_their_bits(kernel: Any) -> None:
    q, k, v = draw()
    before = kernel(q, k, v)
    with edit(["L0H1", (0, 5)], mean="L0H2"):
        mixed = kernel(q, k, v)
    assert (mixed[:, [1, 5]] == 0).all()
    close(mixed[:, 2], before[:, 2].mean((0, 1)).expand(B, T, C))
    assert torch.equal(mixed[:, [0, 3, 4]], before[:, [0, 3, 4]])
    with edit("all"):
        assert not kernel(q, k, v).any()


def test_edits_of_some_heads_leave_the_others() -> None:
    tensors = draw()
    expected = written_out(*tensors)
    changes: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"scale": "off"}, {"scale": 1.0}),
        ({"mask": "off"}, {"allowed": ~CAUSAL | CAUSAL}),
        ({"temperature": 3.0}, {"temperature": 3.0}),
    ]
    for asked, formula in changes:
        with edit(only="L0H2, L0H3", **asked):
            mixed = attend(*tensors, mask=Causal())
        changed = written_out(*tensors, **formula)
        close(mixed[:, 2:4], changed[:, 2:4])
        close(mixed[:, [0, 1, 4, 5]], expected[:, [0, 1, 4, 5]])


def test_half_precision_isnt_rounded_twice() -> None:
    q, k, v = (x.bfloat16() for x in draw())
    with edit(scale=0.3, only="L0H1"):
        mixed = attend(q, k, v, mask=Causal())
    assert mixed.dtype is torch.bfloat16
    close(mixed[:, 1], written_out(q, k, v, scale=0.3)[:, 1], 2**-8)


@pytest.mark.parametrize("heads", ["L0H2", "all"])
def test_cap_bias_and_sink_enter_the_temperature(heads: str) -> None:
    tensors = draw()
    bias = torch.randn(1, H, T, T, generator=torch.Generator().manual_seed(7))
    slopes = ALiBi.standard(H)
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"softcap": 1.5}, {"softcap": 1.5}),
        ({"bias": bias}, {"bias": bias}),
        ({"bias": slopes}, {"bias": torch.from_numpy(slopes.dense(T, T))}),
        ({"bias": bias, "softcap": 1.5}, {"bias": bias, "softcap": 1.5}),
    ]
    for asked, formula in cases:
        with edit(temperature=2.0, only=heads):
            mixed = attend(*tensors, mask=Causal(), **asked)
        plain, hot = (written_out(*tensors, **formula, temperature=t) for t in (1.0, 2.0))
        expected = hot if heads == "all" else plain
        expected[:, 2] = hot[:, 2]
        close(mixed, expected)
        with edit(uniform=heads):
            mixed = attend(*tensors, mask=Causal(), **asked)
        past = tensors[2].repeat_interleave(2, 1).cumsum(2) / torch.arange(1, T + 1)[:, None]
        close(mixed[:, 2], past[:, 2])


def test_without_the_mask_padding_stays_unseen() -> None:
    q, k, v = draw()
    lengths = (T, 4)
    real = torch.arange(T) < torch.tensor(lengths)[:, None, None, None]
    everyone = written_out(q, k, v, allowed=real)
    with edit(mask="off"):
        close(attend(q, k, v, mask=Causal() & Padding(lengths)), everyone)
        close(attend(q, k, v, mask=Window(2) & Padding(lengths)), everyone)
        close(attend(q, k, v, mask=CAUSAL & real), everyone)
        close(F.scaled_dot_product_attention(q, k, v, CAUSAL & real, enable_gqa=True), everyone)
        # Rows that forbid everything by the lowest number are padding too.
        left = torch.arange(T) >= torch.tensor([0, 3])[:, None, None, None]
        lowest = torch.finfo(torch.float32).min
        numbers = torch.zeros(B, 1, T, T).masked_fill(~(CAUSAL & left), lowest)
        mixed = F.scaled_dot_product_attention(q, k, v, numbers, enable_gqa=True)
    close(mixed[1, :, 3:], written_out(q, k, v, allowed=left)[1, :, 3:])


def test_a_row_that_sees_nothing_stays_zero() -> None:
    q, k, v = draw()
    allowed = CAUSAL.clone()
    allowed[3] = False
    for change in ({"uniform": "all"}, {"sharpen": "L0"}, {"temperature": 2.0}):
        with edit(**change):  # type: ignore[arg-type]
            mixed = attend(q, k, v, mask=allowed)
        assert not mixed[:, :, 3].any()
        assert mixed.isfinite().all()


def test_what_torch_forbids_by_the_top_left_is_dropped_too() -> None:
    q, k, v = draw()
    with edit(mask="off"):
        mixed = F.scaled_dot_product_attention(q[:, :, :3], k, v, is_causal=True, enable_gqa=True)
    close(mixed, written_out(q[:, :, :3], k, v, allowed=torch.ones(3, T).bool()))


def test_a_scale_of_nothing_can_be_given_back() -> None:
    q, k, v = draw()
    for heads in ("L0H2", "all"):
        with edit(scale=0.5, only=heads):
            mixed = attend(q, k, v, mask=Causal(), scale=0.0)
        expected = written_out(q, k, v, scale=0.0 if heads == "L0H2" else 0.5)
        expected[:, 2] = written_out(q, k, v, scale=0.5)[:, 2]
        close(mixed, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_flex_attention_with_a_score_function() -> None:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def bend(score: Tensor, b: Any, h: Any, i: Any, j: Any) -> Tensor:
        return score - (h + 1) * 0.1 * (i - j)

    block = create_block_mask(lambda b, h, i, j: i >= j, None, None, T, T, "cpu")
    tensors = draw()
    distance = (torch.arange(T)[:, None] - torch.arange(T)).double()
    bias = -0.1 * torch.arange(1, H + 1)[:, None, None] * distance
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"temperature": 2.0}, {"temperature": 2.0}),
        ({"scale": "off"}, {"scale": 1.0}),
        ({"mask": "off"}, {"allowed": ~CAUSAL | CAUSAL}),
    ]
    for heads in ("L0H2", "all"):
        for asked, formula in cases:
            with edit(ablate="L0H5", only=heads, **asked), capture() as trace:
                mixed = flex_attention(*tensors, score_mod=bend, block_mask=block, enable_gqa=True)
            expected = written_out(*tensors, bias=bias)
            changed = written_out(*tensors, bias=bias, **formula)
            expected = changed if heads == "all" else expected
            expected[:, 2], expected[:, 5] = changed[:, 2], 0
            close(mixed, expected)
            assert len(trace.layers) == 1
        with edit(uniform=heads):
            mixed = flex_attention(*tensors, score_mod=bend, block_mask=block, enable_gqa=True)
        past = tensors[2].repeat_interleave(2, 1).cumsum(2) / torch.arange(1, T + 1)[:, None]
        close(mixed[:, 2], past[:, 2])


def test_a_reference_gives_the_mean() -> None:
    (q, k, v), (q2, k2, v2) = draw(), draw(seed=4)
    with capture(values=True) as trace:
        attend(q2, k2, v2, mask=Causal())
    reference = written_out(q2, k2, v2).mean((0, 2))
    for given in (trace, mean_outputs(trace), {"L0H3": reference[3]}):
        with edit(mean="L0H3", reference=given):
            mixed = attend(q, k, v, mask=Causal())
        close(mixed[:, 3], reference[3].expand(B, T, C))
        close(mixed[:, :3], written_out(q, k, v)[:, :3])
    with (
        pytest.raises(QkvError, match="a reference without L0H2"),
        edit(mean="L0H2", reference={"L0H3": reference[3]}),
    ):
        attend(q, k, v)
    with (
        pytest.raises(QkvError, match="shape"),
        edit(mean="L0H2", reference={"L0H2": v[0, 0, 0, :2]}),
    ):
        attend(q, k, v)
    with capture() as without:
        attend(q, k, v)
    with pytest.raises(QkvError, match="values=True"):
        mean_outputs(without)


def test_long_texts_go_by_the_tile() -> None:
    q, k, v = torch.randn(3, 1, 2, 601, 3, generator=torch.Generator().manual_seed(8))
    causal = torch.ones(601, 601).tril().bool()
    with edit(uniform="L0H0", temperature=0.5, only="L0H1", mask="off"):
        mixed = attend(q, k, v, mask=Causal())
    close(mixed[:, 0], v[:, 0].cumsum(1) / torch.arange(1, 602)[:, None])
    close(mixed[:, 1:], written_out(q, k, v, scale=2 * 3**-0.5, allowed=causal | ~causal)[:, 1:])
    with edit(sharpen="L0H1"):
        mixed = attend(q, k, v, mask=Causal())
    at = (q @ k.mT).masked_fill(~causal, -math.inf).argmax(-1)[0, 1]
    close(mixed[0, 1], v[0, 1, at])
    close(mixed[:, :1], written_out(q, k, v, scale=3**-0.5, allowed=causal)[:, :1])


def test_edits_nest() -> None:
    q, k, v = draw()
    with edit(temperature=2.0), edit("L0H1"), edit(temperature=3.0, only="L0H4"):
        mixed = attend(q, k, v, mask=Causal())
    expected = written_out(q, k, v, temperature=2.0)
    expected[:, 1] = 0
    expected[:, 4] = written_out(q, k, v, temperature=6.0)[:, 4]
    close(mixed, expected)


@pytest.mark.parametrize("edit_first", [True, False])
def test_a_capture_records_what_was_computed(edit_first: bool) -> None:
    q, k, v = draw()
    changes = edit("L0H5", temperature=2.0, uniform="L0H1", sharpen="L0H3", only="L0H2, L0H3")
    with ExitStack() as stack:
        if edit_first:
            stack.enter_context(changes)
        trace = stack.enter_context(capture())
        if not edit_first:
            stack.enter_context(changes)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    assert len(trace.layers) == 1
    for b in range(B):
        for h in range(5):
            found = torch.from_numpy(trace.sequence(b)[0, h].pattern())
            assert found.sum(-1).numpy() == pytest.approx(1, abs=1e-5)
            close(found.double() @ v[b, h // 2].double(), mixed[b, h])
    assert not mixed[:, 5].any()
    assert trace.sequence(0)[0, 1].row(3).tolist() == pytest.approx([0.25] * 4 + [0.0] * 3)
    assert trace.sequence(0)[0, 3].row(6).max() == pytest.approx(1.0)


def test_edits_say_what_they_do() -> None:
    told = str(Edits("L0H1, blocks.2", mean=(2, 3), scale="off", mask="off", only="L1"))
    assert told == "without L0H1, blocks.2; at their mean L2H3; mask off; scale off (only in L1)"
    assert not Edits()
    assert Edits(temperature=1.0)
