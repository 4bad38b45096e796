"""The torch version: every path against NumPy, torch's own attention, and the other paths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from qkv.attention import (
    ALiBi,
    Causal,
    Full,
    Given,
    Padding,
    Prefix,
    Window,
    alibi_slopes,
    attend_gradients,
    kernels,
    steps,
)
from qkv.attention import attend as attend_either
from qkv.attention.fused import attend, choose_path
from qkv.attention.masks import Mask
from qkv.attention.tiles import through_tiles
from qkv.errors import ConfigError, ShapeError

B, H, G, Q, K, C, CV = 2, 6, 3, 61, 67, 5, 7
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}

MASKS: dict[str, Any] = {
    "none": None,
    "full": Full(),
    "causal": Causal(),
    "window": Window(9),
    "prefix": Prefix(20),
    "padding": Padding((31, K)),
    "padding and causal": Causal() & Padding((0, K)),
    "table": np.random.default_rng(1).random((B, 1, Q, K)) < 0.4,
    "table of keys": np.random.default_rng(2).random((1, K)) < 0.4,
}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles far smaller than the sizes here, that don't divide them, so that all loops are run."""
    monkeypatch.setattr("qkv.attention.tiles.Scoring.cuts", lambda self, batch: (13, 17))


def draw(
    dtype: torch.dtype = torch.float64,
    queries: int = Q,
    keys: int = K,
    *,
    groups: int = G,
    cv: int = CV,
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    shapes = (B, H, queries, C), (B, groups, keys, C), (B, groups, keys, cv)
    return [
        torch.randn(*shape, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
        for shape in shapes
    ]


def assert_close(got: torch.Tensor, expected: Any, tolerance: float) -> None:
    wanted = torch.as_tensor(expected, dtype=torch.float64)
    assert got.shape == wanted.shape
    finite = wanted.isfinite()
    assert (got.double().isfinite() == finite).all()
    size = max(1.0, wanted[finite].abs().max().item()) if finite.any() else 1.0
    error = (got.double() - wanted)[finite].abs().max().item() if finite.any() else 0.0
    assert error <= tolerance * size


def compare_with_numpy(
    tensors: list[torch.Tensor], tolerance: float, *, with_lse: bool, **options: Any
) -> None:
    """Forward and backward of `attend` against the steps and gradients in NumPy."""
    tensor_options, array_options = dict(options), dict(options)
    bias = options.get("bias")
    if isinstance(bias, torch.Tensor):
        array_options["bias"] = bias.detach().double().numpy()
    if isinstance(options.get("mask"), np.ndarray):
        tensor_options["mask"] = torch.from_numpy(options["mask"])
    arrays = [tensor.detach().double().numpy() for tensor in tensors]
    expected = steps(*arrays, **array_options)
    generator = torch.Generator().manual_seed(8)
    d_mixed = torch.randn(expected.mixed.shape, generator=generator).to(tensors[0].dtype)
    d_lse = torch.randn(expected.lse.shape, generator=generator).to(d_mixed) if with_lse else None
    found = attend(*tensors, return_lse=with_lse, **tensor_options)
    mixed, lse = found if with_lse else (found, None)
    assert mixed.dtype is tensors[0].dtype
    assert_close(mixed, expected.mixed, tolerance)
    if lse is not None:
        assert lse.dtype is (torch.float64 if mixed.dtype is torch.float64 else torch.float32)
        assert_close(lse, expected.lse, tolerance)
    wanted = attend_gradients(
        expected, d_mixed.double().numpy(), None if d_lse is None else d_lse.double().numpy()
    )
    inputs = [*tensors, bias] if isinstance(bias, torch.Tensor) else tensors
    outputs, seeds = (
        ((mixed, lse), (d_mixed, d_lse.to(lse.dtype))) if with_lse else (mixed, d_mixed)
    )
    found_gradients = torch.autograd.grad(outputs, inputs, seeds)
    for name, got in zip(("q", "k", "v", "bias"), found_gradients, strict=False):
        assert (
            got.dtype
            is {"q": tensors[0], "k": tensors[1], "v": tensors[2], "bias": bias}[name].dtype
        )
        assert_close(got, getattr(wanted, name), tolerance * 2)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("with_lse", [False, True])
@pytest.mark.parametrize("name", MASKS)
def test_every_mask_agrees_with_numpy(name: str, with_lse: bool, dtype: torch.dtype) -> None:
    compare_with_numpy(draw(dtype), TOLERANCE[dtype], with_lse=with_lse, mask=MASKS[name])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", ["causal", "window", "table", "padding and causal"])
@pytest.mark.parametrize(
    "shape", [(B, H, Q, K), (H, 1, 1), (Q, K), (K,), (B, 1, 1, K), (1, 1), None]
)
def test_bias_softcap_and_scale_agree_with_numpy(
    shape: tuple[int, ...] | None, name: str, dtype: torch.dtype
) -> None:
    bias: Any = ALiBi(alibi_slopes(H))
    if shape is not None:
        generator = torch.Generator().manual_seed(9)
        bias = torch.randn(shape, generator=generator).to(dtype).requires_grad_()
    options = {"mask": MASKS[name], "bias": bias, "softcap": 3.0, "scale": 0.9}
    compare_with_numpy(draw(dtype), TOLERANCE[dtype], with_lse=True, **options)


@pytest.mark.parametrize("groups", [1, 2, H])
@pytest.mark.parametrize(("queries", "keys"), [(K, K), (1, K), (Q, K), (K, Q), (1, 1)])
def test_sizes_and_groups_on_the_chosen_path(queries: int, keys: int, groups: int) -> None:
    for cv in (C, CV):
        tensors = draw(queries=queries, keys=keys, groups=groups, cv=cv)
        compare_with_numpy(tensors, 1e-12, with_lse=False, mask=Causal())
        compare_with_numpy(tensors, 1e-12, with_lse=True, mask=Causal())


def oracle(tensors: list[torch.Tensor], **options: Any) -> torch.Tensor:
    return scaled_dot_product_attention(*tensors, enable_gqa=True, **options)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", ["causal", "short causal", "table", "bias", "scale"])
def test_agrees_with_torch_forward_and_backward(case: str, dtype: torch.dtype) -> None:
    tensors = draw(dtype, queries=K if case == "causal" else Q)
    table = torch.from_numpy(MASKS["table"])
    bias = torch.randn(B, 1, Q, K, generator=torch.Generator().manual_seed(3)).to(dtype)
    ours, theirs = {
        "causal": ({"mask": Causal()}, {"is_causal": True}),
        "short causal": (
            {"mask": Causal()},
            {"attn_mask": torch.ones(Q, K, dtype=torch.bool).tril(K - Q)},
        ),
        "table": ({"mask": table}, {"attn_mask": table}),
        "bias": ({"bias": bias}, {"attn_mask": bias}),
        "scale": ({"scale": 1.7}, {"scale": 1.7}),
    }[case]
    found, expected = attend(*tensors, **ours), oracle(tensors, **theirs)
    assert_close(found, expected.detach().double(), TOLERANCE[dtype])
    seed = torch.ones_like(found)
    for got, wanted in zip(
        torch.autograd.grad(found, tensors, seed),
        torch.autograd.grad(expected, tensors, seed),
        strict=True,
    ):
        assert_close(got, wanted.double(), TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("mask", [None, Causal()])
@pytest.mark.parametrize("groups", [1, 3, 6])
def test_the_three_paths_agree(groups: int, mask: Mask | None, dtype: torch.dtype) -> None:
    tensors = draw(dtype, queries=K, groups=groups, cv=C)
    causal, seed = mask is not None, torch.ones(B, H, K, C, dtype=dtype)
    outcomes = {
        "sdpa": kernels.through_sdpa(*tensors, causal=causal, scale=0.6),
        "table": kernels.through_table(*tensors, mask=mask, bias=None, scale=0.6)[0],
        "blocked": through_tiles(*tensors, mask=mask, bias=None, scale=0.6, softcap=None)[0],
    }
    for mixed in outcomes.values():
        assert_close(mixed, outcomes["blocked"].detach().double(), TOLERANCE[dtype])
        wanted = torch.autograd.grad(outcomes["blocked"], tensors, seed, retain_graph=True)
        found = torch.autograd.grad(mixed, tensors, seed, retain_graph=True)
        for got, expected in zip(found, wanted, strict=True):
            assert_close(got, expected.double(), TOLERANCE[dtype] * 2)


def test_paths_are_chosen_as_measured() -> None:
    def path(tensors: list[torch.Tensor], mask: object = None, **options: Any) -> str:
        asked = {"bias": None, "softcap": None, "lse": False, **options}
        return choose_path(*tensors, mask=mask, **asked)

    square, short = draw(torch.float32, queries=K, cv=C), draw(torch.float32, cv=C)
    assert path(square) == path(square, Causal()) == path(square, Full()) == "sdpa"
    assert path(short) == "sdpa"
    assert path(draw(torch.float32, queries=1, cv=C), Causal()) == "sdpa"
    assert path(short, Causal()) == path(square, Window(3)) == "table"
    assert path(square, lse=True) == path(square, softcap=3.0) == "blocked"
    bias = torch.zeros(K, K)
    assert path(square, bias=bias) == path(square, bias=ALiBi.standard(H)) == "table"
    assert path(square, bias=bias.requires_grad_()) == "blocked"
    with torch.no_grad():
        assert path(square, bias=bias) == "table"
    strided = [tensor.mT.contiguous().mT for tensor in square]
    assert path(strided, Causal()) == path(draw(torch.float32)) == "blocked"


def test_a_long_text_has_a_table_only_where_arrays_were_given() -> None:
    long = 513
    tensors = draw(torch.float32, queries=long, keys=long, cv=C)

    def path(mask: Any = None, bias: Any = None) -> str:
        return choose_path(*tensors, mask=mask, bias=bias, softcap=None, lse=False)

    square, keys = np.ones((long, long), dtype=bool), np.ones((B, 1, 1, long), dtype=bool)
    assert path(Window(3)) == path(bias=ALiBi.standard(H)) == "blocked"
    assert path(Given(square)) == path(Given(keys)) == path(bias=torch.zeros(long, long)) == "table"
    assert path(Given(square), torch.zeros(H, 1, 1)) == "blocked"
    assert path(Given(square) & Causal()) == path(Given(square), ALiBi.standard(H)) == "blocked"


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("groups", [1, 3, 6])
@pytest.mark.parametrize("queries", [1, Q])
@pytest.mark.parametrize("name", MASKS)
def test_tables_agree_with_numpy(name: str, queries: int, groups: int, dtype: torch.dtype) -> None:
    tensors = draw(dtype, queries=queries, groups=groups, cv=C)
    mask = MASKS[name]
    if isinstance(mask, np.ndarray) and queries == 1:
        mask = mask[..., :1, :]
    compare_with_numpy(tensors, TOLERANCE[dtype], with_lse=False, mask=mask)
    compare_with_numpy(
        tensors, TOLERANCE[dtype], with_lse=False, mask=mask, bias=ALiBi.standard(H), scale=0.9
    )


@pytest.mark.parametrize("shape", [(B, H, Q, K), (H, 1, 1), (Q, K), (K,), (B, 1, 1, K), (1, 1)])
def test_a_table_of_a_given_bias(shape: tuple[int, ...]) -> None:
    bias = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    tensors = draw(cv=C)
    for mask in (None, Causal(), Padding((0, K))):
        found = attend(*tensors, mask=mask, bias=bias)
        arrays = [tensor.detach().numpy() for tensor in tensors]
        expected = steps(*arrays, mask=mask, bias=bias.numpy())
        assert_close(found, expected.mixed, 1e-12)
        wanted = attend_gradients(expected, np.ones(expected.mixed.shape))
        for name, got in zip("qkv", torch.autograd.grad(found.sum(), tensors), strict=True):
            assert_close(got, getattr(wanted, name), 1e-12)


def test_keys_are_repeated_where_torch_cannot_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def record(q: Any, k: Any, v: Any, **options: Any) -> torch.Tensor:
        asked.append((k.shape[1], v.shape[1], options["enable_gqa"]))
        return torch.empty_like(q)

    monkeypatch.setattr(kernels, "scaled_dot_product_attention", record)
    for dtype, table in (
        (torch.float32, None),
        (torch.bfloat16, None),
        (torch.bfloat16, torch.zeros(1, 1, Q, K, device="meta")),
    ):
        elsewhere = [tensor.detach().to("meta") for tensor in draw(dtype, cv=C)]
        kernels._kernel(*elsewhere, table, causal=False, scale=None)
    assert asked == [(H, H, False), (G, G, True), (H, H, False)]


@pytest.mark.parametrize("mask", [None, Causal(), Window(5), "table", "empty rows"])
@pytest.mark.parametrize("groups", [G, H])
def test_asking_for_lse_changes_no_bit_of_the_result(mask: Any, groups: int) -> None:
    tensors = [x.detach() for x in draw(torch.float32, queries=K, groups=groups, cv=C)]
    if isinstance(mask, str):
        share = 0.5 if mask == "table" else 0.02
        mask = torch.rand(B, 1, K, K, generator=torch.Generator().manual_seed(9)) < share
    mixed, lse = attend(*tensors, mask=mask, return_lse=True)
    assert torch.equal(mixed, attend(*tensors, mask=mask))
    wanted = attend(*(x.double() for x in tensors), mask=mask, return_lse=True)[1]
    assert_close(lse, wanted, 1e-6)


@pytest.mark.parametrize("mask", [Causal(), Window(30)])
def test_bf16_of_wide_scores(mask: Mask) -> None:
    """With scores in the hundreds, results and gradients are as exact as torch's own."""
    generator = torch.Generator().manual_seed(2)
    low = [
        (torch.randn(2, 4, 64, 32, generator=generator) * size).bfloat16().requires_grad_()
        for size in (4, 4, 1)
    ]
    exact = [tensor.detach().double().requires_grad_() for tensor in low]
    seed = torch.randn(2, 4, 64, 32, generator=generator).bfloat16()
    table = torch.from_numpy(mask.dense(64, 64))
    everything = []
    for call, inputs in (
        (lambda *x: attend(*x, mask=mask), low),
        (lambda *x: scaled_dot_product_attention(*x, attn_mask=table), low),
        (lambda *x: scaled_dot_product_attention(*x, attn_mask=table), exact),
    ):
        mixed = call(*inputs)
        gradients = torch.autograd.grad(mixed, inputs, seed.to(mixed.dtype))
        everything.append([mixed.detach().double(), *(each.double() for each in gradients)])
    for ours, torchs, truth in zip(*everything, strict=True):
        assert (ours - truth).abs().max() <= 2 * (torchs - truth).abs().max()


def test_a_bias_is_never_rounded_to_bf16() -> None:
    low = [tensor.detach() for tensor in draw(torch.bfloat16, queries=K, cv=C)]
    bias = torch.linspace(-250, -240, K).expand(K, K)
    expected = attend(*(tensor.double() for tensor in low), bias=bias)
    assert_close(attend(*low, bias=bias), expected, 0.01)


@pytest.mark.parametrize("groups", [1, 6])
def test_bf16_against_fp64(groups: int) -> None:
    """bf16 has 8 bits: results lie within 1 % of the largest value, lse within 1e-5 of exact."""
    exact = draw(queries=K, groups=groups, cv=C)
    low = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    wide = [tensor.detach().double().requires_grad_() for tensor in low]
    seed = torch.randn(B, H, K, C, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected, lse = attend(*wide, mask=Causal(), return_lse=True)
    wanted = torch.autograd.grad(expected, wide, seed.double())
    with_lse, low_lse = attend(*low, mask=Causal(), return_lse=True)
    assert low_lse.dtype is torch.float32
    assert_close(low_lse, lse.detach(), 1e-5)
    plain = [
        with_lse,
        kernels.through_sdpa(*low, causal=True, scale=None),
        kernels.through_table(*low, mask=Causal(), bias=None, scale=None)[0],
    ]
    for mixed in plain:
        assert mixed.dtype is torch.bfloat16
        assert_close(mixed, expected.detach(), 0.01)
        for got, gradient in zip(torch.autograd.grad(mixed, low, seed), wanted, strict=True):
            assert_close(got, gradient, 0.015)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rows_that_allow_nothing_on_every_path(dtype: torch.dtype) -> None:
    tensors = draw(dtype, queries=K, keys=Q, cv=C)  # more queries than keys: the first see nothing
    nothing = torch.zeros(1, 1, dtype=torch.bool)
    minus = torch.full((Q,), -torch.inf, dtype=dtype)
    cases: list[tuple[dict[str, Any], slice]] = [
        ({"mask": Causal()}, slice(0, K - Q)),
        ({"mask": nothing}, slice(None)),
        ({"mask": Padding((0, 0))}, slice(None)),
        ({"bias": minus}, slice(None)),
        ({"bias": minus, "softcap": 2.0}, slice(None)),
    ]
    for options, empty in cases:
        mixed, lse = attend(*tensors, return_lse=True, **options)
        assert (mixed[:, :, empty] == 0).all()
        assert (lse[:, :, empty] == -torch.inf).all()
        assert mixed.isfinite().all()
        seeds = torch.ones_like(mixed), torch.ones_like(lse)
        gradients = torch.autograd.grad((mixed, lse), tensors, seeds)
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert (gradients[0][:, :, empty] == 0).all()
        if "softcap" in options:
            continue
        path = choose_path(*tensors, mask=None, bias=options.get("bias"), softcap=None, lse=False)
        assert path in ("sdpa", "table")
        alone = attend(*tensors, **options)
        assert (alone[:, :, empty] == 0).all()
        assert_close(alone, mixed.detach().double(), 0.01)
        wanted = torch.autograd.grad(attend(*tensors, return_lse=True, **options)[0].sum(), tensors)
        found = torch.autograd.grad(alone.sum(), tensors)
        assert (found[0][:, :, empty] == 0).all()
        for got, exact in zip(found, wanted, strict=True):
            assert_close(got, exact.double(), 0.015)
    keyless = draw(dtype, keys=0, cv=C)
    for options in ({}, {"mask": Causal()}):
        assert (attend(*keyless, **options) == 0).all()
        assert (attend(*keyless, return_lse=True, **options)[1] == -torch.inf).all()


def test_only_lse_is_used() -> None:
    tensors = draw()
    lse = attend(*tensors, mask=Causal(), return_lse=True)[1]
    d_q, _, d_v = torch.autograd.grad(lse.sum(), tensors)
    assert (d_v == 0).all()
    pattern = steps(*(tensor.detach().numpy() for tensor in tensors), mask=Causal()).pattern
    expected = pattern @ tensors[1].detach().repeat_interleave(2, 1).numpy() / C**0.5
    assert_close(d_q, expected, 1e-12)


def test_gradcheck() -> None:
    tensors = [tensor[:1, :, :4].detach().requires_grad_() for tensor in draw()]
    bias = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)

    def call(*inputs: torch.Tensor) -> Any:
        options = {"mask": Causal(), "bias": inputs[3], "softcap": 2.0}
        return attend(*inputs[:3], return_lse=True, **options)

    assert torch.autograd.gradcheck(call, (*tensors, bias))


def test_a_mode_sees_the_call_itself() -> None:
    seen = []

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append((func, len(args), kwargs))
            return func(*args, **(kwargs or {}))

    tensors = draw()
    expected = attend(*tensors, mask=Window(3), softcap=2.0)
    for entrance in (attend, attend_either):
        seen.clear()
        with Watch():
            found = entrance(*tensors, mask=Window(3), softcap=2.0)
        assert (found == expected).all()
        calls = [(args, kwargs) for func, args, kwargs in seen if func is attend]
        assert len(calls) == 1
        assert calls[0][0] == 3
        assert calls[0][1]["mask"] == Window(3)
        assert calls[0][1]["return_lse"] is False


def test_autocast_changes_nothing() -> None:
    tensors = draw(torch.float32, queries=K, cv=C)
    bias = torch.randn(K, K, generator=torch.Generator().manual_seed(3)).requires_grad_()
    cases: list[dict[str, Any]] = [
        {"mask": Causal()},
        {"mask": Window(5)},
        {"mask": Window(5), "softcap": 3.0},
        {"bias": bias},
    ]
    for options in cases:
        inputs = [*tensors, *([bias] if "bias" in options else [])]
        expected = attend(*tensors, **options)
        wanted = torch.autograd.grad(expected.sum(), inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = attend(*tensors, **options)
            found = torch.autograd.grad(mixed.sum(), inputs)
        assert (mixed == expected).all()
        for got, gradient in zip(found, wanted, strict=True):
            assert (got == gradient).all()


def test_without_gradients_the_same() -> None:
    for dtype in (torch.float64, torch.float32):
        tensors = draw(dtype, queries=K, cv=C)
        for mask in (Causal(), Window(5)):
            with torch.no_grad():
                quiet = attend(*tensors, mask=mask)
            assert not quiet.requires_grad
            assert_close(quiet, attend(*tensors, mask=mask).detach().double(), 1e-6)


def test_errors_say_what_to_do() -> None:
    q, k, v = draw(torch.float32)
    with pytest.raises(ShapeError, match="one floating-point type"):
        attend(q, k.double(), v)
    with pytest.raises(ShapeError, match=r"\(B, H, Q, C\)"):
        attend(q[0], k[0], v[0])
    with pytest.raises(ShapeError, match="a multiple of them"):
        attend(q[:, :5], k, v)
    with pytest.raises(ShapeError, match="booleans"):
        attend(q, k, v, mask=torch.ones(Q, K))
    with pytest.raises(ShapeError, match="a bias of shape"):
        attend(q, k, v, bias=torch.ones(Q, 5))
    with pytest.raises(ShapeError, match=r"torch\.from_numpy"):
        attend(q, k, v, bias=np.ones((Q, K)))
    with pytest.raises(ShapeError, match="a bias of shape"):
        attend(q, k, v, bias=ALiBi(alibi_slopes(5)))
    with pytest.raises(ConfigError, match="softcap"):
        attend(q, k, v, softcap=-1.0)
