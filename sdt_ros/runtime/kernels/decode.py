"""The last step of the depth decoder as one pass: upsampling, events beside it, ReLU and the convolution to depth.

At full resolution every intermediate would be as large as the input. Here a row of pixels is taken through all of it
while it lies in the nearest caches. Channels are planes, so that vector registers run along the row.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sdt_ros.compiled import njit
from sdt_ros.runtime.kernels.bits import fma

_ZERO, _QUARTER, _HALF, _ONE = np.float32(0), np.float32(0.25), np.float32(0.5), np.float32(1)


@njit(nogil=True, cache=True, error_model="numpy")
def _mean_row(row: int, spikes: Any, steps: int, polarities: int, height: int, width: int, mean: Any) -> None:
    """Mean over time of one row of spikes; rows outside are empty."""
    mean[:] = _ZERO
    if row < 0 or row >= height:
        return
    share = _ONE / np.float32(steps)
    for polarity in range(polarities):
        total = mean[polarity, 1 : width + 1]
        for step in range(steps):
            at = ((step * polarities + polarity) * height + row) * width
            part = spikes[at : at + width]
            for k in range(width):
                total[k] += np.float32(part[k])
        for k in range(width):
            total[k] *= share


@njit(nogil=True, cache=True, error_model="numpy")
def upsampled_row(row: int, plane: Any, rows: int, columns: int, blend: Any, into: Any) -> None:
    """One row of a plane [rows * columns] at twice its resolution, bilinear, pixel centres aligned."""
    source = max(_ZERO, np.float32(row) * _HALF - _QUARTER)
    first = int(source)
    low = source - np.float32(first)
    upper = plane[first * columns : (first + 1) * columns]
    second = min(first + 1, rows - 1)
    lower = plane[second * columns : (second + 1) * columns]
    for k in range(columns):
        blend[k + 1] = fma(lower[k], low, upper[k] * (_ONE - low))
    blend[0], blend[columns + 1] = blend[1], blend[columns]
    for k in range(columns):
        near = blend[k + 1] * np.float32(0.75)
        into[2 * k] = fma(blend[k], _QUARTER, near)
        into[2 * k + 1] = fma(blend[k + 2], _QUARTER, near)


@njit(nogil=True, cache=True, error_model="numpy")
def decode(
    begin: int,
    end: int,
    spikes: Any,
    coarse: Any,
    lateral: Any,
    lateral_bias: Any,
    depth: Any,
    depth_bias: Any,
    out: Any,
    kept: Any,
    steps: int,
    polarities: int,
    height: int,
    width: int,
) -> None:
    """Rows `begin` to `end` of the log depth.

    Args:
        begin: first row.
        end: last row, excluded.
        spikes: flat [T, P, H, W], 0 or 1.
        coarse: [C, H/2 * W/2] float32, what is upsampled.
        lateral: [C, P, 3, 3] float32, weights of the events' mean over time.
        lateral_bias: [C] float32.
        depth: [C, 3, 3] float32, weights of the depth.
        depth_bias: of the depth.
        out: flat [H, W] float32, written.
        kept: flat [C, H, W] float32, what the last convolution reads, written; or empty.
        steps: T.
        polarities: P.
        height: H, even.
        width: W, even.
    """
    channels = coarse.shape[0]
    means = np.zeros((3, polarities, width + 2), np.float32)  # the rows around the present one, one pixel of border
    features = np.zeros((3, channels, width + 2), np.float32)
    blend = np.empty(width // 2 + 2, np.float32)
    for row in range(begin - 2, begin):
        _mean_row(row, spikes, steps, polarities, height, width, means[row % 3])
    for row in range(begin - 1, end + 1):
        _mean_row(row + 1, spikes, steps, polarities, height, width, means[(row + 1) % 3])
        for channel in range(channels):
            line = features[row % 3, channel, 1 : width + 1]
            if row < 0 or row >= height:
                line[:] = _ZERO
                continue
            upsampled_row(row, coarse[channel], height // 2, width // 2, blend, line)
            for polarity in range(polarities):
                for tap in range(9):
                    weight = lateral[channel, polarity, tap // 3, tap % 3]
                    mean = means[(row + tap // 3 - 1) % 3, polarity, tap % 3 : tap % 3 + width]
                    for k in range(width):
                        line[k] = fma(mean[k], weight, line[k])
            bias = lateral_bias[channel]
            for k in range(width):
                value = line[k] + bias
                line[k] = _ZERO if value < _ZERO else value  # a NaN stays
            if kept.size > 0:
                seen = kept[(channel * height + row) * width : (channel * height + row + 1) * width]
                for k in range(width):  # to assign an array would take seconds to compile
                    seen[k] = line[k]
        if row <= begin:
            continue
        written = out[(row - 1) * width : row * width]
        written[:] = depth_bias
        for channel in range(channels):
            for tap in range(9):
                weight = depth[channel, tap // 3, tap % 3]
                line = features[(row - 2 + tap // 3) % 3, channel, tap % 3 : tap % 3 + width]
                for k in range(width):
                    written[k] = fma(line[k], weight, written[k])
