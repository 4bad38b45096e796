"""Windows that grow over a run."""

from __future__ import annotations

import pytest

from qkv.training import TrainingConfig
from qkv.training.schedules import windows_at


@pytest.mark.parametrize(
    ("shortest", "context", "lengths"),
    [
        (0, 64, [64]),
        (64, 64, [64]),
        (100, 64, [64]),
        (8, 64, [8, 16, 32, 64]),
        (5, 37, [5, 10, 20, 37]),
    ],
)
@pytest.mark.parametrize("steps", [1, 2, 7, 100, 1001])
def test_windows_grow_to_the_context(
    shortest: int, context: int, lengths: list[int], steps: int
) -> None:
    config = TrainingConfig(batch=6, shortest=shortest)
    stages = [windows_at(step, steps, config, context) for step in range(steps)]
    found = sorted({stage.tokens for stage in stages})
    assert found == [stage.tokens for stage in dict.fromkeys(stages)]  # never shorter again
    assert set(found) <= set(lengths)
    if steps >= 100:
        assert found == lengths
        assert stages[-1].tokens == context
    for step, stage in enumerate(stages):
        assert stage.first_step <= step
        assert stage == windows_at(stage.first_step, steps, config, context)
        # As many tokens a step, but for a rest that no whole window fits in.
        assert 0 <= 6 * context - stage.batch * stage.tokens < stage.tokens
