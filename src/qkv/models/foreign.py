"""Models that are to be looked into, not trained: in our Transformer, or else in `transformers`.

What our own Transformer can compute, it computes. Other Hugging Face folders are built by the
package `transformers` (extra hf), from the folder alone: nothing is fetched, no code in the folder
is run, no pickle is opened, and no chat template is rendered.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from qkv.errors import CheckpointError, ResourceError
from qkv.models import loading
from qkv.models.assembly import broken
from qkv.models.checkpoint import WRONG_JSON, Checkpoint
from qkv.models.foreign_tokenizer import own_tokenizer, tokenizer_at
from qkv.models.loading import CONFIG, config_from_huggingface, huggingface_data, shards
from qkv.models.tokenizer_files import require_fitting
from qkv.text import Tokenizer

__all__ = ["AnyModel", "load_any"]

LONGEST = 2**24
"""Tokens of context where a config names no limit; one that names more is not believed."""
CONTEXTS = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
FLOATS = ("F16", "BF16", "F32", "F64")


@dataclass(frozen=True)
class AnyModel:
    """A model that reads a text, whosever code computes it.

    Args:
        path: the folder or file it came from.
        model: in evaluation mode, float32, on the CPU; maps ids (1, T) to logits, or to an object
            that has them.
        tokenizer: turns text into its ids and back, where one came with it.
        context: tokens that it reads at most.
        vocab: tokens that it knows.
        layers, heads: as its config has them, where it does.
        step: training steps done; 0 for models from elsewhere.
        causal: whether it predicts the next token; encoders such as BERT don't.
        made_by: what computes it, if not our own code: "qwen3 in transformers".
    """

    path: Path
    model: nn.Module
    tokenizer: Tokenizer | None
    context: int
    vocab: int
    layers: int | None = None
    heads: int | None = None
    step: int = 0
    causal: bool = True
    made_by: str = ""

    @classmethod
    def of(cls, loaded: Checkpoint, tokenizer: Tokenizer | None = None) -> AnyModel:
        """Return a checkpoint of ours, with another tokenizer where it came without."""
        config, words = loaded.config, loaded.tokenizer or tokenizer
        layers = getattr(config, "layers", None)
        sizes = (config.context, config.vocab, layers, config.heads, loaded.step)
        return cls(loaded.path, loaded.model, words, *sizes)


def load_any(path: Path | str, tokenizer: Path | str | None = None) -> AnyModel:
    """Load whatever :func:`qkv.models.loading.load_model` does, or else by `transformers`.

    Args:
        path: what to load.
        tokenizer: a file or folder, in place of the model's own.

    Raises:
        CheckpointError: nothing there, a pickle, damage, code that would have to be run, a model
            that reads no text or that `transformers` doesn't know.
        ResourceError: `transformers` is needed and isn't installed.

    >>> load_any("no/such/folder")
    Traceback (most recent call last):
    qkv.errors.CheckpointError: got nothing at no/such/folder; expected a run, a checkpoint, a \
