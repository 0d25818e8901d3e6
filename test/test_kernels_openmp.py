"""Loops on torch's own OpenMP threads: each part once, errors told, callers beside each other, forks apart."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from numba import njit

from sdt_ros.runtime.kernels import openmp, parallel
from sdt_ros.runtime.kernels.openmp import run_team
from sdt_ros.runtime.kernels.parallel import spread

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or openmp._library() is None, reason="torch here has no GNU OpenMP"
)


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


@njit(nogil=True)
def count(begin: int, end: int, seen: np.ndarray, by: np.ndarray) -> None:
    for k in range(begin, end):
        seen[k] += 1
        by[k] = begin


def test_every_part_runs_once_on_a_thread_of_its_own(threads: int) -> None:
    both = threading.Barrier(threads, timeout=20)
    seen: list[tuple[int, int]] = []

    def part(number: int) -> None:
        both.wait()  # passes only if the parts run at once
        seen.append((number, threading.get_ident()))

    assert run_team(part, threads)
    assert sorted(number for number, _ in seen) == [0, 1]
    assert len({thread for _, thread in seen}) == threads


def test_an_error_of_a_part_is_raised_once_all_have_ended(threads: int) -> None:
    ended: list[int] = []

    def part(number: int) -> None:
        if number == 1:
            raise KeyError("the second")
        ended.append(number)

    with pytest.raises(KeyError, match="the second"):
        run_team(part, threads)
    assert ended == [0]
    assert run_team(ended.append, threads) and sorted(ended) == [0, 0, 1]


def test_loops_are_cut_at_grains_and_miss_nothing(threads: int) -> None:
    for size, grain in ((1, 1), (1000, 512), (1025, 512), (5000, 7)):
        seen, by = np.zeros(size, np.int64), np.full(size, -1)
        spread(count, size, 1 << 40, seen, by, grain=grain)
        assert (seen == 1).all()
        assert all(begin % grain == 0 for begin in by)
        assert len(set(by)) == min(threads, -(-size // grain))


def test_callers_do_not_disturb_each_other(threads: int) -> None:
    def caller(value: int) -> bool:
        torch.set_num_threads(threads)  # torch keeps it for each thread that begins
        for _ in range(200):
            seen, by = np.full(4000, value), np.zeros(4000, np.int64)
            spread(count, 4000, 1 << 40, seen, by)
            if not (seen == value + 1).all():
                return False
        return True

    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(caller, range(3)))


def test_a_fork_does_not_wait_for_threads_that_are_not_there(threads: int) -> None:
    assert run_team(lambda number: None, threads)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            seen, by = np.zeros(4000, np.int64), np.zeros(4000, np.int64)
            apart = not run_team(lambda number: None, threads)
            spread(count, 4000, 1 << 40, seen, by)
            os._exit(0 if apart and (seen == 1).all() else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class AlarmError(Exception):
    pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_loses_no_part_in_silence(threads: int) -> None:
    """A handler may raise at any instruction, also where nothing can catch it."""

    def raising(number: int, frame: object) -> None:
        raise AlarmError

    before = signal.signal(signal.SIGALRM, raising)
    seen, by = np.zeros(4000, np.int64), np.zeros(4000, np.int64)
    complete = interrupted = 0
    try:
        for call in range(600):
            seen[:] = 0
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 + 1e-5 * (call % 100))  # rings once
                spread(count, 4000, 1 << 40, seen, by)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except (AlarmError, KeyboardInterrupt):
                interrupted += 1
                continue
            complete += 1
            assert (seen == 1).all()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert complete and interrupted


def test_without_that_library_idle_threads_of_ours_do_it(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "run_team", lambda part, threads: False)
    seen, by = np.zeros(4000, np.int64), np.zeros(4000, np.int64)
    spread(count, 4000, 1 << 40, seen, by)
    assert (seen == 1).all() and len(set(by)) == threads
