"""How well the bins of a window agree once their spikes are put where they would be at one moment.

What moves leaves its spikes in other cells in each bin. Depth and the camera's motion say how far each has gone; with
the right depth the bins lie on top of each other. Contrast maximisation (Gallego et al., CVPR 2018) asks for sharpness
of their sum; what is taken here is the correlation of the bins with each other, which does not grow when depth so near
that all flies together leaves few cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdt_ros.compiled import njit
from sdt_ros.egomotion.twist import Travel
from sdt_ros.egomotion.view import View

MOST_SPIKES = 100_000
"""Spikes that are warped, at most; a window of 346x260 at half resolution seldom has more."""

TILE = 8
"""Side of the tiles that the picture is looked at in [cells]."""

_NEAREST = 0.02  # [m], of a warped point: what is behind the camera is not seen


@dataclass(frozen=True, eq=False)
class Agreement:
    """What N factors of the depth do to the bins of one window, tile by tile.

    With the bins' pictures I_k, ON less OFF, `across / within`, each summed over any tiles, is the mean product of two
    bins over the mean square of one. Only bins T // 2 apart or more are compared: an edge fires several times
    in a pixel, so that neighbouring bins agree best with no motion at all.

    Attributes:
        across: float32 [N, rows, columns], products of bins, scaled to as many pairs as `within` has squares.
        within: float32 [N, rows, columns], sum of squares: how much there is to compare.
    """

    across: NDArray[np.float32]
    within: NDArray[np.float32]


def agreement(
    spikes: NDArray[np.uint8],
    depth: NDArray[np.float32],
    view: View,
    travel: Travel,
    factors: NDArray[np.float32],
) -> Agreement:
    """Puts each spike where it would be in the middle of the window, for each factor of the depth.

    Args:
        spikes: uint8 [T, 2, H, W] in {0, 1}, oldest bin first; 1 is ON. T is 2 or more.
        depth: float32 [h, w], any resolution of the same picture [m]; cells where it is NaN are left out.
        view: of the spikes' grid.
        travel: of the camera in its optical axes, from each bin to the middle of the window.
        factors: float32 [N], what depth is multiplied by.

    Raises:
        ValueError: there is one bin only, or the view is of another grid.
    """
    bins, _, height, width = spikes.shape
    if bins < 2:
        raise ValueError("a window of one bin has nothing to compare; motion shows in two bins or more")
    if view.size != (height, width):
        raise ValueError(f"the view is of {view.size[0]}x{view.size[1]} cells, the spikes are of {height}x{width}")
    t_bin, polarity, row, column = np.nonzero(spikes)
    if row.size > MOST_SPIKES:
        every = (np.arange(MOST_SPIKES) * (row.size / MOST_SPIKES)).astype(np.intp)
        t_bin, polarity, row, column = t_bin[every], polarity[every], row[every], column[every]
    near = depth[(2 * row + 1) * depth.shape[0] // (2 * height), (2 * column + 1) * depth.shape[1] // (2 * width)]
    x, y = view.rays[:, row, column]
    known = np.isfinite(near) & np.isfinite(x)
    tiles = len(factors), -(-height // TILE), -(-width // TILE)
    across, within = np.zeros(tiles, np.float32), np.zeros(tiles, np.float32)
    _compare(
        t_bin[known].astype(np.int32), np.where(polarity[known] == 1, 1, -1).astype(np.float32),
        x[known], y[known], near[known].astype(np.float32),
        travel.shift.astype(np.float32), travel.turn.astype(np.float32),
        np.array([*view.focal, *view.centre], np.float32),
        np.empty((height, width, bins), np.float32), factors.astype(np.float32), across, within,
    )  # fmt: skip
    return Agreement(across, within)


def compile_loops() -> None:
    """Have the loops compiled, or loaded, before windows wait for them."""
    view = View.pinhole(np.eye(3), (2, 2))
    still = Travel(np.zeros((2, 3)), np.zeros((2, 3)))
    agreement(np.zeros((2, 2, 2, 2), np.uint8), np.ones((2, 2), np.float32), view, still, np.ones(1, np.float32))


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "arcp", "nsz"})
def _compare(  # type: ignore[no-untyped-def]
    t_bin, sign, x, y, depth, shift, turn, lens, images, factors, across, within
):
    """See `agreement`; spikes as lists, `images` is room for a picture of each bin."""
    height, width, bins = images.shape
    apart = max(1, bins // 2)
    share = np.float32(bins / ((bins - apart) * (bins - apart + 1) / 2))  # of as many squares as there are pairs
    for n in range(len(factors)):
        images[:] = 0
        for i in range(len(t_bin)):
            z = depth[i] * factors[n]
            px, py, k = x[i] * z, y[i] * z, t_bin[i]
            # A point that stands still moves against the camera: dP = -shift - turn x P.
            qz = z - shift[k, 2] - turn[k, 0] * py + turn[k, 1] * px
            if qz < np.float32(_NEAREST):
                continue
            u = lens[0] * (px - shift[k, 0] - turn[k, 1] * z + turn[k, 2] * py) / qz + lens[2]
            v = lens[1] * (py - shift[k, 1] - turn[k, 2] * px + turn[k, 0] * z) / qz + lens[3]
            if not (0 <= u < width - 1 and 0 <= v < height - 1):
                continue
            column, row = int(u), int(v)
            right, below = u - np.float32(column), v - np.float32(row)
            upper, lower = sign[i] * (1 - below), sign[i] * below
            images[row, column, k] += upper * (1 - right)
            images[row, column + 1, k] += upper * right
            images[row + 1, column, k] += lower * (1 - right)
            images[row + 1, column + 1, k] += lower * right
        for row in range(height):
            for column in range(width):
                pairs, squares = np.float32(0), np.float32(0)
                for k in range(bins):
                    value = images[row, column, k]
                    squares += value * value
                    for other in range(k + apart, bins):
                        pairs += value * images[row, column, other]
                across[n, row // TILE, column // TILE] += pairs * share
                within[n, row // TILE, column // TILE] += squares
