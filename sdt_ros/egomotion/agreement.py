"""How well the bins of one or several windows agree once their spikes are put where they would be at one moment.

What moves leaves its spikes in other cells in each bin. Depth and the camera's motion say how far each has gone; with
the right depth the bins lie on top of each other. Contrast maximisation (Gallego et al., CVPR 2018) asks for sharpness
of their sum; what is taken here is the correlation of the bins with each other, which does not grow when depth so near
that all flies together leaves few cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    points, counts, shifts = zip(*(_points(look, view, MOST_SPIKES // len(looks)) for look in looks), strict=True)
    tiles = len(factors), -(-height // TILE), -(-width // TILE)
    across, within = np.zeros(tiles, np.float32), np.zeros(tiles, np.float32)
    spread(
        _compare, len(factors), len(factors) * 8 * height * width, np.concatenate(points, 1), np.concatenate(counts),
        np.concatenate(shifts), factors.astype(np.float32), across, within, height, width, parts=2,
    )  # fmt: skip
    return Agreement(across, within)


def _points(look: Look, view: View, most: int) -> tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.float32]]:
    """A window's spikes as the view sees them after the camera's turn alone.

    Returns:
        float32 [4, S], bin after bin: column, row [cells] and 1, each times the depth [m], and 1 for ON, -1 for OFF;
        how many each bin has [T]; and the bins' shifts in the same coordinates, float32 [T, 3]. With depth multiplied
        by f, a spike is at f times its point plus its bin's shift.
    """
    lens = np.array([[view.focal[0], 0, view.centre[0]], [0, view.focal[1], view.centre[1]], [0, 0, 1]])
    turn, shift = (lens @ look.travel.turn).astype(np.float32), (look.travel.shift @ lens.T).astype(np.float32)
    fired = int(np.count_nonzero(look.spikes[:, 0] != look.spikes[:, 1]))
    points, counts = np.empty((4, min(most, fired)), np.float32), np.zeros(len(turn), np.intp)
    found = _list(look.spikes, in_cells(look.depth, view.size), view.rays, turn, fired, points, counts)
    return points[:, :found], counts, shift


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


_ANY_ORDER = {"reassoc", "contract", "arcp", "nsz"}  # of sums; NaN stays NaN
_CHUNK = 512  # spikes, whose places lie in the nearest cache until they are written down


@njit(nogil=True, cache=True, fastmath=_ANY_ORDER, error_model="numpy")
def _list(spikes, depth, rays, turn, fired, points, counts):  # type: ignore[no-untyped-def]
    """See `_points`; returns how many were found. Where ON and OFF are in one bin they cancel out."""
    bins, _, height, width = spikes.shape
    room = points.shape[1]
    seen, found = 0, 0
    for k in range(bins):
        for row in range(height):
            for column in range(width):
                off, on = spikes[k, 0, row, column], spikes[k, 1, row, column]
                if on == off:
                    continue
                seen += 1
                if room < fired and seen * room // fired == (seen - 1) * room // fired:
                    continue
                x, y, z = rays[0, row, column], rays[1, row, column], depth[row, column]
                if not (np.isfinite(z) and np.isfinite(x)):
                    continue
                for axis in range(3):
                    points[axis, found] = z * (turn[k, axis, 0] * x + turn[k, axis, 1] * y + turn[k, axis, 2])
                points[3, found] = np.float32(1) if on else np.float32(-1)
                found += 1
                counts[k] += 1
    return found


@njit(nogil=True, cache=True, fastmath=_ANY_ORDER, error_model="numpy")
def _compare(  # type: ignore[no-untyped-def]
    begin, end, points, counts, shift, factors, across, within, height, width
):
    """See `agreement`, for the factors `begin` to `end`."""
    bins = len(counts)
    apart = max(1, bins // 2)
    share = np.float32(bins / ((bins - apart) * (bins - apart + 1) / 2))  # of as many squares as there are pairs
    images = np.empty((bins, height, width), np.float32)
    for n in range(begin, end):
        first = 0
        for k in range(bins):
            images[k] = 0
            _draw(points[:, first : first + counts[k]], factors[n], shift[k], images[k])
            first += counts[k]
        _correlate(images, apart, across[n], within[n])
        across[n] *= share


@njit(nogil=True, cache=True, fastmath=_ANY_ORDER, error_model="numpy")
def _draw(points, factor, shift, image):  # type: ignore[no-untyped-def]
    """Adds spikes to the four cells that each is between; what leaves the picture is left out."""
    height, width = image.shape
    right_end, lower_end = np.float32(width - 1), np.float32(height - 1)
    cells, one, line = image.reshape(-1), np.uint64(1), np.uint64(width)  # signed places might count from the end
    columns, rows = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.float32)
    for first in range(0, points.shape[1], _CHUNK):
        count = min(_CHUNK, points.shape[1] - first)
        for i in range(count):
            z = factor * points[2, first + i] + shift[2]
            columns[i] = (factor * points[0, first + i] + shift[0]) / z
            rows[i] = (factor * points[1, first + i] + shift[1]) / z if z >= np.float32(_NEAREST) else np.float32(-1)
        for i in range(count):
            if not (0 <= columns[i] < right_end and 0 <= rows[i] < lower_end):
                continue
            column, row = np.int32(columns[i]), np.int32(rows[i])
            right, below = columns[i] - np.float32(column), rows[i] - np.float32(row)
            lower = points[3, first + i] * below
            upper = points[3, first + i] - lower
            cell = np.uint64(row) * line + np.uint64(column)
            cells[cell] += upper - upper * right
            cells[cell + one] += upper * right
            cells[cell + line] += lower - lower * right
            cells[cell + line + one] += lower * right


@njit(nogil=True, cache=True, fastmath=_ANY_ORDER, error_model="numpy")
def _correlate(images, apart, across, within):  # type: ignore[no-untyped-def]
    """Adds up the products of bins, each with all that are so far before it, and their squares, tile by tile."""
    bins, height, width = images.shape
    before, pairs, squares = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
    for row in range(height):
        before[:] = 0
        pairs[:] = 0
        squares[:] = 0
        for k in range(bins):
            now = images[k, row]
            if k >= apart:
                earlier = images[k - apart, row]
                for column in range(width):
                    before[column] += earlier[column]
                    pairs[column] += now[column] * before[column]
            for column in range(width):
                squares[column] += now[column] * now[column]
        for column in range(width):
            across[row // TILE, column // TILE] += pairs[column]
            within[row // TILE, column // TILE] += squares[column]
