"""Compiled loops of the decoder's last step, forward and backward: upsampling, a sum, ReLU, a 3x3 convolution to depth.

At full resolution the few channels of this step cost more time in memory than in arithmetic. One image is taken
through all of it; what lies between is computed again for the backward pass, not kept. Inside, channels are planes,
so that vector registers run along the rows; outside, tensors are channels last.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sdt_ros.compiled import njit
from sdt_ros.runtime.kernels.bits import fma, narrow, widen
from sdt_ros.runtime.kernels.decode import upsampled_row

_ZERO, _QUARTER, _HALF, _ONE = np.float32(0), np.float32(0.25), np.float32(0.5), np.float32(1)
_THREE_QUARTERS = np.float32(0.75)


@njit(nogil=True, cache=True, error_model="numpy")
def _features(image: int, coarse: Any, lateral: Any, rows: int, columns: int, features: Any) -> None:
    """Write relu(upsampled + lateral) of one image into planes [C, 2 rows + 2, 2 columns + 2] whose border is 0."""
    channels = features.shape[0]
    plane = np.empty(rows * columns, np.float32)
    blend = np.empty(columns + 2, np.float32)
    width = 2 * columns
    for channel in range(channels):
        first = image * rows * columns * channels + channel
        for pixel in range(rows * columns):
            plane[pixel] = widen(coarse[first + pixel * channels])
        for row in range(2 * rows):
            line = features[channel, row + 1, 1 : width + 1]
            upsampled_row(row, plane, rows, columns, blend, line)
            first = (image * 2 * rows + row) * width * channels + channel
            for k in range(width):
                value = line[k] + widen(lateral[first + k * channels])
                line[k] = _ZERO if value < _ZERO else value  # a NaN stays


@njit(nogil=True, cache=True, error_model="numpy")
def finish(
    begin: int, end: int, coarse: Any, lateral: Any, weight: Any, bias: Any, out: Any, rows: int, columns: int
) -> None:
    """Depth of images `begin` to `end`.

    Args:
        begin: first image.
        end: last image, excluded.
        coarse: flat [N, rows, columns, C], what is upsampled.
        lateral: flat [N, 2 rows, 2 columns, C], what is added.
        weight: [C, 3, 3] float32.
        bias: float32.
        out: [N, 2 rows, 2 columns] float32, written.
        rows: of `coarse`.
        columns: of `coarse`.
    """
    channels, width = weight.shape[0], 2 * columns
    features = np.zeros((channels, 2 * rows + 2, width + 2), np.float32)
    for image in range(begin, end):
        _features(image, coarse, lateral, rows, columns, features)
        for row in range(2 * rows):
            written = out[image, row]
            written[:] = bias
            for channel in range(channels):
                for tap in range(9):
                    factor = weight[channel, tap // 3, tap % 3]
                    line = features[channel, row + tap // 3, tap % 3 : tap % 3 + width]
                    for k in range(width):
                        written[k] = fma(line[k], factor, written[k])


@njit(nogil=True, cache=True, error_model="numpy")
def finish_grad(
    begin: int,
    end: int,
    coarse: Any,
    lateral: Any,
    weight: Any,
    grad: Any,
    grad_coarse: Any,
    grad_lateral: Any,
    grad_weight: Any,
    rows: int,
    columns: int,
    leak: float,
) -> None:
    """Gradients of images `begin` to `end`, arguments as in `finish`.

    Args:
        begin: first image.
        end: last image, excluded.
        coarse: as given to `finish`.
        lateral: as given to `finish`.
        weight: as given to `finish`.
        grad: [N, 2 rows, 2 columns] float32, of the depth.
        grad_coarse: flat like `coarse`, written.
        grad_lateral: flat like `lateral`, written.
        grad_weight: [N, C, 3, 3] float32, written: each image's share.
        rows: of `coarse`.
        columns: of `coarse`.
        leak: float32, share of the gradient that passes where a feature is 0.
    """
    channels, height, width = weight.shape[0], 2 * rows, 2 * columns
    features = np.zeros((channels, height + 2, width + 2), np.float32)
    outer = np.zeros((height + 2, width + 2), np.float32)  # the gradient with a border of 0
    plane = np.empty((rows, columns), np.float32)
    line, blend, total = np.empty(width, np.float32), np.empty(columns, np.float32), np.empty(width, np.float32)
    for image in range(begin, end):
        _features(image, coarse, lateral, rows, columns, features)
        outer[1 : height + 1, 1 : width + 1] = grad[image]
        for channel in range(channels):
            for tap in range(9):
                total[:] = _ZERO
                for row in range(height):
                    seen = features[channel, row + tap // 3, tap % 3 : tap % 3 + width]
                    given = outer[row + 1, 1 : width + 1]
                    for k in range(width):
                        total[k] = fma(seen[k], given[k], total[k])
                grad_weight[image, channel, tap // 3, tap % 3] = np.float32(total.sum())
            plane[:] = _ZERO
            for row in range(height):
                line[:] = _ZERO
                for tap in range(9):
                    factor = weight[channel, tap // 3, tap % 3]
                    given = outer[row + 2 - tap // 3, 2 - tap % 3 : 2 - tap % 3 + width]
                    for k in range(width):
                        line[k] = fma(given[k], factor, line[k])
                active = features[channel, row + 1, 1 : width + 1]
                for k in range(width):
                    line[k] = line[k] * leak if active[k] <= _ZERO else line[k]
                first = (image * height + row) * width * channels + channel
                for k in range(width):
                    grad_lateral[first + k * channels] = narrow(line[k], grad_lateral[first + k * channels])
                _add_coarse_row(row, line, rows, columns, blend, plane)
            first = image * rows * columns * channels + channel
            for row in range(rows):
                for k in range(columns):
                    at = first + (row * columns + k) * channels
                    grad_coarse[at] = narrow(plane[row, k], grad_coarse[at])


@njit(nogil=True, cache=True, error_model="numpy")
def _add_coarse_row(row: int, line: Any, rows: int, columns: int, blend: Any, plane: Any) -> None:
    """What `upsampled_row` does, backward: a row's gradient, added to that of its plane [rows, columns]."""
    for k in range(columns):
        blend[k] = (line[2 * k] + line[2 * k + 1]) * _THREE_QUARTERS
    for k in range(columns - 1):
        blend[k] = fma(line[2 * k + 2], _QUARTER, blend[k])
        blend[k + 1] = fma(line[2 * k + 1], _QUARTER, blend[k + 1])
    blend[0] = fma(line[0], _QUARTER, blend[0])
    blend[columns - 1] = fma(line[2 * columns - 1], _QUARTER, blend[columns - 1])
    source = max(_ZERO, np.float32(row) * _HALF - _QUARTER)
    first = int(source)
    low = source - np.float32(first)
    upper, lower = plane[first], plane[min(first + 1, rows - 1)]
    for k in range(columns):
        upper[k] = fma(blend[k], _ONE - low, upper[k])
    for k in range(columns):
        lower[k] = fma(blend[k], low, lower[k])
