"""Patterns of unmodified models, against the weights that eager attention of theirs returns."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from qkv.lens import Trace, capture

transformers = pytest.importorskip("transformers", reason="needs the extra hf")

V, T, B = 53, 19, 2
SMALL: dict[str, Any] = {
    "vocab_size": V,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA_LIKE = {
    "llama": ("LlamaConfig", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "mistral": ("MistralConfig", {"sliding_window": 5}),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "head_dim": 8,
            "sliding_window": 5,
            "query_pre_attn_scalar": 8,
            "sliding_window_pattern": 2,
        },
    ),
}


def decoder(kind: str, attention: str = "sdpa") -> nn.Module:
    """A model of random weights, the same whatever its attention."""
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=V, n_positions=64, n_embd=24, n_layer=3, n_head=6, bos_token_id=1,
            eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
    else:
        name, extra = LLAMA_LIKE[kind]
        config = getattr(transformers, name)(**{**SMALL, **extra})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(3)  # patterns far from uniform
    return model.eval()


DECODERS = ["gpt2", *LLAMA_LIKE]


def tokens(batch: int = 1, length: int = T) -> torch.Tensor:
    return torch.randint(3, V, (batch, length), generator=torch.Generator().manual_seed(1))


def compare(
    trace: Trace, eager: tuple[torch.Tensor, ...], sequence: int = 0, first: int = 0
) -> None:
    """All heads of one sequence against eager's, from its first real token on."""
    own = trace.sequence(sequence)
    assert len(own) == len(eager)
    for layer, expected in enumerate(eager):
        for head in range(expected.shape[1]):
            found = own[layer, head].pattern()
            wanted = expected[sequence, head, first:, first:].double().numpy()
            assert found.shape == wanted.shape
            assert np.abs(found - wanted).max() <= 1e-6


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("batch", [1, B])
def test_decoders(kind: str, batch: int) -> None:
    ids = tokens(batch)
    with torch.no_grad(), capture() as trace:
        decoder(kind)(ids)
    with torch.no_grad():
        eager = decoder(kind, "eager")(ids, output_attentions=True).attentions
    for sequence in range(batch):
        compare(trace, eager, sequence)
        assert trace.sequence(sequence).tokens.tolist() == ids[sequence].tolist()
    assert all(not site.cross for site in trace.layers)
    if kind in ("mistral", "gemma3"):
        assert 5 in {site.window for site in trace.layers}


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_left_out(kind: str, side: str) -> None:
    ids, padded = tokens(B), 4
    mask = torch.ones_like(ids)
    gone = slice(0, padded) if side == "left" else slice(T - padded, T)
    ids[1, gone], mask[1, gone] = 0, 0
    with torch.no_grad(), capture() as trace:
        decoder(kind)(ids, attention_mask=mask)
    with torch.no_grad():
        eager = decoder(kind, "eager")(ids, attention_mask=mask, output_attentions=True).attentions
    compare(trace, eager, 0)
    real = mask[1].bool()
    compare(trace, tuple(layer[:, :, real][..., real] for layer in eager), 1)
    own = trace.sequence(1)
    assert own[0, 0].note == "4 padding tokens left out"
    assert own.tokens.tolist() == ids[1][real].tolist()


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("cache", [None, "static"])
def test_steps_of_a_cache_are_one_map(kind: str, masked: bool, cache: str | None) -> None:
    ids, new = tokens(B if masked else 1, 7), 6
    mask = torch.ones_like(ids)
    if masked:
        ids[1, :3], mask[1, :3] = 0, 0
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False}
    with capture() as trace:
        whole = decoder(kind).generate(
            ids, attention_mask=mask, cache_implementation=cache, **options
        )
    # The last token is only written, never asked with.
    whole = whole[:, :-1]
    mask = torch.nn.functional.pad(mask, (0, new - 1), value=1)
    asked = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    with torch.no_grad():
        eager = decoder(kind, "eager")(whole, **asked, output_attentions=True).attentions
    for sequence in range(len(ids)):
        compare(trace, eager, sequence, first=3 * (masked and sequence == 1))
        assert trace.sequence(sequence)[0, 0].key_ids.tolist()[-5:] == whole[sequence, -5:].tolist()


def test_bert() -> None:
    config = transformers.BertConfig(**{k: v for k, v in SMALL.items() if "value" not in k})
    found = {}
    for attention in ("sdpa", "eager"):
        torch.manual_seed(0)
        found[attention] = transformers.BertModel._from_config(
            config, attn_implementation=attention
        ).eval()
    ids = tokens(B)
    mask = torch.ones_like(ids)
    mask[1, 13:] = 0
    with torch.no_grad(), capture() as trace:
        found["sdpa"](ids, attention_mask=mask)
    with torch.no_grad():
        eager = found["eager"](ids, attention_mask=mask, output_attentions=True).attentions
    compare(trace, eager, 0)
    compare(trace, tuple(layer[:, :, :13, :13] for layer in eager), 1)


