"""nanoGPT's checkpoints against the GPT-2 of `transformers`, and pickles that would do more."""

from __future__ import annotations

import pickle
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from qkv.errors import CheckpointError
from qkv.models import Transformer
from qkv.models.nanogpt import load_nanogpt, read_meta
from qkv.text import ByteTokenizer

from .conftest import scramble, tokens

SIZES = {"vocab_size": 97, "block_size": 31, "n_layer": 3, "n_embd": 35, "n_head": 5}


def theirs(transformers: Any, bias: bool) -> Any:
    """A GPT-2 that computes what nanoGPT's does: exact GELU, zeros where it has no biases."""
    config = transformers.GPT2Config(
        vocab_size=97, n_positions=31, n_layer=3, n_embd=35, n_head=5, activation_function="gelu"
    )
    model = scramble(transformers.GPT2LMHeadModel(config))
    if not bias:
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                torch.nn.init.zeros_(parameter)
    return model


def layout(their: Any, bias: bool) -> dict[str, Tensor]:
    """The weights of a GPT-2 as nanoGPT has them: Linear layers, and maybe no biases."""
    return {
        name: tensor.T.contiguous() if ".c_" in name and tensor.ndim == 2 else tensor
        for name, tensor in their.state_dict().items()
        if bias or not name.endswith(".bias")
    }


def content(state: dict[str, Tensor] | None = None, **others: Any) -> dict[str, Any]:
    """What train.py puts in a checkpoint."""
    return {
        "model": plain_state() if state is None else state,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]},
        "model_args": {**SIZES, "bias": False, "dropout": 0.2},
        "iter_num": 40,
        "best_val_loss": torch.tensor(2.5),
        "config": {"dataset": "chars", "compile": True, "device": "cpu"},
    } | others


