"""Metres and normalised log depth: the network spends its precision evenly over ratios of depth, not over metres."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor


@dataclass(frozen=True)
class DepthRange:
    """The depths that a network can name, from 0 to 1 in normalised log depth.

    n = 1 + ln(d / max) / alpha and d = max exp(alpha (n - 1)), with alpha = ln(max / min): the protocol of E2Depth
    (arXiv 2010.08350), so n = 0 at `min_m` and n = 1 at `max_m`.

    Attributes:
        min_m: nearest depth in metres.
        max_m: farthest depth in metres.
    """

    min_m: float = 0.3
    max_m: float = 80.0

    def __post_init__(self) -> None:
        """Refuses a range that is none."""
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (self.min_m, self.max_m))
        if not (numbers and 0 < self.min_m < self.max_m < math.inf):
            raise ValueError(f"depth range {self.min_m} .. {self.max_m} m is none: expected 0 < min_m < max_m, finite")

    @property
    def alpha(self) -> float:
        """ln(max / min), the e-foldings of depth that the range spans."""
        return math.log(self.max_m / self.min_m)

    def to_metres(self, log_depth: Tensor) -> Tensor:
        """Normalised log depth of any shape to metres, limited to the range; NaN stays NaN."""
        metres = self.max_m * torch.exp(self.alpha * (log_depth - 1))
        return metres.clamp(self.min_m, self.max_m)

    def from_metres(self, metres: Tensor) -> Tensor:
        """Metres of any shape to normalised log depth; outside [0, 1] for depths outside the range, NaN stays NaN."""
        return 1 + torch.log(metres / self.max_m) / self.alpha


# The data sets' alpha is the published figure, the nearest depth follows from it.
depth_ranges: Mapping[str, DepthRange] = MappingProxyType(
    {
        "default": DepthRange(),  # an arm's length to the end of a street
        "mvsec": DepthRange(80.0 * math.exp(-3.70378), 80.0),
        "dense": DepthRange(1000.0 * math.exp(-5.70378), 1000.0),
    }
)
