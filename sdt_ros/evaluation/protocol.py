"""Which pixels count: the masks and cut-offs of a protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np


@dataclass(frozen=True, slots=True)
class Selection:
    """The pixels of one frame that are compared.

    Attributes:
        prediction: float64 [N] metres.
        truth: float64 [N] metres, of the same pixels.
        mask: bool [H, W], these pixels.
        missing: pixels with a valid truth and no prediction (NaN, infinite, or not above 0); they are in no score.
    """

    prediction: np.ndarray
    truth: np.ndarray
    mask: np.ndarray
    missing: int


@dataclass(frozen=True, slots=True)
class Protocol:
    """Masks and cut-offs.

    Truth is valid where it is finite and above 0, also below the frame's largest value where `below_max` asks for it.
    As in E2Depth (arXiv 2010.08350) that comes after the cut at `far_m`, so that all that lies behind it is left out.
    E2Depth's script also leaves out pixels whose prediction is at or behind the largest truth, and stretches truth that
    does not reach `far_m`. Neither is done here: the first hides the worst errors, the second makes another truth.

    Attributes:
        name: of the protocol.
        far_m: truth and prediction are cut off at this distance [m]; None for no cut.
        below_max: whether the farthest pixels of each frame are left out.
        rows: only the rows above this one count; None for all.
    """

    name: str
    far_m: float | None
    below_max: bool
    rows: int | None = None

    def __post_init__(self) -> None:
        if self.far_m is not None and not 0 < self.far_m < np.inf:
            raise ValueError(f"far_m is {self.far_m}, expected a distance above 0, or None")
        if self.rows is not None and self.rows < 1:
            raise ValueError(f"rows is {self.rows}, expected at least 1")

    def select(self, prediction: np.ndarray, truth: np.ndarray) -> Selection:
        """Choose the pixels of a frame.

        Args:
            prediction: [H, W] metres.
            truth: [H, W] metres; NaN, infinity, 0 and below are unknown.

        Raises:
            ValueError: the shapes differ.
        """
        if prediction.shape != truth.shape or truth.ndim != 2:
            raise ValueError(
                f"prediction is {list(prediction.shape)} and truth {list(truth.shape)}, expected one [H, W]"
            )
        depth, estimate = truth.astype(np.float64), prediction.astype(np.float64)
        valid = self.valid(truth)
        known = np.isfinite(estimate) & (estimate > 0)
        mask = valid & known
        if self.far_m is not None:
            depth, estimate = np.minimum(depth, self.far_m), np.minimum(estimate, self.far_m)
        return Selection(estimate[mask], depth[mask], mask, int(np.count_nonzero(valid & ~known)))

    def valid(self, truth: np.ndarray) -> np.ndarray:
        """Where a truth [H, W] in metres counts: bool [H, W]."""
        valid: np.ndarray = np.isfinite(truth) & (truth > 0)
        if self.rows is not None:
            valid[self.rows :] = False
        if self.below_max and valid.any():
            depth = truth if self.far_m is None else np.minimum(truth, self.far_m)
            valid &= depth < depth[valid].max()
        return valid


protocols: Mapping[str, Protocol] = MappingProxyType(
    {
        "mvsec": Protocol("mvsec", 80.0, True),
        "dense": Protocol("dense", 1000.0, True),
        "dsec": Protocol("dsec", 80.0, True),
        "none": Protocol("none", None, False),
    }
)
"""By name. The data sets' are those of E2Depth, RAM-Net, Spike-T and EReFormer; `none` takes every known pixel.

DSEC's authors publish disparity errors only. Depth on it is scored as E2Depth does on MVSEC, cut at 80 m: so does the
test script of Depth AnyEvent (arXiv 2509.15224), by default.
"""

OF_DATASET: Mapping[str, str] = MappingProxyType(
    {
        "dsec": "dsec",
        "mvsec": "mvsec",
        "dense": "dense",
        "dense-spike": "dense",
        "bag": "mvsec",
        "simulation": "mvsec",
    }
)
"""Data set: name of the protocol that its published scores use; bags and simulated scenes are scored as MVSEC is."""
