"""The shapes in the annotations hold at run time: every module under jaxtyping and beartype."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = '''
"""Runs every kind of model with its annotations checked, by hooked imports."""
import sys
import warnings

from jaxtyping import install_import_hook

warnings.simplefilter("error")
with install_import_hook("qkv.models", "beartype.beartype"):
    import qkv.models
    import qkv.models.checkpoint
    import qkv.models.huggingface
    import qkv.models.loading

import torch
from qkv.models import RUNGS, RungConfig, Transformer, TransformerConfig, build_model, generate
from qkv.models.blocks import Norm

torch.set_num_threads(1)
ids = torch.randint(17, (3, 11))
for kind in RUNGS:
    model = build_model(RungConfig(kind, vocab=17, context=11, width=35, heads=5))
    if kind == "bigram-counts":
        model.fit(ids[0])
    assert model(ids).shape == (3, 11, 17)
    list(generate(model, ids[:, :5], 13))
variants = [
    {"kv_heads": 1},
    {"positions": "learned", "bias": True, "norm": "layer", "tied": True, "qk_norm": False},
    {"positions": "alibi", "activation": "swiglu", "hidden": 37},
    {"positions": "sinusoidal", "softcap": 2.0, "logit_softcap": 2.0},
    {"positions": "none", "window": 3, "head_width": 14, "dropout": 0.5},
]
for variant in variants:
    sizes = {"vocab": 17, "context": 11, "layers": 2, "width": 30, "heads": 3}
    model = Transformer(TransformerConfig(**{**sizes, **variant}))
    model(ids).sum().backward()
    list(generate(model, ids[:, :5], 13))
    list(generate(model, ids[:, :5], 13, cached=False))
for wrong in (torch.zeros(3, dtype=torch.long), torch.zeros(3, 5)):
    try:
        model(wrong)
    except Exception as error:
        assert "ype-check" in str(error), error
    else:
        sys.exit("the annotations were not checked")
print("checked")
'''


def test_annotated_shapes_hold() -> None:
    pytest.importorskip("beartype", reason="shapes are checked with beartype")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "checked\n"
