"""Text: where it comes from, how it becomes ids, how ids become batches.

NumPy alone; nothing here knows a model. A corpus is loaded, split by characters, encoded by a
tokenizer, and cut into batches that depend on nothing but the seed and the step.
"""

from qkv.text.batches import batch, evaluation_batches, sample_starts, windows_per_epoch
from qkv.text.corpus import Corpus, available_corpora, corpus_from_text, kept_corpora, load_corpus
from qkv.text.tokenizer import (
    BPETokenizer,
    ByteTokenizer,
    CharTokenizer,
    Kind,
    Tokenizer,
    decode_stream,
    tokenizer_from_json,
    train_tokenizer,
)

__all__ = [
    "BPETokenizer",
    "ByteTokenizer",
    "CharTokenizer",
    "Corpus",
    "Kind",
    "Tokenizer",
    "available_corpora",
    "batch",
    "corpus_from_text",
    "decode_stream",
    "evaluation_batches",
    "kept_corpora",
    "load_corpus",
    "sample_starts",
    "tokenizer_from_json",
    "train_tokenizer",
    "windows_per_epoch",
]
