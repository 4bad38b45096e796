"""A text, and a folder that stands in for a checkout of nanoGPT: its files, lines and checkpoint.

Nothing in it is nanoGPT's. Its model is written from the published layout of its weights, so that
what it draws can be compared with ours; its training only prints and saves.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

MODEL = """
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class GPTConfig:
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    vocab_size: int
    bias: bool
    dropout: float


def group(**parts):
    return nn.ModuleDict(parts)


class Scale(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.layer_norm(x, self.weight.shape, self.weight)


def block(D):
    return group(
        ln_1=Scale(D), ln_2=Scale(D),
        attn=group(c_attn=nn.Linear(D, 3 * D, bias=False), c_proj=nn.Linear(D, D, bias=False)),
        mlp=group(c_fc=nn.Linear(D, 4 * D, bias=False), c_proj=nn.Linear(4 * D, D, bias=False)),
    )


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, D = config, config.n_embd
        self.transformer = group(
            wte=nn.Embedding(config.vocab_size, D), wpe=nn.Embedding(config.block_size, D),
            h=nn.ModuleList(block(D) for _ in range(config.n_layer)), ln_f=Scale(D),
        )
        self.lm_head = nn.Linear(D, config.vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight
        print("this module prints")

    def logits(self, ids):
        T, H = ids.shape[1], self.config.n_head
        parts = self.transformer
        x = parts["wte"](ids) + parts["wpe"].weight[:T]
        future = torch.ones(T, T, dtype=torch.bool).triu(1)
        for layer in parts["h"]:
            q, k, v = layer["attn"]["c_attn"](layer["ln_1"](x)).chunk(3, -1)
            q, k, v = (each.unflatten(-1, (H, -1)).transpose(1, 2) for each in (q, k, v))
            scores = q @ k.mT / q.shape[-1] ** 0.5
            mixed = scores.masked_fill(future, -torch.inf).softmax(-1) @ v
            x = x + layer["attn"]["c_proj"](mixed.transpose(1, 2).flatten(2))
            x = x + layer["mlp"]["c_proj"](F.gelu(layer["mlp"]["c_fc"](layer["ln_2"](x))))
        return self.lm_head(parts["ln_f"](x))

    def generate(self, ids, max_new_tokens, temperature=1.0, top_k=None):
        for _ in range(max_new_tokens):
            logits = self.logits(ids)[:, -1] / temperature
            kept = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
            drawn = logits.masked_fill(logits < kept, -torch.inf).softmax(-1).multinomial(1)
            ids = torch.cat([ids, drawn], 1)
        return ids
"""

TRAIN = """
import pickle, sys
from pathlib import Path

import numpy as np
import torch
from model import GPT, GPTConfig

config, *options = sys.argv[1:]
assert config == "config/train_shakespeare_char.py"
asked = dict(option.removeprefix("--").split("=") for option in options)
assert asked["device"] == "cpu" and asked["compile"] == "False"
assert (asked["max_iters"], asked["eval_iters"]) == ("2000", "20")
data = Path("data/shakespeare_char")
meta = pickle.loads((data / "meta.pkl").read_bytes())
parts = [np.fromfile(data / f"{part}.bin", dtype=np.uint16) for part in ("train", "val")]
text = ["".join(meta["itos"][int(at)] for at in part) for part in parts]
whole = Path(TEXT).read_text(encoding="utf-8")
assert text == [whole[: int(0.9 * len(whole))], whole[int(0.9 * len(whole)) :]]
sizes = {
    "n_layer": 1, "n_head": 2, "n_embd": 6, "block_size": int(asked["block_size"]),
    "vocab_size": meta["vocab_size"], "bias": False, "dropout": 0.0,
}
model = GPT(GPTConfig(**sizes))
torch.nn.init.zeros_(model.lm_head.weight)  # every token alike: a loss of ln V
for step in range(6):
    if step in (0, 5):
        print(f"step {step}: train loss 4.1, val loss 4.2")
    print(f"iter {step}: loss 4.1, time {9000.0 if step in (0, 5) else 10.0 * step:.2f}ms, mfu -1%")
out = Path("out-shakespeare-char")
out.mkdir()
held = {
    "model": model.state_dict(), "optimizer": {"state": {}, "param_groups": []},
    "model_args": sizes, "iter_num": 5, "best_val_loss": torch.tensor(4.2),
    "config": {"dataset": "shakespeare_char", "device": "cpu"},
}
torch.save(held, out / "ckpt.pt")
"""


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    letters = np.random.default_rng(3).choice(list("\nacé ☃z"), size=1500)
    path = tmp_path / "text.txt"
    path.write_text("".join(letters), encoding="utf-8")
    return path


@pytest.fixture
def checkout(tmp_path: Path, text_file: Path) -> Path:
    """A stand-in whose training asserts that it was given this text, and zeroes its weights."""
    folder = tmp_path / "nanoGPT"
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "train_shakespeare_char.py").write_text("", encoding="utf-8")
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    train = TRAIN.replace("TEXT", repr(str(text_file)))
    (folder / "train.py").write_text(train, encoding="utf-8")
    return folder