def plain_state(layers: int = 3) -> dict[str, Tensor]:
    """Random weights without biases."""
    D, start = 35, "transformer."
    shapes = {"wte": (97, D), "wpe": (31, D), "ln_f": (D,)}
    for layer in range(layers):
        own = {"ln_1": (D,), "attn.c_attn": (3 * D, D), "attn.c_proj": (D, D), "ln_2": (D,)}
        own |= {"mlp.c_fc": (4 * D, D), "mlp.c_proj": (D, 4 * D)}
        shapes |= {f"h.{layer}.{name}": shape for name, shape in own.items()}
    state = {f"{start}{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    return {**state, "lm_head.weight": state["transformer.wte.weight"]}


def saved(path: Path, data: Any, **how: Any) -> Path:
    torch.save(data, path, **how)
    return path


def line_of(path: Path, load: Callable[[Path], Any] = load_nanogpt) -> str:
    """The one line with which loading fails."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 700
    assert str(path) in line
    return line


def meta(characters: str = "abc", **others: Any) -> dict[str, Any]:
    """What prepare.py puts beside a text of characters."""
    return {
        "vocab_size": len(characters),
        "itos": dict(enumerate(characters)),
        "stoi": {letter: at for at, letter in enumerate(characters)},
    } | others


# What loads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("bias", [True, False])
def test_logits_equal_those_of_transformers(
    transformers: Any, tmp_path: Path, bias: bool, prefix: str
) -> None:
    their = theirs(transformers, bias)
    state = {prefix + name: tensor for name, tensor in layout(their, bias).items()}
    data = content(state, model_args={**SIZES, "bias": bias, "dropout": 0.2})
    before = torch.random.get_rng_state()
    loaded = load_nanogpt(saved(tmp_path / "ckpt.pt", data))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert isinstance(loaded.model, Transformer)
    assert not loaded.model.training
    assert (loaded.step, loaded.tokenizer, loaded.config.dropout) == (40, None, 0.0)
    ids = tokens(3, 31, 97)
    with torch.no_grad():
        found, wanted = loaded.model(ids), their(ids).logits
    assert wanted.std() > 0.1
    assert (found - wanted).abs().max() < 1e-5


def test_old_checkpoints_with_a_mask_and_no_choice_of_biases(
    transformers: Any, tmp_path: Path
) -> None:
    state = layout(theirs(transformers, True), True)
    state |= {f"transformer.h.{at}.attn.bias": torch.ones(1, 1, 31, 31).tril() for at in range(3)}
    data = content(state, model_args=SIZES)
    assert load_nanogpt(saved(tmp_path / "ckpt.pt", data)).config.bias


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_halves_become_float32(tmp_path: Path, kind: torch.dtype) -> None:
    state = {name: tensor.to(kind) for name, tensor in plain_state().items()}
    model = load_nanogpt(saved(tmp_path / "ckpt.pt", content(state))).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    # Nothing of the model is a view of the file.
    saved(tmp_path / "ckpt.pt", {})
    assert model(tokens(1, 5, 97)).isfinite().all()


def test_characters_are_found_beside_it_or_with_its_data(tmp_path: Path) -> None:
    run = tmp_path / "out"
    run.mkdir()
    path = saved(run / "ckpt.pt", content())
    assert load_nanogpt(path).tokenizer is None
    data = tmp_path / "data" / "chars"
    data.mkdir(parents=True)
    (data / "meta.pkl").write_bytes(pickle.dumps(meta("xyz")))
    tokenizer = load_nanogpt(path).tokenizer
    assert tokenizer is not None
    assert tokenizer.decode([2, 0]) == "zx"
    (run / "meta.pkl").write_bytes(pickle.dumps(meta("ab\n☃")))
    tokenizer = load_nanogpt(path).tokenizer
    assert tokenizer is not None
    assert tokenizer.encode("☃\n").tolist() == [3, 2]
    (run / "meta.pkl").write_bytes(b"no pickle")
    line_of_meta = line_of(run / "meta.pkl", lambda _: load_nanogpt(path))
    assert "--tokenizer" in line_of_meta
    assert load_nanogpt(path, ByteTokenizer()).tokenizer == ByteTokenizer()


def test_data_outside_its_folder_is_not_looked_for(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta()))
    for dataset in ("..", "../..", str(tmp_path), "", 3, None):
        data = content(config={"dataset": dataset})
        assert load_nanogpt(saved(tmp_path / "out" / "ckpt.pt", data)).tokenizer is None


# Checkpoints that are none ----------------------------------------------------------------------


def test_other_files_of_torch(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    assert "not a zip file" in line_of(saved(path, content(), _use_new_zipfile_serialization=False))
    assert "a list in it" in line_of(saved(path, [1, 2]))
    assert "no model and model_args" in line_of(saved(path, {"model": plain_state()}))
    assert "no model and model_args" in line_of(saved(path, plain_state()))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    assert "0 pickles" in line_of(path)
    path.write_bytes(b"")
    line_of(path)


def rezip(path: Path, change: Callable[[str, bytes], bytes], how: int = zipfile.ZIP_STORED) -> None:
    """Write the parts of a checkpoint again, changed."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in parts.items():
            archive.writestr(name, change(name, data))


def test_bombs(tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    tracemalloc.start()
    rezip(saved(path, content()), lambda _, data: data, zipfile.ZIP_DEFLATED)
    assert "compressed parts" in line_of(path)
    one = torch.randn(1)
    views = {name: one.expand(tensor.shape) for name, tensor in plain_state().items()}
    assert "more numbers than are stored" in line_of(saved(path, content(views)))
    shared = plain_state(layers=40)
    first = {name: tensor for name, tensor in shared.items() if ".h.0." in name}
    shared = {name: first.get(f"transformer.h.0.{name.split('.', 3)[-1]}", tensor)
              for name, tensor in shared.items()}  # fmt: skip
    assert "more numbers than are stored" in line_of(saved(path, content(shared)))
    deep = content(model_args={**SIZES, "n_layer": 10**12})
    assert f"{10**12} layers in 22 tensors" in line_of(saved(path, deep))
    wide = content(model_args={**SIZES, "n_embd": 5 * 10**9, "bias": False})
    assert "width 5000000000, " in line_of(saved(path, wide))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize(
    ("others", "line"),
    [
        ({"model_args": {**SIZES, "bias": False, "n_kv_head": 1}}, "'n_kv_head' in its model_args"),
        ({"model_args": {**SIZES, "bias": None}}, "bias=None"),
        ({"model_args": {**SIZES, "n_head": 4}}, "4 heads for width 35"),
        ({"model_args": {**SIZES, "n_layer": "3"}}, "layers='3'"),
        ({"model_args": {**SIZES, "n_layer": 2, "bias": False}}, "the tensor h.2.attn"),
        ({"model_args": {**SIZES, "n_layer": 4, "bias": False}}, "no h.3.ln_1.weight"),
        ({"model_args": {**SIZES, "bias": True}}, "no ln_f.bias"),
        ({"model_args": {**SIZES, "vocab_size": 96, "bias": False}}, "tokens: (97, 35)"),
        ({"model_args": {**SIZES, "block_size": 32, "bias": False}}, "positions: (31, 35)"),
        ({"model_args": [3]}, "no model and model_args"),
        ({"model": {"a": 3}}, "no tensor under 'a'"),
        ({"model": {**plain_state(), "lm_head.weight": torch.ones(97, 35)}}, "lm_head.weight that"),
        ({"model": {**plain_state(), "transformer.wpe.weight": torch.ones(31, 35).long()}},
         "wpe.weight as torch.int64"),
    ],
)  # fmt: skip
def test_checkpoints_that_do_not_fit(tmp_path: Path, others: dict[str, Any], line: str) -> None:
    assert line in line_of(saved(tmp_path / "ckpt.pt", content(**others)))


@pytest.mark.slow
def test_damage_anywhere_is_one_line_or_a_load(tmp_path: Path, full: bool) -> None:
    path = saved(tmp_path / "ckpt.pt", content())
    whole = path.read_bytes()
    # The pickle stands first, the zip's directory last.
    edges = [*range(whole.index(b"data/0")), *range(whole.rindex(b"ckpt/data.pkl"), len(whole))]
    rng = np.random.default_rng(7)
    loads = 0
    for _ in range(2000 if full else 200):
        data = bytearray(whole)
        data[edges[rng.integers(len(edges))]] ^= 1 << rng.integers(8)
        if rng.random() < 0.2:
            del data[rng.integers(len(data)) :]
        path.write_bytes(data)
        try:
            load_nanogpt(path)
            loads += 1
        except CheckpointError as error:
            lines = str(error).splitlines()
            if len(lines) > 1:
                pytest.fail(str(error))
    assert loads > 5


# meta.pkl ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_characters_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "meta.pkl"
    path.write_bytes(pickle.dumps(meta("\n aé☃🐈"), protocol=protocol))
    tokenizer = read_meta(path)
    assert tokenizer.characters == "\n aé☃🐈"


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ([1, 2], "no itos and stoi"),
        ({"itos": {0: "a"}}, "no itos and stoi"),
        (meta(itos={0: "a", 2: "c"}), "does not count from 0"),
        (meta(itos={0: "a", 1: "b", 2: "word"}), "tokens that are no characters"),
        (meta(itos={0: "a", 1: "b", 2: 3}), "tokens that are no characters"),
        (meta(stoi={"a": 0, "b": 2, "c": 1}), "stoi and itos that do not agree"),
        (meta(itos=3), "does not count from 0"),
        (meta(itos={}, stoi={}), "no characters"),
    ],
)
def test_metas_that_are_none(tmp_path: Path, value: Any, line: str) -> None:
    path = tmp_path / "meta.pkl"
    path.write_bytes(pickle.dumps(value))
    assert line in line_of(path, read_meta)
