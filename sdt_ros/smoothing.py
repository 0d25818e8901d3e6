"""Depth held over time, so that it does not flicker from window to window.

Each window is a guess of its own, and guesses differ more than scenes do. Their exponential mean over a tenth of a
second changes half as much and is no further off; docs/lab_notebook.md has the figures. Inverse depth is averaged:
where two windows disagree, the nearer one counts more. Before that the scale of the whole image may be held.

Where the network knows that it guesses, its windows differ most. There the mean is one over a longer time, in
proportion to the deviation of ln(depth), but for what comes nearer: of that nobody shall be told later.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from sdt_ros.held_scale import ScaleHolder

USUAL_SMOOTHING_S = 0.1
"""The node's time constant [s]."""

_USUAL_DEVIATION = np.float32(0.35)  # of ln(depth), up to which the time constant is what it is
_SLOWEST = np.float32(3.0)  # factor of it where depth is uncertain


class DepthSmoother:
    """Exponential mean of inverse depth over the windows of one camera.

    Args:
        time_constant_s: after so long a window's share has fallen to 1/e [s]; 0 leaves depth as it is.
        window_s: duration of a window [s], for which the scale of whole images is held; None: it is not held.

    Raises:
        ValueError: the time constant is negative or no number.
    """

    def __init__(self, time_constant_s: float, window_s: float | None = None) -> None:
        if not 0 <= time_constant_s < math.inf:
            raise ValueError(f"time_constant_s is {time_constant_s}, expected a finite number of at least 0")
        self.time_constant_s = time_constant_s
        self._end_ns = 0
        self._focal_px: float | None = None
        self._inverse: NDArray[np.float32] | None = None
        self._window_s = window_s
        self._scale: ScaleHolder | None = None

    def __call__(
        self,
        depth: NDArray[np.float32],
        end_ns: int,
        focal_px: float | None = None,
        deviation: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """The mean up to a window.

        It starts anew where size or lens change or time goes back, and so it does for a pixel that was NaN.

        Args:
            depth: of the window, float32 [H, W] metres; NaN where unknown.
            end_ns: the window's end [ns] on the sensor's clock. Stamps will not do: while the host's clock is set they
                stand still.
            focal_px: of the lens that the metres are for; depth before another lens is of another scale.
            deviation: standard deviation of ln(depth), float32 [H, W]; None where it is not known.

        Returns:
            float32 [H, W] metres, NaN where this window's depth is.
        """
        if not self.time_constant_s:
            self._inverse = None
            return depth
        inverse = np.reciprocal(depth)
        before, passed_s, same_lens = self._inverse, (end_ns - self._end_ns) / 1e9, focal_px == self._focal_px
        self._end_ns, self._focal_px = end_ns, focal_px
        if before is None or before.shape != inverse.shape or passed_s <= 0 or not same_lens:
            self._inverse = inverse
            self._scale = None if self._window_s is None else ScaleHolder(inverse, self._window_s)
            return depth
        if self._scale is not None:
            inverse = self._scale(inverse, passed_s)
        rate = np.float32(passed_s / self.time_constant_s)
        kept = np.exp(-rate if deviation is None else -rate / _slower(deviation, before, inverse))
        np.add(inverse, kept * (before - inverse), out=inverse, where=~np.isnan(before))
        self._inverse = inverse
        return np.reciprocal(inverse)


def _slower(
    deviation: NDArray[np.float32], before: NDArray[np.float32], inverse: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Factor of the time constant at each pixel, float32 [H, W]."""
    factor = np.clip(deviation / _USUAL_DEVIATION, 1, _SLOWEST)
    factor[inverse > before] = 1
    return factor
