"""Convolutions of spikes by additions only: where an input fires its row of weights is added, else nothing is done.

Most inputs of a spiking layer are silent. A dense product multiplies all of them; here the work goes with the spikes.
Of each row of pixels the places that fire are listed once; what a kernel sees at a pixel are stretches of such lists.
Sums of int8 weights are exact in whatever order, so the currents are those of the dense product to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import uint16, uint32, uint64, uintp

from sdt_ros.compiled import njit
from sdt_ros.runtime.kernels.bits import eight_bits, lowest_bit, narrow
from sdt_ros.runtime.kernels.lif import charged
from sdt_ros.runtime.kernels.vectors import LANES, SPARE, UNROLLED, add_rows, copy_places, mask_of

_WORD = 64
_EIGHT = 8
_HELD = 4  # rows of an image whose lists are kept: a kernel of 3x3 below a pool of 2x2 sees as many
_ONE = np.float32(1)
_ZERO = np.float32(0)
_LARGEST = (1 << 16) - 1


def is_suited(inputs: int, kernel: tuple[int, int], padding: tuple[int, int]) -> bool:
    """Whether a convolution of stride 1 can be computed here.

    Args:
        inputs: channels of its input.
        kernel: height and width.
        padding: likewise.
    """
    size = kernel[0]
    same = kernel == (size, size) and padding == (size // 2, size // 2)
    return same and size in (1, 3) and inputs % _EIGHT == 0 and size * size * inputs <= _LARGEST


def padded(outputs: int) -> int:
    """Channels that are computed for so many that are wanted."""
    return -(-outputs // LANES) * LANES


def tables(weight: np.ndarray) -> np.ndarray:
    """Weights as rows to be added.

    Args:
        weight: [C', C, k, k] int8.

    Returns:
        Flat [tiles, k * k * C + 1, LANES] int8: of `LANES` outputs each, rows in the order ky, kx, C, and one of zeros.
    """
    outputs = weight.shape[0]
    rows = weight.transpose(2, 3, 1, 0).reshape(-1, outputs)
    table = np.zeros((len(rows) + 1, padded(outputs)), np.int8)
    table[:-1, :outputs] = rows
    ordered = _aligned(table.size)
    ordered[:] = table.reshape(len(table), -1, LANES).transpose(1, 0, 2).ravel()
    return ordered


def _aligned(size: int) -> np.ndarray:
    """Bytes that begin where a cache line does, so that each row is one line."""
    memory = np.empty(size + LANES, np.int8)
    first = -memory.ctypes.data % LANES
    return memory[first : first + size]


@njit(nogil=True, cache=True, error_model="numpy")
def _list_row(spikes: Any, row: int, width: int, channels: int, reach: int, places: Any, starts: Any) -> None:
    """List the places that fire in a row of pixels, from `reach` silent pixels before its first to as many behind.

    Args:
        spikes: flat [rows, width, channels] uint8.
        row: which.
        width: pixels.
        channels: of each.
        reach: silent pixels at either end.
        places: written: pixel * channels + channel, in order; at least width * channels.
        starts: [width + 2 * reach + 1], written: where each pixel's places begin.
    """
    found, lanes = uintp(0), uintp(channels)
    first = uintp(row) * uintp(width) * lanes
    starts[: reach + 1] = 0
    for x in range(width):
        pixel = uintp(x + reach) * lanes
        for channel in range(0, channels, _WORD):
            begin = first + uintp(x) * lanes + uintp(channel)
            if channel + _WORD <= channels:
                mask = mask_of(spikes, begin)
            else:
                mask = uint64(0)
                for k in range(0, channels - channel, _EIGHT):
                    mask |= eight_bits(spikes, begin + uintp(k)) << uint64(k)
            at = pixel + uintp(channel)
            while mask != 0:
                places[found] = uint32(at + lowest_bit(mask))
                found += uintp(1)
                mask &= mask - uint64(1)
        starts[x + reach + 1] = found
    starts[width + reach + 1 :] = found


@njit(nogil=True, cache=True, error_model="numpy")
def _list_rows_seen(
    spikes: Any, step: int, y: int, height: int, width: int, channels: int, size: int,
    held: Any, places: Any, starts: Any, rows: Any, ends: Any,
) -> None:  # fmt: skip
    """List the rows of weights that each pixel of a row of output adds up.

    Args:
        spikes: flat [T, height, width, channels] uint8.
        step: of T.
        y: row of the output.
        height: pixels.
        width: pixels.
        channels: of the input.
        size: of the kernel.
        held: [T * _HELD], which rows' lists are in `places`, changed.
        places: [T * _HELD, width * channels + SPARE] uint32, changed.
        starts: [T * _HELD, width + size], changed.
        rows: uint16, written: the numbers of rows, for each pixel filled up with the row of zeros to a multiple of
            `UNROLLED`.
        ends: [width + 1], written: where each pixel's rows begin; and at last, where the last one's end.
    """
    reach = size // 2
    top, bottom = max(0, reach - y), min(size, height + reach - y)
    for ky in range(top, bottom):
        source = y + ky - reach
        slot, row = step * _HELD + source % _HELD, step * height + source
        if held[slot] != row:
            _list_row(spikes, row, width, channels, reach, places[slot], starts[slot])
            held[slot] = row
    zeros = uint16(size * size * channels)
    taken, lanes = uintp(0), uintp(channels)
    for x in range(width):
        ends[x] = taken
        seen = taken
        for ky in range(top, bottom):
            slot = step * _HELD + (y + ky - reach) % _HELD
            begin = starts[slot, x]
            count = starts[slot, x + size] - begin
            shift = uintp(x) * lanes - uintp(ky * size) * lanes
            copy_places(places[slot], begin, count, shift, rows, taken)
            taken += count
        for k in range(UNROLLED):
            rows[taken + uintp(k)] = zeros
        taken = seen + (taken - seen + uintp(UNROLLED - 1)) // uintp(UNROLLED) * uintp(UNROLLED)
    ends[width] = taken


@njit(nogil=True, cache=True, error_model="numpy")
def convolve(
    begin: int, end: int, spikes: Any, table: Any, scale: Any, bias: Any,
    height: int, width: int, channels: int, size: int, stream: Any, total: Any, fired: Any, rate: Any, threshold: Any,
) -> None:  # fmt: skip
    """Rows `begin` to `end` of a convolution, what it makes of a stream, and what neurons fire at that.

    Args:
        begin: first row.
        end: last row, excluded.
        spikes: flat [T, H, W, C] uint8, each 0 or 1.
        table: of `tables`.
        scale: [C'] float32, what a whole number is worth.
        bias: [C'] float32.
        height: H.
        width: W.
        channels: C.
        size: of the kernel, 1 or 3.
        stream: flat [T, H, W, C'] float32, to which the currents are added; or empty.
        total: flat [T, H, W, C'] float32, the currents or that sum, written; or empty.
        fired: flat [T, H, W, C'] uint8, float32 or bfloat16 bits, what neurons fire at it, written; or empty.
        rate: 1 / tau.
        threshold: charge at which a neuron fires.
    """
    steps, outputs = spikes.size // (height * width * channels), scale.size
    held = np.empty(steps * _HELD, np.int64)
    held[:] = -1
    places = np.empty((steps * _HELD, width * channels + SPARE), np.uint32)
    starts = np.empty((steps * _HELD, width + size), np.uintp)
    rows = np.empty((steps, width * (size * size * channels + UNROLLED) + SPARE), np.uint16)
    ends = np.empty((steps, width + 1), np.uintp)
    count = np.empty(LANES, np.int32)
    across = width * outputs
    current, membrane = np.empty((steps, across), np.float32), np.empty(across, np.float32)
    tile = uintp(size * size * channels + 1) * uintp(LANES)
    for y in range(begin, end):
        for step in range(steps):
            _list_rows_seen(
                spikes, step, y, height, width, channels, size, held, places, starts, rows[step], ends[step]
            )
        for first in range(0, outputs, LANES):
            base = uintp(first // LANES) * tile
            lanes = min(LANES, outputs - first)
            worth, offset = scale[first : first + lanes], bias[first : first + lanes]
            for step in range(steps):
                for x in range(width):
                    add_rows(table, base, rows[step], ends[step, x], ends[step, x + 1], count)
                    x_first = x * outputs + first
                    into = current[step, x_first : x_first + lanes]
                    for k in range(lanes):
                        into[k] = np.float32(count[k]) * worth[k] + offset[k]
        membrane[:] = _ZERO
        for step in range(steps):
            at = (step * height + y) * across
            x = current[step]
            if stream.size > 0:
                before = stream[at : at + across]
                for k in range(across):
                    x[k] += before[k]
            if total.size > 0:
                after = total[at : at + across]
                for k in range(across):
                    after[k] = x[k]
            out = fired[at : at + across]
            for k in range(out.size):
                charge = charged(x[k], membrane[k], rate)
                spike = _ONE if charge >= threshold else _ZERO
                out[k] = narrow(spike, out[k])
                membrane[k] = charge - charge * spike


@njit(nogil=True, cache=True, error_model="numpy")
def convolve_pool_fire(
    begin: int, end: int, spikes: Any, table: Any, scale: Any, bias: Any,
    height: int, width: int, channels: int, size: int, fired: Any, kept: Any, rate: Any, threshold: Any,
) -> None:  # fmt: skip
    """Spikes of the pooled rows `begin` to `end`: convolution, 2x2 max pool and neurons.

    Args:
        begin: first pooled row.
        end: last pooled row, excluded.
        spikes: flat [T, H, W, C] uint8, each 0 or 1.
        table: of `tables`.
        scale: [C'] float32, above 0.
        bias: [C'] float32.
        height: H, even.
        width: W, even.
        channels: C.
        size: of the kernel, 1 or 3.
        fired: flat [T, H / 2, W / 2, C'] uint8, float32 or bfloat16 bits, written.
        kept: like `fired`, float32, the pool's output, written; or empty.
        rate: 1 / tau.
        threshold: charge at which a neuron fires.
    """
    steps, outputs = spikes.size // (height * width * channels), scale.size
    held = np.empty(steps * _HELD, np.int64)
    held[:] = -1
    places = np.empty((steps * _HELD, width * channels + SPARE), np.uint32)
    starts = np.empty((steps * _HELD, width + size), np.uintp)
    rows = np.empty((steps, 2, width * (size * size * channels + UNROLLED) + SPARE), np.uint16)
    ends = np.empty((steps, 2, width + 1), np.uintp)
    total, best = np.empty(LANES, np.int32), np.empty(LANES, np.int32)
    tile = uintp(size * size * channels + 1) * uintp(LANES)
    half = width // 2
    membrane = np.empty((half, LANES), np.float32)
    for row in range(begin, end):
        for step in range(steps):
            for below in range(2):
                _list_rows_seen(
                    spikes, step, 2 * row + below, height, width, channels, size, held, places, starts,
                    rows[step, below], ends[step, below],
                )  # fmt: skip
        for first in range(0, outputs, LANES):
            base = uintp(first // LANES) * tile
            lanes = min(LANES, outputs - first)
            worth, offset = scale[first : first + lanes], bias[first : first + lanes]
            membrane[:] = _ZERO
            for step in range(steps):
                seen, stop = rows[step], ends[step]
                for column in range(half):
                    for corner in range(4):
                        below, x = corner // 2, 2 * column + corner % 2
                        add_rows(table, base, seen[below], stop[below, x], stop[below, x + 1], total)
                        if corner == 0:
                            for k in range(LANES):
                                best[k] = total[k]
                        else:
                            for k in range(LANES):
                                best[k] = max(best[k], total[k])
                    at = ((step * (height // 2) + row) * half + column) * outputs + first
                    out, state = fired[at : at + lanes], membrane[column]
                    if kept.size > 0:
                        for k in range(lanes):
                            kept[at + k] = np.float32(best[k]) * worth[k] + offset[k]
                    for k in range(lanes):
                        charge = charged(np.float32(best[k]) * worth[k] + offset[k], state[k], rate)
                        spike = _ONE if charge >= threshold else _ZERO
                        out[k] = narrow(spike, out[k])
                        state[k] = charge - charge * spike
