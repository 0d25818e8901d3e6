"""Spikes as a picture, for people to look at."""

from __future__ import annotations

import numpy as np

ON, OFF = np.array([200, 30, 30]), np.array([30, 60, 200])


def event_frame(spikes: np.ndarray) -> np.ndarray:
    """Draw a window's spikes: ON red, OFF blue, the darker the more bins have one.

    Args:
        spikes: uint8 [T, P, H, W]; a lone polarity, of a spiking camera, is drawn as ON.

    Returns:
        uint8 [H, W, 3] RGB.
    """
    share_of = spikes.sum(0) / len(spikes)  # [P, H, W]
    off, on = share_of if len(share_of) == 2 else (np.zeros_like(share_of[0]), share_of[0])
    white = np.array([255.0, 255, 255])
    share = np.minimum(on + off, 1)[..., None]
    colour = (on[..., None] * ON + off[..., None] * OFF) / np.maximum(on + off, 1e-9)[..., None]
    shade = np.where(share > 0, 0.35 + 0.65 * share, 0)
    return np.rint(white * (1 - shade) + colour * shade).astype(np.uint8)
