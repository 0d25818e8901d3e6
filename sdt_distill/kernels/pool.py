"""Compiled loops of batch norm followed by a 2x2 max pool, forward and backward, channels last.

The norm's output is never written: the pool takes it from registers, and backward computes it again. Coefficients are
given for every value of a row of pixels. Rows are pooled first, then columns, and a tie shares its gradient, as
`torch.maximum` has it in `sdt_ros.network.stem`: spikes make many equal currents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import uintp

from sdt_ros.compiled import njit
from sdt_ros.runtime.kernels.bits import fma, narrow, widen

ROWS = 8  # pooled rows whose sums are taken in float32
_ZERO = np.float32(0)
_HALF = np.float32(0.5)
_ONE = np.float32(1)


@njit(nogil=True, cache=True, inline="always")
def _larger(a: Any, b: Any) -> Any:
    """The larger one, or the NaN."""
    return a if (a >= b or a != a) else b


@njit(nogil=True, cache=True, inline="always")
def _share(a: Any, b: Any) -> Any:
    """Share of the gradient of max(a, b) that goes to a; of a NaN's, all."""
    return _HALF if a == b else (_ZERO if a < b else _ONE)


@njit(nogil=True, cache=True)
def pool(begin: int, end: int, x: Any, y: Any, channels: int, scale: Any, offset: Any) -> None:
    """Write the pooled rows `begin` to `end` of all images' rows.

    Args:
        begin: first pooled row; images lie below each other.
        end: last pooled row, excluded.
        x: flat, two rows of W * channels values for each pooled row.
        y: flat, W / 2 * channels values a pooled row, written.
        channels: their number.
        scale: [W * channels] float32.
        offset: [W * channels] float32.
    """
    width = scale.size
    tall = np.empty(width, np.float32)
    for row in range(begin, end):
        top = x[2 * row * width : (2 * row + 1) * width]
        bottom = x[(2 * row + 1) * width : (2 * row + 2) * width]
        for k in range(width):
            tall[k] = _larger(fma(widen(top[k]), scale[k], offset[k]), fma(widen(bottom[k]), scale[k], offset[k]))
        # Indices instead of slices: a slice counts references, which costs more than the few channels of a pixel.
        lanes = uintp(channels)
        for pixel in range(width // (2 * channels)):
            left, into = uintp(2 * pixel * channels), uintp(row * (width // 2) + pixel * channels)
            for k in range(lanes):
                y[into + k] = narrow(_larger(tall[left + k], tall[left + lanes + k]), y[into + k])


@njit(nogil=True, cache=True)
def _route(
    top: Any, bottom: Any, grad: Any, channels: int, scale: Any, offset: Any, up: Any, down: Any, tall: Any
) -> None:
    """Gradients [W * channels] of the norm's output in two rows, from that of one pooled row."""
    width = scale.size
    for k in range(width):  # rounded as they would be in memory: ties are decided by that
        up[k] = widen(narrow(fma(widen(top[k]), scale[k], offset[k]), top[k]))
    for k in range(width):
        down[k] = widen(narrow(fma(widen(bottom[k]), scale[k], offset[k]), top[k]))
    for k in range(width):
        tall[k] = _larger(up[k], down[k])
    lanes = uintp(channels)
    for pixel in range(width // (2 * channels)):
        left, from_ = uintp(2 * pixel * channels), uintp(pixel * channels)
        for k in range(lanes):
            value, a, b = widen(grad[from_ + k]), tall[left + k], tall[left + lanes + k]
            tall[left + k] = value * _share(a, b)
            tall[left + lanes + k] = value * _share(b, a)
    for k in range(width):
        a, b = up[k], down[k]
        up[k] = tall[k] * _share(a, b)
        down[k] = tall[k] * _share(b, a)


@njit(nogil=True, cache=True)
def pool_grad(
    begin: int,
    end: int,
    x: Any,
    grad: Any,
    grad_y: Any,
    channels: int,
    scale: Any,
    offset: Any,
    around: Any,
    sums: Any,
) -> None:
    """Write g, the gradient of the norm's output, and its sums, for blocks of `ROWS` pooled rows.

    Args:
        begin: first block.
        end: last block, excluded.
        x: input of the norm, flat, as in `pool`.
        grad: gradient of the pooled values, flat.
        grad_y: flat as `x`, written: g, which halves and quarters exactly in any of the formats.
        channels: their number.
        scale: [W * channels] float32.
        offset: [W * channels] float32.
        around: [W * channels] float32.
        sums: [blocks, 2, W * channels] float32, written: sums of g and of g * (x - around).
    """
    width = scale.size
    up, down, tall = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    rows = x.size // (2 * width)
    for number in range(begin, end):
        first, second = sums[number, 0], sums[number, 1]
        first[:] = _ZERO
        second[:] = _ZERO
        for row in range(number * ROWS, min(rows, (number + 1) * ROWS)):
            top = x[2 * row * width : (2 * row + 1) * width]
            bottom = x[(2 * row + 1) * width : (2 * row + 2) * width]
            _route(
                top, bottom, grad[row * (width // 2) : (row + 1) * (width // 2)],
                channels, scale, offset, up, down, tall,
            )  # fmt: skip
            for k in range(width):
                first[k] += up[k] + down[k]
            out = grad_y[2 * row * width : (2 * row + 1) * width]
            for k in range(width):
                out[k] = narrow(up[k], out[k])
            out = grad_y[(2 * row + 1) * width : (2 * row + 2) * width]
            for k in range(width):
                out[k] = narrow(down[k], out[k])
            for k in range(width):
                up[k] *= widen(top[k]) - around[k]
            for k in range(width):
                down[k] *= widen(bottom[k]) - around[k]
            for k in range(width):
                second[k] += up[k] + down[k]
