"""The scale of whole depth images, held where the network's guesses of it jump.

A network that sees one window at a time may take a camera that slows down for a scene farther away. From one window
to the next depth hardly changes at most pixels, so that the median of what changes is the guess's own. A Kalman filter
of one number follows it, the more slowly the more it jumps; guesses that agree it follows at once.
docs/lab_notebook.md has figures.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_DRIFT = 0.05  # variance of ln(scale) that the world itself makes in a second [1/s]
_APART_S = 0.05  # guesses are compared that far apart [s]: windows that overlap agree without being right
_REMEMBERED_S = 0.5  # how long jumps are remembered [s]
_FIRST = 0.25  # variance of ln(scale) of a first guess
_STRIDE = 4  # rows and columns that medians are taken of


class LevelHolder:
    """Brings each window's depth near to the scale of those before it.

    Args:
        inverse: inverse depth of the first window, float32 [H, W] 1/m; NaN where unknown.
    """

    def __init__(self, inverse: NDArray[np.float32]) -> None:
        self._guess = self._held = _logarithm(inverse)  # of the window before, and the same at the held scale
        self._variance = _FIRST  # of the scale that is held
        self._noise = 0.0  # variance of a guess
        self._change = self._since_s = 0.0  # of the guesses since they were last compared

    def __call__(self, inverse: NDArray[np.float32], passed_s: float) -> NDArray[np.float32]:
        """Inverse depth at the scale that is held.

        Args:
            inverse: of the next window, float32 [H, W] 1/m; NaN where unknown.
            passed_s: since the window before [s].

        Returns:
            float32 [H, W] 1/m: `inverse` times one factor.
        """
        guess = _logarithm(inverse)
        changed, off = guess - self._guess, guess - self._held
        known = ~np.isnan(changed)
        self._guess = self._held = guess
        if not known.any():
            self._variance = _FIRST
            return inverse
        self._compare(float(np.median(changed[known])), passed_s)
        variance, noise = self._variance + _DRIFT * passed_s, self._noise * max(1.0, _APART_S / passed_s)
        gain = variance / (variance + noise)
        self._variance = (1 - gain) * variance
        shift = np.float32((gain - 1) * np.median(off[known]))
        self._held = guess + shift
        return inverse * np.exp(shift)

    def _compare(self, changed: float, passed_s: float) -> None:
        """Learn how much guesses jump; from themselves and not from what is held, or lag would be taken for noise."""
        self._change, self._since_s = self._change + changed, self._since_s + passed_s
        if self._since_s < 0.99 * _APART_S:
            return
        share = -math.expm1(-self._since_s / _REMEMBERED_S)
        jumped = max(self._change**2 - _DRIFT * self._since_s, 0.0)  # both guesses did
        self._noise += share * (jumped / 2 - self._noise)
        self._change = self._since_s = 0.0


def _logarithm(inverse: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.log(inverse[::_STRIDE, ::_STRIDE])
