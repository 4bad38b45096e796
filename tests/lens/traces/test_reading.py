"""Files of traces that are damaged, or made to harm: refused in one line that names the field."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import qkv
from qkv.attention import ALiBi, Causal, Padding, Window, attend
from qkv.errors import CheckpointError, QkvError
from qkv.lens import Trace, capture
from qkv.text import ByteTokenizer

H, G, T, C, D, V = 6, 2, 17, 5, 30, 256


def seen(mask: Any, bias: Any = None, batch: int = 1, **options: Any) -> Trace:
    """One layer over tokens that are looked up, with an output projection."""
    torch.manual_seed(0)
    ids = torch.randint(97, 122, (batch, T))
    q, k, v = torch.randn(batch, T, H + 2 * G, C).transpose(1, 2).split([H, G, G], 1)
    with capture(values=True, tokenizer=ByteTokenizer(), **options) as trace:
        F.embedding(ids, torch.randn(V, D))
        mixed = attend(q, k, v, mask=mask, bias=bias)
        F.linear(mixed.transpose(1, 2).reshape(batch, T, -1), torch.randn(D, H * C))
    assert trace.layers[0].w_o is not None
    assert trace.sequence(0).labels
    return trace


def tables() -> Trace:
    """Two sequences, one padded, with a table by head for mask and for bias."""
    torch.manual_seed(2)
    allowed = torch.from_numpy((Causal() & Padding((T, 9))).dense(T, T).repeat(H, 1))
    mask = allowed & (torch.eye(T, dtype=torch.bool) | (torch.rand(1, H, T, T) > 0.2))
    return seen(mask, torch.randn(H, T, T), 2)


def stepped() -> Trace:
    """A prompt and two steps of a cache, each with a table for its mask."""
    torch.manual_seed(1)
    bias = torch.randn(1, H, T, T)
    q, k = torch.randn(1, H, T, C), torch.randn(1, G, T, C)

    def step(first: int, stop: int) -> None:
        table = torch.ones(stop - first, stop, dtype=torch.bool).tril(first)
        table[:, 1::3] &= torch.rand(stop - first, 1) > 0.5
        own = bias[..., first:stop, :stop]
        attend(q[:, :, first:stop], k[:, :, :stop], k[:, :, :stop], mask=table, bias=own)

    with capture(values=True) as trace:
        for first, stop in ((0, T - 2), (T - 2, T - 1), (T - 1, T)):
            step(first, stop)
    return trace


GOOD: dict[str, Callable[[], Trace]] = {
    "steps": stepped,
    "tables": tables,
    "rules": lambda: seen(
        Causal() & Padding((T, 9)), ALiBi.standard(H), 2, heads=[1, 5], rows=slice(2, None)
    ),
    "window": lambda: seen(Window(3)),
}
EVIL: list[Any] = [
    *(None, True, -1, 0, 1, 5, 99, 10**9, 10**12, 2**63, 10**400),
    *(0.5, -1e-300, 1e308, float("nan"), float("inf"), -float("inf")),
    *("", "x", "t0", "t1", "\ud800\n", [], {}, [[]], [0, 10**9, 0, 10**9], [1, 1], {"a": 1}),
    *(["Full", {}], ["Causal", {}], ["TopLeft", {}], ["Window", {"size": 10**30}]),
    *(["Padding", {"lengths": [3, 3, 3]}], ["ALiBi", [1.0] * 3], ["Stitched", []]),
]


def parted(data: bytes) -> tuple[dict[str, Any], Any, bytes]:
    """A file's header, what it says of the trace, and its tensors."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    return header, json.loads(header["__metadata__"]["qkv"]), data[8 + size :]