Hugging Face folder, a nanoGPT folder or a GGUF file; check the path
    """
    path = Path(path)
    try:
        data = huggingface_data(path)
        if data is not None and not _is_ours(data):
            return _load_foreign(path, data, tokenizer)
        return _load_ours(path, data, tokenizer)
    except OSError as error:
        raise CheckpointError(
            f"{error.strerror!r} while reading {error.filename or path}",
            "files that may be read",
            "check the permissions and the disk",
        ) from error


def _is_ours(data: dict[str, Any]) -> bool:
    try:
        config_from_huggingface(data)
    except CheckpointError:
        return False
    except WRONG_JSON:
        return True  # damage, which our own loading names
    return True


def _load_ours(path: Path, data: dict[str, Any] | None, tokenizer: Path | str | None) -> AnyModel:
    loaded = loading.load_model(path, tokenizer)
    lacks = loaded.tokenizer is None and data is not None
    return AnyModel.of(loaded, own_tokenizer(path, loaded.config.vocab) if lacks else None)


def _load_foreign(path: Path, data: dict[str, Any], tokenizer: Path | str | None) -> AnyModel:
    kind = str(data["model_type"])[:40]
    _refuse_unloadable(path, data)
    tensors, numbers = _measure(path)
    _require_layers(data, tensors, path)
    with _silent_transformers(kind):
        config, causal = _config(path, data, kind)
        text = config.get_text_config()
        _require_sizes(text, numbers, path)
        text.use_cache = False  # one pass reads the whole text
        model = _model(path, config, causal=causal)
    vocab = _number(text, "vocab_size") or 0  # that of the weights, since they were loaded
    if tokenizer is None:
        words = own_tokenizer(path, vocab)
    else:
        words = tokenizer_at(Path(tokenizer), vocab)
    require_fitting(words, vocab, path)
    layers, heads = (_number(text, f"num_{name}") for name in ("hidden_layers", "attention_heads"))
    return AnyModel(
        path, model, words, _context(text, model), vocab, layers, heads,
        causal=causal, made_by=f"{kind} in transformers",
    )  # fmt: skip


def _refuse_unloadable(path: Path, data: dict[str, Any]) -> None:
    """Refuse what needs more than `transformers`, before that is loaded: it takes seconds."""
    if data.get("quantization_config"):
        raise CheckpointError(
            f"quantised weights in {path}",
            "weights of 16 or 32 bits",
            "choose the model before quantisation, or a GGUF file of it",
        )
    if (path / "adapter_config.json").is_file():
        raise CheckpointError(
            f"an adapter in {path}", "a whole model", "merge it into its model and save that"
        )
    if data.get("transformers_weights"):
        raise CheckpointError(
            f"transformers_weights in {path / CONFIG}",
            "weights in model.safetensors",
            "rename the file, and remove the setting",
        )


def _measure(path: Path) -> tuple[int, int]:
    """How many tensors there are, and numbers in them, read from the heads of the files alone."""
    tensors = numbers = 0
    for file in shards(path):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118
                    part = opened.get_slice(name)
                    if name.endswith("weight") and part.get_dtype() not in FLOATS:
                        raise CheckpointError(
                            f"{name} as {part.get_dtype()} in {path}",
                            "weights of 16, 32 or 64 bits",
                            "choose the model before quantisation",
                        )
                    tensors, numbers = tensors + 1, numbers + math.prod(part.get_shape())
        except (SafetensorError, OSError, ValueError) as error:
            raise broken(file, str(error)[:200]) from error
    return tensors, numbers


def _require_layers(data: dict[str, Any], tensors: int, path: Path) -> None:
    """Hold the layers against the weights, before `transformers` makes a list of their kinds."""
    for part in (data, data.get("text_config")):
        for name in LAYERS:
            layers = part.get(name) if isinstance(part, dict) else None
            if isinstance(layers, int) and layers > tensors:
                raise broken(path / CONFIG, f"{name} of {layers} for {tensors} tensors")


@contextmanager
def _silent_transformers(kind: str) -> Iterator[None]:
    """Keep `transformers` from talking, and leave it as it was; say what it raises in one line."""
    try:
        talk = import_module("transformers.utils.logging")
    except ImportError:
        raise ResourceError(
            f"model_type={kind!r}, which our Transformer can't compute, and no transformers",
            "the package transformers, which can",
            "pip install 'qkv[hf]'",
        ) from None
    hub = import_module("huggingface_hub.utils")
    logger = logging.getLogger("transformers")
    level, bars = logger.level, talk.is_progress_bar_enabled()
    hub_bars = not hub.are_progress_bars_disabled()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logger.setLevel(logging.CRITICAL + 1)
            talk.disable_progress_bar()
            yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if bars:
                talk.enable_progress_bar()
            # Its own switch moves that of huggingface_hub along.
            (hub.enable_progress_bars if hub_bars else hub.disable_progress_bars)()
        logger.setLevel(level)


def _config(path: Path, data: dict[str, Any], kind: str) -> tuple[Any, bool]:
    """The config, and whether its model predicts the next token."""
    import transformers

    if kind not in transformers.CONFIG_MAPPING:
        if "auto_map" in data:
            raise CheckpointError(
                f"model_type={kind!r} in {path}, a model that brings its own code",
                "a model that transformers knows: code in a folder is never run",
                "choose another model, or run it in Python within `qkv.capture()`",
            )
        raise CheckpointError(
            f"model_type={kind!r} in {path}",
            f"one that transformers {transformers.__version__} knows",
            "correct it in config.json, or pip install -U transformers",
        )
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # whatever a config that lies makes it raise
        raise broken(path / CONFIG, _short(error)) from error
    if getattr(config, "is_encoder_decoder", False):
        raise CheckpointError(
            f"{kind}, an encoder with a decoder, in {path}",
            "a model that reads one text",
            "run it in Python within `qkv.capture()`",
        )
    encoder = type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING
    if encoder and not getattr(config, "is_decoder", False):
        return config, False
    if type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return config, True
    raise CheckpointError(
        f"model_type={kind!r} in {path}",
        "a model that reads a text: a causal language model or an encoder",
        "run others in Python within `qkv.capture()`",
    )


def _require_sizes(config: Any, numbers: int, path: Path) -> None:
    """Hold the sizes against the weights: `transformers` builds first and compares after."""
    width = _number(config, "hidden_size") or 1
    heads = (_number(config, "num_attention_heads") or 1) * (_number(config, "head_dim") or 1)
    widest = max(_number(config, "vocab_size") or 1, _number(config, "intermediate_size") or 1)
    if max(widest, heads, width) * width > numbers:
        raise broken(path / CONFIG, f"sizes that its {numbers} weights can't fill")
    if _limit(config) > LONGEST:
        raise broken(path / CONFIG, f"a context of {_limit(config)} tokens")


def _model(path: Path, config: Any, *, causal: bool) -> Any:
    import transformers

    auto: Any = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    mapping = transformers.MODEL_FOR_CAUSAL_LM_MAPPING if causal else transformers.MODEL_MAPPING
    # A softcap is left out by its fused form, so that is not what the authors' code computes.
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    fused = getattr(mapping[type(config)], "_supports_sdpa", False) and not capped
    dtype = "torch_dtype" if transformers.__version__.startswith("4.55.") else "dtype"
    try:
        # Weights that encoders lack for pooling are drawn: that moves torch's generator.
        with torch.random.fork_rng(devices=[]):
            model, found = auto.from_pretrained(
                str(path), config=config, local_files_only=True, trust_remote_code=False,
                use_safetensors=True, attn_implementation="sdpa" if fused else "eager",
                output_loading_info=True, **{dtype: torch.float32},
            )  # fmt: skip
            model.eval()
            with torch.inference_mode():
                model(torch.zeros(1, 2, dtype=torch.long))  # what fails then would fail later
    except Exception as error:  # whatever weights that don't fit make it raise
        raise CheckpointError(
            f"{path}, which transformers can't run ({_short(error)})",
            "a config and weights that belong together",
            "download the model again, or pip install -U transformers",
        ) from error
    missing = sorted(name for name in found["missing_keys"] if causal or "pooler" not in name)
    if missing:
        raise CheckpointError(
            f"no {missing[0]} among the weights in {path}",
            f"every tensor of a {config.model_type} model",
            "download the model again",
        )
    for name, weight in model.named_parameters():
        if weight.numel() and not all(bool(end.isfinite()) for end in weight.detach().aminmax()):
            raise CheckpointError(
                f"{name} in {path} with numbers that are infinite or none",
                "finite weights",
                "download the model again",
            )
    return model


def _short(error: Exception) -> str:
    """What went wrong, in the length of a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (": ".join(lines[:2]) or type(error).__name__)[:200]


def _number(config: Any, name: str) -> int | None:
    value = getattr(config, name, None)
    return value if type(value) is int and value > 0 else None


def _limit(config: Any) -> int:
    return next((found for name in CONTEXTS if (found := _number(config, name))), LONGEST)


def _context(config: Any, model: nn.Module) -> int:
    limit = _limit(config)
    for name, module in model.named_modules():
        # RoBERTa counts its places from the one after padding.
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            before = 0 if module.padding_idx is None else module.padding_idx + 1
            limit = min(limit, module.num_embeddings - before)
    return limit
