"""Spiking self-attention of one window: counts Q (K^T V), their norm and neurons, in one pass and by additions only.

Q, K and V are spikes. Where a key fires, the row of values of its token is added to K^T V; where a query fires, a row
of K^T V is added to the token's counts. Counts are whole numbers, so nothing is rounded before the norm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, uintp

from sdt_ros.runtime.kernels.bits import fma, narrow

_ONE = np.float32(1)
_ZERO = np.float32(0)


@njit(nogil=True, cache=True, inline="always")
def _firing(spikes: Any, first: Any, lanes: Any, fired_at: Any) -> Any:
    """How many of `lanes` spikes are there, and where; without a branch, which a CPU could only guess."""
    number = uintp(0)
    for k in range(lanes):
        fired_at[number] = k
        number += uintp(spikes[first + k] != 0)
    return number


@njit(nogil=True, cache=True, error_model="numpy")
def attend(
    begin: int,
    end: int,
    qkv: Any,
    spikes: Any,
    steps: int,
    tokens: int,
    heads: int,
    channels: int,
    scale: Any,
    offset: Any,
    rate: Any,
    threshold: Any,
) -> None:
    """Spikes of the attention neurons of heads `begin` to `end`.

    Args:
        begin: first head.
        end: last head, excluded.
        qkv: flat [T, tokens, 3, heads, channels], 0 or 1.
        spikes: flat [T, tokens, heads, channels], written.
        steps: T.
        tokens: their number.
        heads: their number.
        channels: of one head.
        scale: [heads * channels] float32, of the norm with the attention's scale in it.
        offset: [heads * channels] float32.
        rate: 1 / tau.
        threshold: charge at which a neuron fires.
    """
    lanes, dim = uintp(channels), uintp(heads * channels)
    memory = np.empty(channels * channels, np.int32)
    counts = np.empty(channels, np.int32)
    values = np.empty(channels, np.int32)
    fired_at = np.empty(channels + 1, np.uintp)
    membrane = np.empty(tokens * channels, np.float32)
    for head in range(begin, end):
        first = uintp(head * channels)
        membrane[:] = _ZERO
        for step in range(steps):
            memory[:] = 0
            for token in range(tokens):
                query = uintp(step * tokens + token) * (uintp(3) * dim) + first
                firing = _firing(qkv, query + dim, lanes, fired_at)
                if firing == 0:
                    continue
                for k in range(lanes):
                    values[k] = np.int32(qkv[query + dim + dim + k])
                for number in range(firing):
                    into = fired_at[number] * lanes
                    for j in range(lanes):
                        memory[into + j] += values[j]
            for token in range(tokens):
                query = uintp(step * tokens + token) * (uintp(3) * dim) + first
                counts[:] = 0
                for number in range(_firing(qkv, query, lanes, fired_at)):
                    from_ = fired_at[number] * lanes
                    for j in range(lanes):
                        counts[j] += memory[from_ + j]
                into = uintp(step * tokens + token) * dim + first
                state = uintp(token) * lanes
                for j in range(lanes):
                    current = fma(np.float32(counts[j]), scale[first + j], offset[first + j])
                    charge = fma(current - membrane[state + j], rate, membrane[state + j])
                    fired = _ONE if charge >= threshold else _ZERO
                    spikes[into + j] = narrow(fired, spikes[into + j])
                    membrane[state + j] = charge - charge * fired
