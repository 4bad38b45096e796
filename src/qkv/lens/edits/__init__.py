"""Attention changed as it runs, and what that does to the loss and the next token."""

from qkv.lens.edits.edits import Edits, edit, mean_outputs
from qkv.lens.edits.effects import effect, effects

__all__ = ["Edits", "edit", "effect", "effects", "mean_outputs"]
