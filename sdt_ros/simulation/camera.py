"""Pinhole cameras with plumb-bob distortion: rays of pixels, and pixels of points."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

import torch
from torch import Tensor

_INVERSIONS = 30  # fixed-point steps; far more than the distortions of real lenses need for float64
_RESIDUAL_PX = 1e-3


@dataclass(frozen=True, slots=True)
class Camera:
    """Intrinsics as in `sensor_msgs/msg/CameraInfo` with the distortion model `plumb_bob` (REP 104).

    Pixel (0, 0) is the centre of the upper left pixel. The optical frame has x right, y down, z forward (REP 103).

    Attributes:
        width: columns [px].
        height: rows [px].
        fx: focal length [px].
        fy: focal length [px].
        cx: principal point [px].
        cy: principal point [px].
        k1: radial distortion, as `k2` and `k3`.
        k2: see `k1`.
        p1: tangential distortion, as `p2`.
        p2: see `p1`.
        k3: see `k1`.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0
    k3: float = 0.0

    def __post_init__(self) -> None:
        if not (8 <= self.width <= 8192 and 8 <= self.height <= 8192):
            raise ValueError(f"a camera of {self.width}x{self.height} px is outside of 8 to 8192 px a side")
        if not (self.fx > 0 and self.fy > 0):
            raise ValueError(f"focal lengths fx={self.fx}, fy={self.fy} must be positive")

    @property
    def k(self) -> tuple[float, ...]:
        """The matrix K by rows, as CameraInfo has it."""
        return (self.fx, 0.0, self.cx, 0.0, self.fy, self.cy, 0.0, 0.0, 1.0)

    @property
    def d(self) -> tuple[float, ...]:
        """The plumb_bob coefficients k1, k2, p1, p2, k3."""
        return (self.k1, self.k2, self.p1, self.p2, self.k3)

    def scaled(self, width: int, height: int) -> Camera:
        """The same view on a grid of another size."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        sx, sy = width / self.width, height / self.height
        values.update(width=width, height=height, fx=self.fx * sx, fy=self.fy * sy)
        values.update(cx=(self.cx + 0.5) * sx - 0.5, cy=(self.cy + 0.5) * sy - 0.5)
        return Camera(**values)

    def distort(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Ideal image coordinates (x/z, y/z) to distorted ones, still without K."""
        if not any(self.d):
            return x, y
        r2 = x * x + y * y
        radial = 1 + r2 * (self.k1 + r2 * (self.k2 + r2 * self.k3))
        return (
            x * radial + 2 * self.p1 * x * y + self.p2 * (r2 + 2 * x * x),
            y * radial + self.p1 * (r2 + 2 * y * y) + 2 * self.p2 * x * y,
        )

    def project(self, points: Tensor) -> Tensor:
        """Pixels of points.

        Args:
            points: [..., 3] in the optical frame [m], z > 0.

        Returns:
            [..., 2] columns and rows [px].
        """
        x, y, z = points.unbind(-1)
        x, y = self.distort(x / z, y / z)
        return torch.stack([x * self.fx + self.cx, y * self.fy + self.cy], -1)

    def rays(self, columns: Tensor, rows: Tensor) -> Tensor:
        """Directions of pixels with z = 1, so that a multiple of one is the depth along z.

        Args:
            columns: [...] float [px].
            rows: [...] float [px].

        Returns:
            [..., 3] in the optical frame.

        Raises:
            ValueError: the distortion cannot be inverted at one of them.
        """
        xd, yd = (columns - self.cx) / self.fx, (rows - self.cy) / self.fy
        x, y = xd, yd
        if any(self.d):
            for _ in range(_INVERSIONS):
                ex, ey = self.distort(x, y)
                x, y = x + (xd - ex), y + (yd - ey)
            ex, ey = self.distort(x, y)
            worst = torch.maximum((ex - xd).abs() * self.fx, (ey - yd).abs() * self.fy).max().item()
            if not worst < _RESIDUAL_PX:
                raise ValueError(
                    f"the distortion {list(self.d)} cannot be inverted within {self.width}x{self.height} px "
                    f"(off by {worst:.3g} px); use weaker coefficients"
                )
        return torch.stack([x, y, torch.ones_like(x)], -1)


CAMERAS: Mapping[str, Camera] = MappingProxyType(
    {
        # 18.5 um pixels behind a 4.5 mm lens; distortion of the size that such lenses have.
        "davis346": Camera(346, 260, 243.0, 243.0, 172.5, 129.5, -0.10, 0.03),
        "gen3_vga": Camera(640, 480, 533.0, 533.0, 319.5, 239.5, -0.08, 0.02),  # 15 um, 8 mm
        "gen4_hd": Camera(1280, 720, 1030.0, 1030.0, 639.5, 359.5, -0.06, 0.01),  # 4.86 um, 5 mm
    }
)
"""Cameras by the name of their sensor, each with a common lens."""


def camera(name: str) -> Camera:
    """One of `CAMERAS`.

    Raises:
        ValueError: no such camera.
    """
    if name not in CAMERAS:
        raise ValueError(f"camera {name!r} is unknown; choose one of {', '.join(CAMERAS)}")
    return CAMERAS[name]
