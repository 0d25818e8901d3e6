"""Spiking self-attention of one window: counts Q (K^T V), their norm and neurons, in one pass and by additions only.

Q, K and V are spikes. Where a key fires, the row of values of its token is added to K^T V; where a query fires, a row
of K^T V is added to the token's counts. Counts are whole numbers, so nothing is rounded before the norm.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import uint8, uint64, uintp
from numba.extending import overload

from sdt_ros.compiled import njit
from sdt_ros.runtime.kernels.bits import eight_bits, fma, lowest_bit, narrow

_WORD = 64
_ONE = np.float32(1)
_ZERO = np.float32(0)


def _masks(spikes: Any, first: Any, lanes: Any, masks: Any) -> None:
    """Which of `lanes` spikes from `first` on are there, 64 to a word; compiled code only."""


@overload(_masks)
def _masks_of(spikes: Any, first: Any, lanes: Any, masks: Any) -> Any:
    def singly(spikes: Any, first: Any, lanes: Any, masks: Any) -> None:
        for word in range(masks.size):
            mask = uint64(0)
            begin = uintp(word * _WORD)
            for k in range(min(uintp(_WORD), lanes - begin)):
                mask |= uint64(spikes[first + begin + k] != 0) << uint64(k)
            masks[word] = mask

    def by_eights(spikes: Any, first: Any, lanes: Any, masks: Any) -> None:
        for word in range(masks.size):
            mask = uint64(0)
            begin = uintp(word * _WORD)
            eights = min(uintp(_WORD), lanes - begin) // uintp(8)
            for eight in range(eights):
                mask |= eight_bits(spikes, first + begin + eight * uintp(8)) << uint64(eight * uintp(8))
            for k in range(eights * uintp(8), min(uintp(_WORD), lanes - begin)):
                mask |= uint64(spikes[first + begin + k] != 0) << uint64(k)
            masks[word] = mask

    return by_eights if spikes.dtype == uint8 else singly


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
    words = (channels + _WORD - 1) // _WORD
    keys, queries = np.empty((tokens, words), np.uint64), np.empty((tokens, words), np.uint64)
    values = np.empty(tokens * channels, np.uint8)
    memory = np.empty(channels * channels, np.int32)
    counts = np.empty(channels, np.int32)
    row = np.empty(channels, np.int32)
    membrane = np.empty(tokens * channels, np.float32)
    for head in range(begin, end):
        first = uintp(head * channels)
        membrane[:] = _ZERO
        for step in range(steps):
            # A head's spikes of one token lie far from those of the next. Gathered without a branch on what they are,
            # many are on their way from memory at once.
            for token in range(tokens):
                query = uintp(step * tokens + token) * (uintp(3) * dim) + first
                _masks(qkv, query, lanes, queries[token])
                _masks(qkv, query + dim, lanes, keys[token])
                into = uintp(token) * lanes
                for k in range(lanes):
                    values[into + k] = np.uint8(qkv[query + dim + dim + k])
            memory[:] = 0
            for token in range(tokens):
                from_ = uintp(token) * lanes
                for k in range(lanes):
                    row[k] = np.int32(values[from_ + k])
                for word in range(words):
                    mask = keys[token, word]
                    while mask != 0:
                        into = (uintp(word * _WORD) + lowest_bit(mask)) * lanes
                        mask &= mask - uint64(1)
                        for j in range(lanes):
                            memory[into + j] += row[j]
            for token in range(tokens):
                counts[:] = 0
                for word in range(words):
                    mask = queries[token, word]
                    while mask != 0:
                        from_ = (uintp(word * _WORD) + lowest_bit(mask)) * lanes
                        mask &= mask - uint64(1)
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
