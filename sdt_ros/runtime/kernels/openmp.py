"""torch's own OpenMP threads, for work of ours.

Between its operations torch's threads wait awake. A thread of another pool, woken then, finds no core free and shares
its caller's, so that parts of a loop run one after the other; the same parts on torch's threads run at once.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_Part = ctypes.CFUNCTYPE(None, ctypes.c_size_t)
_MAPS = Path("/proc/self/maps")
_is_fork = False
_jobs: dict[int, Callable[[int], None]] = {}
_numbers = itertools.count(1)


def run_team(part: Callable[[int], None], threads: int) -> bool:
    """Call `part(number)` for each number below `threads`, each on a thread of its own of the team torch uses.

    Args:
        part: must release the interpreter's lock for most of its work, or nothing is gained.
        threads: as many as torch uses (`torch.get_num_threads()`): another size would end some of its threads.

    Returns:
        False where torch's OpenMP library is not known, or this process is a fork of one whose threads are not here;
        nothing was called then.

    Raises:
        Exception: what a part raised, the first of them by number, once all have ended.
        KeyboardInterrupt: a signal's handler raised something, and parts are missing.
    """
    team = None if _is_fork else _library()
    if team is None:
        return False
    ended: set[int] = set()
    errors: dict[int, BaseException] = {}

    def work(member: int, members: int) -> None:
        for number in range(member, threads, members):  # OpenMP may give fewer threads than were asked for
            try:
                part(number)
            except BaseException as error:  # may not pass through C
                errors[number] = error
            ended.add(number)

    key = next(_numbers)
    _jobs[key] = lambda member: work(member, team.members())
    try:
        team.run(_member, key, threads, 0)
    finally:
        del _jobs[key]
    if errors:
        raise errors[min(errors)]
    if len(ended) < threads:  # what a signal's handler raises beside a part, ctypes prints and drops
        raise KeyboardInterrupt("a signal came between the parts of a loop")
    return True


class _Library:
    """The few functions of GNU OpenMP's library that this needs."""

    def __init__(self, path: str) -> None:
        slow, quick = ctypes.CDLL(path), ctypes.PyDLL(path)  # the first lets go of the interpreter's lock
        self.run: Any = slow.GOMP_parallel
        self.run.argtypes = [_Part, ctypes.c_size_t, ctypes.c_uint, ctypes.c_uint]
        self.run.restype = None
        self.member: Callable[[], int] = quick.omp_get_thread_num
        self.members: Callable[[], int] = quick.omp_get_num_threads


@_Part
def _member(key: int) -> None:
    library = _library()
    assert library is not None
    _jobs[key](library.member())


@functools.cache
def _library() -> _Library | None:
    """GNU OpenMP as torch uses it: what torch has brought, or else the only one in this process."""
    try:
        loaded = {line.split(maxsplit=5)[5] for line in _MAPS.read_text().splitlines() if "/libgomp" in line}
        own = {path for path in loaded if Path(path).is_relative_to(Path(torch.__file__).parent)}
        paths = own or loaded
        return _Library(paths.pop()) if len(paths) == 1 else None
    except (OSError, AttributeError):  # no such file system, library or function
        return None


def _forked() -> None:
    global _is_fork
    _is_fork = True


os.register_at_fork(after_in_child=_forked)
