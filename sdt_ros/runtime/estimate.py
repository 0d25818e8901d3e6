"""What an estimator makes of a window: depth, and how far it may be off."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from sdt_ros.network import EnergyReport


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """Depth of a window.

    Attributes:
        depth: float32 [H, W] metres along z; NaN where the network's output is NaN.
        scale_deviation: standard deviation of ln of the scale that all of the picture shares; None where the weights do
            not tell uncertainty.
        ln_place: ln of the standard deviation of ln(depth) of each place around that scale, float32 [h, w] on the grid
            that the network sees; None with the other.
        report: firing rates and energy of the window, where they were asked for.
    """

    depth: NDArray[np.float32]
    scale_deviation: float | None = None
    ln_place: NDArray[np.float32] | None = None
    report: EnergyReport | None = None

    def deviation(self, scale_deviation: float | None = None) -> NDArray[np.float32] | None:
        """Standard deviation of ln(depth), scale and place together: 0.2 is about 20 % of the depth.

        Args:
            scale_deviation: where somebody else knows the scale, in the place of the network's own.

        Returns:
            float32 [H, W], NaN where depth is; None where the weights do not tell uncertainty.

        Raises:
            ValueError: `scale_deviation` is negative.
        """
        if self.ln_place is None or self.scale_deviation is None:
            return None
        scale = self.scale_deviation if scale_deviation is None else scale_deviation
        if scale < 0:
            raise ValueError(f"scale_deviation is {scale}, expected 0 or more")
        place = torch.from_numpy(self.ln_place)[None, None]
        if self.ln_place.shape != self.depth.shape:
            place = functional.interpolate(place, size=self.depth.shape, mode="bilinear", align_corners=False)
        variance = torch.exp(2 * place[0, 0]).add_(scale**2).numpy()
        deviation: NDArray[np.float32] = np.sqrt(variance, out=variance)
        deviation[np.isnan(self.depth)] = math.nan
        return deviation
