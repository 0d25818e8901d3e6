"""Spikes as a picture, for people to look at."""

from __future__ import annotations

import numpy as np

ON, OFF = np.array([200, 30, 30]), np.array([30, 60, 200])


def event_frame(spikes: np.ndarray) -> np.ndarray:
    """Draw a window's spikes: ON red, OFF blue, the darker the more bins have one.

    Args:
        spikes: uint8 [T, 2, H, W].

    Returns:
        uint8 [H, W, 3] RGB.
    """
    off, on = spikes.sum(0) / len(spikes)  # [H, W] each
    white = np.array([255.0, 255, 255])
    share = np.minimum(on + off, 1)[..., None]
    colour = (on[..., None] * ON + off[..., None] * OFF) / np.maximum(on + off, 1e-9)[..., None]
    shade = np.where(share > 0, 0.35 + 0.65 * share, 0)
    return np.rint(white * (1 - shade) + colour * shade).astype(np.uint8)
