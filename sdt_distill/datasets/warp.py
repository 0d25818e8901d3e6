"""Frames onto the event camera's grid: homographies, inverted rectification maps, bilinear sampling."""

from __future__ import annotations

import numpy as np

from sdt_ros.compiled import njit


def homography_grid(matrix: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of a grid lies in another image.

    Args:
        matrix: [3, 3] from homogeneous pixels of the grid to those of the other image.
        height: rows of the grid.
        width: columns of the grid.

    Returns:
        Columns and rows in the other image [px], float64 [H, W] each; NaN behind the other camera.
    """
    rows, columns = np.mgrid[0:height, 0:width]
    points = matrix @ np.stack([columns.ravel(), rows.ravel(), np.ones(rows.size)])
    scale = np.where(points[2] > 0, points[2], np.nan)
    x, y = points[:2] / scale
    return x.reshape(height, width), y.reshape(height, width)


def sample_bilinear(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sample an image at places between its pixels.

    Args:
        image: uint8 [h, w] or [h, w, C].
        x: columns [px], [H, W].
        y: rows [px], [H, W].

    Returns:
        uint8 [H, W] or [H, W, C]; 0 outside of the image.
    """
    planes = image[..., None] if image.ndim == 2 else image
    sampled = np.zeros((*x.shape, planes.shape[2]), np.uint8)
    _sample(planes, np.asarray(x, np.float64), np.asarray(y, np.float64), sampled)
    return sampled[..., 0] if image.ndim == 2 else sampled


@njit(nogil=True, cache=True)
def _sample(image, x, y, sampled):  # type: ignore[no-untyped-def]
    h, w, channels = image.shape
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            u, v = x[i, j], y[i, j]
            if not (0 <= u <= w - 1 and 0 <= v <= h - 1):  # NaN too
                continue
            left, top = int(u), int(v)
            right, below = min(left + 1, w - 1), min(top + 1, h - 1)
            a, b = u - left, v - top
            for c in range(channels):
                upper = image[top, left, c] * (1 - a) + image[top, right, c] * a
                lower = image[below, left, c] * (1 - a) + image[below, right, c] * a
                sampled[i, j, c] = int(upper * (1 - b) + lower * b + 0.5)


def invert_map(map_x: np.ndarray, map_y: np.ndarray, rounds: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """From a map "where does this pixel go" to "where does this pixel come from".

    Each grid point g looks for the place r with map(r) = g by r <- r + (g - map(r)), which closes in as lenses bend
    space only mildly; where it does not get within half a pixel, no pixel goes there.

    Args:
        map_x: [H, W] rectified column of each pixel [px].
        map_y: the same for rows.
        rounds: of the iteration.

    Returns:
        Columns and rows of the source of each rectified pixel [px], float64 [H, W] each; NaN where there is none.
    """
    height, width = map_x.shape
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    x, y = columns.copy(), rows.copy()
    for _ in range(rounds):
        there_x, there_y = _interpolate(map_x, x, y), _interpolate(map_y, x, y)
        # A little beyond the edge is let through, or the border would stick to it.
        x = np.clip(x + columns - there_x, -1, width)
        y = np.clip(y + rows - there_y, -1, height)
    error = np.hypot(_interpolate(map_x, x, y) - columns, _interpolate(map_y, x, y) - rows)
    found = (error < 0.5) & (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    return np.where(found, x, np.nan), np.where(found, y, np.nan)


def _interpolate(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear, and linear beyond the edges."""
    h, w = values.shape
    left = np.clip(np.floor(x).astype(np.intp), 0, max(w - 2, 0))
    top = np.clip(np.floor(y).astype(np.intp), 0, max(h - 2, 0))
    right, below = np.minimum(left + 1, w - 1), np.minimum(top + 1, h - 1)
    a, b = x - left, y - top
    upper = values[top, left] * (1 - a) + values[top, right] * a
    lower = values[below, left] * (1 - a) + values[below, right] * a
    return np.asarray(upper * (1 - b) + lower * b)
