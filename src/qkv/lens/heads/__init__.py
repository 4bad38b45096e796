"""What heads do: scores against chance, and what they carry between tokens and between spans."""

from qkv.lens.heads.corpus_scores import HeadScores
from qkv.lens.heads.head_scores import FORMULAS, score_head
from qkv.lens.heads.head_table import HeadTable, score_heads

__all__ = [
    "FORMULAS",
    "HeadScores",
    "HeadTable",
    "score_head",
    "score_heads",
]
