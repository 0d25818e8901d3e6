"""Arrays on disk while a recording is worked through, so that memory does not grow with its length."""

from __future__ import annotations

import errno
import tempfile
from types import TracebackType

import numpy as np


class Spool:
    """A list of arrays of one shape and dtype in a temporary file that is gone when it is closed; a context manager."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="sdt_eval_")  # noqa: SIM115 - closed by close()
        self._shape: tuple[int, ...] = ()
        self._dtype = np.dtype(np.float32)
        self._count = 0

    def append(self, array: np.ndarray) -> int:
        """Add an array; returns its index.

        Raises:
            ValueError: shape or dtype are not those of the first one.
            OSError: the disk is full.
        """
        if not self._count:
            self._shape, self._dtype = array.shape, array.dtype
        if (array.shape, array.dtype) != (self._shape, self._dtype):
            raise ValueError(f"an array {array.dtype} {list(array.shape)} among {self._dtype} {list(self._shape)}")
        try:
            self._file.seek(0, 2)
            self._file.write(np.ascontiguousarray(array).data)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise OSError(f"{tempfile.gettempdir()} is full; let TMPDIR name a folder on a larger disk") from error
        self._count += 1
        return self._count - 1

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < self._count:
            raise IndexError(f"index {index} of {self._count} arrays")
        size = int(np.prod(self._shape)) * self._dtype.itemsize
        self._file.seek(index * size)
        return np.frombuffer(self._file.read(size), self._dtype).reshape(self._shape)

    def stacked(self) -> np.ndarray:
        """All arrays as one [N, ...] that is read from disk where it is looked at."""
        if not self._count:
            return np.empty((0, *self._shape), self._dtype)
        self._file.flush()
        return np.memmap(self._file, self._dtype, "r", shape=(self._count, *self._shape))

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
