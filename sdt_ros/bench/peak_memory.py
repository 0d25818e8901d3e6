"""Memory that something takes while it runs, above what was taken before."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

_WATCH_S = 0.002
_RUNS = 3
_Made = TypeVar("_Made")


def made_and_run(
    make: Callable[[], _Made], run: Callable[[_Made], object], device: torch.device
) -> tuple[_Made, float]:
    """Make something, run it, and watch the memory.

    Args:
        make: makes it.
        run: runs it once; on a CPU it runs four times, of which the first, that compiles and packs, does not count.
        device: where it runs.

    Returns:
        What was made, and bytes: resident in this process at the highest of a run above those of before, or on a GPU
        allocated at the highest above those before it was made.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        made = make()
        run(made)
        return made, torch.cuda.max_memory_allocated(device) - before
    made = make()
    run(made)
    return made, _peak_resident(lambda: run(made))


def _peak_resident(run: Callable[[], object]) -> float:
    before, highest, done = _resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(_WATCH_S):
            highest = max(highest, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(_RUNS):
            run()
    finally:
        done.set()
        watcher.join()
    return max(0, highest - before)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
