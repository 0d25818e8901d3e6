"""Folders of numbered files with a timestamps.txt, as CARLA recordings of E2Depth have them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from . import files
from .errors import broken


class NumberedFiles:
    """A folder of files with ten digits at the end of their names, and the stamp of each.

    Args:
        dataset: format and recording, for messages.
        sequence: folder of the recording.
        folder: the files' folder below it.
        prefix: of the files' names.
        ending: of the files' names.
        what: what a file is, for messages.
    """

    def __init__(self, dataset: str, sequence: Path, folder: str, prefix: str, ending: str, what: str) -> None:
        self.dataset = dataset
        self.folder = sequence / folder
        self.what = what
        self._sequence = sequence
        self._prefix = prefix
        self._ending = ending

    def path(self, number: int) -> Path:
        """The file of a number."""
        return self.folder / f"{self._prefix}{number:010d}{self._ending}"

    @cached_property
    def stamps(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and stamps [us] of the files, int64 [N] each, as timestamps.txt has them.

        Raises:
            DatasetError: the folder or the list is missing, or the list is not increasing.
        """
        if not self.folder.is_dir():
            raise broken(
                self.dataset, self.folder, f"the folder of {self.what} files is missing",
                "unpack the whole recording; point to one that has it",
            )  # fmt: skip
        path = self.folder / "timestamps.txt"
        if not path.is_file() and (self._sequence / "timestamps.txt").is_file():
            path = self._sequence / "timestamps.txt"
        rows = files.read_numbers(self.dataset, path, 2, f"the list of {self.what} stamps")
        numbers = np.array([round(float(row[0])) for row in rows], np.int64)
        times = np.array([round(float(row[1]) * 1e6) for row in rows], np.int64)
        files.check_increasing(self.dataset, path, numbers, f"numbers of {self.what} files", "")
        files.check_increasing(self.dataset, path, times, f"{self.what} stamps")
        return numbers, times

    def near(self, stamp_us: int, tolerance_us: int) -> int | None:
        """Number of the file whose stamp is nearest, None where none is near enough."""
        numbers, times = self.stamps
        k = int(np.argmin(np.abs(times - stamp_us)))
        return int(numbers[k]) if abs(int(times[k]) - stamp_us) <= tolerance_us else None
