"""The first convolution as sums of table entries: 3x3 over two polarities, pooled 2x2, and its neurons, in one pass.

An event is a bit, so three neighbouring pixels of both polarities are a number below 64, and what a row of the kernel
makes of them is one of 64 vectors that can be computed beforehand. A current is then the sum of three such vectors
instead of 18 products, in full precision, and nothing at full resolution but the numbers is ever written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import uintp

from sdt_ros.compiled import njit
from sdt_ros.runtime.kernels.bits import fma, narrow

POLARITIES = 2
CODES = 1 << (3 * POLARITIES)
_ONE = np.float32(1)
_ZERO = np.float32(0)


def tables(weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """What each kernel row makes of each code.

    Args:
        weight: [C, 2, 3, 3].
        bias: [C]; it goes with the middle row.

    Returns:
        [3 rows, 64 codes, C] float32, summed in float64.
    """
    bits = (np.arange(CODES)[:, None] >> np.arange(3 * POLARITIES)) & 1  # [64, kx * 2 + p]
    rows = weight.astype(np.float64).transpose(2, 3, 1, 0).reshape(3, 3 * POLARITIES, -1)  # [ky, kx * 2 + p, C]
    summed = bits @ rows  # [3, 64, C]
    summed[1] += bias
    return np.ascontiguousarray(summed, np.float32)


@njit(nogil=True, cache=True)
def encode(begin: int, end: int, events: Any, codes: Any, height: int, width: int) -> None:
    """Codes of rows `begin` to `end` of all steps.

    Args:
        begin: first row; steps lie below each other.
        end: last row, excluded.
        events: flat [T, 2, H, W], 0 or else.
        codes: [T, H + 2, W] uint8, its first and last row of each step left alone, the others written.
        height: H.
        width: W.
    """
    plane = height * width
    for row in range(begin, end):
        step, y = row // height, row % height
        off = events[(2 * step * height + y) * width : (2 * step * height + y + 1) * width]
        on = events[(2 * step * height + y) * width + plane : (2 * step * height + y + 1) * width + plane]
        out = codes[step, y + 1]
        here = 0
        right = int(off[0] != 0) + 2 * int(on[0] != 0)
        for x in range(width):
            left, here = here, right
            right = 0
            if x + 1 < width:
                right = int(off[x + 1] != 0) + 2 * int(on[x + 1] != 0)
            out[x] = left + 4 * here + 16 * right


@njit(nogil=True, cache=True, error_model="numpy")
def convolve_pool_fire(
    begin: int, end: int, codes: Any, table: Any, spikes: Any, channels: int, rate: Any, threshold: Any
) -> None:
    """Spikes of the pooled rows `begin` to `end`.

    Args:
        begin: first pooled row.
        end: last pooled row, excluded.
        codes: [T, H + 2, W] uint8, rows of zeros around.
        table: flat [3, 64, C] float32.
        spikes: flat [T, H / 2, W / 2, C] uint8, float32 or bfloat16 bits, written.
        channels: C.
        rate: 1 / tau.
        threshold: charge at which a neuron fires.
    """
    steps, padded, width = codes.shape
    rows, columns = (padded - 2) // 2, width // 2
    current = np.empty(channels, np.float32)
    membrane = np.empty(channels, np.float32)
    lanes, row_of_table = uintp(channels), uintp(CODES * channels)
    for row in range(begin, end):
        for column in range(columns):
            membrane[:] = _ZERO
            for step in range(steps):
                for corner in range(4):
                    y, x = 2 * row + corner // 2, 2 * column + corner % 2
                    first = uintp(codes[step, y, x]) * lanes
                    second = uintp(codes[step, y + 1, x]) * lanes + row_of_table
                    third = uintp(codes[step, y + 2, x]) * lanes + row_of_table + row_of_table
                    if corner == 0:
                        for k in range(lanes):
                            current[k] = table[first + k] + table[second + k] + table[third + k]
                    else:
                        for k in range(lanes):
                            value = table[first + k] + table[second + k] + table[third + k]
                            current[k] = value if (value >= current[k] or value != value) else current[k]
                into = uintp((step * rows + row) * columns + column) * lanes
                for k in range(lanes):
                    charge = fma(current[k] - membrane[k], rate, membrane[k])
                    fired = _ONE if charge >= threshold else _ZERO
                    spikes[into + k] = narrow(fired, spikes[into + k])
                    membrane[k] = charge - charge * fired
