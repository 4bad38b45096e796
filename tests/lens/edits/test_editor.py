"""Edits in whole models, against the same models with their weights changed by hand."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.attention import Full
from qkv.errors import QkvError
from qkv.lens import capture
from qkv.lens.edits.edits import edit
from qkv.models import Transformer, TransformerConfig

V, T, B = 53, 11, 2
IDS = torch.randint(3, V, (B, T), generator=torch.Generator().manual_seed(1))


def close(got: Any, expected: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


# --- ours ---


def ours(**settings: Any) -> Transformer:
    torch.manual_seed(5)
    config = TransformerConfig(vocab=V, context=13, layers=3, width=24, heads=4, **settings)
    model = Transformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"kv_heads": 2}, {"positions": "alibi", "window": 5}])
def test_ablating_is_zeroing_columns_of_w_o(settings: dict[str, Any]) -> None:
    model = ours(**settings)
    with edit(["L1H3", "L2"], model=model):
        got = model(IDS)
    model.blocks[1].attention.output.weight[:, 18:] = 0
    model.blocks[2].attention.output.weight[:] = 0
    close(got, model(IDS))


@torch.no_grad()
def test_what_other_heads_add_is_still_known() -> None:
    model = ours()
    with capture(model, values=True) as trace, edit(["L1H3", "L2H0", "L2H1"], model=model):
        model(IDS)
    for site, block in zip(trace.layers, model.blocks, strict=True):
        assert torch.equal(site.w_o, block.attention.output.weight)


@torch.no_grad()
def test_ablating_every_head_leaves_attention_nothing_to_say() -> None:
    model, outputs = ours(), []
    hooks = [
        block.attention.register_forward_hook(lambda _, __, output: outputs.append(output))
        for block in model.blocks
    ]
    with edit("all"):
        model(IDS)
    for hook in hooks:
        hook.remove()
    biases = [block.attention.output.bias for block in model.blocks]
    for output, bias in zip(outputs, biases, strict=True):
        close(output, torch.zeros_like(output) if bias is None else bias.expand_as(output))


@torch.no_grad()
def test_scale_and_mask_off_are_the_model_built_without() -> None:
    model = ours()
    with edit(scale="off", only="L1"), edit(mask="off", only="blocks.2.attention"):
        got = model(IDS)
    model.blocks[1].attention.scale = 1.0
    model.blocks[2].attention.mask = Full()
    close(got, model(IDS))


class Stumbles(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(5, 5)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, *, stumble: bool = False) -> Tensor:
        projected = self.drop(self.project(x))
        mixed = F.scaled_dot_product_attention(projected, projected, projected, dropout_p=0.5)
        if stumble:
            raise RuntimeError("stumbled")
        return mixed


def hooks() -> tuple[int, int]:
    module = torch.nn.modules.module
    return len(module._global_forward_hooks), len(module._global_forward_pre_hooks)


def test_the_model_and_random_state_stay_as_they_were() -> None:
    model, x, before = Stumbles(), torch.randn(2, 3, 7, 5), hooks()
    torch.manual_seed(7)
    expected, state = model(x), torch.get_rng_state()
    torch.manual_seed(7)
    with edit("L0H1"):
        got = model(x)
    # Only the output is replaced: the kernel, and its dropout, are the model's own.
    assert torch.equal(got[:, [0, 2]], expected[:, [0, 2]])
    assert torch.equal(torch.get_rng_state(), state)
    weights = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="stumbled"), edit(temperature=2.0, model=model):
        model(x, stumble=True)
    assert torch._C._len_torch_function_stack() == 0
    assert hooks() == before
    assert model.training
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    torch.manual_seed(7)
    assert torch.equal(model(x), expected)


# --- torch's own modules ---


@torch.no_grad()
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("weights", [True, False])
def test_multihead_attention(batch_first: bool, weights: bool) -> None:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(24, 6, batch_first=batch_first).eval()
    x = torch.randn(B, T, 24)
    plain = module(x, x, x, need_weights=weights)
    with edit("L0H1", model=module):
        got = module(x, x, x, need_weights=weights)
    by_hand = copy.deepcopy(module)
    by_hand.out_proj.weight[:, 4:8] = 0
    close(got[0], by_hand(x, x, x)[0])
    close(got[1], plain[1])
    by_hand = copy.deepcopy(module)
    by_hand.in_proj_weight[:24] /= 2
    for average in (True, False):
        with capture() as trace, edit(temperature=2.0):
            got = module(x, x, x, need_weights=weights, average_attn_weights=average)
        expected = by_hand(x, x, x, need_weights=weights, average_attn_weights=average)
        close(got, expected)
        assert len(trace.layers) == 1


@torch.no_grad()
def test_the_encoders_fast_path_is_off() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(24, 6, 31, batch_first=True).eval()
    x = torch.randn(B, T, 24)
    with edit("L0H2"):
        got = layer(x)
    layer.self_attn.out_proj.weight[:, 8:12] = 0
    close(got, layer(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_models_run_as_they_are_written() -> None:
    class Block(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(x, x, x, is_causal=True)

    compiled = torch.compile(Block())
    with edit("L0"):
        assert not compiled(torch.ones(1, 2, 3, 5)).any()


# --- models of others ---


@pytest.fixture
def transformers() -> Any:
    return pytest.importorskip("transformers", reason="needs the extra hf")


SMALL: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def gpt2(package: Any, attention: str) -> nn.Module:
    torch.manual_seed(0)
    config = package.GPT2Config(
        vocab_size=V, n_positions=32, n_embd=24, n_layer=3, n_head=6, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, attn_implementation=attention,
    )  # fmt: skip
    return package.GPT2LMHeadModel(config).eval()


def llama(package: Any, attention: str) -> nn.Module:
    torch.manual_seed(0)
    config = package.LlamaConfig(**SMALL, num_key_value_heads=2, attn_implementation=attention)
    return package.LlamaForCausalLM(config).eval()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_gpt2(transformers: Any, attention: str) -> None:
    model, by_hand = gpt2(transformers, attention), gpt2(transformers, "sdpa")
    with edit(["L1H1", ("transformer.h.2.attn", 5)]):
        got = model(IDS).logits
    # Its linear maps stand transposed.
    by_hand.transformer.h[1].attn.c_proj.weight[4:8] = 0
    by_hand.transformer.h[2].attn.c_proj.weight[20:] = 0
    close(got, by_hand(IDS).logits)
    by_hand = gpt2(transformers, "sdpa")
    with edit(scale="off"):
        got = model(IDS).logits
    for block in by_hand.transformer.h:
        block.attn.c_attn.weight[:, :24] *= 2
        block.attn.c_attn.bias[:24] *= 2
    close(got, by_hand(IDS).logits)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [True, False])
def test_llama_with_a_cache(transformers: Any, attention: str, padded: bool) -> None:
    # On masked steps of one token its heads come folded into rows; they are unfolded.
    model = llama(transformers, attention)
    seen = torch.ones(B, T, dtype=torch.long)
    seen[0, :3] = 1 - padded
    options = {
        "attention_mask": seen, "max_new_tokens": 5, "do_sample": False, "output_scores": True,
        "return_dict_in_generate": True,
    }  # fmt: skip
    changes: list[tuple[dict[str, Any], Any]] = [
        ({"ablate": "L1H3"}, lambda part: part.o_proj.weight[:, 12:16].zero_()),
        ({"temperature": 2.0, "only": "L1"}, lambda part: part.q_proj.weight.div_(2)),
        ({"scale": 2.0, "only": "L1H3"}, lambda part: part.q_proj.weight[12:16].mul_(4)),
    ]
    for asked, change in changes:
        by_hand = llama(transformers, "sdpa")
        change(by_hand.model.layers[1].self_attn)
        with edit(**asked):
            got = model.generate(IDS, **options)
        expected = by_hand.generate(IDS, **options)
        close(torch.stack(got.scores), torch.stack(expected.scores))
        # Also where the edit begins with such a step.
        cache = by_hand(IDS[:, :-1], attention_mask=seen[:, :-1]).past_key_values
        step = {"attention_mask": seen, "past_key_values": cache}
        with edit(**asked):
            got = model(IDS[:, -1:], **{**step, "past_key_values": copy.deepcopy(cache)}).logits
        close(got, by_hand(IDS[:, -1:], **step).logits)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_without_the_mask_padding_of_a_model_stays_unseen(
    transformers: Any, attention: str
) -> None:
    model = llama(transformers, attention)
    seen = torch.ones(B, T, dtype=torch.long)
    seen[0, :3] = 0
    places = (seen.cumsum(1) - 1).clamp(min=0)
    with edit(mask="off"):
        padded = model(IDS, attention_mask=seen, position_ids=places).logits
        alone = model(IDS[:1, 3:]).logits
        other = model(IDS[1:]).logits
    close(padded[0, 3:], alone[0])
    close(padded[1:], other)
    assert not torch.allclose(alone, model(IDS[:1, 3:]).logits, atol=1e-3)


@torch.no_grad()
def test_a_sink_and_a_learned_bias_enter_the_temperature(transformers: Any) -> None:
    torch.manual_seed(0)
    config = transformers.GptOssConfig(
        **SMALL, head_dim=8, num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1,
        sliding_window=5, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.GptOssForCausalLM(config).eval()
    for layer in model.model.layers:
        layer.self_attn.sinks.normal_()
    by_hand = copy.deepcopy(model)
    for layer in by_hand.model.layers:
        for part in (layer.self_attn.q_proj.weight, layer.self_attn.q_proj.bias):
            part.div_(2)
        layer.self_attn.sinks.div_(2)
    with edit(temperature=2.0):
        got = model(IDS).logits
    close(got, by_hand(IDS).logits)
    config = transformers.T5Config(
        vocab_size=V, d_model=24, d_kv=4, d_ff=17, num_layers=2, num_heads=6, pad_token_id=0,
        decoder_start_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config).eval()
    by_hand = copy.deepcopy(model)
    for name, parameter in by_hand.named_parameters():
        if name.endswith((".q.weight", "relative_attention_bias.weight")):
            parameter.div_(3)
    with edit(temperature=3.0):
        got = model(input_ids=IDS, decoder_input_ids=IDS[:, :7]).logits
    close(got, by_hand(input_ids=IDS, decoder_input_ids=IDS[:, :7]).logits)


def test_flash_attention_stands_tokens_first_and_its_gradient_is_out_of_reach() -> None:
    library = torch.library.Library("qkv_edit_stub", "DEF")
    library.define("_flash_attn_forward(Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor)")

    def kernel(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        scores = torch.einsum("bqhc,bkhc->bhqk", q, k) / 5**0.5
        mixed = torch.einsum("bhqk,bkhc->bqhc", scores.softmax(-1), v)
        return mixed, scores.logsumexp(-1)

    library.impl("_flash_attn_forward", kernel, "CPU")
    call = torch.ops.qkv_edit_stub._flash_attn_forward
    q, k, v = torch.randn(3, B, T, 3, 5, generator=torch.Generator().manual_seed(2))
    plain = kernel(q, k, v)
    with edit("L0H1"):
        got = call(q, k, v)
    assert not got[0][:, :, 1].any()
    close((got[0][:, :, ::2], got[1]), (plain[0][:, :, ::2], plain[1]))
    with capture() as trace, edit(temperature=2.0):
        got = call(q, k, v)
    close(got[0], kernel(q / 2, k, v)[0])
    assert len(trace.layers) == 1

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Tensor) -> Tensor:
            return call(q, q, q)[0]

    with pytest.raises(QkvError, match="gradient through an edited call"), edit("L0"):
        Kernel.apply(q.requires_grad_() * 2)
