"""Timing that can be trusted on a noisy machine: rounds in which every candidate runs once, medians over the rounds."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

_RUNS_A_TURN = 3


def median_seconds(candidates: Mapping[str, Callable[[], float]], rounds: int, title: str) -> dict[str, float]:
    """Run every candidate once as a warm-up, then once a round in turn.

    Args:
        candidates: what to run, by name; each returns the seconds that count.
        rounds: runs of each.
        title: of the progress bar.

    Returns:
        The median seconds of each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in tqdm(range(rounds + 1), desc=title, unit="round", leave=False, disable=None):
        for name, run in candidates.items():
            counted = run()
            if number:
                seconds[name].append(counted)
    return {name: statistics.median(values) for name, values in seconds.items()}


def turn_seconds(run: Callable[[], object]) -> float:
    """One turn of a candidate: some runs in a row, as windows of a camera come, the median of which counts.

    The first one finds its memory driven out of the caches by whoever ran before.
    """
    took = []
    for _ in range(_RUNS_A_TURN):
        began = time.perf_counter()
        run()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def machine() -> str:
    """The processor's name and the number of cores, for reports."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {len(os.sched_getaffinity(0))} cores"
