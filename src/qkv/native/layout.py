"""What the kernels in C++ are handed, field by field as in `decode.cpp`.

Pointers are addresses of tensors' numbers: who makes a structure keeps the tensors.
"""

from __future__ import annotations

from ctypes import POINTER, Structure, c_double, c_int64, c_void_p

__all__ = ["ACTIVATIONS", "Block", "Model", "Norm", "Product"]

ACTIVATIONS = ("relu2", "gelu", "gelu_tanh", "swiglu")
"""A configuration's names for them, in the order of the kernels' numbers."""


class Product(Structure):
    """A matrix of int8, (N, K), with a step for each row, and a bias."""

    _fields_ = (
        ("weight", c_void_p),
        ("steps", c_void_p),
        ("bias", c_void_p),
        ("rows", c_int64),
        ("columns", c_int64),
    )


class Norm(Structure):
    """RMSNorm or LayerNorm."""

    _fields_ = (("weight", c_void_p), ("bias", c_void_p), ("eps", c_double), ("rms", c_int64))


class Block(Structure):
    """A block's weights, and where its past is kept."""

    _fields_ = (
        ("attention_norm", Norm),
        ("feed_forward_norm", Norm),
        ("project", Product),
        ("output", Product),
        ("up", Product),
        ("gate", Product),
        ("down", Product),
        ("taps", c_void_p),
        ("inputs", c_void_p),
        ("gain", c_void_p),
        ("penalties", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
    )


class Model(Structure):
    """All blocks, what they share, and room for what lies between."""

    _fields_ = (
        ("blocks", POINTER(Block)),
        ("norm", Norm),
        ("tokens", c_void_p),
        ("positions", c_void_p),
        ("unembed", c_void_p),
        ("cosine", c_void_p),
        ("sine", c_void_p),
        ("vocab", c_int64),
        ("layers", c_int64),
        ("width", c_int64),
        ("hidden", c_int64),
        ("context", c_int64),
        ("window", c_int64),
        ("taps", c_int64),
        ("heads", c_int64),
        ("groups", c_int64),
        ("channels", c_int64),
        ("activation", c_int64),
        ("gain_eps", c_double),
        ("scale", c_double),
        ("softcap", c_double),
        ("scratch", c_void_p),
        ("digits", c_void_p),
    )
