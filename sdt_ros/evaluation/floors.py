"""What a guess without any events would score: the floors that a score has to be judged by.

Both are made from the very truth that they are scored on, which is the best that guesses of their kind can do.
"""

from __future__ import annotations

import numpy as np

from sdt_ros.compiled import njit

_HALF = 1 << 16


class Floors:
    """The two floors of a set of frames, made in little memory by looking at each frame twice.

    The constant is the median of all pixels compared, the lower one of the two in the middle where their number is
    even. It is exact: floats above 0 are ordered as their bits are, so that two passes, over the upper and the lower
    half of the bits, find the one in the middle by counting. The map holds for each pixel the geometric mean of its
    truth over all frames; frames of different sizes have maps of their own.

    Attributes:
        constant_m: depth of the constant [m]; known after all frames were seen twice.
    """

    def __init__(self) -> None:
        self.constant_m = float("nan")
        self._upper = np.zeros(_HALF, np.int64)
        self._lower = np.zeros(_HALF, np.int64)
        self._sums: dict[tuple[int, ...], np.ndarray] = {}
        self._counts: dict[tuple[int, ...], np.ndarray] = {}
        self._half = self._rank = -1

    def see(self, frame: np.ndarray) -> None:
        """Take a frame for the first time: float32 [H, W] metres, 0 where it is not compared."""
        if frame.shape not in self._sums:
            self._sums[frame.shape] = np.zeros(frame.size)
            self._counts[frame.shape] = np.zeros(frame.size, np.int64)
        flat = np.ascontiguousarray(frame, np.float32).reshape(-1)
        _see(flat, flat.view(np.uint32), self._upper, self._sums[frame.shape], self._counts[frame.shape])

    def turn(self) -> None:
        """Be ready for the second look.

        Raises:
            ValueError: there was no pixel to compare.
        """
        total = int(self._upper.sum())
        if not total:
            raise ValueError("the truth has no valid pixel")
        rank = (total - 1) // 2
        self._half = int(np.searchsorted(np.cumsum(self._upper), rank, "right"))
        self._rank = rank - int(self._upper[: self._half].sum())

    def see_again(self, frame: np.ndarray) -> None:
        """Take a frame for the second time, behind `turn`."""
        _see_again(np.ascontiguousarray(frame, np.float32).reshape(-1).view(np.uint32), self._half, self._lower)

    def finish(self) -> None:
        """Make the constant, when all frames were seen twice."""
        rest = int(np.searchsorted(np.cumsum(self._lower), self._rank, "right"))
        self.constant_m = float(np.array(self._half << 16 | rest, np.uint32).view(np.float32))

    def log_map(self, shape: tuple[int, ...]) -> np.ndarray:
        """The logarithm of the map for frames of a size: float64 [H, W]; the constant where nothing was compared."""
        counts = self._counts[shape]
        means = np.where(counts > 0, self._sums[shape] / np.maximum(counts, 1), np.log(self.constant_m))
        return means.reshape(shape)


@njit(nogil=True, cache=True)
def _see(depth, bits, upper, sums, counts):  # type: ignore[no-untyped-def]
    for i in range(depth.size):
        if depth[i] > 0:
            upper[bits[i] >> 16] += 1
            sums[i] += np.log(np.float64(depth[i]))
            counts[i] += 1


@njit(nogil=True, cache=True)
def _see_again(bits, half, lower):  # type: ignore[no-untyped-def]
    for i in range(bits.size):
        if bits[i] >> 16 == half:
            lower[bits[i] & 0xFFFF] += 1
