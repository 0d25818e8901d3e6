"""Where the cells of a spike tensor look."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdt_ros.calibration import Calibration

_WIDEST = math.tan(math.radians(65))  # beyond that angle off the axis, cells are not compared


@dataclass(frozen=True, eq=False)
class View:
    """The rays of a grid of cells, and the pinhole camera without distortion that their warped spikes are seen by.

    Attributes:
        rays: float32 [2, H, W], x and y of each cell's ray at z = 1, distortion taken off; NaN where it has none.
        focal: fx and fy [cells].
        centre: cx and cy [cells].
    """

    rays: NDArray[np.float32]
    focal: tuple[float, float]
    centre: tuple[float, float]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return self.rays.shape[1], self.rays.shape[2]

    @classmethod
    def pinhole(cls, k: NDArray[np.float64], size: tuple[int, int]) -> View:
        """Of a camera without distortion.

        Args:
            k: [3, 3], intrinsics on the grid itself [cells].
            size: rows and columns.
        """
        rows, columns = np.mgrid[0 : size[0], 0 : size[1]].astype(float)
        rays = np.stack([(columns - k[0, 2]) / k[0, 0], (rows - k[1, 2]) / k[1, 1]])
        return cls(rays.astype(np.float32), (k[0, 0], k[1, 1]), (k[0, 2], k[1, 2]))

    @classmethod
    def of(cls, calibration: Calibration, size: tuple[int, int]) -> View:
        """Of a calibrated sensor, seen on a grid of so many rows and columns."""
        rows, columns = np.mgrid[0 : size[0], 0 : size[1]].astype(float)
        down, across = calibration.height / size[0], calibration.width / size[1]  # pixels of a cell
        k = calibration.k
        y = ((rows + 0.5) * down - 0.5 - k[1, 2]) / k[1, 1]
        x = ((columns + 0.5) * across - 0.5 - k[0, 2] - k[0, 1] * y) / k[0, 0]
        rays = np.stack(calibration.undistorted(x, y))
        rays[:, np.hypot(*rays) > _WIDEST] = np.nan
        centre = (k[0, 2] + 0.5) / across - 0.5, (k[1, 2] + 0.5) / down - 0.5
        # Without its distortion a wide lens's picture is larger than the sensor: it is made to fit.
        reach = [np.nanmax(np.abs(axis), initial=1e-6) for axis in rays]
        room = min(centre[0], size[1] - 1 - centre[0]), min(centre[1], size[0] - 1 - centre[1])
        focal = [
            min(f, max(r, 1.0) / far) for f, r, far in zip((k[0, 0] / across, k[1, 1] / down), room, reach, strict=True)
        ]
        return cls(rays.astype(np.float32), (focal[0], focal[1]), centre)
