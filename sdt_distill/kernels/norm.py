"""Compiled loops of batch norm with what follows it: nothing, a mean over time, or a 2x2 max pool.

All tensors are channels last, so that a flat array runs through the channels over and over. Coefficients are given once
for every channel, repeated to a period that is long enough for vector registers whatever the number of channels: the
loops then know nothing of channels. Sums are taken in float32 over blocks of fixed size and in float64 over blocks, so
that they do not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sdt_ros.compiled import njit
from sdt_ros.runtime.kernels.bits import fma, narrow, widen

BLOCK = 1 << 15  # values summed in float32
_ZERO = np.float32(0)
_ONE = np.float32(1)


@njit(nogil=True, cache=True)
def moments(begin: int, end: int, x: Any, around: Any, size: int, sums: Any) -> None:
    """Sums of d and d^2, d = x - around, for blocks `begin` to `end`.

    Args:
        begin: first block, of as many whole periods as `BLOCK` holds.
        end: last block, excluded.
        x: flat, `size` values.
        around: [period] float32.
        size: number of values.
        sums: [blocks, 2, period] float32, written.
    """
    period = around.size
    block = max(1, BLOCK // period) * period
    for number in range(begin, end):
        first, second = sums[number, 0], sums[number, 1]
        first[:] = _ZERO
        second[:] = _ZERO
        for at in range(number * block, min(size, (number + 1) * block), period):
            count = min(period, size - at)
            part = x[at : at + count]
            for k in range(count):
                d = widen(part[k]) - around[k]
                first[k] += d
                second[k] += d * d


@njit(nogil=True, cache=True, error_model="numpy")
def normalise(begin: int, end: int, x: Any, y: Any, steps: int, size: int, scale: Any, offset: Any) -> None:
    """Write y = scale * (mean of x over steps) + offset for periods `begin` to `end`.

    Args:
        begin: first period.
        end: last period, excluded.
        x: flat, `steps` times `size` values.
        y: flat, `size` values, written.
        steps: time steps.
        size: values of a step.
        scale: [period] float32.
        offset: [period] float32.
    """
    period = scale.size
    total = np.empty(period, np.float32)
    share = _ONE / np.float32(steps)
    for number in range(begin, end):
        at = number * period
        count = min(period, size - at)
        out = y[at : at + count]
        if steps == 1:
            part = x[at : at + count]
            for k in range(count):
                out[k] = narrow(fma(widen(part[k]), scale[k], offset[k]), out[k])
            continue
        total[:] = _ZERO
        for step in range(steps):
            part = x[step * size + at : step * size + at + count]
            for k in range(count):
                total[k] += widen(part[k])
        for k in range(count):
            out[k] = narrow(fma(total[k] * share, scale[k], offset[k]), out[k])


@njit(nogil=True, cache=True, error_model="numpy")
def grad_moments(begin: int, end: int, x: Any, grad: Any, steps: int, size: int, around: Any, sums: Any) -> None:
    """Sums of g and g * (x - around) of blocks, `x` a mean over steps; arguments as in `moments` and `normalise`."""
    period = around.size
    block = max(1, BLOCK // period) * period
    total = np.empty(period, np.float32)
    share = _ONE / np.float32(steps)
    for number in range(begin, end):
        first, second = sums[number, 0], sums[number, 1]
        first[:] = _ZERO
        second[:] = _ZERO
        for at in range(number * block, min(size, (number + 1) * block), period):
            count = min(period, size - at)
            total[:] = _ZERO
            for step in range(steps):
                part = x[step * size + at : step * size + at + count]
                for k in range(count):
                    total[k] += widen(part[k])
            g = grad[at : at + count]
            for k in range(count):
                total[k] = total[k] * share - around[k]
            for k in range(count):
                value = widen(g[k])
                first[k] += value
                second[k] += value * total[k]


@njit(nogil=True, cache=True, error_model="numpy")
def grad_input(
    begin: int,
    end: int,
    x: Any,
    grad: Any,
    grad_x: Any,
    steps: int,
    size: int,
    gain: Any,
    slope: Any,
    constant: Any,
) -> None:
    """Write gain * g / steps + slope * x + constant for periods `begin` to `end` of every step."""
    period = gain.size
    share = _ONE / np.float32(steps)
    direct = np.empty(period, np.float32)
    for number in range(begin, end):
        at = number * period
        count = min(period, size - at)
        g = grad[at : at + count]
        for k in range(count):
            direct[k] = widen(g[k]) * share * gain[k] + constant[k]
        for step in range(steps):
            part = x[step * size + at : step * size + at + count]
            out = grad_x[step * size + at : step * size + at + count]
            for k in range(count):
                out[k] = narrow(fma(slope[k], widen(part[k]), direct[k]), out[k])
