"""Depth in colours, for people to look at: near is red, far is blue, unknown is black."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=1)
def table() -> np.ndarray:
    """Turbo from far to near, then black, uint8 [257, 3]; the first call imports matplotlib, which takes a while."""
    from matplotlib import colormaps

    colours = colormaps["turbo"](np.linspace(0, 1, 256))[:, :3]
    return np.concatenate([np.rint(colours * 255), np.zeros((1, 3))]).astype(np.uint8)


def colorize(depth: np.ndarray, near_m: float, far_m: float) -> np.ndarray:
    """Colour depth by its logarithm.

    Args:
        depth: [H, W] depth [m], NaN where unknown.
        near_m: distance of the near end of the colours [m]; what is nearer gets its colour.
        far_m: the same for the far end [m].

    Returns:
        uint8 [H, W, 3] RGB; unknown depth is black.
    """
    known = np.isfinite(depth) & (depth > 0)
    span = np.log(far_m / near_m)
    nearness = np.log(far_m / np.where(known, depth, far_m)) / span
    index = np.where(known, np.clip(nearness, 0, 1) * 255, 256).astype(np.intp)
    return table()[index]
