"""Spikes on a smaller grid, by the rule that `EventStream` bins with."""

from __future__ import annotations

import numpy as np


def reduced_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width that a network sees of a sensor, for the `input_scale` of its card."""
    return max(1, round(height * scale)), max(1, round(width * scale))


def reduce_spikes(spikes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Spikes on a smaller grid: a cell is 1 where any pixel is that the node counts to it, pixel y of H to y h // H.

    Args:
        spikes: uint8 [T, P, H, W] in {0, 1}.
        height: rows h of the smaller grid, at most H.
        width: columns w, at most W.

    Returns:
        uint8 [T, P, h, w]; the same array where nothing is to be done.
    """
    for axis, size in ((2, height), (3, width)):
        full = spikes.shape[axis]
        if size != full:
            starts = -(-np.arange(size) * full // size)  # the first row whose number times size / full reaches the cell
            spikes = np.maximum.reduceat(spikes, starts, axis)
    return spikes
