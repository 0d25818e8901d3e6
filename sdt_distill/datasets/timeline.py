"""Find times in a sorted column of an hdf5 file without reading it."""

from __future__ import annotations

import numpy as np

from .files import Hdf5File

_BLOCK = 4096  # rows that are read at once at the end of a search
_REMEMBERED = 1 << 14


class Timeline:
    """The times of events, of which only the places are read that a search passes.

    The middles that a search begins with are the same for every search, so they are remembered, up to a fixed number.

    Args:
        file: the hdf5 file.
        key: array of events [N, K].
        column: which column holds the times [s].
    """

    def __init__(self, file: Hdf5File, key: str, column: int) -> None:
        self._file = file
        self._key = key
        self._column = column
        self._known: dict[int, int] = {}

    def at(self, row: int) -> int:
        """Time of an event [us]."""
        if row not in self._known:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[row] = int(microseconds(self._file.read(self._key, row, row + 1)[:, self._column])[0])
        return self._known[row]

    def first_from(self, t_us: int) -> int:
        """The first row at or behind a time [us]; the number of rows if there is none."""
        low, high = 0, len(self._file.array(self._key))
        while high - low > _BLOCK:
            middle = (low + high) // 2
            if self.at(middle) < t_us:
                low = middle + 1
            else:
                high = middle
        times = microseconds(self._file.read(self._key, low, high)[:, self._column])
        return low + int(np.searchsorted(times, t_us, "left"))


def microseconds(seconds: np.ndarray) -> np.ndarray:
    """Whole microseconds, int64: seconds since the epoch are held to a quarter of one in float64."""
    return np.rint(np.asarray(seconds, np.float64) * 1e6).astype(np.int64)
