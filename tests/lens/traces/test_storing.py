"""Traces on disk: saved and read again, and kept in mapped files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import qkv
from qkv.attention import ALiBi, Causal, Padding, Window, attend
from qkv.errors import QkvError, ResourceError
from qkv.lens import Trace, capture
from qkv.lens.seeing.masks import Stitched
from qkv.lens.traces import disk
from qkv.text import ByteTokenizer

L, H, G, T, C, D, V = 2, 6, 2, 17, 5, 30, 256


class Model(nn.Module):
    """Attention by `qkv.attend` over tokens that are looked up."""

    def __init__(self, mask: Any = None, bias: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mask, self.bias = Causal() if mask is None else mask, bias
        self.tokens = nn.Embedding(V, D)
        self.into = nn.ModuleList(nn.Linear(D, (H + 2 * G) * C) for _ in range(L))
        self.out = nn.ModuleList(nn.Linear(H * C, D, bias=False) for _ in range(L))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        for into, out in zip(self.into, self.out, strict=True):
            q, k, v = into(x).view(*ids.shape, -1, C).transpose(1, 2).split([H, G, G], 1)
            mixed = attend(q, k, v, mask=self.mask, bias=self.bias)
            x = x + out(mixed.transpose(1, 2).reshape(*ids.shape, -1))
        return x


def ids(batch: int = 1) -> Tensor:
    text = torch.tensor(list(b"the\ncat sat\xc3\xa9 </s>"[:T]))
    return torch.stack([text.roll(turn) for turn in range(batch)])


def seen(model: nn.Module | None = None, batch: int = 1, **options: Any) -> Trace:
    model = Model() if model is None else model
    with torch.no_grad(), capture(model, **options) as trace:
        model(ids(batch))
    return trace


def stepped(bias: Any = None) -> Trace:
    """A prompt and two steps of a cache, each with a table for its mask."""
    torch.manual_seed(1)
    q, k = torch.randn(1, H, T, C), torch.randn(1, G, T, C)

    def step(first: int, stop: int) -> None:
        table = torch.ones(stop - first, stop, dtype=torch.bool).tril(first)
        table[:, 1::3] &= torch.rand(stop - first, 1) > 0.5
        own = None if bias is None else bias[..., first:stop, :stop]
        attend(q[:, :, first:stop], k[:, :, :stop], k[:, :, :stop], mask=table, bias=own)

    with capture(values=True) as trace:
        for first, stop in ((0, T - 2), (T - 2, T - 1), (T - 1, T)):
            step(first, stop)
    return trace


def all_patterns(trace: Trace) -> np.ndarray:
    return np.stack([m.pattern() for m in trace])


def test_a_folder_can_hold_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "SMALL", 500)
    sizes: list[int] = []
    reserve = disk._reserve
    monkeypatch.setattr(
        disk, "_reserve", lambda file, size: (sizes.append(size), reserve(file, size))
    )
    held = seen(to=tmp_path / "held", values=True)
    assert (all_patterns(held) == all_patterns(seen())).all()
    # lse is smaller than the bound, so it stays in memory.
    large = [x.numel() * 4 for site in held.layers for x in (site.q, site.k, site.v)]
    assert sorted(sizes) == sorted(large)
    # Nothing is left behind, also while it is used.
    assert os.name != "posix" or not list((tmp_path / "held").iterdir())
    assert qkv.load(held.save(tmp_path / "t.safetensors")).layers[0].q.equal(held.layers[0].q)
    with pytest.raises(ResourceError, match="a place that can be written"):
        seen(to="/proc/nowhere")


@pytest.mark.parametrize("fallocate", [True, False])
def test_parts_become_one_mapped_tensor(
    fallocate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fallocate:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    keep = disk.in_folder(tmp_path)
    parts = [torch.randn(2, 3, rows, 211) for rows in (1, 499, 0, 331)]
    whole = disk.joined([keep(x) for x in parts], keep)
    assert whole.equal(torch.cat(parts, 2))
    assert disk.joined(parts[:1], keep) is parts[0]
    half = disk.joined([parts[0].half(), parts[1]], torch.clone)
    assert half.dtype is torch.float32
    assert keep(torch.zeros(2, 0, 3)).shape == (2, 0, 3)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "_reserve", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        disk.in_folder(tmp_path).empty((2**20,), torch.float32)
    assert not list(tmp_path.iterdir())


MASKS: list[Any] = [
    Causal(),
    Window(3),
    Causal() & Padding((11,)),
    torch.rand(1, 1, T, T, generator=torch.Generator().manual_seed(2)) > 0.4,
    torch.rand(1, H, T, T, generator=torch.Generator().manual_seed(2)) > 0.4,
]


@pytest.mark.parametrize("mask", MASKS, ids=["causal", "window", "padding", "table", "by head"])
@pytest.mark.parametrize("bias", [None, ALiBi.standard(H), torch.randn(H, T, T)])
def test_saved_and_read_again(mask: Any, bias: Any, tmp_path: Path) -> None:
    trace = seen(Model(mask, bias), values=True, tokenizer=ByteTokenizer(), heads=[0, 2, 3])
    path = trace.save(tmp_path / "trace.safetensors")
    again = qkv.load(path)
    assert (all_patterns(again) == all_patterns(trace)).all()
    assert again.labels == trace.labels
    assert again.tokens.tolist() == trace.tokens.tolist()
    assert repr(again.layers[1]) == repr(trace.layers[1])
    one, other = again[1, 2], trace[1, 2]
    assert (one.key_labels, one.note) == (other.key_labels, other.note)
    assert np.array_equal(one.v, other.v)
    assert np.array_equal(one.w_o, other.w_o)
    assert again.layers[1].mix(torch.eye(one.K)).equal(trace.layers[1].mix(torch.eye(one.K)))


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="a place that can be written"):
        seen().save(tmp_path / "none" / "t.safetensors")
    assert not list(tmp_path.iterdir())
    (tmp_path / "taken").mkdir()
    with pytest.raises(ResourceError, match="a place that can be written"):
        seen().save(tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = seen().save(tmp_path / "t.safetensors")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="No space left on device"):
        seen(heads=[0]).save(path)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_a_loaded_trace_can_be_saved_again_over_its_own_file(tmp_path: Path) -> None:
    path = seen(Model(MASKS[4], torch.randn(H, T, T)), dtype="bf16", values=True).save(
        tmp_path / "t.safetensors"
    )
    before, whole = path.read_bytes(), all_patterns(qkv.load(path))
    again = qkv.load(path)
    again.save(path)
    assert path.read_bytes() == before
    assert (all_patterns(again) == whole).all()


def test_views_and_what_is_named_twice_are_saved(tmp_path: Path) -> None:
    trace = seen()
    wide = torch.randn(1, 1, T, C).expand(1, G, T, C)
    [(layer, [site]), *_] = trace.calls()
    same = site.only(k=wide, v=wide, q=torch.randn(1, T, H, C).transpose(1, 2))
    trace.end({layer: [same]}, {})
    again = qkv.load(trace.save(tmp_path / "t.safetensors")).layers[0]
    assert again.k.equal(wide)
    assert again.q.equal(same.q)
    assert again.v.data_ptr() == again.k.data_ptr()


def test_saving_holds_no_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = seen(values=True, dtype="bf16")
    # What copies a tensor may not be called for one that lies as it is written.
    for name in ("clone", "copy_", "tolist"):
        monkeypatch.setattr(Tensor, name, None)
    trace.save(tmp_path / "t.safetensors")


def test_what_a_capture_chose_is_kept(tmp_path: Path) -> None:
    trace = seen(heads=[1, 4], rows=slice(3, None))
    again = qkv.load(trace.save(tmp_path / "t.safetensors"))
    assert trace.partial
    assert again.partial == trace.partial
    assert again.layers[0].H_all == H
    assert qkv.load(seen().save(tmp_path / "t.safetensors")).partial == ""


def test_a_site_that_cannot_be_read_again_is_not_saved(tmp_path: Path) -> None:
    trace = seen()
    site = trace.layers[0]
    trace.end({0: [site.only(scale=float("nan"))]}, {})
    with pytest.raises(QkvError, match=r"layer 0\[0\]\.scale is nan, not a finite number"):
        trace.save(tmp_path / "t.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bias", [None, torch.randn(1, H, T, T)], ids=["no bias", "bias"])
def test_steps_of_a_cache_are_saved(bias: Any, tmp_path: Path) -> None:
    trace = stepped(bias)
    assert trace.layers[0].Q == T
    again = qkv.load(trace.save(tmp_path / "t.safetensors"))
    assert (all_patterns(again) == all_patterns(trace)).all()


def test_parts_that_begin_before_the_first_key_are_saved(tmp_path: Path) -> None:
    trace = stepped()
    site = trace.layers[0]
    parts = ((Window(4), T - 2, -3, T + 1), (Causal(), 2, 0, T))
    trace.end({0: [site.only(mask=Stitched(parts), masks=(Stitched(parts),))]}, {})
    again = qkv.load(trace.save(tmp_path / "t.safetensors"))
    with np.errstate(over="ignore"):
        assert (all_patterns(again) == all_patterns(trace)).all()
