"""Windows that grow over a run."""

from __future__ import annotations

import pytest

from qkv.errors import ConfigError
from qkv.training import TrainingConfig
from qkv.training.schedules import windows_at


@pytest.mark.parametrize(
    ("shortest", "context", "lengths"),
    [
        (0, 64, [64]),
        (64, 64, [64]),
        (100, 64, [64]),
        (8, 64, [8, 16, 32, 64]),
        (5, 40, [5, 10, 20, 40]),
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
        assert stage.batch * stage.tokens == 6 * context


@pytest.mark.parametrize(("shortest", "context"), [(5, 37), (100, 256), (48, 256), (1, 3)])
def test_windows_that_do_not_double_to_the_context_are_refused(shortest: int, context: int) -> None:
    with pytest.raises(ConfigError, match=f"windows of {shortest} tokens at first for a context"):
        windows_at(0, 10, TrainingConfig(shortest=shortest), context)
