"""Compiled loops of the leaky integrate-and-fire neuron, forward and backward.

The equations are those of `sdt_ros.network.neurons`. Neurons are taken a block at a time through all their steps, so
that membranes stay in the first-level cache and memory is touched once. Backward keeps no charges: it runs the few
operations of the forward pass again on the currents, which costs less than writing and reading them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sdt_ros.compiled import njit
from sdt_ros.runtime.kernels.bits import narrow, widen
from sdt_ros.runtime.kernels.lif import BLOCK, charged

_ONE = np.float32(1)
_ZERO = np.float32(0)


@njit(nogil=True, cache=True, error_model="numpy")
def fire_backward(
    begin: int,
    end: int,
    current: Any,
    grad_spikes: Any,
    grad_current: Any,
    steps: int,
    neurons: int,
    rate: Any,
    threshold: Any,
    height: Any,
    slope: Any,
) -> None:
    """Gradient of the currents from that of the spikes, all flat [T * neurons].

    The surrogate is height / (1 + (slope * (h - threshold))^2); the reset passes no gradient.
    """
    charges = np.empty((steps, BLOCK), np.float32)
    membrane = np.empty(BLOCK, np.float32)
    kept_rate = np.float32(1) - rate
    for first in range(begin, end, BLOCK):
        count = min(BLOCK, end - first)
        membrane[:] = _ZERO
        for step in range(steps):
            x = current[step * neurons + first : step * neurons + first + count]
            h = charges[step]
            for k in range(count):
                charge = charged(widen(x[k]), membrane[k], rate)
                h[k] = charge
                membrane[k] = charge - charge * (_ONE if charge >= threshold else _ZERO)
        membrane[:] = _ZERO  # from here on the gradient of v[t], from the steps after t
        for later in range(steps):
            step = steps - 1 - later
            at = step * neurons + first
            gs = grad_spikes[at : at + count]
            gx = grad_current[at : at + count]
            h = charges[step]
            for k in range(count):
                overshoot = h[k] - threshold
                bend = slope * overshoot
                surrogate = height / (_ONE + bend * bend)
                kept = _ONE if overshoot < _ZERO else _ZERO
                grad_charge = widen(gs[k]) * surrogate + membrane[k] * kept
                h[k] = grad_charge
                membrane[k] = grad_charge * kept_rate
            for k in range(count):  # a loop of its own: LLVM gives up vectorising one that touches four arrays
                gx[k] = narrow(h[k] * rate, gx[k])
