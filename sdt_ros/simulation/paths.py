"""Camera paths: smooth functions of time with six degrees of freedom."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHANNELS = ("x", "y", "z", "yaw", "pitch", "roll", "distance")
"""Target [m], attitude [rad], and how far behind the target the camera is [m]."""


@dataclass(frozen=True)
class PathBatch:
    """Paths of B cameras: each channel is `offset + rate t + sum of amplitude sin(2 pi hz t + phase)`.

    The camera looks at its target from `distance` behind it: 0 makes it fly freely, more makes it orbit. A sum of
    sines is smooth to any derivative; the slow ones are manoeuvres, the fast ones vibration.

    World axes: x forward, y left, z up (REP 103). Yaw about z, pitch up, roll clockwise as the camera sees it.

    Attributes:
        offset: float64 [B, 7], in the order of `CHANNELS`.
        rate: float64 [B, 7], a second.
        amplitude: float64 [B, 7, K].
        hz: float64 [B, 7, K].
        phase: float64 [B, 7, K] [rad].
    """

    offset: Tensor
    rate: Tensor
    amplitude: Tensor
    hz: Tensor
    phase: Tensor

    def values(self, index: Tensor, t: Tensor) -> Tensor:
        """The channels of path `index` [V] at times t float64 [V] [s]: float64 [V, 7]."""
        angle = 2 * torch.pi * self.hz[index] * t[:, None, None] + self.phase[index]
        swing = (self.amplitude[index] * torch.sin(angle)).sum(-1)
        return self.offset[index] + self.rate[index] * t[:, None] + swing

    def pose(self, index: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Camera to world.

        Args:
            index: int64 [V], which path.
            t: float64 [V] [s].

        Returns:
            Rotation float64 [V, 3, 3], whose columns are the optical axes in the world, and position [V, 3] [m].
        """
        values = self.values(index, t)
        yaw, pitch, roll = values[:, 3], values[:, 4], values[:, 5]
        forward = torch.stack([pitch.cos() * yaw.cos(), pitch.cos() * yaw.sin(), pitch.sin()], -1)
        level = torch.stack([yaw.sin(), -yaw.cos(), torch.zeros_like(yaw)], -1)  # to the right
        down = torch.linalg.cross(forward, level)
        cos, sin = roll.cos()[:, None], roll.sin()[:, None]
        rotation = torch.stack([cos * level + sin * down, cos * down - sin * level, forward], -1)
        return rotation, values[:, :3] - values[:, 6:] * forward
