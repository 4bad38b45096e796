"""Heads side by side: in order, a few at a time, and torch's threads as they were."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from qkv.lens.heads.workers import side_by_side


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_order(threads: int) -> None:
    asked = []

    def items() -> Iterator[int]:
        for item in range(40):
            asked.append(item)
            yield item

    found = side_by_side(lambda item: (item, torch.get_num_threads()), items())
    assert next(found) == (0, 1)
    assert len(asked) <= 2 * threads + 2
    assert [item for item, _ in found] == list(range(1, 40))
    assert torch.get_num_threads() == threads


def test_an_error_is_the_callers_and_leaves_nothing_behind(threads: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(lambda item: 1 // item, [1, 2, 0, 3]))
    assert torch.get_num_threads() == threads
    later = torch.zeros(3).requires_grad_()
    later.sum().backward()
    assert later.grad is not None


def test_what_is_left_unread_is_dropped(threads: int) -> None:
    found = side_by_side(abs, range(1000))
    assert next(found) == 0
    found.close()
    assert torch.get_num_threads() == threads