def put(header: dict[str, Any], told: str, tensors: bytes) -> bytes:
    head = json.dumps({**header, "__metadata__": {"qkv": told}}).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + tensors


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where anything stands in JSON."""
    if at:
        yield at
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in pairs if isinstance(value, (dict, list)) else ():
        if isinstance(one, (dict, list)):
            yield from places(one, (*at, key))
        else:
            yield (*at, key)


def changed(told: Any, at: tuple[Any, ...], value: Any, *, remove: bool = False) -> Any:
    whole = copy.deepcopy(told)
    inner = whole
    for key in at[:-1]:
        inner = inner[key]
    if remove:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return whole


def refused_or_read(path: Path) -> bool:
    """Whether a file is refused, in one line; else every map of it must answer."""
    try:
        trace = qkv.load(path)
    except CheckpointError as error:
        return len(str(error).splitlines()) == 1
    # Numbers that were changed may be infinite; that is no error.
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for layer, sites in trace.calls():
            for call, site in enumerate(sites):
                for sequence in range(site.B):
                    for head in site.heads:
                        try:
                            found = trace.call(call).sequence(sequence)[layer, head]
                            assert found.row(0).shape == (found.K,)
                            found.row(found.Q - 1)
                        except QkvError:
                            pass
    return False


@pytest.mark.parametrize("kind", GOOD)
def test_every_field_is_checked(kind: str, tmp_path: Path, full: bool) -> None:
    path = GOOD[kind]().save(tmp_path / "t.safetensors")
    header, told, tensors = parted(path.read_bytes())
    assert not refused_or_read(path)
    rng = np.random.default_rng(7)
    names = [name for name in header if name != "__metadata__"]
    refused = tried = 0
    for at in places(told):
        evil = EVIL if full else [EVIL[i] for i in rng.permutation(len(EVIL))[:6]]
        for value in [*evil, str(rng.choice(names)), None]:
            path.write_bytes(put(header, json.dumps(changed(told, at, value)), tensors))
            refused += refused_or_read(path)
            tried += 1
        path.write_bytes(put(header, json.dumps(changed(told, at, 0, remove=True)), tensors))
        refused_or_read(path)
    # Most changes can't be meant.
    assert refused > tried * 0.6


SAID = [
    (("kept",), [[0, 10**9, 0, 10**9]] * 2, "kept"),
    (("scale",), "x", "scale is 'x'"),
    (("scale",), float("nan"), "scale is nan"),
    (("softcap",), 0, "softcap is 0"),
    (("groups",), [50] * H, "groups is 50"),
    (("rows",), None, "rows is None"),
    (("lse",), None, "lse is None"),
    (("heads",), [99, 1, 2, 3, 4, 5], "heads is 99"),
    (("heads",), [1, 1, 2, 3, 4, 5], "heads is .*each head once"),
    (("queries",), 10**12, "queries is 1000000000000"),
    (("masks",), [["Full", {}]], "masks, its length, is 1, not 2"),
    (("masks", 0), ["Padding", {"lengths": [3, 3]}], "its sequences and heads"),
    (("mask",), ["Window", {"size": 0}], "size is 0, not a whole number from 1"),
    (("bias",), ["ALiBi", [1.0, 2.0]], "bias, its sequences and heads"),
    (("bias",), ["Stitched", [[None, 3, 0, 3]]], "the queries of its parts, is 3, not 17"),
    (("name",), 7, "name is 7, not a text"),
]


@pytest.mark.parametrize(("at", "value", "line"), SAID)
def test_what_is_wrong_is_named(at: Any, value: Any, line: str, tmp_path: Path) -> None:
    path = tables().save(tmp_path / "t.safetensors")
    header, told, tensors = parted(path.read_bytes())
    place = ("calls", 0, 1, 0, *at)
    path.write_bytes(put(header, json.dumps(changed(told, place, value)), tensors))
    with pytest.raises(CheckpointError, match=line):
        qkv.load(path)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    path = seen(Causal()).save(tmp_path / "t.safetensors")
    header, told, tensors = parted(path.read_bytes())
    whole = json.dumps(changed(told, ("calls", 0, 1, 0, "mask"), "HERE"))
    rule = '["Causal", {}]'
    stitched = '["Stitched", [[' * 50 + rule + f", {T}, 0, {T}]]]" * 50
    both = '["Both", ' * 50 + rule + f", {rule}]" * 50
    for deep in (both, stitched, both.replace("Both", "x"), "[" * 10**5 + "]" * 10**5):
        path.write_bytes(put(header, whole.replace('"HERE"', deep), tensors))
        assert refused_or_read(path)
    three = '["Both", ' * 3 + rule + f", {rule}]" * 3
    path.write_bytes(put(header, whole.replace('"HERE"', three), tensors))
    assert not refused_or_read(path)


@pytest.mark.parametrize("kind", GOOD)
def test_damaged_bytes_are_refused_or_harmless(kind: str, tmp_path: Path, full: bool) -> None:
    path = GOOD[kind]().save(tmp_path / "t.safetensors")
    whole = path.read_bytes()
    size = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(3)
    for trial in range(3000 if full else 300):
        damaged = bytearray(whole)
        # Half of the changes in the header, which says more.
        end = size if trial % 2 else len(whole)
        for place in rng.integers(0, end, rng.integers(1, 4)):
            damaged[place] = rng.integers(256) if trial % 3 else damaged[place] ^ (1 << trial % 8)
        cut = int(rng.integers(len(whole))) if trial % 10 == 0 else len(whole)
        path.write_bytes(bytes(damaged[:cut]))
        refused = refused_or_read(path)
        assert refused or cut == len(whole)


@pytest.mark.parametrize("kind", GOOD)
def test_tensors_of_other_types_and_shapes(kind: str, tmp_path: Path) -> None:
    path = GOOD[kind]().save(tmp_path / "t.safetensors")
    header, told, tensors = parted(path.read_bytes())
    types = {"F32": "I32", "I64": "F64", "BOOL": "U8", "F64": "I64"}
    for name in header:
        if name == "__metadata__":
            continue
        one = header[name]
        others = [
            {**one, "dtype": types[one["dtype"]]},
            {**one, "shape": one["shape"][::-1]},
            {**one, "shape": [*one["shape"], 1]},
            {**one, "shape": [int(np.prod(one["shape"]))]},
            {**one, "shape": [0, 2**50], "data_offsets": [0, 0]},
        ]
        for other in others:
            path.write_bytes(put({**header, name: other}, json.dumps(told), tensors))
            refused_or_read(path)
        without = {key: value for key, value in header.items() if key != name}
        path.write_bytes(put(without, json.dumps(told), tensors))
        assert refused_or_read(path)


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = seen(Causal()).save(tmp_path / "t.safetensors")
    whole = path.read_bytes()
    size = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + size])
    broken: dict[str, bytes] = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "no header": whole[:8],
        "a header that lies about its size": (2**60).to_bytes(8, "little") + whole[8:],
        "text": b"not a trace at all",
    }
    for change in ({"format": 9}, {"calls": 3}, {"calls": [[0, [{}]]]}, None):
        told = json.loads(header["__metadata__"]["qkv"])
        note = {} if change is None else {"qkv": json.dumps({**told, **change})}
        head = json.dumps({**header, "__metadata__": note}).encode()
        broken[str(change)] = len(head).to_bytes(8, "little") + head + whole[8 + size :]
    for name, data in broken.items():
        path.write_bytes(data)
        with pytest.raises(CheckpointError) as error:
            qkv.load(path)
        assert "\n" not in str(error.value), name
