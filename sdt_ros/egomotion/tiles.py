"""The tiles of a picture: averaged over their surroundings, and brought back to cells and pixels."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from sdt_ros.egomotion.agreement import TILE
from sdt_ros.egomotion.view import View

_SPREAD = 1.5  # standard deviation of the window that a place is judged by [tiles]

AREA = 2 * math.pi * _SPREAD**2
"""Of that window [tiles]: so many tiles share what they know."""


def blurred(tiles: NDArray[np.float32]) -> NDArray[np.float64]:
    """Tiles [N, rows, columns] averaged over their surroundings; beyond the borders there is nothing."""
    out = tiles.astype(float)
    for axis in (1, 2):
        at = np.arange(out.shape[axis])
        kernel = np.exp(-0.5 * ((at[:, None] - at) / _SPREAD) ** 2) / (_SPREAD * math.sqrt(2 * math.pi))
        out = np.moveaxis(np.tensordot(kernel, out, (1, axis)), 0, axis)
    return out


def at_cells(tiles: NDArray[np.float64], view: View, otherwise: float) -> NDArray[np.float64]:
    """Values of tiles of the picture without distortion, at the cells of the sensor [H, W]; linear between tiles."""
    out = np.zeros(view.size)
    for places, weight in _corners(view):
        out += weight * np.take(tiles, places)
    return np.where(np.isfinite(view.rays[0]), out, otherwise)


@functools.lru_cache(maxsize=8)  # a camera's view stays as it is
def _corners(view: View) -> list[tuple[NDArray[np.intp], NDArray[np.float64]]]:
    """The four tiles that each cell lies between, as places in the flat tiles, with their weights."""
    count = [-(-cells // TILE) for cells in view.size]
    low, share = [], []
    for axis, ray in enumerate(view.rays[::-1]):  # rows are y
        at = (np.nan_to_num(ray) * view.focal[1 - axis] + view.centre[1 - axis] + 0.5) / TILE - 0.5
        at = np.clip(at, 0, count[axis] - 1)
        low.append(np.minimum(at.astype(int), max(0, count[axis] - 2)))
        share.append(at - low[-1])
    corners = []
    for down in (0, 1):
        for right in (0, 1):
            weight = np.abs(1 - down - share[0]) * np.abs(1 - right - share[1])
            row, column = (np.minimum(low[k] + step, count[k] - 1) for k, step in ((0, down), (1, right)))
            corners.append((row * count[1] + column, weight))
    return corners


def enlarged(cells: NDArray[np.float64], size: tuple[int, ...]) -> NDArray[np.float32]:
    """Values of cells on a picture of another size, linear between the cells' centres."""
    picture = torch.from_numpy(cells.astype(np.float32))[None, None]
    large: NDArray[np.float32] = functional.interpolate(picture, size, mode="bilinear")[0, 0].numpy()
    return large
