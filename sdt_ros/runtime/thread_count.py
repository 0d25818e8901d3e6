"""How many threads of the CPU a network gets in a node that others share the machine with."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

ALL_THREADS = torch.get_num_threads()
"""What torch takes by itself: the machine's cores, or OMP_NUM_THREADS."""

_RUNS = 3
_WINDOWS = 10  # that a verdict is based on: one hiccup of the machine is none
_WORTH = 0.9  # of the time before, that windows may take with twice the threads


class MoreThreads:
    """Gives the network more threads while it falls behind, and takes them back where they do not make it faster.

    To be used in the thread that runs the network, and made anew for another size of windows.
    """

    def __init__(self) -> None:
        self._most = ALL_THREADS
        self._took_ms: list[float] = []
        self._before: tuple[int, float] | None = None  # threads and milliseconds, while more of them are on trial

    def took(self, window_ms: float, period_ms: float) -> None:
        """Take what a window took [ms], and the time from one to the next [ms]; may set torch's threads."""
        self._took_ms.append(window_ms)
        if len(self._took_ms) < _WINDOWS:
            return
        typical_ms, threads = statistics.median(self._took_ms), torch.get_num_threads()
        self._took_ms.clear()
        if self._before is not None:
            (fewer, before_ms), self._before = self._before, None
            if typical_ms > _WORTH * before_ms:
                torch.set_num_threads(fewer)
                self._most = fewer
                return
        if typical_ms >= period_ms and threads < self._most:
            self._before = threads, typical_ms
            torch.set_num_threads(min(2 * threads, self._most))


def fewest_threads(run: Callable[[], object], budget_ms: float, most: int) -> int:
    """Set torch to the fewest threads with which a window is done in time: 1, 2, 4 and so on.

    A small network gains little by a second thread, 24 ms for 29 on two cores, but takes the core on which packets are
    decoded and published, so that single windows take four times as long (docs/performance.md).

    Args:
        run: runs one window; it is called a few times.
        budget_ms: what a window may take.
        most: threads that there are.

    Returns:
        The number that is set now. Where none is fast enough, it is the fastest one.
    """
    fastest = (float("inf"), 1)
    threads = 1
    while True:
        torch.set_num_threads(threads)
        took_ms = _least_ms(run)
        if took_ms <= budget_ms:
            return threads
        fastest = min(fastest, (took_ms, threads))
        if threads >= most:
            torch.set_num_threads(fastest[1])
            return fastest[1]
        threads = min(2 * threads, most)


def _least_ms(run: Callable[[], object]) -> float:
    """The least time of a few runs, of which the first one may allocate and choose kernels."""
    took = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        run()
        took.append(1e3 * (time.perf_counter() - began))
    return min(took)
