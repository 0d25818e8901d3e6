"""The lens's share in depth.

A scene twice as far away gives the same events before a lens of twice the focal length, so no network can tell the two
apart by the picture. Ours learn depth before one focal length, and every other lens's follows by the ratio.

Source: the canonical camera of Metric3D (arXiv 2307.10984).
"""

from __future__ import annotations

import math
from numbers import Real

import numpy as np

USUAL_FOCAL_LENGTH = 0.7
"""Focal length over the picture's width where nobody says: 71 degrees across, as many event cameras are sold."""
UNKNOWN_LENS_DEVIATION = 0.3
"""Standard deviation of ln(focal length) around the usual one, where nobody says: 50 to 95 degrees are common."""

_USUAL_DEGREES = 2 * math.degrees(math.atan(0.5 / USUAL_FOCAL_LENGTH))
LENS_UNKNOWN = f"the focal length is not known: metres are for a lens of {_USUAL_DEGREES:.0f} degrees across"
"""What people are told then."""

_SHORTEST = 0.05  # of the picture's width; a fish-eye of 180 degrees has 0.3


def focal_length(k: np.ndarray) -> float:
    """Focal length of an intrinsic matrix [3, 3], the geometric mean of both axes' [px]."""
    return math.sqrt(k[0, 0] * k[1, 1])


def depth_factor(
    learnt_px: float | None, focal_px: float | None, size: tuple[int, int], focal_size: tuple[int, int] | None = None
) -> float:
    """What a network's metres are multiplied by to be those before a lens.

    Args:
        learnt_px: `focal_px` of the network's card; None for metres that are taken as they come.
        focal_px: focal length of the camera [px]; None where it is not known, `USUAL_FOCAL_LENGTH` is assumed then.
        size: height and width that the network sees [px].
        focal_size: height and width of the grid that `focal_px` is for; None for `size`.

    Raises:
        ValueError: the focal length is not a finite number above 0, or far too short to be in pixels.
    """
    if learnt_px is None:
        return 1.0
    if focal_px is None:
        return USUAL_FOCAL_LENGTH * size[1] / learnt_px
    if not (isinstance(focal_px, Real) and 0 < focal_px < math.inf):
        raise ValueError(f"focal_px is {focal_px!r}, expected one finite number above 0 [px]")
    height, width = focal_size or size
    if focal_px < _SHORTEST * width:
        raise ValueError(f"focal_px is {focal_px:g} of a picture {width} px wide, which no lens has: it goes in pixels")
    return focal_px * math.sqrt(size[0] * size[1] / (height * width)) / learnt_px
