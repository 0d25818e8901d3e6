"""The grid that the events of a rectified camera go to."""

from __future__ import annotations

import numpy as np


def rectified_cells(map_x: np.ndarray, map_y: np.ndarray, height: int, width: int) -> np.ndarray:
    """The cell of the rectified grid that each pixel's events go to.

    Args:
        map_x: [h, w] rectified column of each pixel of the sensor [px].
        map_y: the same for rows.
        height: rows of the rectified grid.
        width: its columns.

    Returns:
        int32 [h, w]: row * width + column, rounded to the nearest; -1 for pixels that fall off the grid.
    """
    known = np.isfinite(map_x) & np.isfinite(map_y)
    x, y = (np.rint(np.where(known, m, -1.0)).clip(-1, 1 << 20).astype(np.int64) for m in (map_x, map_y))
    inside = known & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return np.where(inside, y * width + x, -1).astype(np.int32)
