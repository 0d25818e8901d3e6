"""Finds pixels that never rest: events in every bin of every window, whatever the scene does."""

from __future__ import annotations

import numpy as np

WINDOWS = 100  # in a row that a pixel must fire in, in every bin
_EVERY = 2  # windows looked at: overlapping ones tell little
_DENSE = 0.25  # share of busy pixels above which a window says nothing: a storm
_MOST = 0.005  # share of hot pixels above which they are a part of the scene that flickers


class HotPixels:
    """Watches windows of one sensor.

    Attributes:
        found: int64 [N, 2], row and column of the pixels that are hot now, in the spike tensor.
    """

    def __init__(self) -> None:
        self.found = np.empty((0, 2), np.int64)
        self._always: np.ndarray | None = None  # bool [H, W]
        self._passed = self._looked = 0

    def look(self, spikes: np.ndarray) -> None:
        """Take the next window, uint8 [T, 2, H, W] in {0, 1}."""
        self._passed += 1
        if self._passed % _EVERY:
            return
        busy = np.bitwise_and.reduce(spikes[:, 0] | spikes[:, 1], axis=0).view(np.bool_)  # [H, W]
        if np.count_nonzero(busy) > _DENSE * busy.size:
            return
        if self._always is None or self._always.shape != busy.shape:
            self._always, self._looked = np.ones_like(busy), 0
            self.found = np.empty((0, 2), np.int64)
        self._always &= busy
        self._looked += 1
        if self._looked * _EVERY >= WINDOWS:
            hot = np.argwhere(self._always)
            self.found = hot if len(hot) <= _MOST * busy.size else hot[:0]
            self._always[:], self._looked = True, 0

    def mask(self, spikes: np.ndarray) -> None:
        """Silence the hot pixels in a window."""
        rows, columns = self.found.T
        if len(self.found) and rows.max() < spikes.shape[2] and columns.max() < spikes.shape[3]:
            spikes[:, :, rows, columns] = 0
