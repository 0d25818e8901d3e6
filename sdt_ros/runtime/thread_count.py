"""How many threads of the CPU a network gets in a node that others share the machine with."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

ALL_THREADS = torch.get_num_threads()
"""What torch takes by itself: the machine's cores, or OMP_NUM_THREADS."""

_RUNS = 3


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
