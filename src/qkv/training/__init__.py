"""Training: the loop, the run directory, the ladder, and proofs on what was trained.

Libraries yield and return: nothing here prints, and who watches a run reads its directory.
"""

from qkv.training.config import TrainingConfig
from qkv.training.evaluation import Evaluation, evaluate, sample_text, stream_text
from qkv.training.loop import StepReport, TrainingState, train
from qkv.training.rundir import RunDirectory

__all__ = [
    "Evaluation",
    "RunDirectory",
    "StepReport",
    "TrainingConfig",
    "TrainingState",
    "evaluate",
    "sample_text",
    "stream_text",
    "train",
]
