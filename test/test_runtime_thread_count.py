"""The number of threads that a network gets in the node."""

import time
from collections.abc import Iterator

import pytest
import torch

from sdt_ros.runtime import thread_count
from sdt_ros.runtime.thread_count import MoreThreads, fewest_threads


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


@pytest.fixture
def more(monkeypatch: pytest.MonkeyPatch) -> MoreThreads:
    """A rule for a machine of four cores, of which torch uses one."""
    monkeypatch.setattr(thread_count, "ALL_THREADS", 4)
    torch.set_num_threads(1)
    return MoreThreads()


def run(more: MoreThreads, windows: int, ms_by_threads: dict[int, float]) -> int:
    """Windows that take so long with so many threads, 50 ms apart; returns how many threads there are then."""
    for _ in range(windows):
        more.took(ms_by_threads[torch.get_num_threads()], 50.0)
    return torch.get_num_threads()


def test_who_falls_behind_gets_more_threads(more: MoreThreads) -> None:
    assert run(more, 9, {1: 60}) == 1
    assert run(more, 1, {1: 60}) == 2
    assert run(more, 100, {2: 40}) == 2


def test_hiccups_and_slow_first_windows_change_nothing(more: MoreThreads) -> None:
    assert run(more, 4, {1: 400}) == 1
    for _ in range(20):
        assert run(more, 9, {1: 30}) == run(more, 1, {1: 200}) == 1


def test_threads_that_do_not_help_are_given_back_for_good(more: MoreThreads) -> None:
    """As where two of them share a core, or a container has less processor time than cores."""
    assert run(more, 10, {1: 90}) == 2
    assert run(more, 10, {2: 88}) == 1
    assert run(more, 200, {1: 90}) == 1


def test_threads_that_help_too_little_are_doubled_again(more: MoreThreads) -> None:
    assert run(more, 30, {1: 160, 2: 90, 4: 60}) == 4
    assert run(more, 30, {4: 60}) == 4  # there are no more
