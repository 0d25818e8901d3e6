"""Compiled loops over several threads, as many as torch uses.

numba's own `prange` is not used: over OpenMP it kills a data loader's forked workers, and its other scheduler kills the
process when two threads enter it. Parts run on torch's OpenMP threads; where those cannot be had, on the calling thread
and a few idle ones. Either costs some 50 microseconds a call. What a part computes must not depend on where it begins,
or results would depend on the number of threads.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdt_ros.runtime.kernels.openmp import run_team

_WORTH = 1 << 17  # values that a thread must get, or calling it takes longer than they do
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def spread(kernel: Callable[..., Any], size: int, work: int, *args: Any, grain: int = 1, parts: int = 1) -> None:
    """Run `kernel(begin, end, *args)` over parts that make up 0 to `size`, each by whichever thread is free.

    Args:
        kernel: compiled with `nogil`, so that the threads run at once.
        size: number of things to do.
        work: values touched in all; too few are left to one thread.
        args: for the kernel.
        grain: parts begin at multiples of this.
        parts: for each thread; more of them where some may take longer than others.
    """
    threads, grains = torch.get_num_threads(), -(-size // grain)
    if threads == 1 or grains < threads or work < threads * _WORTH:
        kernel(0, size, *args)
        return
    count = min(grains, threads * parts)
    left = itertools.pairwise([min(size, grains * part // count * grain) for part in range(count + 1)])

    def take(_: int) -> None:
        while (part := next(left, None)) is not None:
            kernel(*part, *args)

    if run_team(take, threads):
        return
    others = [_pool(threads - 1).submit(take, thread) for thread in range(1, threads)]
    try:
        take(0)
    finally:  # nobody may write into these arrays once the caller is told of an error
        for other in others:
            other.result()


def array(tensor: Tensor) -> np.ndarray:
    """A contiguous CPU tensor as the flat array that kernels take: float32, uint8, or uint16 that holds bfloat16."""
    flat = tensor.detach().view(-1)
    if flat.dtype == torch.bfloat16:
        halves: np.ndarray = flat.view(torch.int16).numpy().view(np.uint16)
        return halves
    plain: np.ndarray = flat.numpy()
    return plain


def _pool(workers: int) -> ThreadPoolExecutor:
    key = (os.getpid(), workers)  # a forked child has the object but not its threads
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(workers, "sdt-kernel")
    return _pools[key]
