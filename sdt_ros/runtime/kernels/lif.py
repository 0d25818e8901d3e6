"""Compiled loops of the leaky integrate-and-fire neuron, alone, behind a sum and behind a 2x2 max pool.

The equations are those of `sdt_ros.network.neurons`. Neurons are taken a block at a time through all their steps, so
that membranes stay in the first-level cache and memory is touched once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import uintp

from sdt_ros.compiled import njit
from sdt_ros.runtime.kernels.bits import fma, narrow, widen

BLOCK = 512  # neurons taken through all steps at once
_ONE = np.float32(1)
_ZERO = np.float32(0)


@njit(nogil=True, cache=True, inline="always")
def charged(current: Any, membrane: Any, rate: Any) -> Any:
    """Charge h = v + (x - v) / tau, rounded where torch rounds."""
    return fma(current - membrane, rate, membrane)


@njit(nogil=True, cache=True, error_model="numpy")
def fire(begin: int, end: int, current: Any, spikes: Any, steps: int, neurons: int, rate: Any, threshold: Any) -> None:
    """Spikes of neurons `begin` to `end`; flat [T * neurons]: currents float32 or bfloat16 bits, spikes those or uint8.

    Args:
        begin: first neuron.
        end: last neuron, excluded.
        current: input of each step.
        spikes: written.
        steps: T.
        neurons: neurons of a step.
        rate: 1 / tau.
        threshold: charge at which a neuron fires.
    """
    membrane = np.empty(BLOCK, np.float32)
    for first in range(begin, end, BLOCK):
        count = min(BLOCK, end - first)
        membrane[:] = _ZERO
        for step in range(steps):
            x = current[step * neurons + first : step * neurons + first + count]
            s = spikes[step * neurons + first : step * neurons + first + count]
            for k in range(count):
                charge = charged(widen(x[k]), membrane[k], rate)
                fired = _ONE if charge >= threshold else _ZERO
                s[k] = narrow(fired, s[k])
                # As eager code does it: an infinite charge leaves a NaN behind, not a fresh membrane.
                membrane[k] = charge - charge * fired


@njit(nogil=True, cache=True, error_model="numpy")
def add_fire(
    begin: int, end: int, a: Any, b: Any, total: Any, spikes: Any, steps: int, neurons: int, rate: Any, threshold: Any
) -> None:
    """Sums of `a` and `b`, float32, and what neurons `begin` to `end` fire at them; arguments as in `fire`."""
    membrane = np.empty(BLOCK, np.float32)
    for first in range(begin, end, BLOCK):
        count = min(BLOCK, end - first)
        membrane[:] = _ZERO
        for step in range(steps):
            at = step * neurons + first
            left, right, x, s = a[at : at + count], b[at : at + count], total[at : at + count], spikes[at : at + count]
            for k in range(count):
                x[k] = left[k] + right[k]
            for k in range(count):
                charge = charged(x[k], membrane[k], rate)
                fired = _ONE if charge >= threshold else _ZERO
                s[k] = narrow(fired, s[k])
                membrane[k] = charge - charge * fired


@njit(nogil=True, cache=True, inline="always")
def _larger(a: Any, b: Any) -> Any:
    """The larger one, or the NaN."""
    return a if (a >= b or a != a) else b


@njit(nogil=True, cache=True, error_model="numpy")
def pool_fire(
    begin: int,
    end: int,
    x: Any,
    spikes: Any,
    kept: Any,
    steps: int,
    rows: int,
    width: int,
    channels: int,
    rate: Any,
    threshold: Any,
) -> None:
    """Spikes of the pooled rows `begin` to `end`: 2x2 max pool, then neurons, of which the former can be kept.

    Args:
        begin: first pooled row.
        end: last pooled row, excluded.
        x: flat [T, 2 * rows, width, channels] float32 or bfloat16 bits.
        spikes: flat [T, rows, width / 2, channels] uint8, float32 or bfloat16 bits, written.
        kept: like `spikes`, float32, the pool's output, written; or empty.
        steps: T.
        rows: pooled rows of a step.
        width: of `x`, even.
        channels: their number.
        rate: 1 / tau.
        threshold: charge at which a neuron fires.
    """
    wide = width * channels
    half = (width // 2) * channels
    tall = np.empty(wide, np.float32)
    pooled = np.empty(half, np.float32)
    membrane = np.empty(half, np.float32)
    lanes = uintp(channels)
    for row in range(begin, end):
        membrane[:] = _ZERO
        for step in range(steps):
            at = (step * rows + row) * 2 * wide
            top = x[at : at + wide]
            bottom = x[at + wide : at + 2 * wide]
            for k in range(wide):
                tall[k] = _larger(widen(top[k]), widen(bottom[k]))
            for pixel in range(width // 2):
                left, into = uintp(2 * pixel * channels), uintp(pixel * channels)
                for k in range(lanes):
                    pooled[into + k] = _larger(tall[left + k], tall[left + lanes + k])
            out = spikes[(step * rows + row) * half : (step * rows + row + 1) * half]
            if kept.size > 0:  # an assignment of arrays would compile for seconds, for the sake of its error message
                written = kept[(step * rows + row) * half : (step * rows + row + 1) * half]
                for k in range(half):
                    written[k] = pooled[k]
            for k in range(half):
                charge = charged(pooled[k], membrane[k], rate)
                fired = _ONE if charge >= threshold else _ZERO
                out[k] = narrow(fired, out[k])
                membrane[k] = charge - charge * fired
