"""How well the bins of one or several windows agree once their spikes are put where they would be at one moment.

What moves leaves its spikes in other cells in each bin. Depth and the camera's motion say how far each has gone; with
the right depth the bins lie on top of each other. Contrast maximisation (Gallego et al., CVPR 2018) asks for sharpness
of their sum; what is taken here is the correlation of the bins with each other, which does not grow when depth so near
that all flies together leaves few cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdt_ros.compiled import njit
from sdt_ros.egomotion.twist import Travel
from sdt_ros.egomotion.view import View
from sdt_ros.runtime.kernels.parallel import spread

MOST_SPIKES = 100_000
"""Spikes that are warped, at most; a window of 346x260 at half resolution seldom has more."""

TILE = 8
"""Side of the tiles that the picture is looked at in [cells]."""

_NEAREST = 0.02  # [m], of a warped point: what is behind the camera is not seen


@dataclass(frozen=True, eq=False)
class Look:
    """What a camera saw in one window, and how it has moved since.

    Attributes:
        spikes: uint8 [T, 2, H, W] in {0, 1}, oldest bin first; 1 is ON.
        depth: float32 [h, w], any resolution of the same picture [m]; cells where it is NaN are left out.
        travel: from each bin to the moment that all are compared at.
    """

    spikes: NDArray[np.uint8]
    depth: NDArray[np.float32]
    travel: Travel


@dataclass(frozen=True, eq=False)
class Agreement:
    """What N factors of the depth do to the bins of the windows looked at, tile by tile.

    With the bins' pictures I_k, ON less OFF, `across / within`, each summed over any tiles, is the mean product of two
    bins over the mean square of one. Only bins are compared that are half of all bins apart or more: an edge fires
    several times in a pixel, so that neighbouring bins agree best with no motion at all.

    Attributes:
        across: float32 [N, rows, columns], products of bins, scaled to as many pairs as `within` has squares.
        within: float32 [N, rows, columns], sum of squares: how much there is to compare.
    """

    across: NDArray[np.float32]
    within: NDArray[np.float32]


def agreement(looks: Sequence[Look], view: View, factors: NDArray[np.float32]) -> Agreement:
    """Puts each spike where it would be at the moment of all travels, for each factor of the depth.

    Args:
        looks: windows of equally many bins, the oldest first, two bins or more in all.
        view: of the spikes' grid.
        factors: float32 [N], what depth is multiplied by.

    Raises:
        ValueError: there is one bin only, or the view is of another grid.
    """
    height, width = view.size
    bins = sum(len(look.spikes) for look in looks)
    if bins < 2:
        raise ValueError("a window of one bin has nothing to compare; motion shows in two bins or more")
    for look in looks:
        if look.spikes.shape[2:] != view.size:
            rows, columns = look.spikes.shape[2:]
            raise ValueError(f"the view is of {height}x{width} cells, the spikes are of {rows}x{columns}")
    parts = [_spikes(look, view, k * bins // len(looks), MOST_SPIKES // len(looks)) for k, look in enumerate(looks)]
    tiles = len(factors), -(-height // TILE), -(-width // TILE)
    across, within = np.zeros(tiles, np.float32), np.zeros(tiles, np.float32)
    turn, shift = (np.concatenate([getattr(look.travel, name) for look in looks]) for name in ("turn", "shift"))
    spread(
        _compare, len(factors), len(factors) * 8 * height * width, *map(np.concatenate, zip(*parts, strict=True)),
        turn.astype(np.float32), shift.astype(np.float32), np.array([*view.focal, *view.centre], np.float32),
        factors.astype(np.float32), across, within, height, width, parts=2,
    )  # fmt: skip
    return Agreement(across, within)


def _spikes(look: Look, view: View, first_bin: int, most: int) -> tuple[NDArray[Any], ...]:
    """A window's spikes as lists: bin int32, sign float32, ray x and y float32, depth float32."""
    t_bin, polarity, row, column = np.nonzero(look.spikes)
    if row.size > most:
        every = (np.arange(most) * (row.size / most)).astype(np.intp)
        t_bin, polarity, row, column = t_bin[every], polarity[every], row[every], column[every]
    near = in_cells(look.depth, view.size)[row, column]
    x, y = view.rays[:, row, column]
    known = np.isfinite(near) & np.isfinite(x)
    sign = np.where(polarity[known] == 1, 1, -1).astype(np.float32)
    return (first_bin + t_bin[known]).astype(np.int32), sign, x[known], y[known], near[known].astype(np.float32)


def in_cells(depth: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """The depth [h, w] in the middle of each cell of a grid of so many rows and columns."""
    rows, columns = ((2 * np.arange(n) + 1) * of // (2 * n) for n, of in zip(size, depth.shape, strict=True))
    return depth[rows[:, None], columns]


def compile_loops() -> None:
    """Have the loops compiled, or loaded, before windows wait for them."""
    view = View.pinhole(np.eye(3), (2, 2))
    still = Travel(np.tile(np.eye(3), (2, 1, 1)), np.zeros((2, 3)))
    look = Look(np.zeros((2, 2, 2, 2), np.uint8), np.ones((2, 2), np.float32), still)
    agreement([look], view, np.ones(1, np.float32))


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "arcp", "nsz"})
def _compare(  # type: ignore[no-untyped-def]
    begin, end, t_bin, sign, x, y, depth, turn, shift, lens, factors, across, within, height, width
):
    """See `agreement`, for the factors `begin` to `end`; spikes as lists."""
    bins = len(turn)
    apart = max(1, bins // 2)
    images = np.empty((height, width, bins), np.float32)
    share = np.float32(bins / ((bins - apart) * (bins - apart + 1) / 2))  # of as many squares as there are pairs
    for n in range(begin, end):
        images[:] = 0
        for i in range(len(t_bin)):
            z = depth[i] * factors[n]
            px, py, k = x[i] * z, y[i] * z, t_bin[i]
            qz = turn[k, 2, 0] * px + turn[k, 2, 1] * py + turn[k, 2, 2] * z + shift[k, 2]
            if qz < np.float32(_NEAREST):
                continue
            qx = turn[k, 0, 0] * px + turn[k, 0, 1] * py + turn[k, 0, 2] * z + shift[k, 0]
            qy = turn[k, 1, 0] * px + turn[k, 1, 1] * py + turn[k, 1, 2] * z + shift[k, 1]
            u, v = lens[0] * qx / qz + lens[2], lens[1] * qy / qz + lens[3]
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
                pairs, squares, before = np.float32(0), np.float32(0), np.float32(0)
                for k in range(bins):
                    value = images[row, column, k]
                    squares += value * value
                    if k >= apart:
                        before += images[row, column, k - apart]  # of all bins that are far enough before this one
                        pairs += value * before
                across[n, row // TILE, column // TILE] += pairs * share
                within[n, row // TILE, column // TILE] += squares
