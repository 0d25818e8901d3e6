"""The scale of whole depth images, held where the network's guesses of it jump.

A network that sees one window at a time may take a camera that slows down for a scene farther away. From one window to
the next depth changes little at most pixels, so that the median of the change is mostly the guess's own. A Kalman
filter of one number follows it, the more slowly the more it jumps.

Whoever drives by depth must not be told of an obstacle too late. So jumps are second differences: an approach at any
steady speed is none, and neither is one cut. Small ones are followed at once. What comes nearer is followed sooner than
what goes away, and after half a second without depth nothing is held. docs/lab_notebook.md has figures.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

# Variance of ln(scale) that the world itself makes in a second [1/s].
_NEARER, _FARTHER = 0.3, 0.05
_LONGEST_S = 0.5  # between windows; after more the next is a first one [s]
_JUMPS = 7  # that the noise is the median of
_FEWEST = 3  # of them before anything is held
_MEDIAN_JUMP = 0.455 * 6  # squared jump over the variance of a guess: the median of chi-squared, of g2 - 2 g1 + g0
_USUAL = 0.2  # deviation of ln(scale) of guesses that are followed all the same: a mean over time is enough for them
_STRIDE = 4  # rows and columns that medians are taken of
_SHARE = 0.05  # of these pixels, at least, must be known in two windows to compare them


class ScaleHolder:
    """Brings each window's depth near to the scale of those before it.

    Args:
        inverse: inverse depth of the first window, float32 [H, W] 1/m; NaN where unknown.
        window_s: duration of a window [s]: those that overlap agree without being right.
    """

    def __init__(self, inverse: NDArray[np.float32], window_s: float) -> None:
        self._window_s = window_s
        self._start(_logarithm_and_ends(inverse)[0])

    def _start(self, guess: NDArray[np.float32]) -> None:
        self._guess = guess  # of the window before, ln(1/m)
        self._offset = 0.0  # ln of held over guessed inverse depth
        self._variance = self._noise = 0.0  # of what is held, and of a guess beyond what is usual
        self._change = self._since_s = 0.0  # of the guesses since the last ones that were a window apart
        self._last_change: float | None = None  # the change until then
        self._jumps: deque[float] = deque(maxlen=_JUMPS)  # squared

    def __call__(self, inverse: NDArray[np.float32], passed_s: float) -> NDArray[np.float32]:
        """Inverse depth at the scale that is held.

        Args:
            inverse: of the next window, float32 [H, W] 1/m, of the same size; NaN where unknown.
            passed_s: since the window before [s].

        Returns:
            float32 [H, W] 1/m: `inverse` times one factor, but for pixels at the ends of the network's range, which
            have no scale. Others may leave that range.
        """
        guess, ends = _logarithm_and_ends(inverse)
        changed = guess - self._guess
        changed = changed[~np.isnan(changed)]
        if passed_s > _LONGEST_S or changed.size < _SHARE * guess.size:
            self._start(guess)
            return inverse
        change = float(np.median(changed))
        self._guess = guess
        self._learn_noise(change, passed_s)
        off = change - self._offset  # the guess, from what is held
        variance = self._variance + (_NEARER if off > 0 else _FARTHER) * passed_s
        gain = variance / (variance + self._noise * max(1.0, self._window_s / passed_s))
        self._variance = (1 - gain) * variance
        self._offset = (gain - 1) * off
        held = inverse * np.float32(math.exp(self._offset))
        for end in ends:
            np.copyto(held, end, where=inverse == end)
        return held

    def _learn_noise(self, change: float, passed_s: float) -> None:
        """Learn from the guesses themselves, not from what is held, or lag would be taken for noise."""
        self._change, self._since_s = self._change + change, self._since_s + passed_s
        if self._since_s < 0.99 * self._window_s:
            return
        if self._last_change is not None:
            self._jumps.append((self._change - self._last_change) ** 2)
        if len(self._jumps) >= _FEWEST:
            self._noise = max(float(np.median(self._jumps)) / _MEDIAN_JUMP - _USUAL**2, 0.0)
        self._last_change, self._change, self._since_s = self._change, 0.0, 0.0


def _logarithm_and_ends(inverse: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[np.float32]]:
    """The logarithm of some pixels, NaN where there is none, and the ends of the network's range among them.

    An end is the least or the greatest of the image, where several pixels have exactly that. They are NaN too.
    """
    some = inverse[::_STRIDE, ::_STRIDE]
    known = np.isfinite(some) & (some > 0)
    ends = []
    if known.any():
        for extreme in (some[known].min(), some[known].max()):
            there = some == extreme
            if there.sum() > 1:
                ends.append(extreme)
                known &= ~there
    return np.log(some, out=np.full(some.shape, np.nan, np.float32), where=known), ends
