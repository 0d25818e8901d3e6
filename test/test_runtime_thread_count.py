"""The number of threads that a network gets in the node."""

import time
from collections.abc import Iterator

import pytest
import torch

from sdt_ros.runtime.thread_count import fewest_threads


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("ms_by_threads", "budget_ms", "chosen"),
    [
        ({1: 5}, 40, 1),
        ({1: 80, 2: 5}, 40, 2),
        ({1: 90, 2: 80, 3: 5}, 40, 3),  # three at most: 1, 2, 3
        ({1: 90, 2: 30, 3: 120}, 10, 2),  # none is fast enough: the fastest
    ],
)
def test_the_fewest_threads_that_are_fast_enough(
    ms_by_threads: dict[int, float], budget_ms: float, chosen: int
) -> None:
    tried = []

    def run() -> None:
        tried.append(torch.get_num_threads())
        time.sleep(ms_by_threads[tried[-1]] / 1e3)

    assert fewest_threads(run, budget_ms, 3) == chosen
    assert torch.get_num_threads() == chosen
    assert tried == [threads for threads in ms_by_threads for _ in range(3)]