@pytest.mark.parametrize("kind", ["t5", "bart"])
@pytest.mark.parametrize("source", [13, 11])
def test_encoders_and_decoders_look_across(kind: str, source: int) -> None:
    if kind == "t5":
        config: Any = transformers.T5Config(
            vocab_size=V, d_model=24, d_kv=4, d_ff=40, num_layers=2, num_heads=6, pad_token_id=0,
            decoder_start_token_id=0,
        )  # fmt: skip
        build = transformers.T5Model
    else:
        config = transformers.BartConfig(
            vocab_size=V, d_model=24, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=40,
            encoder_attention_heads=6, decoder_attention_heads=6, decoder_ffn_dim=40,
            max_position_embeddings=64, pad_token_id=0,
        )  # fmt: skip
        build = transformers.BartModel
    models = {}
    for attention in ("sdpa", "eager"):
        torch.manual_seed(0)
        models[attention] = build._from_config(config, attn_implementation=attention).eval()
    asked = {"input_ids": tokens(1, source), "decoder_input_ids": tokens(1, 11) + 1}
    with torch.no_grad(), capture() as trace:
        models["sdpa"](**asked)
    with torch.no_grad():
        eager = models["eager"](**asked, output_attentions=True)
    across = [site for site in trace.layers if site.cross]
    own = [site for site in trace.layers if not site.cross]
    assert [site.K for site in own] == [source, source, 11, 11]
    assert [(site.Q, site.K) for site in across] == [(11, source)] * 2
    groups = (
        (own[:2], eager.encoder_attentions),
        (own[2:], eager.decoder_attentions),
        (across, eager.cross_attentions),
    )
    for sites, wanted in groups:
        for site, expected in zip(sites, wanted, strict=True):
            for head in range(6):
                found = trace[site.index, head].pattern()
                assert np.abs(found - expected[0, head].numpy()).max() <= 1e-6
    last = trace[across[-1].index, 0]
    assert last.key_ids.tolist() == asked["input_ids"][0].tolist()
    assert last.query_ids.tolist() == asked["decoder_input_ids"][0].tolist()


@pytest.mark.parametrize("kind", DECODERS)
def test_eager_models_are_seen_and_return_what_they_return(kind: str) -> None:
    ids = tokens()
    model = decoder(kind, "eager")
    with torch.no_grad():
        before = model(ids, output_attentions=True)
    with torch.no_grad(), capture(model) as trace:
        after = model(ids, output_attentions=True)
    assert torch.equal(before.logits, after.logits)
    compare(trace, before.attentions)
    # Nothing is left behind.
    assert torch.equal(model(ids).logits, before.logits)


def test_learned_sinks_enter_lse() -> None:
    config = transformers.GptOssConfig(
        **{**SMALL, "head_dim": 8}, num_local_experts=2, num_experts_per_tok=1, sliding_window=6,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "sinks" in name:
                weight.normal_()
    ids = tokens()
    with torch.no_grad(), capture() as trace:
        eager = model.eval()(ids, output_attentions=True).attentions
    compare(trace, eager)
    first = trace[1, 3]
    assert first.sink is not None
    rest = 1 - np.exp(first.sink - first.lse.astype(np.float64))
    assert first.pattern().sum(-1) == pytest.approx(rest, abs=1e-6)
    mixed = trace.layers[1].mix(torch.eye(T))
    assert mixed[3].numpy() == pytest.approx(first.pattern(), abs=1e-6)


def test_layers_have_their_names() -> None:
    model = decoder("llama")
    with torch.no_grad(), capture(model) as trace:
        model(tokens())
    names = [site.name for site in trace.layers]
    assert names == [f"model.layers.{layer}.self_attn" for layer in range(3)]
    assert trace["model.layers.1.self_attn", 2].name == "L1H2"
    assert copy.deepcopy(model)  # no hook is left on it


def test_values_and_the_output_projection_are_found_by_what_flows_into_it() -> None:
    for kind in ("gpt2", "llama"):
        model = decoder(kind)
        with torch.no_grad(), capture(model, values=True) as trace:
            model(tokens())
        for site in trace.layers:
            part = model.get_submodule(site.name)
            wanted = part.c_proj.weight.T if kind == "gpt2" else part.o_proj.weight
            assert site.w_o is not None
            assert torch.equal(site.w_o, wanted)
        one = trace[1, 4]
        norms = np.linalg.norm(one.v.astype(np.float64) @ one.w_o, axis=-1)
        assert trace.layers[1].value_norms(range(T))[4] == pytest.approx(norms, rel=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_eager_padding_is_left_out_too(kind: str) -> None:
    ids = tokens(B)
    mask = torch.ones_like(ids)
    ids[1, :4], mask[1, :4] = 0, 0
    model = decoder(kind, "eager")
    with torch.no_grad(), capture() as trace:
        eager = model(ids, attention_mask=mask, output_attentions=True).attentions
    compare(trace, tuple(layer[:, :, 4:, 4:] for layer in eager), 1)
    assert trace.sequence(1)[0, 0].note == "4 padding tokens left out"


def test_a_padded_prompt_with_steps_after_it_is_whole() -> None:
    model, ids = decoder("llama"), tokens(B, 6)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    with torch.no_grad(), capture() as trace:
        cache = model(ids, attention_mask=mask, use_cache=True).past_key_values
        for step in range(2):
            mask = torch.nn.functional.pad(mask, (0, 1), value=1)
            model(tokens(B, 1) + step, attention_mask=mask, past_key_values=cache, use_cache=True)
    own = trace.sequence(1)[1, 2]
    assert (own.Q, own.K) == (8, 8)
    assert own.pattern()[6:].sum(-1) == pytest.approx(1, abs=1e-6)
    assert not own.allowed([7], [4, 5]).any()


def test_kinds_of_tokens_are_not_taken_for_tokens() -> None:
    config = transformers.BertConfig(**{k: v for k, v in SMALL.items() if "value" not in k})
    model = transformers.BertModel(config).eval()
    counting = torch.arange(10, 10 + T)[None]
    with torch.no_grad(), capture() as trace:
        model(counting)
    assert trace.tokens.tolist() == counting[0].tolist()
    with torch.no_grad(), capture() as trace:
        model(inputs_embeds=torch.randn(1, T, 24))
    assert trace.tokens is None
